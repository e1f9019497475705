"""Runs that take turns, so that a machine's drift meets them alike, and what their times say."""

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

Key = TypeVar("Key", bound=Hashable)


class Sample(NamedTuple):
    """Seconds of a run: by the clock, and of processor time, over all threads of the process."""

    wall: float
    cpu: float


class Spread(NamedTuple):
    """A median between its quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(*(float(v) for v in np.quantile(values, (0.5, 0.25, 0.75))))


def timed(run: Callable[[], Any]) -> Sample:
    """One run, to the end of what it started on a device."""
    wall, cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(run())
    return Sample(time.perf_counter() - wall, time.process_time() - cpu)


def interleaved(
    runs: Mapping[Key, Callable[[], Sample]], repeats: int, progress: Callable[[], None]
) -> dict[Key, list[Sample]]:
    """Every run once to warm up, then ``repeats`` times in turn, there and back again."""
    for run in runs.values():
        run()
        progress()
    found: dict[Key, list[Sample]] = {key: [] for key in runs}
    order = list(runs)
    for _ in range(repeats):
        for key in order:
            found[key].append(runs[key]())
            progress()
        order.reverse()
    return found


def marginal(long: Sequence[Sample], short: Sequence[Sample], iterations: int) -> list[Sample]:
    """What one iteration took, from runs that differ by so many of them, pair by pair: what both
    do once, as the shadow round trip, is not in it."""
    return [
        Sample((a.wall - b.wall) / iterations, (a.cpu - b.cpu) / iterations)
        for a, b in zip(long, short, strict=True)
    ]
