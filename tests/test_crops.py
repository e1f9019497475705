"""Cropping: which face, which pixels, and a folder of photographs with everything wrong with it.

The finder here takes a red square for a face; test_mtcnn.py tests the real one.
"""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from face_files import archive, encoded, folder, full_disk, table
from PIL import Image

from advface_jax import cropping, data, detection
from advface_jax.commands import crop as command
from advface_jax.data import crops, open_source
from experiments import crops as experiment

CONFIG = cropping.CropConfig()


def squares(photo: np.ndarray) -> detection.Detections:
    """Each column of pure red is a face: 40 pixels wide, its probability from its blue."""
    (columns,) = np.nonzero((photo[0, :, 0] > 200) & (photo[0, :, 1] < 60))
    starts = columns[np.diff(columns, prepend=-9) > 1]
    boxes = np.array([[x, 10, x + 40, 50] for x in starts], np.float32).reshape(-1, 4)
    order = np.argsort(-photo[0, starts, 2].astype(int))
    sure = np.linspace(0.99, 0.8, len(starts), dtype=np.float32)
    return detection.Detections(boxes[order], sure, np.zeros((len(starts), 5, 2), np.float32))


def picture(*faces: int, width: int = 200, height: int = 80) -> Image.Image:
    """Grey, with a red face at each of these columns, the later ones more blue."""
    pixels = np.full((height, width, 3), 120, np.uint8)
    for n, x in enumerate(faces):
        pixels[:, x : x + 20] = (255, 0, 60 * n)
    return Image.fromarray(pixels)


def crop(photos: Path, out: Path, config=CONFIG, find=squares):
    rows = cropping.crop_all(open_source(photos), out, config, find, {"photos": "p"})
    return {row.file: row for row in rows}


ONE, TWO, NONE = (encoded(picture(*xs)) for xs in ((50,), (20, 120), ()))


def test_which_face():
    boxes = np.array([[0, 0, 60, 60], [80, 80, 120, 120], [150, 150, 155, 155]], np.float32)
    sure = np.array([0.8, 0.7, 0.9], np.float32)

    def chosen(how):
        return crops.choose(boxes, sure, (200, 200), how).tolist()

    # areas 3600, 1600, 25; squared distances from (100, 100): 9800, 0, 5512.5
    ways = {"largest": [0], "centre": [1], "probable": [2], "all": [2, 0, 1]}
    assert {how: chosen(how) for how in ways} == ways
    assert crops.choose(boxes[:0], sure[:0], (9, 9), "centre").tolist() == []
    # the middle of a high photograph, and of a wide one
    boxes = np.array([[10, 90, 50, 130], [140, 20, 180, 60]], np.float32)
    assert crops.choose(boxes, sure[:2], (220, 60), "centre").tolist() == [0]
    assert crops.choose(boxes, sure[:2], (80, 320), "centre").tolist() == [1]


def test_which_pixels():
    """146 pixels of face and 14 of margin: nothing is resized, so every pixel can be named."""
    photo = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    box = np.array([50.9, 60.2, 196.9, 206.2], np.float32)
    np.testing.assert_array_equal(crops.cut(photo, box), photo[53:213, 43:203])
    np.testing.assert_array_equal(crops.cut(photo, box, size=146, margin=0), photo[60:206, 50:196])


def test_a_face_at_the_edge_is_clipped_and_stretched():
    photo = np.zeros((100, 100, 3), np.uint8)
    photo[:, :50] = 200
    face = crops.cut(photo, np.array([-30, -30, 100, 100], np.float32), margin=0)
    assert face.shape == (160, 160, 3)
    assert abs(int((face[80, :, 0] > 100).sum()) - 80) <= 1
    with pytest.raises(ValueError, match="outside the photograph"):
        crops.cut(photo, np.array([120, 10, 150, 40], np.float32))
    with pytest.raises(ValueError, match="margin from 0 to size - 1"):
        crops.cut(photo, np.array([0, 0, 50, 50], np.float32), margin=160)


def test_photographs_are_turned_upright_and_coloured():
    wide, exif = picture(50), Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    turned = crops.decode(encoded(wide, "JPEG", exif=exif))
    assert turned.shape == (200, 80, 3)
    for mode in ("L", "P", "CMYK", "RGBA", "1"):
        form = "TIFF" if mode == "CMYK" else "PNG"
        assert crops.decode(encoded(wide.convert(mode), form)).shape == (80, 200, 3), mode


