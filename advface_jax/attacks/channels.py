"""Images from stored frequency channels by linear algebra: no decoder, no training, no faces.

The transform that DuetFace, PartialFace and DCTDP share is linear and public, and enlarging by 8
before the block DCT writes every pixel down 64 times. DuetFace's server keeps 54 of each colour's
64 coefficients; the ten lowest stay with the client to hide the image. Yet the 54 determine the
image up to one additive constant a colour: a low frequency of the *image* is no low frequency of a
*block*. Its slope within each enlarged pixel, and the kink between two, appear in the high ones,
too weak to be seen but strong enough to invert the map. So the split gives no security against
reconstruction.

DCTDP adds Laplace noise to 63 of the 64. The attack averages it over blocks and colours, which
shows how weak the noise of the released default is. PartialFace keeps nine of 64, in a secret one
of 18 arrangements, and cannot be solved in this way.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from advface_jax import checks
from advface_jax.defenses import frequency
from advface_jax.defenses.channels import SERVER_CHANNELS

N = frequency.BLOCK
Lines = tuple[tuple[int, ...], tuple[int, ...]]


def solve_channels(
    stored: ArrayLike,
    present: Sequence[int] = SERVER_CHANNELS,
    mean: float | Sequence[float] | np.ndarray = 0.5,
) -> jax.Array:
    """Images from some of their frequency channels, up to a guessed constant a colour.

    A closed form. The stored (u, v) contain some whole rows (u fixed, each v) and whole columns;
    for DuetFace u = 4 … 7 and v = 6, 7. The map is inverted exactly along the whole axis, and up to
    a constant along the other: rows give the image but for the mean of each of its columns, columns
    give it but for the mean of each of its rows, and each gives the means that the other lacks. The
    means of R, G and B remain unknown: ``mean`` is the guess, moved as little as puts the image
    into [0,1]. An image with near-black and near-white pixels leaves no choice.

    Args:
      stored: (b,n,n,k), floating: what ``defenses.duetface`` or ``dctdp`` stores, any n ≥ 2.
      present: which of ``block_dct``'s 192 channels the k are, in their order.
      mean: the guess in [0, 1]: one number (mid grey), or (3,). The mean colour of public faces is
        much better than grey.

    Returns:
      (b,n,n,3) float32 in [0,1].

    Raises:
      ValueError: shapes or channel numbers that do not fit, NaN or inf, a mean outside [0, 1], or
        channels without a whole row and a whole column of each colour (as PartialFace's).

    Example:
      >>> import numpy as np
      >>> from advface_jax import attacks, defenses, metrics
      >>> image = np.linspace(0, 1, 160 * 160 * 3, dtype="float32").reshape(1, 160, 160, 3)
      >>> again = attacks.solve_channels(defenses.duetface()(image), mean=image.mean((0, 1, 2)))
      >>> bool(metrics.ssim(again, image)[0] > 0.99)
      True
    """
    numbers = tuple(int(i) for i in present)
    lines = _whole(numbers)
    f = stored if isinstance(stored, jax.Array) else np.asarray(stored)
    n = f.shape[1] if f.ndim == 4 else 160
    if n < 2:
        raise ValueError(f"got channels of shape {f.shape}; wanted two pixels or more across")
    f = checks.features(f, (n, n, len(numbers)))
    guess = np.asarray(mean, np.float32)
    if guess.shape not in ((), (3,)) or not ((guess >= 0) & (guess <= 1)).all():
        raise ValueError(f"got mean={mean}; wanted a brightness in [0, 1], or R, G and B")
    return _solve(f, jnp.asarray(np.broadcast_to(guess, (1, 1, 1, 3))), numbers, lines)


def _whole(present: tuple[int, ...]) -> Lines:
    """The u and the v whose eight channels are present in each colour."""
    if len(set(present)) != len(present) or not set(present) <= set(range(frequency.CHANNELS)):
        raise ValueError(
            f"got present={present}; wanted different numbers from 0 to {frequency.CHANNELS - 1}"
        )

    def whole(line: range) -> bool:  # of one colour's 64
        return all(N * N * colour + i in present for colour in range(3) for i in line)

    rows = tuple(u for u in range(N) if whole(range(N * u, N * u + N)))
    columns = tuple(v for v in range(N) if whole(range(v, N * N, N)))
    if not rows or not columns:
        raise ValueError(
            "got channels without a whole row (u fixed, all eight v) and a whole column; wanted "
            "both in each colour, as in DuetFace's 162 and DCTDP's 189"
        )
    return rows, columns


@functools.partial(jax.jit, static_argnames=("present", "lines"))
def _solve(f: jax.Array, mean: jax.Array, present: tuple[int, ...], lines: Lines) -> jax.Array:
    rows, columns = lines
    n, f = f.shape[1], f.astype(jnp.float32)
    where = {number: i for i, number in enumerate(present)}

    def some(us: tuple[int, ...], vs: tuple[int, ...]) -> jax.Array:  # (b, n, n, 3, u, v)
        at = [where[N * (N * c + u) + v] for c in range(3) for u in us for v in vs]
        return f[..., np.array(at)].reshape(*f.shape[:3], 3, len(us), len(vs))

    def undone(us: tuple[int, ...], vs: tuple[int, ...]) -> jax.Array:  # (b, n, n, 3)
        down, across = (jnp.asarray(frequency.undo_axis(n, x), jnp.float32) for x in (us, vs))
        y = jnp.einsum("qjv,bijcuv->biqcu", across, some(us, vs), precision=lax.Precision.HIGHEST)
        return jnp.einsum("piu,biqcu->bpqc", down, y, precision=lax.Precision.HIGHEST)

    every = tuple(range(N))
    by_rows, by_columns = undone(rows, every), undone(every, columns)
    # The side with more frequencies is the more exact.
    if len(rows) >= len(columns):
        y = by_rows - by_rows.mean(1, keepdims=True) + by_columns.mean(1, keepdims=True)
    else:
        y = by_columns - by_columns.mean(2, keepdims=True) + by_rows.mean(2, keepdims=True)
    x = frequency.to_rgb(y)
    x = x - x.mean((1, 2), keepdims=True)
    lowest, highest = x.min((1, 2), keepdims=True), x.max((1, 2), keepdims=True)
    # In [0,1] means -lowest ≤ constant ≤ 1 - highest; noise may cross the two.
    constant = jnp.clip(mean, -lowest, 1 - highest)
    constant = jnp.where(-lowest > 1 - highest, (1 - highest - lowest) / 2, constant)
    return jnp.clip(x + constant, 0, 1)
