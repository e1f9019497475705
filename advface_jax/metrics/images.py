"""SSIM, PSNR and MSE of image pairs (n, h, w, 3), float32 RGB in [0, 1]: one number per image.

Plain JAX, so they may stand inside a jit; values (NaN, 0..255) are checked outside one only. Each
raises ValueError for another shape, dtype or range, NaN or inf, and returns (n,) float32.
"""

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from advface_jax import checks

WINDOW = 11  # SSIM's Gaussian: 11 x 11 pixels, sigma 1.5 (Wang et al. 2004)
SIGMA = 1.5
PSNR_CAP = 100.0  # dB, for equal images in place of infinity (an MSE of 1e-10)


def ssim(a: ArrayLike, b: ArrayLike) -> jax.Array:
    """Structural similarity of each pair of images, in [-1, 1]; equal images give 1.

    The mean over the three channels and over the windows that lie wholly inside the image, with
    population covariances: scikit-image's ``structural_similarity(a, b, channel_axis=-1,
    data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)``. Height and
    width must be at least 11.

    Source: Wang et al., Image quality assessment, IEEE TIP 13(4), 2004.

    Example:
      >>> import numpy as np
      >>> from advface_jax import metrics
      >>> a = np.zeros((2, 32, 32, 3), "float32")  # two pictures
      >>> metrics.ssim(a, a).tolist()
      [1.0, 1.0]
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

    Example:
      >>> import numpy as np
      >>> from advface_jax import metrics
      >>> a = np.zeros((2, 32, 32, 3), "float32")
      >>> metrics.mse(a, a + 0.5).tolist()
      [0.25, 0.25]
    """
    return jnp.asarray(dm_pix.mse(*_image_pair(a, b)))


def psnr(a: ArrayLike, b: ArrayLike) -> jax.Array:
    """Peak signal-to-noise ratio of each pair of images in dB, in [0, PSNR_CAP].

    -10 log10(MSE) with the MSE at least 1e-10, so that equal images give 100 dB, not infinity,
    and the mean over a set stays finite.

    Example:
      >>> import numpy as np
      >>> from advface_jax import metrics
      >>> a = np.zeros((1, 32, 32, 3), "float32")
      >>> metrics.psnr(a, a + 0.1).round(2).tolist()
      [20.0]
    """
    return -10.0 * jnp.log10(jnp.maximum(mse(a, b), 10.0 ** (-PSNR_CAP / 10)))


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
        checks.unit_range(x)
    return jnp.asarray(a), jnp.asarray(b)
