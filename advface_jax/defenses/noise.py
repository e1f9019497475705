"""Baselines on the feature: nothing, random steps (``ball``, ``walk``), Laplace noise.

None of them is aimed at a decoder, and none hides a face: white noise averages out in S and R.
"""

from __future__ import annotations

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from advface_jax import checks, gradient
from advface_jax.defenses.defense import Defense

STEPS = 40  # the paper's, section 5.1.3


def none() -> Defense:
    """No defence: the server stores z itself, the row "Unprotected" of Table 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from advface_jax import defenses
      >>> defenses.none()(jnp.ones((1, 4))).tolist()
      [[1.0, 1.0, 1.0, 1.0]]
    """
    return Defense("Unprotected", _unchanged)


def ball(steps: int = STEPS) -> Defense:
    """Random perturbation that stays within ε of z: |stored - z| ≤ ε, exactly.

    z_0 = z, z_{t+1} = Π(z_t + u_t), u_t uniform in [-ε, ε), Π the projection on the L∞ ball around
    z. One step is uniform in the ball, with deviation 0.58 ε; after 40 a third of the elements lies
    on its surface, and the deviation is 0.72 ε.

    Of the two readings of "Random Perturbation" (section 5.1.3: 40 iterations, bound 0.2) this one
    keeps the paper's accuracy; ``walk`` is the other. White noise does not give the paper's row.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from advface_jax import defenses
      >>> z = jnp.ones((2, 100))
      >>> stored = defenses.ball()(z, key=jax.random.key(0), epsilon=0.2)
      >>> bool((abs(stored - z) <= 0.2).all())
      True
    """
    return _random("Random (ball)", "total", steps)


def walk(steps: int = STEPS) -> Defense:
    """Random perturbation whose single steps are bounded by ε, and their sum is not.

    z_{t+1} = z_t + u_t, u_t uniform in [-ε, ε): after 40 steps nearly normal noise of deviation
    ε sqrt(40/3) = 3.65 ε, which harms recognition. Section 5.1.3, read literally.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from advface_jax import defenses
      >>> z = jnp.ones((2, 1000))
      >>> stored = defenses.walk()(z, key=jax.random.key(0), epsilon=0.2)
      >>> round(float((stored - z).std()), 1)  # 3.65 ε
      0.7
    """
    return _random("Random (walk)", "step", steps)


def _random(name: str, bound: Literal["total", "step"], steps: int) -> Defense:
    checks.positive(steps=steps)
    return Defense(name, _random_steps, (bound, int(steps)), takes_key=True, takes_epsilon=True)


def laplace(budget: float = 1.0) -> Defense:
    """Laplace noise of scale ε / budget on every element of z: **no differential privacy**.

    The paper's "DP" (section 5.1.3: budget 1.0, "the same noise bound") states no sensitivity. With
    ε = 0.2 as the sensitivity the scale is 0.2 and the deviation 0.28. But E has no sensitivity
    bounded by ε, so nothing is guaranteed; and the noise has no bound: its mean magnitude is
    ε / budget.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from advface_jax import defenses
      >>> z = jnp.ones((2, 1000))
      >>> stored = defenses.laplace()(z, key=jax.random.key(0), epsilon=0.2)
      >>> round(float(abs(stored - z).mean()), 1)
      0.2
    """
    checks.above_zero(budget=budget)
    return Defense("Laplace", _laplace, float(budget), takes_key=True, takes_epsilon=True)


def _unchanged(z, keys, epsilon, mask, settings, networks):
    return z


@functools.partial(jax.jit, static_argnames="settings")
def _random_steps(z, keys, epsilon, mask, settings: tuple[Literal["total", "step"], int], networks):
    bound, steps = settings

    def step(t: jax.Array, noise: jax.Array) -> jax.Array:
        def draw(key: jax.Array) -> jax.Array:
            key = jax.random.fold_in(key, t)
            return jax.random.uniform(key, z.shape[1:], jnp.float32, minval=-1.0)

        noise = noise + epsilon * jax.vmap(draw)(keys)  # (b, …)
        return jnp.clip(noise, -epsilon, epsilon) if bound == "total" else noise

    noise = lax.fori_loop(0, steps, step, jnp.zeros(z.shape, jnp.float32))
    stored = (z.astype(jnp.float32) + noise).astype(z.dtype)
    return gradient.project(stored, z, epsilon) if bound == "total" else stored


@functools.partial(jax.jit, static_argnames="settings")
def _laplace(z, keys, epsilon, mask, settings: float, networks):
    noise = jax.vmap(lambda key: jax.random.laplace(key, z.shape[1:]))(keys)
    return (z.astype(jnp.float32) + epsilon / settings * noise).astype(z.dtype)
