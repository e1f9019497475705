"""How like two pictures are, and how well embeddings tell people apart (paper, section 5.1).

`ssim`, `psnr` and `mse` compare images (n, h, w, 3), float32 RGB in [0, 1], one number an image.
They are plain JAX and may stand inside a jit; values (NaN, 0..255) are looked at outside one only.
The rest is NumPy over the squared distances of embeddings.
"""

import math
from dataclasses import dataclass

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

WINDOW = 11  # SSIM's Gaussian: 11 x 11 pixels, sigma 1.5 (Wang et al. 2004)
SIGMA = 1.5
PSNR_CAP = 100.0  # dB; what equal images get in place of infinity (an MSE of 1e-10)
THRESHOLDS = np.arange(401) / 100  # 0, 0.01 ... 4: every squared distance of unit vectors
THRESHOLDS.flags.writeable = False


def ssim(a: ArrayLike, b: ArrayLike) -> jax.Array:
    """Structural similarity of each pair of images, in [-1, 1]; equal images give 1.

    The mean over the three channels and over the windows that lie wholly inside the image, with
    population covariances: scikit-image's `structural_similarity(a, b, channel_axis=-1,
    data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)`.

    Args:
      a, b: images (n, h, w, 3), float32 in [0, 1], h and w at least 11.

    Returns:
      (n,) float32.

    Raises:
      ValueError: for another shape, dtype or range, NaN or inf.

    Source: Wang et al., Image quality assessment, IEEE TIP 13(4), 2004.
    """
    a, b = _image_pair(a, b)
    if min(a.shape[1:3]) < WINDOW:
        raise ValueError(
            f"got images of shape {a.shape}; wanted height and width of at least {WINDOW}, the "
            "window of ssim: compare larger images"
        )
    return jnp.asarray(dm_pix.ssim(a, b, filter_fn=_blur))


def mse(a: ArrayLike, b: ArrayLike) -> jax.Array:
    """Mean squared error of each pair of images, in [0, 1].

    Args:
      a, b: images (n, h, w, 3), float32 in [0, 1].

    Returns:
      (n,) float32.

    Raises:
      ValueError: for another shape, dtype or range, NaN or inf.
    """
    return jnp.asarray(dm_pix.mse(*_image_pair(a, b)))


def psnr(a: ArrayLike, b: ArrayLike) -> jax.Array:
    """Peak signal-to-noise ratio of each pair of images in dB, in [0, PSNR_CAP].

    -10 log10(MSE) with the MSE at least 1e-10, so that equal images give 100 dB, not infinity,
    and the mean over a set stays finite.

    Args:
      a, b: images (n, h, w, 3), float32 in [0, 1].

    Returns:
      (n,) float32.

    Raises:
      ValueError: for another shape, dtype or range, NaN or inf.
    """
    return -10.0 * jnp.log10(jnp.maximum(mse(a, b), 10.0 ** (-PSNR_CAP / 10)))


