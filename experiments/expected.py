"""What was expected on LFW before measuring, and what came."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from experiments import paper
from experiments.ledger import Ours, Run, answers
from experiments.paper import Number

NEAR = 0.06  # in SSIM: what "near unprotected" is taken to mean


class Expected(NamedTuple):
    """One expectation: what was wanted, what came (with the runs it is from), whether it holds."""

    wanted: str
    came: str
    met: bool | None  # None: not measured
    sources: Sequence[Ours] = ()


def expectations(runs: Sequence[Run]) -> list[Expected]:
    """The issue's list, held against the runs."""

    def ours(method: str, metric: str, table: str = "1", row: str | None = None) -> Ours | None:
        number = next(
            n
            for n in paper.NUMBERS
            if (n.table, n.method, n.metric, n.set) == (table, method, metric, "lfw")
        )
        found = answers(number, runs, row, largest=True)
        return found[0] if found else None

    bare = ours("Unprotected", "ssim")
    return [
        _one("Unprotected SSIM ≥ .93", bare, lambda v: v >= 0.93, _plain),
        _near("Random (ball)", bare, ours("Random", "ssim", row="Random (ball)")),
        _near("Laplace noise", bare, ours("DP", "ssim")),
        _one("AdvFace SSIM ≤ .28", ours("AdvFace", "ssim"), lambda v: v <= 0.28, _plain),
        _one("AdvFace PSNR ≤ 9 dB", ours("AdvFace", "psnr"), lambda v: v <= 9, _decibel),
        _one("AdvFace SRRA ≤ 5 %", ours("AdvFace", "srra"), lambda v: v <= 0.05, _percent),
        _one(
            "AdvFace online loses ≤ 1.7 points of ACC",
            ours("AdvFace", "drop", "§5.4"),
            lambda v: v <= 0.017,
            _points,
            0.017,
        ),
        _one(
            "AdvFace offline loses ≤ 0.4 points of ACC",
            ours("AdvFace (offline)", "drop", "§5.4"),
            lambda v: v <= 0.004,
            _points,
            0.004,
        ),
        _cells(runs),
    ]


def _plain(value: float) -> str:
    return f"{value:.3f}"


def _decibel(value: float) -> str:
    return f"{value:.2f} dB"


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _points(value: float) -> str:
    return f"{100 * value:.2f} points"


def _one(
    wanted: str,
    ours: Ours | None,
    holds: Callable[[float], bool],
    shown: Callable[[float], str],
    resolve: float = 1,
) -> Expected:
    """resolve: what a single pair must not outweigh, lest it decide alone."""
    if ours is None:
        return Expected(wanted, "not measured", None)
    came = shown(ours.value)
    if ours.interval:
        came += f" ({shown(ours.interval[0])} to {shown(ours.interval[1])})"
    metric = "acc" if shown in (_percent, _points) else "ssim"
    came += f" over {ours.items(metric):,} {'pairs' if metric == 'acc' else 'faces'}"
    if 1 / ours.items(metric) > resolve:
        few = f"{came}, of which one is {shown(1 / ours.items(metric))}: too few to tell"
        return Expected(wanted, few, None, [ours])
    return Expected(wanted, came, holds(ours.value), [ours])


def _near(name: str, bare: Ours | None, ours: Ours | None) -> Expected:
    wanted = f"{name} near Unprotected: SSIM at most {NEAR:.2f} below"
    if bare is None or ours is None:
        return Expected(wanted, "not measured", None)
    came = f"{_plain(ours.value)} ({ours.items('ssim'):,} faces) against {_plain(bare.value)}"
    return Expected(wanted, came, bare.value - ours.value <= NEAR, [ours, bare])


def _cells(runs: Iterable[Run]) -> Expected:
    wanted = "all nine cells of Table 4: SSIM ≤ .30"
    cells: list[Number] = [
        n for n in paper.NUMBERS if (n.table, n.metric, n.set) == ("4", "ssim", "lfw")
    ]
    runs = list(runs)
    found = [both for n in cells if (both := answers(n, runs)[:1])]
    values = [ours.value for (ours,) in found]
    if not values:
        return Expected(wanted, "not measured", None)
    below = sum(v <= 0.30 for v in values)
    came = f"{below} of {len(values)} measured; {min(values):.3f} to {max(values):.3f}"
    met = None if below == len(values) < len(cells) else below == len(values)
    return Expected(wanted, came, met, [ours for (ours,) in found])
