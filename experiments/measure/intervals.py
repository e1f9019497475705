"""How sure a row's numbers are: bootstrap intervals over what was measured."""

import functools
from typing import Any

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95


def bootstrap(
    values: np.ndarray, groups: np.ndarray | None = None, weights: np.ndarray | None = None
) -> list[float]:
    """The 95% percentile interval of a mean, by 1,000 seeded resamples of its items.

    values: (n,), one a face or a pair. groups: (n,), resampled each within itself and to its own
    size (the folds of pairs); one group by default. weights: (n,), what the mean weighs each item
    by, summing to 1; equal by default. Equal groups are resampled equally in every call, so that
    rows over the same faces differ by their values alone.

    What it leaves out: whatever was chosen on all items beforehand (thresholds) is held fixed, and
    several items of one person count as independent, which they are not; nor does it know of the
    training of S and R, whose seeds differ more (``experiments.transfer``). True intervals are
    wider.
    """
    values = np.asarray(values, np.float64)
    weights = np.full(len(values), 1 / len(values)) if weights is None else weights
    means = np.zeros(RESAMPLES)
    for number, members in enumerate(_members(groups, len(values))):
        # A mean needs no item twice in memory: how often each was drawn times what it brings.
        means += _draws(len(members), number) @ (values[members] * weights[members])
    tail = (1 - LEVEL) / 2
    ends = np.quantile(means, (tail, 1 - tail))
    return [round(float(x), 9) for x in ends]  # sums of weights are 1 but for the last digit


def _members(groups: np.ndarray | None, n: int) -> list[np.ndarray]:
    if groups is None:
        return [np.arange(n)]
    return [np.flatnonzero(groups == g) for g in np.unique(groups)]


@functools.lru_cache(maxsize=32)
def _draws(n: int, number: int) -> np.ndarray:
    """How often each of n items is drawn, in each resample: (1000, n) float32."""
    rng = np.random.default_rng([n, number])
    return rng.multinomial(n, np.full(n, 1 / n), RESAMPLES).astype(np.float32)


def spread(values: np.ndarray) -> dict[str, Any]:
    """Mean, deviation and 95% interval (Student's t) over runs that differ by their seed alone.

    values: (n,), one a run, as independent of each other as their seeds are. Of a single run
    nothing but its value is known: ``sd`` and ``ci`` are None.
    """
    from scipy import stats  # half a second

    values = np.asarray(values, np.float64)
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return {"mean": mean, "sd": None, "ci": None, "n": n, "values": values.tolist()}
    sd = float(values.std(ddof=1))
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * sd / n**0.5
    return {
        "mean": mean,
        "sd": sd,
        "ci": [mean - half, mean + half],
        "n": n,
        "values": values.tolist(),
    }
