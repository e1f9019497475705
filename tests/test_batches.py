"""The loader: the seed's order, whoever reads it, from any step, in any shard."""

import sys
from typing import Any

import jax
import numpy as np
import pytest
from face_files import Numbers

from advface_jax.data import epoch_order, read_faces
from advface_jax.data.batches import batches, loading_rate, step_indices, to_device


def shown(loaded):
    return [one.values[:, 0].tolist() for one in loaded]


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


def test_the_order_is_that_of_the_seed():
    got = [one.indices.tolist() for one in batches(Numbers(11), batch=3, seed=4, stop=9, workers=0)]
    orders = [epoch_order(11, 4, epoch)[:9].reshape(3, 3) for epoch in range(3)]
    assert got == np.concatenate(orders).tolist()
    assert sorted(np.concatenate([step_indices(s, 10, 5, 0) for s in (4, 5)])) == list(range(10))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_resumed_loader_goes_on_as_if_unbroken(workers):
    whole = shown(batches(Numbers(20), batch=4, seed=1, stop=12, workers=0))
    for start in (0, 1, 5, 11):
        rest = batches(Numbers(20), batch=4, seed=1, start=start, stop=12, workers=workers)
        assert shown(rest) == whole[start:]


@pytest.mark.slow
def test_worker_processes_give_the_same_batches():
    options: dict[str, Any] = {"batch": 4, "seed": 1, "start": 2, "stop": 7}
    plain = list(batches(Numbers(20, (3,)), **options, workers=0))
    other = list(batches(Numbers(20, (3,)), **options, workers=2, by="processes"))
    assert type(other[0].values) is type(other[0].mask) is np.ndarray, "not in shared memory"
    assert shown(other) == shown(plain) and [one.step for one in other] == [2, 3, 4, 5, 6]
    assert [one.refused for one in other] == [one.refused for one in plain]
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(plain, other, strict=True))


@pytest.mark.parametrize("seed", [None, 3])
def test_the_shards_together_are_the_batch(seed):
    options: dict[str, Any] = {"batch": 6, "seed": seed, "stop": 4, "workers": 0}
    whole = list(batches(Numbers(20), **options))
    parts = [list(batches(Numbers(20), **options, shard=(i, 3))) for i in range(3)]
    for one, *shards in zip(whole, *parts, strict=True):
        assert np.array_equal(one.values, np.concatenate([s.values for s in shards]))
        assert np.array_equal(one.mask, np.concatenate([s.mask for s in shards]))
        assert all(len(s.values) == 2 for s in shards)


def test_a_pass_in_order_ends_masked():
    *rest, last = batches(Numbers(8), batch=3, workers=2)
    assert shown(rest) == [[0, 1, 2], [3, 4, 5]]
    assert last.values[:, 0].tolist() == [6, 7, 6] and last.mask.tolist() == [True, True, False]
    assert last.refused == ()


def test_what_is_unreadable_is_masked_and_named():
    first, second, last = batches(Numbers(8, (0, 2, 7)), batch=3, workers=0)
    assert first.values[:, 0].tolist() == [1, 1, 1]
    assert first.mask.tolist() == [False, True, False]
    assert first.refused == ((0, "unreadable: 0"), (2, "unreadable: 2"))
    assert second.mask.all() and not second.refused
    assert last.refused == ((7, "unreadable: 7"),) and last.mask.tolist() == [True, False, False]


def test_an_ordered_pass_goes_on_where_a_whole_batch_is_broken():
    for workers in (0, 2):
        first, second, last = batches(Numbers(5, (2, 3, 4)), batch=2, workers=workers)
        assert first.mask.all() and not second.mask.any() and not last.mask.any()
        assert second.refused == ((2, "unreadable: 2"), (3, "unreadable: 3"))
        assert last.refused == ((4, "unreadable: 4"),)
        assert second.values[:, 0].tolist() == last.values[:, 0].tolist() == [0, 0]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_without_any_item_is_an_error(workers):
    for seed in (None, 0):
        with pytest.raises(ValueError, match="all 2 items of step 0 are unreadable.*: [01]"):
            list(batches(Numbers(2, (0, 1)), batch=2, seed=seed, workers=workers))


def test_the_threads_end_with_the_loop():
    loaded = batches(Numbers(100), batch=2, seed=0, workers=2)
    assert next(loaded).step == 0
    loaded.close()  # type: ignore[attr-defined]
    assert next(loaded, None) is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"batch": 9, "seed": 0}, "wanted a batch of 1 to 8"),
        ({"batch": 0}, "wanted a batch of 1 to 8"),
        ({"seed": -1}, "seed >= 0"),
        ({"shard": (2, 2)}, "wanted \\(index, count\\)"),
        ({"shard": (0, 4)}, "a batch that count divides"),
        ({"workers": -1}, "neither may be negative"),
        ({"by": "magic"}, "wanted 'threads' or 'processes'"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        batches(Numbers(8), **({"batch": 2} | changed))


def test_without_grain_the_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(ValueError, match=r"pip install grain.*workers=0"):
        batches(Numbers(8), batch=2)
    assert len(list(batches(Numbers(8), batch=2, workers=0))) == 4


def test_pixels_reach_the_device_as_bytes_and_in_order():
    faces = read_faces("synthetic", limit=5)
    got = list(to_device(batches(faces, batch=2, workers=2)))
    assert all(isinstance(one.values, jax.Array) and one.values.dtype == np.uint8 for one in got)
    pixels = np.concatenate([np.asarray(one.values)[one.mask] for one in got])
    assert np.array_equal(pixels, faces.images)


def test_a_sharded_batch_is_one_array():
    mesh = jax.make_mesh((1,), ("b",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("b"))
    (one,) = to_device(batches(Numbers(4), batch=4, workers=0), sharding=sharding)
    assert one.values.sharding == sharding and one.values[:, 0].tolist() == [0, 1, 2, 3]


def test_the_rate_counts_items(monkeypatch):
    clock = iter(range(99))  # seconds
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    assert loading_rate(batches(Numbers(40), batch=10, workers=0), seconds=99) == 30 / 4
