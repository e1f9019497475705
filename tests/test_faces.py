"""Faces: what is read, what is skipped and why, in memory or on demand, in an order that stays."""

import pickle

import numpy as np
import pytest
from face_files import archive, bomb, encoded, folder, noise, picture, table
from PIL import Image

from advface_jax.data import Faces, open_faces, read_faces

PEOPLE = {"b/2.png": picture(3), "b/1.png": picture(2), "a/1.png": picture(1)}
PEOPLE |= {"._hidden.png": b"", "notes.txt": b""}


@pytest.mark.parametrize("pack", [folder, archive])
def test_folder_and_zip_give_the_same_sorted_faces(tmp_path, pack):
    faces = read_faces(pack(tmp_path / "faces.zip", PEOPLE))
    assert faces.names == ("a/1.png", "b/1.png", "b/2.png")
    assert faces.identities == ("a", "b", "b")
    assert faces.images.dtype == np.uint8 and faces.images.shape == (3, 160, 160, 3)
    assert faces.images[:, 80, 80].tolist() == [[1, 20, 200], [2, 20, 200], [3, 20, 200]]
    assert faces.skipped == () and len(faces) == 3


def test_listing_orders_names_and_filters(tmp_path):
    source = archive(tmp_path / "f.zip", PEOPLE)
    rows = ("b/2.png Bo -", "a/1.png Al -", "b/1.png Bo Cy")
    listing = table(tmp_path / "l.tsv", "file identity alike", *rows)
    assert read_faces(source, listing=listing).names == ("b/2.png", "a/1.png", "b/1.png")
    some = read_faces(source, listing=listing, where={"alike": "-"})
    assert some.names == ("b/2.png", "a/1.png") and some.identities == ("Bo", "Al")
    assert some.skipped == ()
    assert read_faces(source, listing=listing, names=["a/1.png"]).images[0, 0, 0, 0] == 1
    assert read_faces(source, listing=listing, limit=1).names == ("b/2.png",)
    # with a mark as Excel writes it
    listing = table(tmp_path / "l.tsv", "\ufefffile identity", "a/1.png Al", "b/1.png")
    with pytest.warns(UserWarning, match="1 without an identity"):
        faces = read_faces(source, listing=listing)
    assert faces.names == ("a/1.png",) and faces.identities == ("Al",)
    with pytest.warns(UserWarning, match="1 not there"):
        faces = read_faces(source, names=["b/1.png", "c/9.png"])
    assert faces.names == ("b/1.png",) and faces.skipped == (("c/9.png", "not there"),)


@pytest.mark.parametrize("pack", [folder, archive])
def test_each_bad_file_is_skipped_with_its_reason(tmp_path, pack):
    whole = noise()
    (tmp_path / "outside.png").write_bytes(picture())
    files = {"good.jpg": whole, "cut.jpg": whole[: len(whole) // 2], "empty.jpg": b""}
    source = pack(tmp_path / "faces.zip", files | {"small.png": picture(size=(100, 80))})
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


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK"])
def test_other_colours_become_rgb(tmp_path, mode):
    kind = "JPEG" if mode == "CMYK" else "PNG"
    source = folder(tmp_path, {"a/1.jpg": picture(77, mode=mode, kind=kind)})
    pixel = read_faces(source).images[0, 0, 0]
    if mode != "CMYK":
        assert pixel.tolist() == ([77, 77, 77] if mode == "L" else [77, 20, 200])


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"file\twho\na/1.png\ta\n", "lacks identity, alike"),
        (b"", r"\(none\)"),
        (b"file\tidentity\talike\n\x81\xfe\t1\n", "l.tsv cannot be read as text"),
        (b"file,identity,alike\na, b.png,Al,-\n", "line 2: got 4 cells; wanted 3"),
        (None, "l.tsv does not exist"),
    ],
)
def test_a_listing_must_have_its_columns(tmp_path, text, message):
    listing = tmp_path / "l.tsv"
    if text is not None:
        listing.write_bytes(text)
    with pytest.raises(ValueError, match=message):
        read_faces(folder(tmp_path / "f", PEOPLE), listing=listing, where={"alike": "-"})


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
    monkeypatch.setattr("advface_jax.data.reading._BAR_FROM", 100)
    files = {f"p/{i:04d}.png": picture(i) for i in range(130)}  # more than are read ahead
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes the captured stream for a terminal
    faces = read_faces(archive(tmp_path / "f.zip", files))
    assert [int(v) for v in faces.images[:, 0, 0, 0]] == list(range(130))
    assert "reading faces" in capsys.readouterr().err
    read_faces(tmp_path / "f.zip", progress=False)
    monkeypatch.delenv("FORCE_COLOR")
    read_faces(tmp_path / "f.zip")
    assert capsys.readouterr().err == ""


