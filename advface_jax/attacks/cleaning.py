"""What an attacker does to stored features before a network reads them. All need no training.

The closed form for pairs of stored and raw features is a stitch (``stitching.stitch``), too.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from advface_jax import checks


def clip(stored: jax.Array) -> jax.Array:
    """Without negative values, which no feature after a ReLU has.

    Example:
      >>> import jax.numpy as jnp
      >>> from advface_jax import attacks
      >>> attacks.cleaning.clip(jnp.array([-1.0, 2.0])).tolist()
      [0.0, 2.0]
    """
    return jnp.maximum(stored, 0)


def blur(deviation: float = 1.0) -> jax.tree_util.Partial:
    """A Gaussian blur over places, of this deviation in elements; edges are repeated.

    Example:
      >>> import jax.numpy as jnp
      >>> from advface_jax import attacks
      >>> attacks.cleaning.blur(1.0)(jnp.ones((1, 8, 8, 2))).shape
      (1, 8, 8, 2)
    """
    checks.above_zero(deviation=deviation)
    reach = int(np.ceil(3 * deviation))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    return jax.tree_util.Partial(_blur, jnp.asarray(weights / weights.sum(), jnp.float32))


def _blur(weights: jax.Array, stored: jax.Array) -> jax.Array:
    reach = len(weights) // 2
    for axis in (1, 2):
        n, pad = stored.shape[axis], [(0, 0)] * 4
        pad[axis] = (reach, reach)
        wide = jnp.pad(stored, pad, mode="edge")
        parts = (w * lax.slice_in_dim(wide, i, i + n, axis=axis) for i, w in enumerate(weights))
        stored = sum(parts, jnp.zeros_like(stored))
    return stored
