"""Shared feature sets: what is written is read back, what reveals people is not written."""

import json
import os
import pickle
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from face_files import folder, full_disk, picture, valued
from networks import new_extractor, small_decoder

from advface_jax import ProtectConfig, data, protect
from advface_jax.data import batches, open_faces, read_faces
from advface_jax.data.feature_sets import chunks, planning, reading
from advface_jax.data.feature_sets.reading import SHAPE, UNFINISHED, open_features
from advface_jax.data.feature_sets.writing import write_features
from advface_jax.untrusted import BadFile
from experiments import dtypes

pytest.importorskip("array_record", reason="the extra `data` is not installed")
CARD = {"epsilon": 0.2, "weights_sha256": "00"}


def fake(pixels, mask):
    """Features that depend on the pixels, quick to make, with varied bits."""
    z = np.linspace(-3, 3, np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    return z + pixels[:, 80, 80, 0, None, None, None].astype(np.float32)


@pytest.fixture(scope="module")
def faces():
    """Ten faces of five people, the i-th all of value i."""
    return valued(*(f"Secret_{i // 2}" for i in range(10)))


def write(folder, faces, **changes):
    options = {"card": CARD, "batch": 2, "shard_size": 4, "workers": 0, "protect": fake}
    options |= changes
    return write_features(folder, faces, options.pop("protect"), **options)


def which(features):
    """The pixels' values that `fake` was given."""
    return (features[:, -1, -1, -1] - 3).round().astype(int).tolist()


def test_every_bit_comes_back(faces, tmp_path):
    masks = []

    def protected(pixels, mask):
        masks.append(mask.tolist())
        return fake(pixels, mask)

    options = {"batch": 4, "names": True, "labels": "original"}
    assert write(tmp_path / "set", faces, protect=protected, **options) == ()
    assert masks == [[True] * 4, [True] * 4, [True, True, False, False]]
    found = open_features(tmp_path / "set")
    assert len(found) == 10 and found.names == faces.names and found.identities == faces.identities
    want = fake(faces.images, None)
    assert np.array_equal(found.features(range(10)), want)
    assert np.array_equal(found.features([9, 0, 4]), want[[9, 0, 4]])
    assert found.card["epsilon"] == 0.2 and found.card["people"] == 5
    assert found.counts == (4, 4, 2) and found.features([0]).dtype == np.float32
    found.check()


def test_the_same_set_in_another_type_has_every_item(faces, tmp_path):
    write(tmp_path / "f32", faces, dtype="f32", names=True, seed=0, labels="original")
    exact = open_features(tmp_path / "f32")
    for dtype in ("bf16", "int8"):
        again = dtypes._again(exact, tmp_path / dtype, dtype, CARD)
        assert len(again) == len(exact) == 10 and again.card["left_out"] == 0
        assert np.abs(again.features(range(10)) - exact.features(range(10))).max() < 0.1


def test_half_the_size_rounds_to_eight_bits(faces, tmp_path):
    write(tmp_path / "set", faces, names=True, dtype="bf16")
    found, want = open_features(tmp_path / "set").features(range(10)), fake(faces.images, None)
    assert not np.array_equal(found, want)
    assert np.all(np.abs(found - want) <= np.abs(want) * 2.0**-8)
    assert np.array_equal(found, np.asarray(jnp.asarray(want, jnp.bfloat16), np.float32))
    assert sum(p.stat().st_size for p in (tmp_path / "set").iterdir()) < 10 * want[0].size * 2 * 1.1


def test_nothing_in_the_set_names_people(faces, tmp_path):
    out = tmp_path / "set"
    write(out, faces)
    content = b"".join(p.name.encode() + p.read_bytes() for p in out.rglob("*") if p.is_file())
    assert b"Secret" not in content and b".jpg" not in content
    found = open_features(out)
    order = which(found.features(range(10)))
    assert sorted(order) == list(range(10)) and order != list(range(10))
    people = [value // 2 for value in order]
    told = dict(zip(people, found.identities, strict=True))
    assert [told[p] for p in people] == list(found.identities) and len(set(told.values())) == 5
    assert found.names == () and not list(out.glob(".*")), "the secret order must go"
    write(tmp_path / "again", faces)
    assert order != which(open_features(tmp_path / "again").features(range(10)))
    write(tmp_path / "bare", faces, labels="none")
    assert open_features(tmp_path / "bare").identities == ()


def test_a_stopped_writing_resumes_to_the_same_set(faces, tmp_path):
    calls = []

    def mortal(pixels, mask):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(1)
        return fake(pixels, mask)

    out = tmp_path / "set"
    with pytest.raises(KeyboardInterrupt):
        write(out, faces, seed=3, protect=mortal)
    with pytest.raises(ValueError, match="unfinished: the command that began it resumes it"):
        open_features(out)
    with pytest.raises(ValueError, match="an unfinished set of other faces or settings"):
        write(out, faces, seed=4)
    first = (out / "features-00000.array_record").stat().st_mtime_ns
    done = []
    write(out, faces, seed=3, progress=done.append)
    assert done == [6, 8, 10], "the batch that was done when it stopped is kept"
    assert (out / "features-00000.array_record").stat().st_mtime_ns == first
    write(tmp_path / "whole", faces, seed=3)
    ours, theirs = open_features(out), open_features(tmp_path / "whole")
    assert np.array_equal(ours.features(range(10)), theirs.features(range(10)))
    assert ours.identities == theirs.identities and not (out / UNFINISHED).exists()
    write(out, faces, seed=3, protect=None)  # finished: nothing is protected again
    for others, changes, differing in (
        (faces, {"labels": "none"}, "labels"),
        (faces, {"card": {**CARD, "crop": True}}, "crop"),
        (faces.select(range(8)), {}, "faces"),
        (valued(*(f"Other_{i // 2}" for i in range(10))), {}, "faces"),
    ):
        with pytest.raises(ValueError, match=f"holds another set of features .other {differing}"):
            write(out, others, seed=3, **changes)


def test_a_finished_set_of_an_earlier_version_is_known_by_its_settings(faces, tmp_path):
    write(tmp_path / "set", faces, seed=3)
    card = tmp_path / "set" / "card.json"
    earlier = json.loads(card.read_text()) | {"seed": 3}
    del earlier["names_sha256"]
    card.write_text(json.dumps(earlier))
    assert write(tmp_path / "set", faces, seed=3, protect=None) == ()


def test_a_finished_set_does_not_tell_its_seed(faces, tmp_path):
    """The order and a defence's draws follow from it; an unfinished one keeps it, unpublished."""
    seed, out = 98765432109876543210, tmp_path / "set"

    def mortal(pixels, mask):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(out, faces, seed=seed, protect=mortal)
    assert str(seed) in (out / UNFINISHED).read_text()
    write(out, faces, seed=seed)
    assert open_features(out).card["seed"] is None
    assert str(seed).encode() not in b"".join(path.read_bytes() for path in out.iterdir())


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"workers": -1}])
def test_numbers_below_zero_are_refused_before_the_folder_is_made(faces, tmp_path, wrong):
    with pytest.raises(ValueError, match="=-1; wanted 0 or more"):
        write(tmp_path / "set", faces, **wrong)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("broken", [1, 4])  # in a batch of sound ones, and a last batch's only one