def squared_distance(u: ArrayLike, v: ArrayLike) -> np.ndarray:
    """Squared L2 distance of each pair of L2-normalised embeddings, in [0, 4].

    Args:
      u, v: (n, d) floats, every row of length 1 (to 1e-3).

    Returns:
      (n,) float32.

    Raises:
      ValueError: for shapes that differ or are not (n, d), an empty batch, NaN or inf, or rows
        that are not normalised.
    """
    u, v = np.asarray(u), np.asarray(v)
    if u.shape != v.shape or u.ndim != 2 or u.size == 0:
        raise ValueError(
            f"got embeddings of shapes {u.shape} and {v.shape}; wanted one shape (n, d), n and d "
            "at least 1: row i of the one is compared with row i of the other"
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
    """What ten-fold verification finds.

    Attributes:
      accuracy: mean over the folds of the share of pairs judged rightly, in [0, 1].
      std: population standard deviation of the folds' accuracies.
      thresholds: for each fold, in ascending order, the threshold that the other folds chose.
      threshold: the threshold that all pairs together choose; for SRRA, not for `accuracy`.
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
      distances: (n,) squared distances, floats in [0, 4] (`squared_distance`).
      same: (n,) bool, True where both images show one person.
      folds: (n,) integers, the fold of each pair.

    Returns:
      `Verification`.

    Raises:
      ValueError: for shapes or dtypes that do not fit, an empty input, NaN or inf, distances
        outside [0, 4], fewer than two folds, or folds that leave only one class to choose on.

    Source: the protocol of LFW's ten folds (Huang et al. 2007) as FaceNet's evaluation runs it.
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
    return Verification(
        accuracy=float(np.mean(accuracies)),
        std=float(np.std(accuracies)),
        thresholds=tuple(thresholds),
        threshold=float(THRESHOLDS[right.sum(axis=0).argmax()]),
    )


def threshold_at_far(distances_of_different_pairs: ArrayLike, far: float) -> float:
    """The largest threshold below which at most the share `far` of different pairs falls.

    Args:
      distances_of_different_pairs: (n,) squared distances, floats in [0, 4]. With fewer than
        1 / far of them the answer is the smallest distance, where the false accept rate is 0.
      far: the false accept rate, 0 <= far < 1.

    Returns:
      A threshold for "accept when the distance is below it".

    Raises:
      ValueError: for another shape, NaN or inf, distances outside [0, 4], no pairs, or a `far`
        outside [0, 1).
    """
    ordered = np.sort(_distances(distances_of_different_pairs))
    if not 0 <= far < 1:
        raise ValueError(f"got far={far}; wanted 0 <= far < 1, a share such as 0.001")
    # The small term keeps 0.29 * 100 = 28.999999999999996 from counting as 28.
    return float(ordered[math.floor(far * len(ordered) + 1e-9)])


def srra(distances: ArrayLike, threshold: float) -> float:
    """Success rate of the replay attack: the share of reconstructions that are accepted.

    Args:
      distances: (n,) squared distances, floats in [0, 4], between the embedding of each
        reconstructed image and the enrolled one: of the same image (type I) or of another image
        of the same person (type II).
      threshold: accept below this, in [0, 4] (`Verification.threshold`, `threshold_at_far`).

    Returns:
      The share, in [0, 1].

    Raises:
      ValueError: for another shape, NaN or inf, distances outside [0, 4], no distances, or a
        threshold outside [0, 4].

    Source: the paper's Table 1, which leaves the rule open; this one is the project's reading.
    """
    if not 0 <= threshold <= 4:
        raise ValueError(f"got threshold={threshold}; wanted a squared distance, 0 to 4")
    return float(np.mean(_distances(distances) < threshold))


def _blur(x: ArrayLike) -> jax.Array:
    """The Gaussian over the valid windows: (n, h, w, c) -> (n, h - 10, w - 10, c).

    dm_pix's own filter mixes integers with floats, which strict dtype promotion refuses; and two
    products with banded matrices take an eighth of its time on a CPU.
    """
    rows, columns = _band(np.shape(x)[1]), _band(np.shape(x)[2])
    x = jnp.einsum("oh,nhwc->nowc", rows, x, precision="highest")
    return jnp.einsum("ow,nhwc->nhoc", columns, x, precision="highest")


def _band(size: int) -> np.ndarray:
    """(size - 10, size) float32: the Gaussian's eleven weights, a step further in each row."""
    offset = np.arange(size)[None] - np.arange(size - WINDOW + 1)[:, None]
    weights = np.exp(-0.5 * ((offset - WINDOW // 2) / SIGMA) ** 2)
    weights *= (offset >= 0) & (offset < WINDOW)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _image_pair(*pair: ArrayLike) -> tuple[jax.Array, jax.Array]:
    a, b = (x if isinstance(x, jax.Array) else np.asarray(x) for x in pair)
    if a.shape != b.shape or a.ndim != 4 or a.shape[-1] != 3 or a.size == 0:
        raise ValueError(
            f"got images of shapes {a.shape} and {b.shape}; wanted one shape (n, h, w, 3), none "
            "of them 0: a single image takes a leading axis, image[None]"
        )
    for x in (a, b):
        if x.dtype != np.float32:
            raise ValueError(
                f"got images of dtype {x.dtype}; wanted float32 in [0, 1]: use "
                ".astype('float32'), after it / 255 for whole numbers"
            )
        if isinstance(x, Tracer):
            continue
        # On the host: XLA:CPU's own minimum and maximum pass over NaN in large arrays.
        low, high = float(np.asarray(x).min()), float(np.asarray(x).max())
        if not (low >= -1e-5 and high <= 1 + 1e-5):  # so that NaN is caught too
            raise ValueError(
                f"got images with values from {low:.4g} to {high:.4g}; wanted finite ones in "
                "[0, 1]: divide 0..255 by 255, and look for NaN where they were made"
            )
    return jnp.asarray(a), jnp.asarray(b)


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
