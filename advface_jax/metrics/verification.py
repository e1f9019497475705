"""Verification by the squared distance of embeddings, in NumPy: accuracy over folds, FAR, SRRA.

Distances are squared, of L2-normalised embeddings: floats in [0, 4]. Each function raises
ValueError for shapes or dtypes that do not fit, empty input, NaN or inf, and values out of range.
"""

import math
from dataclasses import dataclass

import numpy as np
from jax.typing import ArrayLike

THRESHOLDS = np.arange(401) / 100  # 0, 0.01 ... 4: every squared distance of unit vectors
THRESHOLDS.flags.writeable = False


def squared_distance(u: ArrayLike, v: ArrayLike) -> np.ndarray:
    """Squared L2 distance of each pair of embeddings: (n,) float32 in [0, 4].

    Args:
      u, v: (n, d) floats, every row of length 1 (to 1e-3).

    Example:
      >>> import numpy as np
      >>> from advface_jax import metrics
      >>> u, v = np.eye(2), np.float64([[1, 0], [1, 0]])
      >>> metrics.squared_distance(u, v).tolist()  # the same direction, and a right angle
      [0.0, 2.0]
    """
    u, v = np.asarray(u), np.asarray(v)
    if u.shape != v.shape or u.ndim != 2 or u.size == 0:
        raise ValueError(
            f"got embeddings of shapes {u.shape} and {v.shape}; wanted one shape (n, d), n and d "
            "at least 1: row i of one is compared with row i of the other"
        )
    for name, w in (("u", u), ("v", v)):
        norms = np.linalg.norm(_finite_floats(w, f"embeddings {name}"), axis=1)
        if np.abs(norms - 1).max() > 1e-3:
            raise ValueError(
                f"got embeddings {name} of lengths {norms.min():.4g} to {norms.max():.4g}; wanted "
                "1: divide each row by its L2 norm"
            )
    difference = u.astype(np.float32) - v.astype(np.float32)
    return np.clip(np.sum(difference**2, axis=1), 0, 4)


@dataclass(frozen=True)
class Verification:
    """The result of ten-fold verification.

    Attributes:
      accuracy: mean over the folds of the share of pairs judged correctly, in [0, 1].
      std: population standard deviation of the folds' accuracies.
      thresholds: for each fold, in ascending order, the threshold chosen on the other folds.
      threshold: the threshold chosen on all pairs together; for SRRA, not for ``accuracy``.
    """

    accuracy: float
    std: float
    thresholds: tuple[float, ...]
    threshold: float


def ten_fold_accuracy(distances: ArrayLike, same: ArrayLike, folds: ArrayLike) -> Verification:
    """Accuracy of "same person when the squared distance is below a threshold".

    Each fold (LFW has ten; any number from two works) is judged with the threshold, of 0, 0.01
    ... 4, that is best on the other folds; of several that are best, the smallest.

    Args:
      distances: (n,) squared distances (``squared_distance``).
      same: (n,) bool, True where both images show one person.
      folds: (n,) integers, the fold of each pair.

    Raises:
      ValueError: also for fewer than two folds, or folds that leave only one class to choose on.

    Source: the protocol of LFW's ten folds (Huang et al. 2007) as FaceNet's evaluation runs it.

    Example:
      >>> import numpy as np
      >>> from advface_jax import metrics
      >>> distances, same = np.float64([0.2, 1.5, 0.2, 1.4]), np.array([True, False, True, False])
      >>> metrics.ten_fold_accuracy(distances, same, np.array([1, 1, 2, 2])).accuracy
      1.0
    """
    distances = _distances(distances)
    same, folds = np.asarray(same), np.asarray(folds)
    if same.shape != distances.shape or folds.shape != distances.shape:
        raise ValueError(
            f"got {distances.shape} distances, {same.shape} same, {folds.shape} folds; wanted "
            "three arrays of one shape (n,): one row a pair"
        )
    if same.dtype != bool or not np.issubdtype(folds.dtype, np.integer):
        raise ValueError(
            f"got same of dtype {same.dtype} and folds of dtype {folds.dtype}; wanted bool and "
            "integers: use same.astype(bool), folds.astype(int)"
        )
    numbers = np.unique(folds)
    if len(numbers) < 2:
        raise ValueError(
            f"got the single fold {numbers[0]}; wanted two or more: a fold's threshold is chosen "
            "on the others"
        )
    right = (distances[:, None] < THRESHOLDS) == same[:, None]  # (n, 401)
    accuracies, thresholds = [], []
    for number in numbers:
        others = folds != number
        if same[others].all() or not same[others].any():
            raise ValueError(
                f"got pairs of one class only ({'same' if same[others][0] else 'different'}) "
                f"outside fold {number}; wanted both: mix same and different pairs in the folds"
            )
        best = int(right[others].sum(axis=0).argmax())
        thresholds.append(float(THRESHOLDS[best]))
        accuracies.append(right[~others, best].mean())
    overall = float(THRESHOLDS[right.sum(axis=0).argmax()])
    mean, std = float(np.mean(accuracies)), float(np.std(accuracies))
    return Verification(mean, std, tuple(thresholds), overall)


