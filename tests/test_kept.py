"""Batches that are kept in files: padding, going on after a stop, time, damaged files."""

import types

import numpy as np
import pytest

from advface_jax import data, lock
from experiments import nobody
from experiments.measure import kept as module
from experiments.measure.kept import batches, folder_of, kept, kept_arrays


def test_the_last_batch_repeats_its_own_items():
    whole, last = batches(5, 3)
    assert whole[:2] == (0, 3) and last[:2] == (3, 2)
    assert whole.chosen.tolist() == [0, 1, 2] and last.chosen.tolist() == [3, 4, 3]
    assert last.mask.dtype == np.float32 and last.mask.tolist() == [1, 1, 0]
    assert not list(batches(0, 3))


def make(one):
    return {"x": one.chosen[: one.real], **({} if one.start else {"shown": np.ones(2)})}


def test_what_is_kept_is_not_made_again_and_its_time_is_counted(tmp_path):
    folder, made, seen = folder_of(tmp_path, {"seed": 0}), [], []

    def stopping(one):
        if one.start == 4:
            raise KeyboardInterrupt
        return make(one)

    def run(how):
        def noted(one):
            made.append(one.start)
            return how(one)

        told = lambda one, arrays: seen.append((one.start, len(arrays["x"])))  # noqa: E731
        return kept(folder, 5, 2, ("x",), noted, told, first=("shown",))

    with pytest.raises(KeyboardInterrupt):
        run(stopping)
    found = run(make)
    assert made == [0, 2, 4, 4] and seen[-3:] == [(0, 2), (2, 2), (4, 1)]
    assert np.concatenate([part["x"] for part in found.parts]).tolist() == [0, 1, 2, 3, 4]
    assert found.earlier == pytest.approx(sum(found.seconds[:2])) and found.seconds[2] > 0
    assert all("seconds" not in part for part in found.parts)
    assert sorted(p.name for p in folder.glob("*.npz")) == [f"{i:06d}.npz" for i in (0, 2, 4)]
    with lock.only_writer(folder), pytest.raises(ValueError, match="another process"):
        run(make)


def test_a_batch_that_is_damaged_or_lacks_something_is_made_again(tmp_path):
    folder = folder_of(tmp_path, {})
    kept(folder, 5, 2, ("x",), make)
    first, second, third = sorted(folder.glob("*.npz"))
    module.keep_arrays(first, {"x": np.zeros(2)})  # no "shown"
    second.write_bytes(second.read_bytes()[:100])
    module.keep_arrays(third, {"x": np.array([9])})  # as decoys kept them, without a time
    found = kept(folder, 5, 2, ("x",), make, first=("shown",))
    assert [part["x"].tolist() for part in found.parts] == [[0, 1], [2, 3], [9]]
    assert found.earlier == found.seconds[2] == 0
    assert kept_arrays(folder / "none.npz", ()) is None


def test_a_half_written_file_of_embeddings_is_written_again(tmp_path):
    embedded = []

    def embed(images, batch):
        embedded.append(len(images))
        return images.mean((1, 2))

    system = types.SimpleNamespace(card={"sha256": "00"}, embed=embed)
    crops, first = data.synthetic_faces(2, 1), tmp_path / "embeddings.npz"
    want = nobody.embed(system, crops, tmp_path)  # type: ignore[arg-type]
    np.testing.assert_array_equal(nobody.embed(system, crops, tmp_path), want)  # type: ignore[arg-type]
    assert embedded == [2]
    first.write_bytes(first.read_bytes()[:200])
    np.testing.assert_array_equal(nobody.embed(system, crops, tmp_path), want)  # type: ignore[arg-type]
    other = types.SimpleNamespace(card={"sha256": "01"}, embed=embed)
    nobody.embed(other, crops, tmp_path)  # type: ignore[arg-type]
    assert embedded == [2, 2, 2] and [*tmp_path.iterdir()] == [first]