def test_lazy_faces_are_the_same_faces(tmp_path):
    source = archive(tmp_path / "f.zip", PEOPLE)
    listing = table(tmp_path / "l.tsv", "file identity", "b/2.png Bo", "gone.png Al", "a/1.png Al")
    with pytest.warns(UserWarning, match="1 not there"):
        lazy = open_faces(source, listing=listing)
    with pytest.warns(UserWarning, match="1 not there"):
        eager = read_faces(source, listing=listing)
    for faces in (lazy, pickle.loads(pickle.dumps(lazy))):
        assert (faces.names, faces.identities) == (eager.names, eager.identities)
        assert faces.skipped == eager.skipped == (("gone.png", "not there"),)
        assert (faces.images == eager.images).all() and len(faces) == 2
        assert (faces.batch([1, 0, 1]) == eager.batch([1, 0, 1])).all()
        assert (faces.select([1]).images == eager.select([1]).images).all()
        assert np.array_equal(faces.crop(1), eager.crop(1))


def test_a_lazy_face_is_read_when_asked_for_and_not_before(tmp_path):
    where = folder(tmp_path / "f", {**PEOPLE, "c/1.jpg": noise()[:5000], "c/2.png": b"text"})
    faces = open_faces(where)
    (where / "a/1.png").unlink()
    (where / "b/1.png").write_bytes(picture(99))
    assert faces.batch([1])[0, 0, 0, 0] == 99
    for i, reason in ((0, "does not exist"), (3, "truncated"), (4, "^unreadable: not an image")):
        with pytest.raises(ValueError, match=reason):
            faces.crop(i)
    with pytest.raises(ValueError, match="c/1.jpg is unreadable: .*truncated"):
        faces.batch([1, 3])


@pytest.mark.parametrize("size", [(112, 112), (250, 250)])
def test_other_sizes_are_resized_only_when_asked(tmp_path, size):
    source = folder(tmp_path, {"a/1.png": picture(7, size=size), "a/2.png": picture(size=(90, 80))})
    with pytest.raises(ValueError, match="no face is left .*not 160x160: {}x{}".format(*size)):
        read_faces(source)
    with pytest.warns(UserWarning, match="1 not square"):
        faces = read_faces(source, resize=True)
    assert faces.names == ("a/1.png",) and (faces.images == [7, 20, 200]).all()
    with pytest.raises(ValueError, match="^not 160x160: {}x{}$".format(*size)):
        open_faces(source).crop(0)


def test_shrinking_is_antialiased(tmp_path):
    stripes = np.zeros((320, 320, 3), np.uint8)
    stripes[:, ::2] = 255
    file = encoded(Image.fromarray(stripes))
    image = read_faces(folder(tmp_path, {"a/1.png": file}), resize=True).images[0]
    assert abs(image[:, 4:-4].astype(int) - 127).max() < 40, "nearest or bare bilinear gives 0, 255"


def test_a_decompression_bomb_is_refused_by_its_header(tmp_path):
    files = {"a/1.png": bomb(30_000, 30_000), "a/2.png": bomb(9000, 9000)}
    faces = open_faces(folder(tmp_path, files), resize=True)
    larger = "^not square or larger than 4096x4096: 9000x9000$"
    for i, reason in enumerate(("exceeds limit", larger)):
        with pytest.raises(ValueError, match=reason):
            faces.crop(i)
