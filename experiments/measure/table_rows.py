"""The rows of a table, from what was judged: means over faces, ACC and SRRA over pairs."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advface_jax import metrics
from advface_jax.data import Faces, Pairs
from advface_jax.models.facenet import IMAGE_SIZE
from experiments.measure.intervals import bootstrap
from experiments.measure.judging import Judged, Subject, sized
from experiments.measure.results_file import Row

LIKENESS = ("ssim", "psnr", "mse")
FARS = {"_far_1e-2": 1e-2, "_far_1e-3": 1e-3}
FEWEST = 3  # different pairs below a threshold: fewer do not determine it


def row(
    method: str,
    epsilon: float | None,
    judged: Judged,
    condition: int,
    pairs: Pairs,
    attacker: int = 0,
    enrolled_only: bool = False,
    unprotected: int | None = 0,
    extra: Mapping[str, Any] | None = None,
) -> Row:
    """One line of the results: means over faces, ACC and SRRA over pairs.

    ``srra`` is type II: R's picture of one image of a person against the stored feature of
    another, accepted below the threshold that the pairs of this row choose. ``srra_same_image``
    is type I: against the stored feature of the same image. ``…_far_1e-3``: at the threshold of
    that false accept rate, None with too few different pairs to find it. Without attackers those
    and the likeness of pictures are None. ``…_ci`` are 95 % bootstrap intervals
    (``intervals.bootstrap``): over faces for ssim, psnr and mse; over pairs, within their folds and
    at fixed thresholds, for acc and srra.

    Args:
      method, epsilon: As the row is named.
      judged: What was measured.
      condition: Which of the subject's.
      pairs: Of the faces.
      attacker: Which of the subject's.
      enrolled_only: The left image of each pair is stored under this condition, and the right one
        is compared with it unprotected.
      unprotected: Which condition that is; None if there is none.
      extra: Further entries, such as set, shadow, attacker.

    Raises:
      ValueError: ``enrolled_only`` without an unprotected condition.
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
        **(extra or {}),
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
            "got enrolled_only for a subject that stores nothing unprotected; wanted one that "
            "does: protect both sides"
        )
    return judged.stored[unprotected]


def verdicts(
    distances: np.ndarray, verified: metrics.Verification, pairs: Pairs
) -> tuple[np.ndarray, np.ndarray]:
    """Which pairs are judged rightly (m,), 1 or 0, each fold by the threshold of the others; and
    the weight of each pair in ACC (m,), every fold weighing the same."""
    folds, which, sizes = np.unique(pairs.fold, return_inverse=True, return_counts=True)
    right = (distances < np.asarray(verified.thresholds)[which]) == pairs.same
    return right.astype(np.float64), 1 / (len(folds) * sizes[which])


def replays(
    stored: np.ndarray, replayed: np.ndarray, pairs: Pairs, thresholds: Mapping[str, float]
) -> Row:
    """``srra`` and ``srra_same_image`` at each threshold, from embeddings (n,e) of what is enrolled
    and of what is shown; a threshold's key is the ending of the names, "" the row's own."""
    same_image = metrics.squared_distance(replayed, stored)
    other_image = swapped(stored, replayed, pairs)
    # Each image of a pair is shown as the other, so the pair is what is resampled.
    accepted = (other_image < thresholds[""]).reshape(2, -1).mean(0)
    return {
        **{f"srra{k}": metrics.srra(other_image, t) for k, t in thresholds.items()},
        "srra_ci": bootstrap(accepted, pairs.fold[pairs.same]),
        **{f"srra_same_image{k}": metrics.srra(same_image, t) for k, t in thresholds.items()},
    }


def swapped(stored: np.ndarray, replayed: np.ndarray, pairs: Pairs) -> np.ndarray:
    """Squared distances (2m,) of type II: each image of the m pairs of one person, as it is shown,
    to the other one, as it is stored."""
    left, right = pairs.left[pairs.same], pairs.right[pairs.same]
    return metrics.squared_distance(
        np.concatenate([replayed[left], replayed[right]]),
        np.concatenate([stored[right], stored[left]]),
    )


def mean_face(
    images: np.ndarray, size: int = IMAGE_SIZE
) -> tuple[jax.Array, dict[str, np.ndarray]]:
    """The mean (1,s,s,3) in [0,1] of faces (n,160,160,3) uint8 at a recogniser's size, and its
    likeness (n,) with each of them, by measure."""
    mean = sized(jnp.asarray((images.mean(0) / 255).astype(np.float32)[None]), size)

    @jax.jit
    def measure(mean: jax.Array, faces: jax.Array) -> list[jax.Array]:
        faces = sized(faces, size)
        return [getattr(metrics, name)(mean, faces) for name in LIKENESS]

    parts = []
    for start in range(0, len(images), 64):
        some = (images[start : start + 64] / 255).astype(np.float32)
        parts.append(measure(jnp.repeat(mean, len(some), 0), jnp.asarray(some)))
    each = zip(LIKENESS, zip(*parts, strict=True), strict=True)
    return mean, {name: np.concatenate(part) for name, part in each}


def floor(
    faces: Faces,
    judged: Judged,
    subject: Subject,
    pairs: Pairs,
    condition: int = 0,
    extra: Mapping[str, Any] | None = None,
) -> Row:
    """The mean of the measured faces as every face's picture: an attacker without any feature.

    It is shown (``replay`` of the ``subject``) to a server that stores as in ``condition``.
    """
    mean, likeness = mean_face(faces.images, subject.image_size)
    replayed = np.asarray(jax.jit(lambda r, x: r(x))(subject.replay, mean))
    replayed = np.repeat(replayed, len(faces), 0)
    stored = judged.stored[condition]
    distances = metrics.squared_distance(stored[pairs.left], stored[pairs.right])
    threshold = metrics.ten_fold_accuracy(distances, pairs.same, pairs.fold).threshold
    return {
        "method": "Mean face (floor)",
        "epsilon": None,
        **{k: float(values.mean()) for k, values in likeness.items()},
        "acc": None,
        "n": len(faces),
        "pairs": len(pairs),
        **{f"{k}_ci": bootstrap(values) for k, values in likeness.items()},
        **replays(stored, replayed, pairs, {"": threshold}),
        **(extra or {}),
    }


def not_measured(method: str, why: str) -> Row:
    """A row without numbers, with the reason."""
    numbers = dict.fromkeys(("epsilon", "ssim", "psnr", "mse", "acc", "srra"))
    return {"method": method, **numbers, "n": 0, "not_measured": why}
