"""Batches loaded ahead of the step that needs them, the same ones for the same seed.

A batch is a function of (seed, epoch, step) alone: a training resumes at any step without replaying
those before, and each of several hosts loads its own slice of the same batch. grain reads ahead, in
threads or worker processes.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from advface_jax import checks

_TRIES = 256  # items tried as a stand-in: where so many in a row are broken, all of them are


class Readable(Protocol):
    """What can be loaded: a ``Faces``, or a ``FeatureSet``."""

    def __len__(self) -> int: ...

    def crop(self, index: int, /) -> np.ndarray:
        """One item; ValueError with the reason when it is unreadable."""
        ...


class Batch(NamedTuple):
    """One step's items.

    Attributes:
      step: Which one, from 0.
      indices: int64 (b,), the items asked for.
      values: (b, ...), for faces uint8 (b, 160, 160, 3).
      mask: bool (b,), False where the row is padding (at the end of an ordered pass) or its item
        unreadable. Such a row repeats another one (of the batch if it has any), so that a training,
        and its batch norm, may use it; what counts or writes items drops it.
      refused: (index, reason) of each unreadable item.
    """

    step: int
    indices: np.ndarray
    values: Any
    mask: np.ndarray
    refused: tuple[tuple[int, str], ...]


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The order of n faces in one epoch: a permutation (n,) that follows from its arguments.

    Example:
      >>> from advface_jax import data
      >>> sorted(data.epoch_order(4, seed=0, epoch=3).tolist())
      [0, 1, 2, 3]
    """
    if min(n, seed, epoch) < 0:
        raise ValueError(f"n={n}, seed={seed}, epoch={epoch}: none of them may be negative")
    bits = np.random.Philox(np.random.SeedSequence([seed, epoch]))
    return np.random.Generator(bits).permutation(n)


