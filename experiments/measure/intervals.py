"""Intervals of a row's numbers: bootstrap over what was measured, Student over seeds."""

import functools
from typing import Any

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95


def bootstrap(
    values: np.ndarray, groups: np.ndarray | None = None, weights: np.ndarray | None = None
) -> list[float]:
    """The 95 % percentile interval of a mean, by 1,000 seeded resamples of its items.

    Thresholds that were chosen on all items are held fixed, items of one person count as
    independent, and other trainings of S and R are not covered (``experiments.transfer``): true
    intervals are wider. Equal groups are resampled equally in every call.

    Args:
      values: (n,), a face or a pair each.
      groups: (n,), resampled each within itself (the folds of pairs); one group by default.
      weights: (n,), of each item in the mean, summing to 1; equal by default.
    """
    values = np.asarray(values, np.float64)
    weights = np.full(len(values), 1 / len(values)) if weights is None else weights
    means = np.zeros(RESAMPLES)
    for number, members in enumerate(_members(groups, len(values))):
        # How often each item was drawn times its share: no item lies in memory twice.
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
    """Mean, deviation and 95 % interval (Student's t) over runs that differ by their seed alone.

    values: (n,), one a run. With a single run ``sd`` and ``ci`` are None.
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
