"""Images as frequency channels: the block DCT that DuetFace, PartialFace and DCTDP share.

[0,1] → bilinear × 8, corners aligned → × 255 → JPEG's full-range YCbCr → - 128 → 8×8 orthonormal
DCT-II. Block (i, j) of the enlarged image belongs to pixel (i, j) of the image itself.

The transform is linear and separable, and a block's eight samples lie between pixels i - 1 and
i + 1. So it takes three multiplications for each axis, and neither the enlarged image (64 times
the size) nor a matrix product. The arithmetic is float32 at any matmul precision.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from advface_jax import checks

BLOCK = 8
CHANNELS = 3 * BLOCK * BLOCK
_Y = np.array([0.299, 0.587, 0.114])  # JFIF; Cb and Cr are scaled differences to Y
YCBCR = np.stack([_Y, (np.eye(3)[2] - _Y) / 1.772, (np.eye(3)[0] - _Y) / 1.402])
OFFSET = np.array([128.0, 0.0, 0.0])  # Cb's and Cr's own 128 is subtracted again


def block_dct(images: ArrayLike) -> jax.Array:
    """The 192 frequency channels of square images.

    Args:
      images: (b,n,n,3) RGB in [0,1], floating, b ≥ 1, any n ≥ 1.

    Returns:
      (b,n,n,192) of the images' dtype, computed in float32: channel 64 c + 8 u + v is coefficient
      (u, v), u down and v across, of colour c (Y, Cb, Cr). Y's first lies in [-1024, 1016].

    Raises:
      ValueError: a wrong shape or dtype, NaN, or values outside [0, 1].

    Source: DuetFace (Mi et al., ACM MM 2022); the released code of PartialFace and DCTDP has the
    same transform.

    Example:
      >>> import numpy as np
      >>> from advface_jax import defenses
      >>> defenses.block_dct(np.full((1, 8, 8, 3), 0.5, "float32")).shape
      (1, 8, 8, 192)
    """
    x = images if isinstance(images, jax.Array) else np.asarray(images)
    if x.ndim == 4 and x.shape[1] != x.shape[2]:
        raise ValueError(f"got images of shape {x.shape}; wanted square ones, (b, n, n, 3)")
    x = checks.images(x, x.shape[1] if x.ndim == 4 else 160)
    return _block_dct(x)


@jax.jit
def _block_dct(images: jax.Array) -> jax.Array:
    b, n = images.shape[:2]
    taps = jnp.asarray(_taps(n), jnp.float32)  # (3, n, 8)
    y = _colours(images.astype(jnp.float32), 255 * YCBCR) - _row(OFFSET)  # (b, n, n, 3)
    y = jnp.pad(y, ((0, 0), (1, 1), (1, 1), (0, 0)))  # the padding has weight 0

    def down(a: int) -> jax.Array:  # (b, n, n + 2, 3, 8)
        return y[:, a : a + n, :, :, None] * taps[a].reshape(1, n, 1, 1, BLOCK)

    def across(a: int) -> jax.Array:  # (b, n, n, 3, 8, 8)
        return rows[:, :, a : a + n, :, :, None] * taps[a].reshape(1, 1, n, 1, 1, BLOCK)

    rows = down(0) + down(1) + down(2)
    f = across(0) + across(1) + across(2)
    return f.reshape(b, n, n, CHANNELS).astype(images.dtype)


def to_rgb(y: jax.Array) -> jax.Array:
    """YCbCr (…,3) at 255, Cb and Cr about 0, to RGB at 1; not clipped."""
    return _colours(y, np.linalg.inv(255 * YCBCR))


def _colours(x: jax.Array, matrix: np.ndarray) -> jax.Array:
    """Each pixel's three colours times a 3×3 matrix, without a matmul's lower precision."""
    return sum((x[..., c : c + 1] * _row(matrix[:, c]) for c in range(3)), jnp.zeros_like(x))


def _row(three: np.ndarray) -> jax.Array:
    return jnp.asarray(three, jnp.float32).reshape(1, 1, 1, 3)


def _axis(n: int) -> np.ndarray:
    """Enlargement and DCT of one axis, float64 (n blocks, 8 frequencies, n pixels)."""
    o = np.arange(BLOCK * n)
    low, rest = np.divmod(o * (n - 1), BLOCK * n - 1)
    weight = rest / (BLOCK * n - 1)
    enlarge = np.zeros((BLOCK * n, n))
    enlarge[o, low] += 1 - weight
    enlarge[o, np.minimum(low + 1, n - 1)] += weight
    k, s = np.arange(BLOCK)[:, None], np.arange(BLOCK)[None]
    dct = np.cos(np.pi * (2 * s + 1) * k / (2 * BLOCK)) * np.sqrt(2 / BLOCK)
    dct[0] /= np.sqrt(2)
    return np.einsum("ks,isp->ikp", dct, enlarge.reshape(n, BLOCK, n))


@functools.lru_cache(maxsize=4)
def _taps(n: int) -> np.ndarray:
    """The weights of pixels i - 1, i, i + 1 in block i, (3, n, 8).

    All others are 0: block i begins at i (8n - 8)/(8n - 1) > i - 1 and ends before i + 1.
    """
    padded = np.pad(_axis(n), ((0, 0), (0, 0), (1, 1)))
    i = np.arange(n)
    return np.stack([padded[i, :, i + a] for a in range(3)])


@functools.lru_cache(maxsize=16)
def undo_axis(n: int, frequencies: tuple[int, ...]) -> np.ndarray:
    """The least-squares inverse of one axis from some of its frequencies.

    Returns:
      (n pixels, n blocks, frequencies), float64. Without frequency 0 only a constant is lost: the
      pixels have mean 0.
    """
    some = _axis(n)[:, list(frequencies)].reshape(-1, n)
    # Far above rounding, far below the smallest true singular value (1e-3 of the largest).
    return np.linalg.pinv(some, rcond=1e-9).reshape(n, n, -1)
