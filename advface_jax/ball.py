"""The L∞ ball around z0, exact to the last bit: no float that is kept lies further than ε away.

z0 ± ε can round to a number more than ε from z0. Such a bound moves one float inwards, so that in
exact arithmetic, too, no difference exceeds ε.

``project`` has the derivative of a clip: that of z inside the ball, on its surface that of z0 ± ε.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax


@jax.custom_jvp
def project(z: jax.Array, z0: jax.Array, epsilon: jax.Array | float) -> jax.Array:
    """Π: the float nearest to z within ε of z0, element by element, in z0's dtype."""
    exact: jax.Array = jnp.asarray(epsilon, jnp.float32)
    # Together, or a loop would keep what is computed from z0 alone: as much memory again.
    z, z0, exact = lax.optimization_barrier((z, z0, exact))
    epsilon = exact.astype(z0.dtype)
    above = epsilon.astype(jnp.float32) > exact  # bfloat16 may have rounded ε itself upwards
    epsilon = jnp.where(above, jnp.nextafter(epsilon, jnp.zeros_like(epsilon)), epsilon)
    z = jnp.clip(z, z0 - epsilon, z0 + epsilon)
    away = z - z0
    beyond = jnp.abs(away) > epsilon
    beyond |= (jnp.abs(away) == epsilon) & (_lost(z, -z0, away) * away > 0)
    # The next float towards z0, by its bits: jnp.nextafter costs more, in every step.
    towards_zero = (away > 0) == (z > 0)
    bits = lax.bitcast_convert_type(z, f"int{8 * z.dtype.itemsize}")
    bits += jnp.where(beyond, jnp.where(towards_zero, -1, 1), 0).astype(bits.dtype)
    return lax.bitcast_convert_type(bits, z.dtype)


@project.defjvp
def _project_jvp(primals, tangents):
    (z, z0, epsilon), (dz, dz0, depsilon) = primals, tangents
    end = project(z, z0, epsilon)
    away = end - z0
    inside = (end == z) & (jnp.abs(away) < jnp.asarray(epsilon, z0.dtype))
    if jnp.issubdtype(jnp.result_type(epsilon), jnp.inexact):  # a whole number has no tangent
        dz0 = dz0 + jnp.sign(away) * jnp.asarray(depsilon, z0.dtype)
    return end, jnp.where(inside, dz, dz0)


def projection(z0: jax.Array, epsilon: jax.Array | float) -> Callable[[jax.Array], jax.Array]:
    """``project`` onto one ball, for a loop: z -> Π(z)."""
    if jax.default_backend() == "cpu":  # stored bounds would be a fifth of all memory
        return lambda z: project(z, z0, epsilon)
    bounds = [project(jnp.full_like(z0, end), z0, epsilon) for end in (-jnp.inf, jnp.inf)]
    return lambda z: jnp.clip(z, *bounds)


def _lost(a: jax.Array, b: jax.Array, total: jax.Array) -> jax.Array:
    """The rounding error of a + b, exactly (Knuth's TwoSum): a + b = total + lost."""
    b_kept = total - a
    return (a - (total - b_kept)) + (b - b_kept)
