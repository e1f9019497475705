"""Gradient-sign ascent within an L∞ bound: PGD, FGSM and MI-FGSM over any array and any loss.

Everything here is traceable: ``epsilon`` may be a tracer, so one compilation serves every bound.

All three have a derivative, forward and backward: the exact one of their arithmetic. Signs are
constant almost everywhere, so the steps pass nothing on; an element inside the ball has the
derivative of z0 (or ``start``) plus that of its steps' size, one on its surface that of z0 ± ε.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from advface_jax import checks
from advface_jax.ball import project, projection

Objective = Callable[[jax.Array], jax.Array]
"""A loss to increase, z -> scalar; or its gradient, z -> array of z's shape. The shape that it
returns decides which of the two it is."""


@dataclasses.dataclass(frozen=True)
class PGDConfig:
    """How to ascend. Hashable: it is a static argument of the compiled program.

    Attributes:
      steps: iterations, 1 or more (paper: 40).
      alpha: step size, in units of z (paper: 0.2). ``None`` takes ε/10.
      bound: "total" keeps the whole perturbation within ε (Eq. 2, the reading under which the
        paper's figures make sense); "step" bounds each step alone, as Eq. 6 literally says.
      momentum: MI-FGSM's decay of the accumulated gradient; PGD and FGSM do not use it.

    Example:
      >>> from advface_jax import PGDConfig
      >>> PGDConfig(steps=10, alpha=None).bound
      'total'
    """

    steps: int = 40
    alpha: float | None = 0.2
    bound: Literal["total", "step"] = "total"
    momentum: float = 1.0

    def __post_init__(self):
        object.__setattr__(self, "steps", checks.whole("steps", self.steps))
        for name in ("alpha", "momentum"):  # NumPy's and JAX's scalars cannot be hashed
            object.__setattr__(self, name, checks.plain(getattr(self, name)))
        if self.alpha is not None and not 0 < self.alpha < math.inf:
            raise ValueError(f"got alpha={self.alpha}; wanted a positive step, or None for ε/10")
        if not 0 <= self.momentum < math.inf:
            raise ValueError(f"got momentum={self.momentum}; wanted 0 or more")
        checks.choice(self.bound, "bound", ("total", "step"))


def pgd(
    loss_or_vjp: Objective,
    z0: jax.Array,
    epsilon: jax.Array | float,
    config: PGDConfig = PGDConfig(),
    start: jax.Array | None = None,
) -> jax.Array:
    """Projected gradient ascent by signs (Madry et al. 2018; the paper's Eq. 5-6).

    z_{t+1} = Π(z_t + α sign ∇L(z_t)), where Π keeps every coordinate within ε of z0, exactly so
    after float rounding too. ε = 0 returns z0. Outside a ``jax.jit`` each call compiles anew, here,
    in ``fgsm`` and in ``mifgsm``: put calls that repeat into one, as below.

    Args:
      loss_or_vjp: the loss to increase (returns a scalar) or its gradient (returns z's shape).
      z0: centre of the ball, and where the ascent starts; any shape, floating.
      epsilon: radius of the ball, a scalar ≥ 0; may be traced.
      config: steps, step size and reading of the bound; or a dict of them.
      start: another start, of z0's shape and dtype, first moved to the nearest point of the ball.
        With bound "total" m steps from the result of n are n + m steps.

    Returns:
      z with z0's shape and dtype.

    Raises:
      ValueError: when ``loss_or_vjp`` returns neither a scalar nor an array of z0's shape, z0 is
        no floating array, or ε is negative or not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> from advface_jax import PGDConfig, pgd
      >>> z = jnp.asarray([[1.0, -2.0]])
      >>> pgd(lambda z: (z**2).sum(), z, 0.5, PGDConfig(steps=3)).tolist()
      [[1.5, -2.5]]
      >>> import jax
      >>> ascend = jax.jit(lambda z, ε: pgd(lambda z: (z**2).sum(), z, ε, PGDConfig(steps=3)))
      >>> [ascend(z, ε).tolist() for ε in (0.0, 0.5)]  # compiled once
      [[[1.0, -2.0]], [[1.5, -2.5]]]
    """
    config = checks.config(config, PGDConfig)
    gradient = _gradient(loss_or_vjp, z0, epsilon)
    advance = _advance(z0, epsilon, config)
    first = _start(z0, epsilon, start)
    return lax.fori_loop(0, config.steps, lambda _, z: advance(z, gradient(z)), first)


def fgsm(
    loss_or_vjp: Objective,
    z0: jax.Array,
    epsilon: jax.Array | float,
    start: jax.Array | None = None,
) -> jax.Array:
    """The fast gradient sign method: one step of size ε (Goodfellow et al. 2015).

    Arguments, result and errors as for ``pgd``.

    Example:
      >>> import jax.numpy as jnp
      >>> from advface_jax import fgsm
      >>> fgsm(lambda z: (z**2).sum(), jnp.asarray([[1.0, -2.0]]), 0.5).tolist()
      [[1.5, -2.5]]
    """
    gradient = _gradient(loss_or_vjp, z0, epsilon)
    first = _start(z0, epsilon, start)
    step = jnp.asarray(epsilon, z0.dtype) * jnp.sign(gradient(first))
    return project(first + step, z0, epsilon)


def mifgsm(
    loss_or_vjp: Objective,
    z0: jax.Array,
    epsilon: jax.Array | float,
    config: PGDConfig = PGDConfig(),
    start: jax.Array | None = None,
) -> jax.Array:
    """PGD along a running sum of gradients, each scaled to mean magnitude 1 per item
    (MI-FGSM, Dong et al. 2018, Eq. 6-7, with the config's α and bound).

    Arguments, result and errors as for ``pgd``; the first axis of z0 counts items.

    Example:
      >>> import jax.numpy as jnp
      >>> from advface_jax import PGDConfig, mifgsm
      >>> z = jnp.asarray([[1.0, -2.0]])
      >>> mifgsm(lambda z: (z**2).sum(), z, 0.5, PGDConfig(steps=3, momentum=0.9)).tolist()
      [[1.5, -2.5]]
    """
    config = checks.config(config, PGDConfig)
    gradient = _gradient(loss_or_vjp, z0, epsilon)
    advance = _advance(z0, epsilon, config)

    def step(_, carry):
        z, velocity = carry
        g = gradient(z)
        magnitude = jnp.abs(g).mean(tuple(range(1, g.ndim)), keepdims=True)
        smallest = jnp.finfo(g.dtype).tiny
        velocity = config.momentum * velocity + g / jnp.maximum(magnitude, smallest)
        return advance(z, velocity), velocity

    first = _start(z0, epsilon, start)
    return lax.fori_loop(0, config.steps, step, (first, jnp.zeros_like(z0)))[0]


def _advance(
    z0: jax.Array, epsilon: jax.Array | float, config: PGDConfig
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """One step: (z, direction) -> Π(z + α sign(direction)) (Eq. 6)."""
    rounded = jnp.asarray(epsilon, z0.dtype)
    alpha = rounded / 10 if config.alpha is None else jnp.asarray(config.alpha, z0.dtype)
    if config.bound == "step":
        return lambda z, direction: z + jnp.minimum(alpha, rounded) * jnp.sign(direction)
    onto_ball = projection(z0, epsilon)
    return lambda z, direction: onto_ball(z + alpha * jnp.sign(direction))


def _start(z0: jax.Array, epsilon: jax.Array | float, start: jax.Array | None) -> jax.Array:
    """Where the ascent begins: z0 itself, or the ball's nearest point to ``start``."""
    if start is None:
        return z0
    if getattr(start, "shape", None) != z0.shape or start.dtype != z0.dtype:
        raise ValueError(
            f"got a start of shape {getattr(start, 'shape', None)} and dtype "
            f"{getattr(start, 'dtype', 'none')}; wanted those of z0, {z0.shape} and {z0.dtype}"
        )
    return project(start, z0, epsilon)


def _gradient(loss_or_vjp: Objective, z0: jax.Array, epsilon: jax.Array | float) -> Objective:
    """z -> ∇L(z), from either kind of ``Objective``; checks the arguments of an ascent."""
    checks.bound(epsilon)
    if not isinstance(z0, jax.Array) or not jnp.issubdtype(z0.dtype, jnp.floating):
        raise ValueError(
            f"got z0 of type {type(z0).__name__} and dtype {getattr(z0, 'dtype', 'none')}; wanted "
            "a floating jax array: use jnp.asarray(z0, 'float32')"
        )
    result = jax.eval_shape(loss_or_vjp, z0)
    if result.shape == z0.shape and z0.ndim:
        uphill = loss_or_vjp
    elif result.shape == ():
        uphill = jax.grad(lambda z: loss_or_vjp(z))
    else:
        uphill = None
    if uphill is not None:
        # Its sign has no derivative, so none of its own is taken: that would cost a second order.
        return lambda z: lax.stop_gradient(uphill(lax.stop_gradient(z)))
    raise ValueError(
        f"the objective returned shape {result.shape} for z of shape {z0.shape}; wanted a scalar "
        "loss, or a gradient of z's shape"
    )