def test_broken_faces_are_left_out_and_counted(tmp_path, broken):
    files = {f"{i}.png": b"broken" if i == broken else picture(i) for i in range(5)}
    crops = open_faces(folder(tmp_path / "faces", files))
    ((name, reason),) = write(tmp_path / "set", crops, names=True)
    assert name == f"{broken}.png" and reason == "unreadable: not an image that is read here"
    found = open_features(tmp_path / "set")
    sound = [i for i in range(5) if i != broken]
    assert found.names == tuple(f"{i}.png" for i in sound) and found.card["left_out"] == 1
    assert which(found.features(range(4))) == sound


def test_a_full_disk_is_told_and_the_set_resumes(tmp_path):
    rng = np.random.default_rng(0)

    def noisy(pixels, mask):
        return rng.standard_normal((len(pixels), *SHAPE)).astype(np.float32)

    crops = valued("a", "b")
    wanted = pytest.raises(ValueError, match="features-00000.* cannot be written .*resumes")
    with full_disk(1 << 20), wanted:
        write(tmp_path / "set", crops, protect=noisy)
    write(tmp_path / "set", crops, protect=noisy)
    open_features(tmp_path / "set").check()
    assert not list((tmp_path / "set").glob(".*"))


def test_a_shape_that_no_record_has_takes_no_memory(faces, tmp_path):
    write(tmp_path / "set", faces)
    card = tmp_path / "set" / "card.json"
    claimed = json.loads(card.read_text()) | {"shape": [77, 65535, 64]}  # 1.3 GB a feature
    card.write_text(json.dumps(claimed))
    tracemalloc.start()
    try:
        with pytest.raises(BadFile, match="record 0 .* damaged"):
            open_features(tmp_path / "set").features([0, 1])
        assert tracemalloc.get_traced_memory()[1] < 1 << 26
    finally:
        tracemalloc.stop()