def test_grey_of_16_bits_keeps_its_light(tmp_path):
    deep = Image.fromarray(np.full((160, 160), 100 << 8 | 99, np.uint16))
    folder(tmp_path, {"a.png": encoded(deep)})
    assert np.unique(crops.decode(encoded(deep))).tolist() == [100]
    assert np.unique(data.read_faces(tmp_path).images).tolist() == [100]


HALF = encoded(picture(width=80))[:99]
EPS = encoded(picture(50), "EPS")  # which Pillow reads with another program


@pytest.mark.parametrize("content", [b"", b"not a picture", HALF, EPS])
def test_broken_bytes_are_explained(content, tmp_path):
    with pytest.raises(ValueError, match="unreadable: (?!.* at 0x)"):  # the same at every run
        crops.decode(content)
    with pytest.raises(ValueError, match="no face is left .*a/1.jpg: unreadable"):
        data.read_faces(folder(tmp_path, {"a/1.jpg": content}), resize=True)


def test_huge_pictures_are_refused_before_they_are_decoded(monkeypatch):
    monkeypatch.setattr(crops, "MAX_PIXELS", 200 * 80 - 1)
    monkeypatch.setattr(Image.Image, "convert", None)
    with pytest.raises(ValueError, match="too large: .* megapixels"):
        crops.decode(ONE)


def test_every_photograph_is_accounted_for(tmp_path):
    files = dict.fromkeys(("ann/one.png", "flat.png", "same.jpg"), ONE)
    files |= dict.fromkeys(("ann/sub.dir/two.faces.png", "same.png"), TWO)
    files |= {"bob/none.png": NONE, "bob/broken.jpg": ONE[:99], "bob/empty.jpg": b""}
    files |= {"bob/small.png": encoded(picture(width=15, height=15)), "letter.txt": b"x"}
    photos = folder(tmp_path / "photos", files)
    out = tmp_path / "out" / "faces"
    rows = crop(photos, out)
    found = {n: (row.crop, row.status.split(":")[0], row.faces) for n, row in rows.items()}
    assert found == {
        "ann/one.png": ("ann/one.jpg", "cropped", "1"),
        "ann/sub.dir/two.faces.png": ("ann/sub.dir/two.faces.jpg", "cropped", "2"),
        "bob/none.png": ("", "no face", "0"),
        "bob/broken.jpg": ("", "unreadable", ""),
        "bob/empty.jpg": ("", "unreadable", ""),
        "bob/small.png": ("", "too small", "0"),
        "flat.png": ("flat.jpg", "cropped", "1"),
        "same.jpg": ("same.jpg", "cropped", "1"),
        "same.png": ("", "duplicate name", ""),
    }  # fmt: skip
    assert rows["ann/one.png"].box_x1y1x2y2 == "50.00,10.00,90.00,50.00"
    assert rows["ann/one.png"].size == "200x80"
    with open(out / "crops.tsv", newline="") as lines:
        listed = list(csv.DictReader(lines, delimiter="\t"))
    assert listed == [dataclasses.asdict(row) for row in rows.values()]
    faces = data.read_faces(out)
    assert faces.names == ("ann/one.jpg", "ann/sub.dir/two.faces.jpg", "flat.jpg", "same.jpg")
    assert faces.identities[0] == "ann" and not faces.skipped
    assert len(list(out.rglob("*.*"))) == 4 + 3  # sub.dir, crops.tsv, crops.json: no litter


def test_a_face_that_is_not_found_is_looked_for_again_in_grey(tmp_path):
    """Boxes stay in pixels of the photograph; only photographs without a face are tried again."""
    files = {"a/1.png": ONE, "a/2.png": TWO, "a/none.png": NONE}
    files["a/tight.png"] = encoded(picture(width=240))
    shapes = []

    def find(photo):
        shapes.append(photo.shape)
        if photo.shape != (80 + 2 * 60, 240 + 2 * 60, 3):
            return squares(photo)
        assert (photo[:60] == 127).all() and (photo[:, -60:] == 127).all()
        assert (photo[60:140, 60:300] == 120).all()
        # a face; most of one in the grey; a small one
        boxes = [[70, 50, 190, 180], [-90, 50, 70, 180], [70, 70, 130, 130]]
        boxes = np.array(boxes, np.float32)
        marks = np.broadcast_to(boxes[:, None, :2], (3, 5, 2))
        return detection.Detections(boxes, np.array([0.9, 0.8, 0.7], np.float32), marks)

    photos, out = folder(tmp_path / "p", files), tmp_path / "o"
    rows = crop(photos, out, find=find)
    tight, none = rows["a/tight.png"], rows["a/none.png"]
    assert (tight.status, tight.faces, tight.padding) == ("cropped", "1", "60")
    assert (tight.size, tight.box_x1y1x2y2) == ("240x80", "10.00,-10.00,130.00,120.00")
    assert tight.landmarks_5xy == ",".join(["10.00", "-10.00"] * 5)
    assert (none.status, none.padding) == ("no face", "50")
    assert rows["a/1.png"].padding == rows["a/2.png"].padding == "0"
    assert len(shapes) == 4 + 2 and (out / "a/tight.jpg").is_file()
    with open(out / "crops.tsv", newline="") as lines:
        assert [r["padding"] for r in csv.DictReader(lines, delimiter="\t")] == [
            "0",
            "0",
            "50",
            "60",
        ]


