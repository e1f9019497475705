"""Faces and pairs: what is read, what is skipped and why, and that the order never changes."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advface_jax.data import (
    Faces,
    NamedPair,
    Pairs,
    epoch_order,
    index_pairs,
    make_pairs,
    pair_names,
    read_faces,
    read_pairs,
    subset,
)


def picture(value=128, size=(160, 160), mode="RGB", kind="PNG") -> bytes:
    colour = value if mode == "L" else (value, 20, 200, 255)[: len(mode)]
    out = io.BytesIO()
    Image.new(mode, size, colour).save(out, kind)
    return out.getvalue()


def folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def archive(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as out:
        for name, data in files.items():
            out.writestr(name, data)
    return path


def table(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(row.replace(" ", "\t") for row in rows) + "\n", encoding="utf-8")
    return path


def blank(*identities: str) -> Faces:
    names = tuple(f"{who}/{i}.jpg" for i, who in enumerate(identities))
    return Faces(names, identities, np.zeros((len(identities), 160, 160, 3), np.uint8))


PEOPLE = {
    "b/2.png": picture(3),
    "b/1.png": picture(2),
    "a/1.png": picture(1),
    "._hidden.png": b"",
    "notes.txt": b"",
}


@pytest.mark.parametrize("pack", [folder, archive])
def test_folder_and_zip_give_the_same_sorted_faces(tmp_path, pack):
    faces = read_faces(pack(tmp_path / "faces.zip", PEOPLE))
    assert faces.names == ("a/1.png", "b/1.png", "b/2.png")
    assert faces.identities == ("a", "b", "b")
    assert faces.images.dtype == np.uint8 and faces.images.shape == (3, 160, 160, 3)
    assert faces.images[:, 80, 80].tolist() == [[1, 20, 200], [2, 20, 200], [3, 20, 200]]
    assert faces.skipped == () and len(faces) == 3


def test_flat_files_are_people_of_their_own(tmp_path):
    faces = read_faces(archive(tmp_path / "f.zip", {"y.png": picture(), "x.png": picture()}))
    assert faces.identities == ("x", "y")


def test_listing_orders_names_and_filters(tmp_path):
    source = archive(tmp_path / "f.zip", PEOPLE)
    listing = table(
        tmp_path / "l.tsv", "file identity alike", "b/2.png Bo -", "a/1.png Al -", "b/1.png Bo Cy"
    )
    assert read_faces(source, listing=listing).names == ("b/2.png", "a/1.png", "b/1.png")
    some = read_faces(source, listing=listing, where={"alike": "-"})
    assert some.names == ("b/2.png", "a/1.png") and some.identities == ("Bo", "Al")
    assert some.skipped == ()
    assert read_faces(source, listing=listing, names=["a/1.png"]).images[0, 0, 0, 0] == 1
    assert read_faces(source, listing=listing, limit=1).names == ("b/2.png",)


@pytest.mark.parametrize("pack", [folder, archive])
def test_each_bad_file_is_skipped_with_its_reason(tmp_path, pack):
    rng = np.random.default_rng(0)
    out = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (160, 160, 3), np.uint8)).save(out, "JPEG")
    whole = out.getvalue()
    (tmp_path / "outside.png").write_bytes(picture())
    source = pack(
        tmp_path / "faces.zip",
        {
            "good.jpg": whole,
            "cut.jpg": whole[: len(whole) // 2],
            "small.png": picture(size=(100, 80)),
            "empty.jpg": b"",
        },
    )
    rows = ["good.jpg", "cut.jpg", "small.png", "empty.jpg", "gone.jpg", "good.jpg"]
    rows += ["../outside.png", str(tmp_path / "outside.png")]
    listing = table(tmp_path / "l.tsv", "file identity", *(f"{row} p" for row in rows))
    with pytest.warns(UserWarning, match=r"1 faces read, 7 skipped .*'gone.jpg'"):
        faces = read_faces(source, listing=listing)
    assert faces.names == ("good.jpg",)
    reasons = {name: reason.split(":")[0] for name, reason in faces.skipped}
    assert reasons == {
        "cut.jpg": "unreadable",
        "small.png": "not 160x160",
        "empty.jpg": "unreadable",
        "gone.jpg": "not there",
        "good.jpg": "listed twice",
        "../outside.png": "with an unsafe path",
        str(tmp_path / "outside.png"): "with an unsafe path",
    }
    assert dict(faces.skipped)["small.png"] == "not 160x160: 100x80"


def test_unsafe_names_inside_an_archive_are_refused(tmp_path):
    source = archive(tmp_path / "f.zip", {"../up.png": picture(), "a/1.png": picture()})
    with pytest.warns(UserWarning, match="unsafe"):
        faces = read_faces(source)
    assert faces.names == ("a/1.png",)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.zip"]


def test_a_damaged_archive_member_costs_one_face(tmp_path):
    source = archive(tmp_path / "f.zip", {"a/1.png": picture(1), "b/1.png": picture(2)})
    data = source.read_bytes()
    where = data.index(picture(1)) + 60
    source.write_bytes(data[:where] + bytes([data[where] ^ 255]) + data[where + 1 :])
    with pytest.warns(UserWarning, match="1 unreadable"):
        assert read_faces(source).names == ("b/1.png",)


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK"])
def test_other_colours_become_rgb(tmp_path, mode):
    kind = "JPEG" if mode == "CMYK" else "PNG"
    source = folder(tmp_path, {"a/1.jpg": picture(77, mode=mode, kind=kind)})
    pixel = read_faces(source).images[0, 0, 0]
    assert pixel.shape == (3,)
    if mode != "CMYK":
        assert pixel.tolist() == ([77, 77, 77] if mode == "L" else [77, 20, 200])


def test_names_that_nobody_has_are_reported(tmp_path):
    source = folder(tmp_path, PEOPLE)
    with pytest.warns(UserWarning, match="1 not there"):
        faces = read_faces(source, names=["b/1.png", "c/9.png"])
    assert faces.names == ("b/1.png",) and faces.skipped == (("c/9.png", "not there"),)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda p: p, {}, "no face is left"),
        (lambda p: p / "nowhere", {}, "does not exist"),
        (lambda p: table(p / "a.zip", "text"), {}, "neither a folder nor a zip"),
        (lambda p: folder(p, PEOPLE), {"limit": 0}, "limit=0"),
        (lambda p: folder(p, PEOPLE), {"where": {"a": "b"}}, "give listing"),
        (lambda p: folder(p, PEOPLE), {"names": ["x.png"]}, "no face is left .*x.png: not there"),
        (lambda p: "synthetic", {"listing": "l.tsv"}, "no listing"),
        (lambda p: "synthetic", {"names": ["x.png"]}, "none of the names"),
    ],
)
def test_what_cannot_be_read_is_an_error(tmp_path, make, options, message):
    with pytest.raises(ValueError, match=message):
        read_faces(make(tmp_path), **options)


def test_a_listing_must_have_its_columns(tmp_path):
    source = folder(tmp_path / "f", PEOPLE)
    listing = table(tmp_path / "l.tsv", "file who", "a/1.png a")
    with pytest.raises(ValueError, match="lacks identity, alike"):
        read_faces(source, listing=listing, where={"alike": "-"})
    with pytest.raises(ValueError, match=r"\(none\)"):
        read_faces(source, listing=table(tmp_path / "empty.tsv"))


def test_batch_and_select(tmp_path):
    faces = read_faces(folder(tmp_path, PEOPLE))
    assert faces.batch([2, 0, 2])[:, 0, 0, 0].tolist() == [3, 1, 3]
    faces.batch([0])[:] = 0
    assert faces.images[0, 0, 0, 0] == 1, "a batch is a copy"
    two = faces.select([2, 0])
    assert two.names == ("b/2.png", "a/1.png") and two.identities == ("b", "a")
    assert two.images[:, 0, 0, 0].tolist() == [3, 1]


def test_faces_must_fit_together():
    images = np.zeros((2, 160, 160, 3), np.uint8)
    with pytest.raises(ValueError, match="uint8"):
        Faces(("a", "b"), ("a", "b"), images.astype(np.float32))
    with pytest.raises(ValueError, match=r"wanted uint8 \(1, 160"):
        Faces(("a",), ("a",), images)
    with pytest.raises(ValueError, match="1 identities for 2"):
        Faces(("a", "b"), ("a",), images)


def test_many_faces_show_a_bar_and_keep_their_order(tmp_path, capsys, monkeypatch):
    files = {f"p/{i:04d}.png": picture(i % 256) for i in range(520)}
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes the captured stream for a terminal
    faces = read_faces(archive(tmp_path / "f.zip", files))
    assert [int(v) for v in faces.images[:, 0, 0, 0]] == [i % 256 for i in range(520)]
    assert "reading faces" in capsys.readouterr().err
    read_faces(tmp_path / "f.zip", progress=False)
    monkeypatch.delenv("FORCE_COLOR")
    read_faces(tmp_path / "f.zip")
    assert capsys.readouterr().err == ""


def test_epoch_order_follows_from_its_arguments():
    order = epoch_order(1000, 7, 3)
    assert sorted(order) == list(range(1000))
    assert (order == epoch_order(1000, 7, 3)).all()
    for other in (epoch_order(1000, 7, 4), epoch_order(1000, 8, 3), epoch_order(1000, 3, 7)):
        assert (order == other).mean() < 0.02
    # fixed for good: a training resumed by a later version must meet the same batches
    assert epoch_order(8, 0, 0).tolist() == [3, 6, 4, 0, 7, 5, 2, 1]
    with pytest.raises(ValueError, match="negative"):
        epoch_order(10, 0, -1)


OFFICIAL = "2\t1\nAda\t1\t2\nAda\t1\tBo\t3\nCy\t1\t4\nCy\t4\tBo\t12\n"
NAMED = [
    NamedPair("Ada/Ada_0001.jpg", "Ada/Ada_0002.jpg", True, 1),
    NamedPair("Ada/Ada_0001.jpg", "Bo/Bo_0003.jpg", False, 1),
    NamedPair("Cy/Cy_0001.jpg", "Cy/Cy_0004.jpg", True, 2),
    NamedPair("Cy/Cy_0004.jpg", "Bo/Bo_0012.jpg", False, 2),
]


def test_both_formats_say_the_same(tmp_path):
    (tmp_path / "pairs.txt").write_text(OFFICIAL)
    rows = [f"{p.fold} {p.same:d} {p.left} {p.right}" for p in NAMED]
    assert read_pairs(tmp_path / "pairs.txt") == NAMED
    assert read_pairs(table(tmp_path / "p.tsv", "fold same file1 file2", *rows)) == NAMED


def test_the_official_format_without_folds(tmp_path):
    (tmp_path / "dev.txt").write_text("1\nAda\t1\t2\nAda\t1\tBo\t3\n")
    assert read_pairs(tmp_path / "dev.txt") == NAMED[:2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "first line"),
        ("Ada 1 2\n", "first line"),
        (OFFICIAL + "Cy 1 2\n", "5 lines"),
        (OFFICIAL.replace("Cy\t1\t4", "Cy\t1\tBo\t4"), "'Name i j', got 'Cy 1 Bo 4'"),
        (OFFICIAL.replace("Bo\t3", "Bo\tx"), "'Name i Other j'"),
        ("fold\tsame\tfile1\tfile2\n1\t1\ta\tb\n1\tyes\ta\tb\n", "line 3"),
        ("fold\tsame\tfile1\tfile2\n1\t1\ta\n", "line 2"),
        ("same\tfile1\tfile2\n1\ta\tb\n", "line 2"),
    ],
)
def test_pairs_that_cannot_be_read_are_an_error(tmp_path, text, message):
    (tmp_path / "pairs").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_pairs(tmp_path / "pairs")


def test_index_pairs_points_at_the_named_faces():
    names = pair_names(NAMED)
    assert names[:3] == ("Ada/Ada_0001.jpg", "Ada/Ada_0002.jpg", "Bo/Bo_0003.jpg")
    assert len(names) == len(set(names)) == 6
    shuffled = tuple(reversed(names))
    faces = Faces(shuffled, ("?",) * 6, np.zeros((6, 160, 160, 3), np.uint8))
    pairs = index_pairs(NAMED, faces)
    assert [shuffled[i] for i in pairs.left] == [pair.left for pair in NAMED]
    assert [shuffled[i] for i in pairs.right] == [pair.right for pair in NAMED]
    assert pairs.same.tolist() == [True, False, True, False] and pairs.fold.tolist() == [1, 1, 2, 2]
    with pytest.raises(ValueError, match="2 of the 6 faces .*'Ada/Ada_0001.jpg'"):
        index_pairs(NAMED, faces.select(range(4)))


def many(folds: int, each: int) -> list[NamedPair]:
    return [
        NamedPair(f"{f}{s}{k}l", f"{f}{s}{k}r", s, f)
        for f in range(1, folds + 1)
        for s in (True, False)
        for k in range(each)
    ]


@pytest.mark.parametrize(("n", "each"), [(10**6, 5), (20, 5), (19, 4), (8, 2), (4, 1)])
def test_subset_takes_the_first_of_each_fold(n, each):
    named = many(2, 5)
    small = subset(named, n)
    assert small == [pair for pair in named if int(pair.left[-2]) < each]
    names = pair_names(named)
    faces = Faces(names, names, np.zeros((len(names), 160, 160, 3), np.uint8))
    indexed = subset(index_pairs(named, faces), n)
    assert [names[i] for i in indexed.left] == [pair.left for pair in small]
    assert indexed.same.mean() == 0.5 and np.bincount(indexed.fold)[1:].tolist() == [2 * each] * 2


def test_subset_is_balanced_or_an_error():
    named = many(2, 5)
    assert subset(named, None) is named
    assert len(subset(named[:-2], 20)) == 12, "the poorest group of all sets the number"
    with pytest.raises(ValueError, match="ask for n >= 4"):
        subset(named, 3)
    with pytest.raises(ValueError, match="without a same or a different pair"):
        subset([pair for pair in named if pair.same], 20)
    with pytest.raises(ValueError, match="0 folds"):
        subset([], 20)


def test_made_pairs_are_balanced_distinct_and_of_separate_people():
    who = [f"p{i}" for i in range(23) for _ in range(1 + i % 4)]
    faces = blank(*who)
    pairs = make_pairs(faces, folds=4, seed=1)
    identity = np.array(faces.identities)
    assert ((identity[pairs.left] == identity[pairs.right]) == pairs.same).all()
    assert len({frozenset(p) for p in zip(pairs.left, pairs.right, strict=True)}) == len(pairs)
    assert (pairs.left != pairs.right).all()
    people = []
    for fold in range(1, 5):
        rows = pairs.fold == fold
        assert rows.any() and pairs.same[rows].mean() == 0.5
        people.append(set(identity[pairs.left[rows]]) | set(identity[pairs.right[rows]]))
    assert sum(map(len, people)) == len(set.union(*people))
    assert pairs.same.sum() == sum(k * (k - 1) // 2 for k in (1 + i % 4 for i in range(23)))


def test_made_pairs_follow_from_the_seed():
    faces = blank(*(f"p{i // 3}" for i in range(60)))

    def flat(pairs: Pairs) -> list:
        return [pairs.left.tolist(), pairs.right.tolist(), pairs.same.tolist(), pairs.fold.tolist()]

    assert flat(make_pairs(faces)) == flat(make_pairs(faces))
    assert flat(make_pairs(faces)) != flat(make_pairs(faces, seed=1))
    assert make_pairs(faces, per_identity=1).same.sum() == 20


def test_made_pairs_stay_balanced_where_different_pairs_are_few():
    pairs = make_pairs(blank(*"aaaaaab"), folds=1)
    assert pairs.same.sum() == (~pairs.same).sum() == 4


def test_made_pairs_need_enough_people():
    with pytest.raises(ValueError, match="folds=0"):
        make_pairs(blank(*"aabb"), folds=0)
    with pytest.raises(ValueError, match="do not fill 10 folds"):
        make_pairs(blank(*"aabbccdd"))
    with pytest.raises(ValueError, match="0 of them with two images"):
        make_pairs(blank(*"abcdef"), folds=2)


def test_real_lfw(advface_data):
    data = advface_data
    named = read_pairs(data / "lists/lfw_pairs.tsv")
    assert named == read_pairs(data / "lists/lfw_pairs_official.txt") and len(named) == 6000
    some = subset(named, 200)
    faces = read_faces(
        data / "faces/lfw_pairs_160.zip",
        listing=data / "lists/lfw_pairs_160.tsv",
        names=pair_names(some),
    )
    assert faces.skipped == () and len(index_pairs(some, faces)) == 200
    identity = np.array(faces.identities)
    pairs = index_pairs(some, faces)
    assert ((identity[pairs.left] == identity[pairs.right]) == pairs.same).all()