def test_damage_is_told_with_the_shard(faces, tmp_path):
    out = tmp_path / "set"
    write(out, faces, names=True)
    file = out / "features-00001.array_record"
    whole = bytearray(file.read_bytes())
    file.write_bytes(whole[:-9])
    with pytest.raises(ValueError, match="features-00001.* bytes and should have"):
        open_features(out)
    whole[len(whole) // 2] ^= 1
    file.write_bytes(whole)
    found = open_features(out)
    with pytest.raises(ValueError, match="features-00001.*damaged"):
        found.features(range(4, 8))
    with pytest.raises(ValueError, match="features-00001.* is damaged"):
        found.check()
    assert which(found.features([0, 9])) == [0, 9]
    (one, two, last) = batches(found, batch=4, workers=0)
    assert two.refused and "features-00001" in two.refused[0][1] and not two.mask.all()
    file.unlink()
    with pytest.raises(ValueError, match="has 0 bytes"):
        open_features(out)


@pytest.mark.parametrize(
    ("file", "change"),
    [("card.json", {"shards": None}), ("card.json", {"shards": "x"}), ("card.json", {"records": 9}),
     ("card.json", {"dtype": "f64"}), ("features-00000.json", {"records": None}),
     ("features-00000.json", {"labels": 3}), ("features-00000.json", {"names": ["a"]}),
     ("features-00000.json", {"bytes": "x"})],
)  # fmt: skip
def test_an_edited_card_is_refused(faces, tmp_path, file, change):
    write(tmp_path / "set", faces.select([0, 1]))
    path = tmp_path / "set" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match="again"):
        open_features(tmp_path / "set")


def test_what_is_no_set_is_refused(faces, tmp_path):
    with pytest.raises(ValueError, match="holds no set of features"):
        open_features(tmp_path)
    (tmp_path / "card.json").write_text(json.dumps({"format": "else"}))
    with pytest.raises(ValueError, match="card of something else"):
        open_features(tmp_path)
    (tmp_path / "card.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        open_features(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(ValueError, match="holds something else"):
        write(tmp_path / "full", faces)
    with pytest.raises(ValueError, match="wanted shards of whole batches"):
        write(tmp_path / "set", faces, shard_size=5)
    write(tmp_path / "set", faces)
    with pytest.raises(ValueError, match="got indices 0 to 10; wanted 0 to 9"):
        open_features(tmp_path / "set").features([0, 10])


def test_the_loader_reads_a_set_in_any_thread_or_process(faces, tmp_path):
    write(tmp_path / "set", faces, names=True)
    found = open_features(tmp_path / "set")
    twin = pickle.loads(pickle.dumps(found))
    assert np.array_equal(twin.features([3]), found.features([3]))
    loaded = list(batches(found, batch=4, workers=2))
    assert sum((which(one.values[one.mask]) for one in loaded), []) == list(range(10))


@pytest.mark.slow
def test_the_set_is_what_protect_makes(tmp_path):
    """Bit for bit in float32, in the same batches; the padded last one as with a mask."""
    extractor, shadow = new_extractor(), small_decoder()
    faces = read_faces("synthetic", limit=5)

    def protected(pixels, mask):
        z = extractor(jnp.asarray(pixels, jnp.float32) / 255)
        config = ProtectConfig(steps=2)
        mask = np.asarray(mask, np.float32)
        return protect(z, extractor=extractor, shadow=shadow, config=config, mask=mask)

    write(tmp_path / "set", faces, protect=protected, names=True)
    found = open_features(tmp_path / "set").features(range(5))
    first = protected(faces.images[:2], [1, 1])
    last = protected(faces.images[[4, 4]], [1, 0])
    assert np.array_equal(found[:2], first) and np.array_equal(found[4], last[0])
    assert jax.numpy.isfinite(found).all()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open files are counted there")
def test_few_shards_are_open_at_once(tmp_path):
    writer = chunks.array_record()[0].ArrayRecordWriter
    for i in range(100):
        file = reading.shard_file(tmp_path, i)
        one = writer(str(file), "group_size:1")
        one.write(np.ones(4, "<f4").tobytes())
        one.close()
        beside = {"records": 1, "bytes": file.stat().st_size, "labels": None, "names": None}
        file.with_suffix(".json").write_text(json.dumps(beside))
    card = {"format": reading.FORMAT, "shape": [4], "dtype": "f32", "records": 100, "shards": 100}
    (tmp_path / "card.json").write_text(json.dumps(card))
    found = data.open_features(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    assert found.features(range(100)).shape == (100, 4)
    assert len(os.listdir("/proc/self/fd")) - before <= 70


def test_the_plan_is_never_readable_for_others(tmp_path, monkeypatch):
    seen = []
    rename = type(tmp_path).rename
    monkeypatch.setattr(
        type(tmp_path),
        "rename",
        lambda a, b: (seen.append(a.stat().st_mode & 0o777), rename(a, b))[1],
    )
    planning.begin(
        tmp_path, data.synthetic_faces(1, 1), {"seed": None, "names": False, "batch": 1}, 1
    )
    assert seen == [0o600]
