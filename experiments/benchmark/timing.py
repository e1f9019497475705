"""Runs that take turns, so that a machine's drift affects all of them alike, and their times."""

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from advface_jax import cli

Key = TypeVar("Key", bound=Hashable)
OURS = "advface_jax"


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
        return cls(*np.quantile(values, (0.5, 0.25, 0.75)).tolist())

    def fields(self, name: str, quartiles: str = "") -> dict[str, Any]:
        """Of a row: the median under ``name``, the others under ``quartiles`` or that name."""
        return {name: self.median, f"{quartiles or name}_quartiles": [self.low, self.high]}


class Entry(NamedTuple):
    """An implementation of a case: its name, the case, a run of so many steps, further fields."""

    impl: str
    case: Any  # cases.Case or training.Training
    run: Callable[[int], Sample]
    figures: dict[str, Any]


def timed(run: Callable[[], Any]) -> Sample:
    """One run, to the end of what it started on a device."""
    wall, cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(run())
    return Sample(time.perf_counter() - wall, time.process_time() - cpu)


def interleaved(
    runs: Mapping[Key, Callable[[], Sample]], repeats: int, title: str
) -> dict[Key, list[Sample]]:
    """Every run once to warm up, then ``repeats`` times in turn, there and back, under a bar."""
    order, found = list(runs), {key: [] for key in runs}
    with cli.bar("runs") as bar:
        task = bar.add_task(title, total=len(runs) * (1 + repeats), note="")
        for turn in range(1 + repeats):
            for key in order:
                sample = runs[key]()
                if turn:
                    found[key].append(sample)
                bar.update(task, advance=1)
            if turn:
                order.reverse()
    return found


def marginal(long: Sequence[Sample], short: Sequence[Sample], iterations: int) -> list[Sample]:
    """One iteration, from pairs of runs that differ by so many: work that both runs do once (the
    shadow round trip) is not in it."""
    return [
        Sample((a.wall - b.wall) / iterations, (a.cpu - b.cpu) / iterations)
        for a, b in zip(long, short, strict=True)
    ]
