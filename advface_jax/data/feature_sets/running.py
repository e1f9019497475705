"""Items through a device into shards: read ahead, computed, fetched and written side by side.

The device gets its next batches while their items are read in threads and earlier results are
compressed in others. What is in flight is bounded, so memory does not grow with the set.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from advface_jax import stopping
from advface_jax.data.batches import Batch, gather
from advface_jax.data.feature_sets.planning import Writing
from advface_jax.data.feature_sets.shards import ShardWriter
from advface_jax.data.threads import in_order

Step = Callable[[Batch, int], tuple[np.ndarray, Sequence[np.ndarray]]]
"""A batch, whose ``indices`` are places in the set, and the number of a device, to (a
``shards.Fate`` (b,), the arrays of ``encoding.encode``)."""


@dataclass(frozen=True)
class Ended:
    """What a run did.

    Attributes:
      items: how many it went through, those left out too.
      seconds: from the first batch on the device to the last result.
      waiting: seconds of these in which a device had nothing to compute, of several their mean.
      refused: (name, reason) of each item left out.
    """

    items: int = 0
    seconds: float = 0.0
    waiting: float = 0.0
    refused: tuple[tuple[str, str], ...] = ()

    @property
    def share(self) -> float:
        """Of the time, in which the device waited."""
        return self.waiting / self.seconds if self.seconds else 0.0


class _Task(NamedTuple):
    """A batch of a shard; ``last`` of it."""

    shard: int
    step: int
    last: bool


class _Clock:
    """How long the devices compute, and how long they wait between two batches."""

    def __init__(self, devices: int):
        self.began: float | None = None
        self.done = [0.0] * devices
        self.flying = [0] * devices
        self.waiting = 0.0
        self.lock = threading.Lock()

    def goes(self, device: int) -> None:
        with self.lock:
            now = time.perf_counter()
            self.began = self.began or now
            if self.done[device] and not self.flying[device]:
                self.waiting += now - self.done[device]
            self.flying[device] += 1

    def comes(self, device: int) -> None:
        with self.lock:
            self.flying[device] -= 1
            self.done[device] = time.perf_counter()

    def ended(self, items: int, refused: Sequence[tuple[str, str]]) -> Ended:
        last = max(self.done)
        seconds = last - self.began if self.began else 0.0
        # Who has no batch left waits, too.
        idle = self.waiting + sum(last - (done or self.began or last) for done in self.done)
        return Ended(items, seconds, idle / len(self.done), tuple(refused))


def run(
    writing: Writing,
    step: Step,
    wanted: Sequence[int],
    *,
    devices: int = 1,
    workers: int = 2,
    lanes: int = 1,
    ahead: int = 1,
    there: int = 0,
    progress: Callable[[int], None] = lambda n: None,
) -> Ended:
    """Write shards of a set; stopped, it saves the batches that are done and raises.

    Args:
      writing: The set.
      step: The computation, called from several threads.
      wanted: Its shards to write, as of ``Writing.left``.
      devices: How many compute, each whole batches.
      workers: Threads that read items ahead; 0 reads when asked.
      lanes: Shards in writing side by side: one thread compresses some hundred MB/s.
      ahead: Batches that a device has been given at most; 2 where it fetches one result while it
        computes the next.
      there: Items of the set that are done already.
      progress: Called with how many items are done, these too.

    Raises:
      ValueError: a shard cannot be written, or what ``step`` raises.
      stopping.Stopped: after a SIGTERM; KeyboardInterrupt likewise.
    """
    lanes = max(1, min(lanes, len(wanted)))
    writers = {shard: ShardWriter(writing, shard) for shard in wanted}
    saved = sum(min(w.saved * writing.batch, writing.size(s)) for s, w in writers.items())
    done, items, clock = there + saved, 0, _Clock(devices)
    progress(done)
    refused: list[tuple[str, str]] = []
    room = threading.Semaphore(devices * (ahead + 1) + 2 * lanes)
    free: queue.SimpleQueue[int] = queue.SimpleQueue()
    for device in [*range(devices)] * ahead:
        free.put(device)
    pending: deque[tuple[Future[Any], int]] = deque()

    def settle(wait: bool = False) -> None:
        """Take what is written; its errors rise here."""
        nonlocal done, items
        while pending and (wait or pending[0][0].done()):
            job, n = pending.popleft()
            refused.extend(job.result())
            done, items = done + n, items + n
            progress(done)

    def patiently(take: Callable[[float], bool]) -> None:
        """Look now and then whether a writer has failed, or a SIGTERM has come."""
        while not take(0.2):
            settle()
            stopping.check()

    def compute(one: Batch, device: int) -> Any:
        clock.goes(device)
        try:
            return step(one, device)
        finally:
            clock.comes(device)
            free.put(device)

    def write(task: _Task, one: Batch, made: Future[Any] | None) -> list[tuple[str, str]]:
        try:
            fates, parts = (np.zeros(0, np.int32), ()) if made is None else made.result()
            return writers[task.shard].add(one, fates, parts, task.last)
        finally:
            room.release()

    with stopping.at_good_moments(), ExitStack() as stack:
        pools = [stack.enter_context(ThreadPoolExecutor(1)) for _ in range(lanes)]
        computing = stack.enter_context(ThreadPoolExecutor(devices * ahead))
        lane = {shard: pools[i % lanes] for i, shard in enumerate(wanted)}
        try:
            for task, one in _loaded(writing, writers, wanted, lanes, workers):
                stopping.check()
                settle()
                patiently(lambda seconds: room.acquire(timeout=seconds))
                made = None
                if one.values is not None:
                    device = _taken(free, patiently)
                    stopping.check()
                    made = computing.submit(compute, one, device)
                job = lane[task.shard].submit(write, task, one, made)
                pending.append((job, len(writing.places(task.step))))
            settle(wait=True)
        except BaseException:
            computing.shutdown()  # what is on its way arrives, and is written
            for pool in pools:
                pool.shutdown()
            for writer in writers.values():
                writer.save()
            raise
    return clock.ended(items, refused)


def _taken(free: queue.SimpleQueue[int], patiently: Callable[[Callable[[float], bool]], None]):
    """A device that has room for a batch."""
    taken: list[int] = []

    def take(seconds: float) -> bool:
        with contextlib.suppress(queue.Empty):
            taken.append(free.get(timeout=seconds))
        return bool(taken)

    patiently(take)
    return taken[0]


def _tasks(
    writing: Writing, writers: dict[int, ShardWriter], wanted: Sequence[int], lanes: int
) -> Iterator[_Task]:
    """The batches to compute, those of ``lanes`` shards in turn."""
    for first in range(0, len(wanted), lanes):
        columns = []
        for shard in wanted[first : first + lanes]:
            steps = writing.steps(shard)
            begun = steps[writers[shard].saved :]
            columns.append([_Task(shard, one, one == steps[-1]) for one in begun])
        for row in itertools.zip_longest(*columns):
            yield from (task for task in row if task is not None)


def _loaded(
    writing: Writing,
    writers: dict[int, ShardWriter],
    wanted: Sequence[int],
    lanes: int,
    workers: int,
) -> Iterator[tuple[_Task, Batch]]:
    def load(task: _Task) -> tuple[_Task, Batch]:
        places = writing.places(task.step)
        mask = np.arange(writing.batch) < len(places)
        padded = np.resize(places, writing.batch)
        one = gather(writing.items, task.step, writing.order[padded], mask)
        at = dict(zip(one.indices.tolist(), padded.tolist(), strict=True))
        refused = tuple((at[i], reason) for i, reason in one.refused)
        return task, one._replace(indices=padded, refused=refused)

    tasks = _tasks(writing, writers, wanted, lanes)
    if not workers:
        yield from map(load, tasks)
        return
    futures = in_order(load, tasks, ahead=2 * workers, threads=workers)
    try:
        for one in futures:
            yield one.result()
    finally:
        futures.close()