def threshold_at_far(distances_of_different_pairs: ArrayLike, far: float) -> float:
    """The largest threshold below which at most the share ``far`` of different pairs falls.

    Args:
      distances_of_different_pairs: (n,) squared distances. With fewer than 1 / far of them the
        result is the smallest distance, where the false accept rate is 0.
      far: the false accept rate, 0 <= far < 1.

    Returns:
      A threshold for "accept when the distance is below it".

    Example:
      >>> import numpy as np
      >>> from advface_jax import metrics
      >>> distances = np.float64([1.0, 1.2, 1.4, 1.6])
      >>> metrics.threshold_at_far(distances, far=0.25)  # one of four is below
      1.2
    """
    ordered = np.sort(_distances(distances_of_different_pairs))
    if not 0 <= far < 1:
        raise ValueError(f"got far={far}; wanted 0 <= far < 1, a share such as 0.001")
    # The small term keeps 0.29 * 100 = 28.999999999999996 from counting as 28.
    return float(ordered[math.floor(far * len(ordered) + 1e-9)])


def srra(distances: ArrayLike, threshold: float) -> float:
    """Success rate of the replay attack: the share of reconstructions that are accepted, in [0, 1].

    Args:
      distances: (n,) squared distances between the embedding of each reconstructed image and the
        enrolled one: of the same image (type I) or of another image of that person (type II).
      threshold: accept below this, in [0, 4] (``Verification.threshold``, ``threshold_at_far``).

    Source: the paper's Table 1, which leaves the rule open; this is the project's reading.

    Example:
      >>> import numpy as np
      >>> from advface_jax import metrics
      >>> metrics.srra(np.float64([0.5, 1.5]), threshold=1.1)
      0.5
    """
    if not 0 <= threshold <= 4:
        raise ValueError(f"got threshold={threshold}; wanted a squared distance, 0 to 4")
    return float(np.mean(_distances(distances) < threshold))


def _distances(x: ArrayLike) -> np.ndarray:
    x = np.asarray(x)
    if x.ndim != 1 or x.size == 0:
        raise ValueError(f"got distances of shape {x.shape}; wanted (n,), n at least 1")
    _finite_floats(x, "distances")
    if x.min() < 0 or x.max() > 4:
        raise ValueError(
            f"got distances from {x.min():.4g} to {x.max():.4g}; wanted squared distances of "
            "unit vectors, 0 to 4: make them with squared_distance"
        )
    return x


def _finite_floats(x: np.ndarray, name: str) -> np.ndarray:
    if not np.issubdtype(x.dtype, np.floating):
        raise ValueError(f"got {name} of dtype {x.dtype}; wanted floats: use .astype('float32')")
    bad = int(x.size - np.isfinite(x).sum())
    if bad:
        raise ValueError(
            f"got {name} with {bad} of {x.size} values NaN or infinite; wanted finite ones: look "
            "where they were made"
        )
    return x