def test_a_huge_photograph_is_not_padded(tmp_path, monkeypatch):
    monkeypatch.setattr(crops, "MAX_PIXELS", 200 * 80)
    rows = crop(folder(tmp_path / "p", {"a.png": NONE}), tmp_path / "o")
    assert (rows["a.png"].status, rows["a.png"].padding) == ("no face", "0")


def test_all_faces(tmp_path):
    photos = folder(tmp_path / "p", {"a/x.png": TWO, "a/x.2.png": ONE, "a/y.7.png": ONE})
    config = cropping.CropConfig(choose="all", format="png", size=64)
    source = open_source(photos)
    rows = cropping.crop_all(source, tmp_path / "o", config, squares, {})
    assert [(row.crop, row.status.split(":")[0]) for row in rows] == [
        ("", "duplicate name"), ("a/x.png", "cropped"), ("a/x.2.png", "cropped"),
        ("a/y.7.png", "cropped"),
    ]  # fmt: skip
    assert [row.box_x1y1x2y2[:3] for row in rows[1:3]] == ["120", "20."]  # the most probable first
    with Image.open(tmp_path / "o" / "a" / "x.2.png") as second:
        assert second.size == (64, 64)


def test_a_stopped_run_goes_on(tmp_path):
    names = [f"a/{n}.png" for n in range(30)]
    photos = folder(tmp_path / "p", dict.fromkeys(names, ONE) | {"a/7.png": NONE})
    looked = []

    def counting(photo):
        looked.append(1)
        return squares(photo)

    def stopping(done, total, faces):
        if done == 9:
            raise KeyboardInterrupt

    source, out = open_source(photos), tmp_path / "o"
    with pytest.raises(KeyboardInterrupt):
        cropping.crop_all(source, out, CONFIG, counting, {}, stopping)
    assert len(cropping.read_report(out)) == 9
    with open(out / "crops.tsv", "a") as report:
        report.write("a/29.png\ta/29.jp")  # as a kill leaves it
    (out / "a" / ".29.jpg.part").write_bytes(b"half")
    looked.clear()
    rows = cropping.crop_all(source, out, CONFIG, counting, {})
    assert len(looked) == 21 + 1  # a/7.png has no face and is tried again
    assert [row.file for row in rows] == sorted(names)
    assert len(data.read_faces(out)) == 29

    looked.clear()
    (out / "a" / "3.jpg").unlink()  # a crop that was lost is made again, and it alone
    assert cropping.crop_all(source, out, CONFIG, counting, {}) == rows
    assert len(looked) == 1 and (out / "a" / "3.jpg").is_file()


def test_a_full_disk_leaves_no_half_crop_and_says_which(tmp_path):
    photos, out = folder(tmp_path / "p", {"a/1.png": ONE}), tmp_path / "o"
    with full_disk(600), pytest.raises(ValueError, match="1.jpg cannot be written: .*too large"):
        crop(photos, out)
    assert not list((out / "a").iterdir())


def test_a_photograph_that_was_mended_is_tried_again(tmp_path):
    photos = folder(tmp_path / "p", {"a.png": ONE, "b.png": b"broken"})
    assert crop(photos, tmp_path / "o")["b.png"].status.startswith("unreadable")
    folder(photos, {"b.png": ONE})
    assert crop(photos, tmp_path / "o")["b.png"].status == "cropped"


