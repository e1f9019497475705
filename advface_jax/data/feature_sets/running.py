"""Items through a device into shards: read ahead, computed, fetched and written side by side.

The device gets its next batches while their items are read in threads and earlier results are
compressed in others. What is in flight is bounded, so memory does not grow with the set.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from advface_jax import stopping
from advface_jax.data.batches import Batch, gather
from advface_jax.data.feature_sets.planning import Writing
from advface_jax.data.feature_sets.shards import ShardWriter
from advface_jax.data.threads import in_order

Step = Callable[[list[Batch]], tuple[Any, tuple[Any, ...]]]
"""Batches, whose ``indices`` are places in the set, to (finite, the arrays of
``encoding.encode``), all of their rows in order; on the device, or arrays of NumPy."""


@dataclass
class Ended:
    """What a run did.

    Attributes:
      items: how many it went through, those left out too.
      seconds: from the first result to the last, without compilation.
      waiting: seconds of these in which the device had nothing to compute.
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


@dataclass
class _Clock:
    """How long the device computes, and how long it waits between two groups."""

    began: float | None = None
    done: float = 0.0
    waiting: float = 0.0
    flying: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def goes(self) -> None:
        with self.lock:
            if self.began is not None and not self.flying:
                self.waiting += time.perf_counter() - self.done
            self.flying += 1

    def comes(self) -> None:
        with self.lock:
            self.flying -= 1
            self.done = time.perf_counter()
            self.began = self.began or self.done


def run(
    writing: Writing,
    step: Step,
    shards: Sequence[int] | None = None,
    *,
    group: int = 1,
    workers: int = 2,
    lanes: int = 1,
    ahead: int = 1,
    progress: Callable[[int], None] = lambda n: None,
) -> Ended:
    """Write shards of a set; stopped, it saves the batches that are done and raises.

    Args:
      writing: The set.
      step: The computation.
      shards: Which; None for all that are not there.
      group: Batches that ``step`` gets at once: one a device. A last group may be smaller.
      workers: Threads that read items ahead; 0 reads when asked.
      lanes: Shards in writing side by side: one thread compresses some hundred MB/s.
      ahead: Groups that the device has been given at most; 2 where it queues them.
      progress: Called with how many items of the set are done.

    Raises:
      ValueError: a shard cannot be written, or what ``step`` raises.
      stopping.Stopped: after a SIGTERM; KeyboardInterrupt likewise.
    """
    wanted = writing.left() if shards is None else list(shards)
    lanes = max(1, min(lanes, len(wanted)))
    writers = {shard: ShardWriter(writing, shard) for shard in wanted}
    there = sum(writing.size(s) for s in range(writing.total) if s not in writers)
    there = 0 if shards is not None else there
    saved = sum(min(w.saved * writing.batch, writing.size(s)) for s, w in writers.items())
    done, ended, clock = there + saved, Ended(), _Clock()
    progress(done)
    refused: list[tuple[str, str]] = []
    room = threading.Semaphore(group * (ahead + 1) + 2 * lanes)
    flying = threading.Semaphore(ahead)
    pending: deque[tuple[Future[Any], int]] = deque()

    def settle(wait: bool) -> None:
        """Take what is written; its errors rise here."""
        nonlocal done
        while pending and (wait or pending[0][0].done()):
            job, items = pending.popleft()
            refused.extend(job.result())
            done += items
            ended.items += items
            progress(done)

    with stopping.at_good_moments(), ExitStack() as stack:
        pools = [stack.enter_context(ThreadPoolExecutor(1)) for _ in range(lanes)]
        fetching = stack.enter_context(ThreadPoolExecutor(1))
        lane = {shard: pools[i % lanes] for i, shard in enumerate(wanted)}

        def write(task: _Task, one: Batch, fetched: Future[Any], at: int) -> list[Any]:
            try:
                finite, parts = fetched.result()
                rows = slice(at * writing.batch, (at + 1) * writing.batch)
                mine = [part[rows] for part in parts]
                return writers[task.shard].add(one, finite[rows], mine, task.last)
            finally:
                room.release()

        def fetch(made: Any) -> Any:
            import jax  # reads what is on a device; NumPy's arrays pass

            try:
                jax.block_until_ready(made)
            finally:
                clock.comes()
                flying.release()
            return jax.tree.map(np.asarray, made)

        def send(tasks: list[tuple[_Task, Batch]]) -> None:
            settle(False)
            _acquire(room, len(tasks), lambda: settle(False))
            full = [(task, one) for task, one in tasks if one.values is not None]
            fetched: Future[Any] = Future()
            if full:
                _acquire(flying, 1, lambda: settle(False))
                clock.goes()
                fetched = fetching.submit(fetch, step([one for _, one in full]))
            at = {task: i for i, (task, _) in enumerate(full)}
            for task, one in tasks:
                if task not in at:
                    nothing: Future[Any] = Future()
                    nothing.set_result((np.zeros(0, bool), ()))
                source, place = (fetched, at[task]) if task in at else (nothing, 0)
                job = lane[task.shard].submit(write, task, one, source, place)
                pending.append((job, int(len(writing.places(task.step)))))

        try:
            for tasks in _groups(_loaded(writing, writers, wanted, lanes, workers), group):
                stopping.check()
                send(tasks)
            settle(True)
        except BaseException:
            fetching.shutdown()  # what is on its way arrives, and is written
            for pool in pools:
                pool.shutdown()
            for writer in writers.values():
                writer.save()
            raise
    ended.seconds = clock.done - (clock.began or clock.done)
    ended.waiting, ended.refused = clock.waiting, tuple(refused)
    return ended


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


def _groups(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    items = iter(items)
    while group := list(itertools.islice(items, size)):
        yield group


def _acquire(semaphore: threading.Semaphore, times: int, meanwhile: Callable[[], None]) -> None:
    """Take it so often; look now and then whether a writer has failed, or a SIGTERM has come."""
    for _ in range(times):
        while not semaphore.acquire(timeout=0.2):
            meanwhile()
            stopping.check()
