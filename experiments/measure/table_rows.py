"""The rows of a table, from what was judged: means over faces, ACC and SRRA over pairs."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from advface_jax import metrics
from advface_jax.data import Faces, Pairs
from experiments.measure.intervals import bootstrap
from experiments.measure.judging import Judged
from experiments.measure.results_file import Row

LIKENESS = ("ssim", "psnr", "mse")
FARS = {"_far_1e-2": 1e-2, "_far_1e-3": 1e-3}
FEWEST = 3
"""How many different pairs must lie below a threshold, lest it hang on a single one."""


def row(
    method: str,
    epsilon: float | None,
    judged: Judged,
    condition: int,
    pairs: Pairs,
    attacker: int = 0,
    enrolled_only: bool = False,
    unprotected: int | None = 0,
    told: Mapping[str, Any] | None = None,
) -> Row:
    """One line of the results: means over faces, ACC and SRRA over pairs.

    ``srra`` is type II: R's picture of one image of a person against the stored feature of
    another, accepted below the threshold that the pairs of this row choose. ``srra_same_image``
    is type I: against the stored feature of the very same image. ``…_far_1e-3``: at the threshold
    of that false accept rate, None where there are too few different pairs to find it. Without
    attackers those and the likeness of pictures are None.

    ``…_ci`` are 95% bootstrap intervals: of ssim, psnr and mse over faces; of acc and srra over
    pairs, resampled within their folds, each pair being right or accepted as it was at the
    thresholds that all pairs had chosen. Those are held fixed, and pairs and faces of one person
    count as independent: true intervals are wider (``intervals.bootstrap``).

    attacker: which of the subject's. enrolled_only: the left image of each pair is stored under
    this condition, and the right one is compared with it unprotected. unprotected: which condition
    that is, None where there is none. told: further entries, such as set, shadow, attacker.

    Raises:
      ValueError: ``enrolled_only`` where nothing is unprotected.
    """
    stored = judged.stored[condition]
    probes = stored if not enrolled_only else _bare(judged, unprotected)
    distances = metrics.squared_distance(stored[pairs.left], probes[pairs.right])
    verified = metrics.ten_fold_accuracy(distances, pairs.same, pairs.fold)
    right, weights = verdicts(distances, verified, pairs)
    line: Row = {
        "method": method,
        "epsilon": epsilon,
        **dict.fromkeys(LIKENESS),
        "acc": verified.accuracy,
        "srra": None,
        "n": judged.stored.shape[1],
        "pairs": len(pairs),
        "acc_std_of_folds": verified.std,
        "acc_ci": bootstrap(right, pairs.fold, weights),
        "threshold": verified.threshold,
        **({"enrolled_only": True} if enrolled_only else {}),
        **(told or {}),
    }
    if unprotected is not None:
        cosines = (stored * _bare(judged, unprotected)).sum(-1)
        line["cosine_to_unprotected"] = float(cosines.mean())
    if not judged.ssim.shape[1]:
        return line
    for name in LIKENESS:
        values = getattr(judged, name)[condition, attacker]
        line |= {name: float(values.mean()), f"{name}_ci": bootstrap(values)}
    line["ssim_std_of_faces"] = float(judged.ssim[condition, attacker].std())
    different = distances[~pairs.same]
    thresholds = {"": verified.threshold}
    for name, far in FARS.items():
        line |= {f"srra{name}": None, f"srra_same_image{name}": None}
        if far * len(different) >= FEWEST:
            thresholds[name] = metrics.threshold_at_far(different, far)
    return line | replays(stored, judged.replayed[condition, attacker], pairs, thresholds)


def _bare(judged: Judged, unprotected: int | None) -> np.ndarray:
    if unprotected is None:
        raise ValueError(
            "got enrolled_only for a subject that stores nothing unprotected; wanted one with such "
            "a condition: protect both sides"
        )
    return judged.stored[unprotected]


def verdicts(
    distances: np.ndarray, verified: metrics.Verification, pairs: Pairs
) -> tuple[np.ndarray, np.ndarray]:
    """Which pairs are judged rightly (m,), 1 or 0, each fold by the threshold that the others
    choose; and what each pair weighs in ACC (m,), every fold weighing the same."""
    folds, which, sizes = np.unique(pairs.fold, return_inverse=True, return_counts=True)
    right = (distances < np.asarray(verified.thresholds)[which]) == pairs.same
    return right.astype(np.float64), 1 / (len(folds) * sizes[which])


def replays(
    stored: np.ndarray, replayed: np.ndarray, pairs: Pairs, thresholds: Mapping[str, float]
) -> Row:
    """``srra`` and ``srra_same_image`` at each threshold, which names are endings ("" the row's
    own), from embeddings (n,e) of what is enrolled and of what is shown."""
    left, right = pairs.left[pairs.same], pairs.right[pairs.same]
    same_image = metrics.squared_distance(replayed, stored)
    other_image = metrics.squared_distance(
        np.concatenate([replayed[left], replayed[right]]),
        np.concatenate([stored[right], stored[left]]),
    )
    # Of a pair, each image is shown as the other: what is resampled is the pair.
    accepted = (other_image < thresholds[""]).reshape(2, -1).mean(0)
    return {
        **{f"srra{k}": metrics.srra(other_image, t) for k, t in thresholds.items()},
        "srra_ci": bootstrap(accepted, pairs.fold[pairs.same]),
        **{f"srra_same_image{k}": metrics.srra(same_image, t) for k, t in thresholds.items()},
    }


def floor(
    faces: Faces,
    judged: Judged,
    replay: Callable[[jax.Array], jax.Array],
    pairs: Pairs,
    condition: int = 0,
    told: Mapping[str, Any] | None = None,
) -> Row:
    """The mean of the measured faces as everybody's picture: an attacker without any feature.

    A protected picture with a lower SSIM than this is wrecked, which is not yet private. It is
    shown (``replay``, as of the ``Subject``) to a server that stores as in ``condition``.
    """
    mean = (faces.images.mean(0) / 255).astype(np.float32)[None]
    replayed = np.repeat(np.asarray(jax.jit(lambda r, x: r(x))(replay, mean)), len(faces), 0)
    stored = judged.stored[condition]
    distances = metrics.squared_distance(stored[pairs.left], stored[pairs.right])
    threshold = metrics.ten_fold_accuracy(distances, pairs.same, pairs.fold).threshold
    measure = jax.jit(lambda a, b: [getattr(metrics, name)(a, b) for name in LIKENESS])
    parts = []
    for start in range(0, len(faces), 64):
        some = (faces.images[start : start + 64] / 255).astype(np.float32)
        parts.append(measure(np.repeat(mean, len(some), 0), some))
    likeness = {
        k: np.concatenate(p) for k, p in zip(LIKENESS, zip(*parts, strict=True), strict=True)
    }
    return {
        "method": "Mean face (floor)",
        "epsilon": None,
        **{k: float(values.mean()) for k, values in likeness.items()},
        "acc": None,
        "n": len(faces),
        "pairs": len(pairs),
        **{f"{k}_ci": bootstrap(values) for k, values in likeness.items()},
        **replays(stored, replayed, pairs, {"": threshold}),
        **(told or {}),
    }