def test_other_settings_do_not_mix(tmp_path):
    photos = folder(tmp_path / "p", {"a.png": ONE})
    crop(photos, tmp_path / "o")
    with pytest.raises(ValueError, match=r"other settings \(margin 14 there, 0 now\)"):
        crop(photos, tmp_path / "o", cropping.CropConfig(margin=0))
    card = tmp_path / "o" / "crops.json"
    now = card.read_text()
    earlier = json.loads(now)
    del earlier["version"]  # before windows at the border were black, and a second try
    card.write_text(json.dumps(earlier))
    with pytest.raises(ValueError, match=r"other settings \(version 1 there, 2 now\)"):
        crop(photos, tmp_path / "o")
    card.write_text(now)
    for damaged, text in (("crops.tsv", '"' + "x\n" * 100_000), ("crops.json", "{")):
        folder(tmp_path / "o", {damaged: text.encode()})
        with pytest.raises(ValueError, match=f"{damaged} is damaged"):
            crop(photos, tmp_path / "o")
    mine = folder(tmp_path / "mine", {"thesis.txt": b"x"})
    with pytest.raises(ValueError, match="not empty"):
        crop(photos, mine)


def test_photographs_of_another_folder_of_that_name_are_not_taken_for_done(
    tmp_path, no_network, monkeypatch
):
    early, late = (folder(tmp_path / y / "photos", {"a/1.png": ONE}) for y in ("2023", "2024"))
    folder(late, {"a/1.png": TWO})
    command.main(str(early), tmp_path / "o")
    command.main(str(early), tmp_path / "o")
    for photos, place in ((str(late), tmp_path), (".", late)):
        monkeypatch.chdir(place)
        with pytest.raises(ValueError, match="other settings .*path '.*2023/photos' there"):
            command.main(photos, tmp_path / "o")


@pytest.mark.parametrize(("given", "name"), [("photos", "photos"), (".", "")])
def test_crops_of_an_earlier_version_go_on_by_name(tmp_path, no_network, monkeypatch, given, name):
    photos = folder(tmp_path / "photos", {"a/1.png": ONE})
    monkeypatch.chdir(photos if given == "." else tmp_path)
    command.main(given, tmp_path / "o")
    card = tmp_path / "o" / "crops.json"
    earlier = json.loads(card.read_text())
    del earlier["path"]
    assert earlier["photos"] == name
    card.write_text(json.dumps(earlier))
    before = (tmp_path / "o" / "a" / "1.jpg").stat().st_mtime_ns
    command.main(given, tmp_path / "o")
    assert (tmp_path / "o" / "a" / "1.jpg").stat().st_mtime_ns == before


def test_a_carriage_return_in_a_name_leaves_a_list_that_can_be_read(tmp_path, no_network, capsys):
    files = {"a/1.png": ONE, "a/b\rc.png": ONE, "a/d\re.heic": b"x", "a/f\tg.png": ONE}
    photos = folder(tmp_path / "p", files)
    for _ in range(2):
        command.main(str(photos), tmp_path / "o")
        assert "2 crops of 4 photographs" in capsys.readouterr().out
        found = {row.file: row.status for row in cropping.read_report(tmp_path / "o")}
        assert found == {
            "a/1.png": "cropped",
            "a/b\\rc.png": "a line break in its name: rename it",
            "a/d\\re.heic": "not read as .heic: save it as JPEG or PNG",
            "a/f\tg.png": "cropped",
        }


def test_nothing_is_written_outside(tmp_path):
    names = ("../../up.png", "/root.png", "a/../../b.png", "fine/a.png")
    photos, out = archive(tmp_path / "evil.zip", dict.fromkeys(names, ONE)), tmp_path / "x/y/o"
    rows = crop(photos, out)
    assert sorted(row.status for row in rows.values()) == ["cropped"] + ["with an unsafe path"] * 3
    written = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert written == {
        "evil.zip", "x/y/o/crops.json", "x/y/o/crops.tsv", "x/y/o/fine/a.jpg",
    }  # fmt: skip
    # A report that somebody changed leads nowhere either: its row does not count as done.
    report = out / "crops.tsv"
    report.write_text(report.read_text().replace("fine/a.jpg", "../../../evil.zip"))
    assert crop(photos, out)["fine/a.png"].crop == "fine/a.jpg"