def step_indices(step: int, n: int, batch: int, seed: int | None) -> np.ndarray:
    """The items of one step, int64 (batch,).

    With a seed, each epoch has its own order and n // batch steps. Without, the items come in their
    own order, and fewer than ``batch`` in the last step.
    """
    if seed is None:
        return np.arange(step * batch, min(n, (step + 1) * batch))
    epoch, at = divmod(step, n // batch)
    return _order(n, seed, epoch)[at * batch : (at + 1) * batch]


_order = functools.lru_cache(maxsize=4)(epoch_order)  # half a million faces take 10 ms to shuffle


def batches(
    items: Readable,
    *,
    batch: int,
    seed: int | None = None,
    start: int = 0,
    stop: int | None = None,
    shard: tuple[int, int] = (0, 1),
    workers: int = 2,
    by: Literal["threads", "processes"] = "threads",
) -> Iterator[Batch]:
    """Batches of the items, read ahead by ``workers``.

    Args:
      items: A ``Faces``, or anything else with a length and ``crop``; for processes picklable and
        light, as lazy faces are.
      batch: Items a step, over all shards.
      seed: Of the order, which is new in every epoch; None for one pass in the items' own order,
        its last batch padded and masked.
      start, stop: The first step and the one to end before; stop=None never ends with a seed, and
        ends with the pass without.
      shard: (index, count) of this host: it gets its count-th part of every batch, in order, and
        the parts together are exactly the batch.
      workers: How many read ahead; 0 reads when asked, without grain, as suits faces in memory.
      by: Threads suffice where Pillow decodes, outside of the interpreter's lock. Processes are for
        slow reading in Python; they take seconds to start and import the main script anew, which
        therefore needs its ``if __name__ == "__main__"``.

    Raises:
      ValueError: sizes that do not fit; a step of unreadable items only (in an ordered pass: and
        the next 256 too); grain is needed and not installed.

    Example:
      >>> from advface_jax import data
      >>> faces = data.synthetic_faces(3, 1)
      >>> [len(one.mask) for one in data.batches(faces, batch=2, workers=0)]  # the last one padded
      [2, 2]
    """
    n, (index, count) = len(items), shard
    if batch < 1 or (seed is not None and (n < batch or seed < 0)) or n < 1:
        raise ValueError(
            f"batch={batch} of {n} items with seed={seed}: wanted a batch of 1 to {n} and a seed "
            ">= 0, or None for their own order"
        )
    if not 0 <= index < count or batch % count:
        raise ValueError(
            f"shard={shard} of batch={batch}: wanted (index, count) with 0 <= index < count, and a "
            "batch that count divides"
        )
    if workers < 0 or start < 0:
        raise ValueError(f"workers={workers}, start={start}: neither may be negative")
    checks.choice(by, "by", ("threads", "processes"))
    end = -(-n // batch) if seed is None else 2**62
    load = _Load(items, batch, seed, index, count)
    steps = range(start, end if stop is None else min(stop, end))
    return _ahead(load, steps, workers, by) if workers and len(steps) else map(load, steps)


def gather(items: Readable, step: int, indices: np.ndarray, mask: np.ndarray) -> Batch:
    """The batch of these items; its values are None if none of them is readable."""
    got: dict[int, np.ndarray] = {}  # by row
    reasons: dict[int, str] = {}  # by item
    for row, i in enumerate(indices.tolist()):
        try:
            got[row] = items.crop(i)
        except ValueError as error:
            reasons[i] = str(error)
    each, values = len(indices), None
    if got:
        rows = np.array(list(got))
        next_good = rows[np.searchsorted(rows, np.arange(each)) % len(rows)]
        values = np.stack([got[row] for row in next_good])
    good = np.isin(np.arange(each), list(got))
    refused = tuple((i, reasons[i]) for i in indices[mask & ~good].tolist())
    return Batch(step, indices, values, mask & good, refused)


@dataclass(frozen=True)
class _Load:
    """A step's number to its batch: pure, so that it does not matter who reads it, and when."""

    items: Readable
    batch: int
    seed: int | None
    index: int
    count: int

    def __call__(self, step: int) -> Batch:
        chosen = step_indices(step, len(self.items), self.batch, self.seed)
        each = self.batch // self.count
        mine = slice(self.index * each, (self.index + 1) * each)
        mask = (np.arange(self.batch) < len(chosen))[mine]
        indices = np.resize(chosen, self.batch)[mine].astype(np.int64)
        one = gather(self.items, step, indices, mask)
        if one.values is None:
            reasons = dict(one.refused)
            one = one._replace(values=np.stack([self._stand_in(step, indices, reasons)] * each))
        return one

    def _stand_in(self, step: int, indices: np.ndarray, reasons: dict[int, str]) -> np.ndarray:
        """For a pass that must not end because the last, short batch is of broken items only."""
        n, after = len(self.items), int(indices.max()) + 1
        for i in range(after, after + _TRIES) if self.seed is None else ():
            with contextlib.suppress(ValueError):
                return self.items.crop(i % n)
        raise ValueError(
            f"all {len(indices)} items of step {step} are unreadable, the first: "
            f"item {indices[0]}, {reasons[int(indices[0])]}"
        )


def _ahead(load: _Load, steps: range, workers: int, by: str) -> Iterator[Batch]:
    """The batches of the steps; threads and processes end with the loop, however it ends."""
    try:
        import grain
    except ImportError:
        raise ValueError(
            f"workers={workers} read ahead with grain, which is not installed: "
            "pip install grain, or workers=0 to read without"
        ) from None
    loaded = grain.MapDataset.range(steps.start, steps.stop).map(load)
    threads = workers if by == "threads" else 1
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    dataset = loaded.to_iter_dataset(options)
    if by == "processes":
        from absl import flags

        if not flags.FLAGS.is_parsed():  # grain's processes ask for flags that absl.app parses
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
        dataset = dataset.mp_prefetch(options)
    return _closing(iter(dataset), copy=by == "processes")


def _closing(iterator: Any, *, copy: bool) -> Iterator[Batch]:
    try:
        for one in iterator:
            if copy:  # arrays of a process lie in shared memory, which must not outlive the program
                arrays = {k: np.array(getattr(one, k)) for k in ("indices", "values", "mask")}
                one = one._replace(**arrays)
            yield one
    finally:
        iterator.close()


def to_device(loaded: Iterable[Batch], *, sharding: Any = None, ahead: int = 1) -> Iterator[Batch]:
    """The same batches with their values on the device, ``ahead`` of them under way.

    Pixels travel as uint8, a quarter of what floats would be. ``sharding`` is a
    ``jax.sharding.Sharding`` of the whole batch, of which this host's batches are slices; None for
    the default device.

    Example:
      >>> from advface_jax import data
      >>> faces = data.synthetic_faces(2, 1)
      >>> loaded = data.to_device(data.batches(faces, batch=2, workers=0))
      >>> next(loaded).values.shape
      (2, 160, 160, 3)
    """
    import jax

    def put(one: Batch) -> Batch:
        if sharding is None:
            return one._replace(values=jax.device_put(one.values))  # returns before it is there
        whole = jax.make_array_from_process_local_data(sharding, one.values)
        return one._replace(values=whole)

    waiting: deque[Batch] = deque()
    for one in loaded:
        waiting.append(put(one))
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting


def loading_rate(loaded: Iterator[Batch], seconds: float = 1.0) -> float:
    """Items a second that the loader delivers when nothing else is done."""
    next(loaded, None)  # the start of the workers is not the rate
    began, items = time.perf_counter(), 0
    for one in loaded:
        items += len(one.indices)
        if time.perf_counter() - began > seconds:
            break
    return items / max(time.perf_counter() - began, 1e-9)
