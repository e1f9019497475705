"""MTCNN: the networks and the cascade against a PyTorch twin, through goldens that the twin wrote.

`reference/make_goldens.py` says how to write them anew. Weights and pictures are random; the
weights are read from a file like facenet-pytorch's wheel, which tests its reader and rule table.
"""

import csv
import functools
import io
import pickle
import tracemalloc
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
import weight_files as wf
from flax import nnx
from PIL import Image
from reference import weights
from reference.cases import GOLDENS, MTCNN_PATCHES, MTCNN_SEED, PHOTOS

import advface_jax
from advface_jax import checkpoint, cropping, detection
from advface_jax.data import crops, open_source
from advface_jax.data.drawn import painting
from advface_jax.data.drawn.faces import _vetted, draw
from advface_jax.data.drawn.person import draw_person, draw_shot
from advface_jax.models import mtcnn, state
from weights_convert import conversion, fetch
from weights_convert.sources import wheel

pytestmark = pytest.mark.usefixtures("full_float32")


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDENS / "mtcnn.npz"))


def write_wheel(folder: Path, monkeypatch, **changes: np.ndarray) -> Path:
    """A wheel in facenet-pytorch's form that holds the twin's weights, its sums the pinned ones."""
    flat = weights.mtcnn(MTCNN_SEED) | changes
    path, sums = folder / "facenet_pytorch-2.6.0-py3-none-any.whl", {}
    with zipfile.ZipFile(path, "w") as archive:
        for network in wheel.MEMBERS:
            own = {k.partition(".")[2]: v for k, v in flat.items() if k.startswith(network)}
            file = wf.write_torch(folder / f"{network}.pt", own)
            sums[network] = fetch.sha256(file)
            archive.write(file, f"facenet_pytorch/data/{network}.pt")
    monkeypatch.setattr(wheel, "MEMBERS", sums)
    return path


@pytest.fixture(scope="module")
def detector(tmp_path_factory) -> mtcnn.MTCNN:
    with pytest.MonkeyPatch.context() as patch:
        arrays, _ = conversion.convert_file(write_wheel(tmp_path_factory.mktemp("w"), patch))
    return state.fill(lambda: mtcnn.MTCNN(rngs=nnx.Rngs(0)), arrays)


run = jax.jit(lambda network, *inputs: network(*inputs))


@pytest.mark.parametrize("name", MTCNN_PATCHES)
def test_each_network(name, detector, golden):
    found = run(getattr(detector, name), weights.patches(name, *MTCNN_PATCHES[name]))
    for part, value in found._asdict().items():
        if value is None:
            assert name != "onet" and part == "landmarks"
        else:
            np.testing.assert_allclose(value, golden[f"{name}.{part}"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(12, 12), (13, 20), (24, 15)])
def test_padding_is_not_seen(size, detector):
    """Every parity of a level's size: a partial pooling window must not reach into the padding."""
    h, w = size
    pixels = weights.patches("pnet", 1, 40, 40)
    alone = run(detector.pnet, pixels[:, :h, :w])
    padded = run(detector.pnet, pixels, np.array([size], np.int32))
    rows, columns = mtcnn.places(h), mtcnn.places(w)
    assert alone.probability.shape == (1, rows, columns)
    for a, b in ((alone.probability, padded.probability), (alone.moves, padded.moves)):
        np.testing.assert_allclose(b[:, :rows, :columns], a, rtol=0, atol=1e-6)
    assert all(np.isfinite(part).all() for part in padded[:2])


@pytest.mark.parametrize("name", PHOTOS)
def test_the_cascade(name, detector, golden):
    seed, height, width, thresholds = PHOTOS[name]
    config = detection.DetectorConfig(thresholds=thresholds)
    found = detection.detect(weights.photo(seed, height, width), detector, config)
    assert len(found) > 1, "a golden that tests nothing"
    for part, atol in (("boxes", 1e-2), ("probabilities", 1e-5), ("landmarks", 1e-2)):
        want = golden[f"{name}.{part}"]
        np.testing.assert_allclose(getattr(found, part), want, rtol=0, atol=atol)


def test_no_size_compiles_anew(detector):
    config = detection.DetectorConfig(thresholds=PHOTOS["square"][3])
    programs = []
    for size in ((90, 90), (20, 20), (33, 170), (101, 64)):
        detection.detect(weights.photo(1, *size), detector, config)
        programs.append(detection._run._cache_size())  # type: ignore[attr-defined]
    assert len(set(programs)) == 1