@pytest.mark.parametrize(
    "wrong",
    [{"size": 0}, {"size": 100_000}, {"margin": 160}, {"margin": -1}, {"choose": "best"},
     {"format": "gif"}, {"quality": 0}, {"min_face": 3}],
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused(wrong):
    with pytest.raises(ValueError, match="wanted"):
        cropping.CropConfig(**wrong)


@pytest.fixture
def no_network(monkeypatch):
    monkeypatch.setattr(detection, "load_detector", lambda source="mtcnn": None)
    monkeypatch.setattr(detection, "detect", lambda photo, detector, config: squares(photo))


def test_the_command_counts_what_it_says(tmp_path, capsys, no_network):
    files = {"a/1.png": ONE, "a/2.png": TWO, "b/3.png": NONE, "b/4.png": b"x"}
    photos = folder(tmp_path / "p", files)
    command.main(str(photos), tmp_path / "o")
    said = capsys.readouterr().out
    assert "2 crops of 4 photographs" in said
    assert "1 with several faces (one was taken: centre)" in said
    assert "2 without a crop: 1 no face, 1 unreadable" in said
    assert json.loads((tmp_path / "o" / "crops.json").read_text())["detector"] == "mtcnn"
    command.main(str(photos), tmp_path / "few", limit=1)
    assert "1 crops of 1 photographs" in capsys.readouterr().out


def test_the_command_refuses_wrong_folders(tmp_path, no_network):
    photos = folder(tmp_path / "p", {"a/1.png": NONE})
    for inside in (photos, photos / "faces"):
        with pytest.raises(ValueError, match="lies inside"):
            command.main(str(photos), inside)
    with pytest.raises(ValueError, match="no photograph gave a crop"):
        command.main(str(photos), tmp_path / "o")
    with pytest.raises(ValueError, match="limit=0"):
        command.main(str(photos), tmp_path / "o", limit=0)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match="no photograph"):
        command.main(str(tmp_path / "nothing"), tmp_path / "o2")
    evil = archive(tmp_path / "evil.zip", {"../a.jpg": ONE})
    with pytest.raises(ValueError, match=r"no photograph.*\.\./a.jpg: with an unsafe path"):
        command.main(str(evil), tmp_path / "o2")


def test_the_experiment_finds_its_own_crops_equal(tmp_path, no_network, monkeypatch):
    monkeypatch.delenv("ADVFACE_DATA", raising=False)
    monkeypatch.setattr("sys.argv", ["crops"])
    photos = folder(tmp_path / "p", {f"a/{n}.png": ONE for n in range(3)} | {"b/two.png": TWO})
    rows = list(crop(photos, tmp_path / "o").values())
    shifted = dataclasses.replace(rows[-1], box_x1y1x2y2="0,10,40,50")  # the other face's: 20..60
    listed = [*rows[:-1], shifted, dataclasses.replace(rows[0], file="a/other.png")]
    cropping._write_report(tmp_path, listed)
    experiment.main(tmp_path / "results", str(photos), tmp_path / "crops.tsv", str(tmp_path / "o"))
    document = json.loads((tmp_path / "results" / "crops.json").read_text())
    everything, a, b = document["rows"]
    assert (everything["n"], a["n"], b["n"]) == (4, 3, 1)
    assert (everything["same_face"], a["same_face"], b["same_face"]) == (0.75, 1, 0)
    assert a["median_iou"] == 1 and a["median_landmark_distance"] == 0
    assert document["notes"]["other_faces"] == ["b/two.png"]
    assert everything["finished_crops"] == everything["finished_crops_equal"] == 4
    said = (tmp_path / "results" / "crops.md").read_text()
    assert "| all | 4 | 5 | 75.00 | 1.0000 | 0.000 |" in said and "faces/s" in said
    assert "Of 4 finished crops 4 are equal" in said


HEADER = "file box_x1y1x2y2 landmarks_5xy"


def test_the_experiment_refuses_what_it_cannot_compare(tmp_path, no_network, monkeypatch):
    monkeypatch.delenv("ADVFACE_DATA", raising=False)
    photos = folder(tmp_path / "p", {"a.png": ONE})
    with pytest.raises(ValueError, match="set ADVFACE_DATA"):
        experiment.main(tmp_path)
    with pytest.raises(ValueError, match="no single face"):
        experiment.main(tmp_path, choose="all")
    ten = ",".join("0" * 10)
    for rows, complaint in (
        (["file identity"], "lacks the columns box"),
        ([HEADER, "a.png 1,2,3,4 0,0,0"], "line 2: 3 numbers, wanted 10"),
        ([HEADER, f"b.png 1,2,3,4 {ten}"], "has none of the files"),
    ):
        with pytest.raises(ValueError, match=complaint):
            experiment.main(tmp_path, str(photos), table(tmp_path / "list.tsv", *rows))