@pytest.mark.parametrize("size", [(1, 1), (19, 300), (300, 19), (20, 20)])
def test_a_small_photograph_has_no_faces(size, detector):
    config = detection.DetectorConfig(thresholds=(1.0, 1.0, 1.0))
    found = detection.detect(weights.photo(0, *size), detector, config)
    assert len(found) == 0
    assert found.boxes.shape == (0, 4) and found.landmarks.shape == (0, 5, 2)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((9, 9), "uint8"), ((9, 9, 4), "uint8"), ((9, 9, 3), "float32"), ((0, 9, 3), "uint8")],
)
def test_what_is_no_photograph_is_refused(shape, dtype):
    with pytest.raises(ValueError, match=r"wanted uint8 \(h, w, 3\)"):
        detection.detect(np.zeros(shape, dtype))


@pytest.mark.parametrize(
    "wrong",
    [{"min_face": 5}, {"min_face": float("nan")}, {"thresholds": (0.5, 2, 0)}, {"factor": 1.0}],
)
def test_settings_that_do_not_fit_are_refused(wrong):
    with pytest.raises(ValueError, match="wanted"):
        detection.DetectorConfig(**wrong)


def means(part: np.ndarray, m: int, n: int) -> np.ndarray:
    """PyTorch's "area", written out: each pixel is the mean of all that it covers, even in part."""
    h, w, _ = part.shape
    rows = [slice(i * h // m, -(-(i + 1) * h // m)) for i in range(m)]
    columns = [slice(j * w // n, -(-(j + 1) * w // n)) for j in range(n)]
    return np.array([[part[r, c].mean((0, 1), np.float64) for c in columns] for r in rows])


def test_means_over_areas_are_exact():
    """The integral image against plain means, up and down, with bins that overlap."""
    photo = weights.photo(5, 37, 53)
    sums = detection._integral(photo)
    windows = np.array([[0, 0, 53, 37], [5, 3, 6, 4], [10, 0, 31, 30]])
    got = detection._resample(sums, windows, 24)
    for n, (x1, y1, x2, y2) in enumerate(windows):
        np.testing.assert_allclose(got[n], means(photo[y1:y2, x1:x2], 24, 24), rtol=1e-6)
    np.testing.assert_allclose(detection._level(sums, 22, 31), means(photo, 22, 31), rtol=1e-6)


@pytest.mark.parametrize("box", [(-7.5, 5, 23, 35), (40, 20, 70, 50.9), (-30, -40, 80, 70)])
def test_a_window_is_black_beyond_the_photograph(box):
    """Cut at the edge and stretched, it would show another face to R and O."""
    photo, room = weights.photo(5, 37, 53), 50
    boxes, windows = detection._windows(np.array([box], np.float32), photo.shape[:2])
    (x1, y1, x2, y2), around = (
        windows[0] + room,
        np.pad(photo, ((room, room), (room, room), (0, 0))),
    )
    assert len(boxes) == 1 and (x2 - x1, y2 - y1) == (int(box[2]) - int(box[0]) + 1,) * 2
    got = detection._resample(detection._integral(photo), windows, 24)[0]
    np.testing.assert_allclose(got, means(around[y1:y2, x1:x2], 24, 24), rtol=1e-6, atol=1e-4)


def test_a_large_photograph_takes_little_more_than_its_sums(detector):
    """Not all levels of the pyramid, and all tiles of them, at once."""
    photo = weights.photo(2, 900, 1200)
    config = detection.DetectorConfig(thresholds=(1.0, 1.0, 1.0))
    detection.detect(photo, detector, config)
    tracemalloc.start()
    try:
        detection.detect(photo, detector, config)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.75 * 4 * photo.size, f"{peak / 1e6:.0f} MB"


def test_a_part_of_a_level_is_that_part_of_it():
    sums = detection._integral(weights.photo(5, 37, 53))
    whole = detection._level(sums, 22, 31)
    for rows in (slice(0, 9), slice(9, 22), slice(20, 99)):
        np.testing.assert_array_equal(detection._level(sums, 22, 31, rows), whole[rows])


def test_sums_may_wrap_around():
    """Beyond 2^32 / 255 white pixels the sums wrap around; their differences stay correct."""
    photo = np.full((50, 50, 3), 255, np.uint8)
    sums = detection._integral(photo) + np.uint32(2**32 - 9999)  # as deep in a large photograph
    assert sums[-1, -1, 0] < sums[0, 0, 0]
    assert (detection._resample(sums, np.array([[10, 20, 50, 50]]), 24) == 255).all()
    assert (detection._level(sums, 30, 20) == 255).all()


def test_suppression():
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 5, 10], [20, 20, 30, 30]], np.float32)
    scores = np.array([0.8, 0.9, 0.7, 0.1], np.float32)
    # 1 and 0 share 90 of 110; 1 and 2 share 40 of 110, and 40 of 2's 50
    assert detection.suppress(boxes, scores, 0.7).tolist() == [1, 2, 3]
    assert detection.suppress(boxes, scores, 0.3).tolist() == [1, 3]
    assert detection.suppress(boxes, scores, 0.7, of_smaller=True).tolist() == [1, 3]
    assert detection.suppress(boxes[:0], scores[:0], 0.7).tolist() == []
    equal = np.ones(2, np.float32)
    assert detection.suppress(boxes[:2], equal, 0.7).tolist() == [0]


def test_the_wheel_becomes_a_checkpoint_that_no_recogniser_takes(tmp_path, monkeypatch):
    arrays, card = conversion.convert_file(write_wheel(tmp_path, monkeypatch), source="mtcnn")
    assert card["kind"] == "mtcnn" and card["licence"].startswith("MIT")
    assert card["members"] == wheel.MEMBERS
    folder = tmp_path / "mtcnn"
    checkpoint.save(folder, checkpoint.nest(arrays), card)
    network = detection.load_detector(folder)
    np.testing.assert_array_equal(network.onet.dense6_3.kernel[...], arrays["onet.dense6_3.kernel"])
    with pytest.raises(ValueError, match="face detector .* wanted a recogniser"):
        advface_jax.load(folder)
    checkpoint.save(tmp_path / "q8", {"a": np.ones(1)}, {"kind": "TFLite"})
    with pytest.raises(ValueError, match="holds TFLite, which finds no faces"):
        detection.load_detector(tmp_path / "q8")
    with pytest.raises(ValueError, match="no weights called 'retinaface'.*'mtcnn'"):
        detection.load_detector("retinaface")


def test_another_wheel_is_refused(tmp_path, monkeypatch):
    path = write_wheel(tmp_path, monkeypatch)
    monkeypatch.setitem(wheel.MEMBERS, "rnet", "0" * 64)
    with pytest.raises(ValueError, match=r"data/rnet\.pt .* has sha256 .*, wanted 0000"):
        conversion.convert_file(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not facenet-pytorch's wheel, or a damaged one"):
        conversion.convert_file(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other/data/pnet.pt", b"")
    with pytest.raises(ValueError, match="not facenet-pytorch's wheel"):
        conversion.convert_file(path)


def test_no_pickle_of_the_wheel_is_executed(tmp_path, monkeypatch):
    class Evil:
        def __reduce__(self):
            return print, ("executed",)

    path, data = tmp_path / "a.whl", pickle.dumps(Evil())
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("facenet_pytorch/data/pnet.pt", data)
    (tmp_path / "pnet.pt").write_bytes(data)
    monkeypatch.setitem(wheel.MEMBERS, "pnet", fetch.sha256(tmp_path / "pnet.pt"))
    with pytest.raises(ValueError, match="not a PyTorch state dict"):
        conversion.convert_file(path)


def test_weights_of_another_shape_are_named(tmp_path, monkeypatch):
    path = write_wheel(tmp_path, monkeypatch, **{"rnet.dense4.bias": np.zeros(7, np.float32)})
    with pytest.raises(ValueError, match=r"rnet\.dense4\.bias: has shape \(7,\), wanted \(128,\)"):
        conversion.convert_file(path)
    with pytest.raises(ValueError, match="leave --standardization out"):
        conversion.convert_file(path, standardization="fixed")


def test_the_wheel_is_fetched_once_and_its_sum_required(tmp_path, monkeypatch):
    path = write_wheel(tmp_path, monkeypatch)
    calls = []

    def download(origin, scratch):
        calls.append(origin.requirement)
        return path

    monkeypatch.setattr(fetch, "_download", download)
    with pytest.raises(ValueError, match="has sha256 .* wanted ecb82b27"):
        fetch.fetch("mtcnn", tmp_path / "cache")
    known = fetch.Known(fetch.Package("facenet-pytorch==2.6.0", fetch.sha256(path)), None, "")
    monkeypatch.setitem(fetch.KNOWN, "mtcnn", known)
    got = fetch.fetch("mtcnn", tmp_path / "cache")
    assert fetch.fetch("mtcnn", tmp_path / "cache") == got
    assert got.suffix == ".whl" and got.read_bytes() == path.read_bytes()
    assert calls == ["facenet-pytorch==2.6.0"] * 2


@pytest.fixture(scope="module")
def trained() -> mtcnn.MTCNN:
    try:
        fetch.fetch("mtcnn")
    except ValueError as error:
        if "could not download" not in str(error):
            raise
        pytest.skip("mtcnn is not cached and pip cannot reach a package index")
    return detection.load_detector()


def drawn_eyes(person: int, picture: int) -> np.ndarray:
    """Where the eyes of a drawn face are, the left one in the picture first: x, y in pixels."""
    p = draw_person(np.random.default_rng([0, person]))
    s = draw_shot(np.random.default_rng([0, person, picture]))
    u, v = np.array([-p.eye_gap, p.eye_gap], np.float32), np.full(2, p.eye_v, np.float32)
    z = 0.6 * (1 - painting.radius(p, u, v) ** 2) - 0.3  # as drawn.faces turns the head
    a, b = u * np.cos(s.yaw) + z * np.sin(s.yaw), v + z * np.sin(s.pitch)
    c, d = s.zoom * np.cos(s.roll), s.zoom * np.sin(s.roll)
    return (np.stack([c * a - d * b, c * b + d * a], 1) + s.shift + 1) * 80 - 0.5


@pytest.mark.slow
@pytest.mark.parametrize("cut", ["top", "left", "right", "bottom"])
def test_the_eyes_of_a_face_cut_tight(cut, trained):
    """They lie where they are drawn. Stretched windows put them up to 50 pixels away."""
    shots = [(person, 0) for person in _vetted()[:4]]
    for shot, photo in zip(shots, draw(0, shots), strict=True):
        top, left = 36 * (cut == "top"), 30 * (cut == "left")
        part = photo[top : 160 - 30 * (cut == "bottom"), left : 160 - 30 * (cut == "right")]
        found = detection.detect(part, trained)
        (i,) = crops.choose(found.boxes, found.probabilities, part.shape[:2])
        if cut == "top":
            assert found.boxes[i, 1] < -10, "the box begins above the picture"
        away = found.landmarks[i, :2] + (left, top) - drawn_eyes(*shot)
        assert np.linalg.norm(away, axis=1).max() < 9, shot


@pytest.mark.slow
def test_a_face_that_fills_its_photograph_is_found_in_grey(trained, tmp_path):
    """The first look finds no face in these; the second finds the eyes where they are drawn."""
    people = [_vetted()[i] for i in (1, 2, 3, 4)]
    top, left, bottom, right = 40, 40, 128, 120
    for person, photo in zip(people, draw(0, [(p, 0) for p in people]), strict=True):
        path = tmp_path / "p" / str(person) / "1.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(photo[top:bottom, left:right]).save(path)
    find = functools.partial(detection.detect, detector=trained)
    source, config = open_source(tmp_path / "p"), cropping.CropConfig()
    rows = {r.file: r for r in cropping.crop_all(source, tmp_path / "o", config, find, {})}
    for person in people:
        row = rows[f"{person}/1.png"]
        assert (row.status, row.padding, row.size) == ("cropped", "22", "80x88")
        eyes = np.array([float(v) for v in row.landmarks_5xy.split(",")]).reshape(5, 2)[:2]
        away = eyes + (left, top) - drawn_eyes(person, 0)
        assert np.linalg.norm(away, axis=1).max() < 9, person


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(160, 1), (1, 160), (1, 1), (19, 19), (160, 12), (12, 160)])
def test_a_photograph_too_small_for_a_face_is_no_error(shape, trained):
    (face,) = draw(0, [(_vetted()[0], 0)])
    assert not len(detection.detect(face[: shape[0], : shape[1]], trained))


@pytest.mark.slow
def test_a_face_may_lie_in_each_corner_and_be_grey(trained):
    shots = [(person, 0) for person in _vetted()[:4]]
    photo = np.full((400, 420, 3), 128, np.uint8)
    corners = [(0, 0), (0, 260), (240, 0), (240, 260)]  # y, x
    for (y, x), face in zip(corners, draw(0, shots), strict=True):
        photo[y : y + 160, x : x + 160] = face.mean(2, keepdims=True)
    found = detection.detect(photo, trained)
    eyes = [drawn_eyes(*shot) + (x, y) for shot, (y, x) in zip(shots, corners, strict=True)]
    away = np.linalg.norm(found.landmarks[:, None, :2] - np.array(eyes), axis=-1).max(-1)  # (n, 4)
    assert (away.min(0) < 9).all() and len(found) == 4


@pytest.mark.slow
def test_the_reference_boxes(advface_data, trained):
    network = trained
    with open(advface_data / "lists" / "raw_photos.tsv", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    with zipfile.ZipFile(advface_data / "faces" / "raw_photos.zip") as photos:
        for row in [r for r in rows if r["size"] == "250x250"][:30]:
            photo = np.asarray(Image.open(io.BytesIO(photos.read(row["file"]))).convert("RGB"))
            found = detection.detect(photo, network)
            (i,) = crops.choose(found.boxes, found.probabilities, photo.shape[:2], "centre")
            box = [float(v) for v in row["box_x1y1x2y2"].split(",")]
            marks = np.array([float(v) for v in row["landmarks_5xy"].split(",")]).reshape(5, 2)
            np.testing.assert_allclose(found.boxes[i], box, rtol=0, atol=0.1)
            np.testing.assert_allclose(found.landmarks[i], marks, rtol=0, atol=0.1)
