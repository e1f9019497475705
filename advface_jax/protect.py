"""AdvFace: features that a decoder no longer turns into faces (paper, section 4).

The server has the extractor E and its shadow decoder S. From the client's z it rebuilds the shadow
image x~ = S(z), re-extracts z~ = E(x~), and ascends from z~ on ‖S(·) - x~‖₁ within ε. All of this
is one compiled program for one batch shape and every ε.

AdvFace does not protect against an adaptive attacker, who trains on protected features (README).
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from advface_jax import checks, gradient

Extractor = Callable[[jax.Array], jax.Array]
Decoder = Callable[..., jax.Array]
STATISTICS = ("batch", "running", "example")
STARTS = ("z_tilde", "z")
FORMULATIONS = ("auto", "plain", "packed", "subpixel")
NUDGE = 0.01
"""With start="z", how far from z the ascent begins, in ε: at z itself the gradient is zero."""


@dataclasses.dataclass(frozen=True)
class ProtectConfig(gradient.PGDConfig):
    """The paper's protection (section 4.2): 40 steps of PGD with α = 0.2, S on batch statistics.

    Attributes (beside those of ``PGDConfig``):
      method: "pgd", "mifgsm", or "fgsm": one step of size ε, whatever steps, alpha and bound say.
      statistics: the mean and variance of S's batch norm. "batch": of the protected batch, so that
        a face's result depends on the others in it (the paper's choice); "running": stored in S's
        training; "example": each face's own.
      start: where the ascent begins, and the centre of the bound. "z_tilde": z~ = E(S(z)) (the
        paper's choice); "z": the client's z. Since x~ = S(z), the gradient at z itself is zero but
        for rounding, so the ascent begins ε/100 away in every element, with fixed random signs
        that are the same for every face and call. (Half precision rounds that away where z is
        large.)
      formulation: how S is computed in the loop; all are equal but for rounding. "plain": layer by
        layer; "subpixel": the last layer makes four pixels at a time and multiplies no zeros;
        "packed": all layers do, over maps that fill a TPU's matrix unit (``models.fast.packed``);
        "auto": packed on a TPU, subpixel on a CPU, plain elsewhere.
    """

    method: Literal["pgd", "fgsm", "mifgsm"] = "pgd"
    statistics: Literal["batch", "running", "example"] = "batch"
    start: Literal["z_tilde", "z"] = "z_tilde"
    formulation: Literal["auto", "plain", "packed", "subpixel"] = "auto"

    def __post_init__(self):
        super().__post_init__()
        checks.choice(self.method, "method", ("pgd", "fgsm", "mifgsm"))
        checks.choice(self.statistics, "statistics", STATISTICS)
        checks.choice(self.start, "start", STARTS)
        checks.choice(self.formulation, "formulation", FORMULATIONS)


def protect(
    z: ArrayLike,
    *,
    extractor: Extractor,
    shadow: Decoder,
    epsilon: ArrayLike = 0.2,
    config: ProtectConfig = ProtectConfig(),
    mask: ArrayLike | None = None,
) -> jax.Array:
    """Adversarial features z_adv for the client's features z (Eq. 4-6).

    Args:
      z: features (b,77,77,64), floating, finite, b ≥ 1.
      extractor: E, as ``advface_jax.load(…).extractor``.
      shadow: S, as ``advface_jax.load(…).shadow``.
      epsilon: the bound on |z_adv - z~|, a scalar ≥ 0 in units of z (paper: 0.2).
      config: steps, step size, reading of the bound, method, batch statistics, start.
      mask: (b,) with 0 for padding, which then influences no other item; ignore its rows of the
        result.

    Returns:
      z_adv (b,77,77,64), of z's dtype. With ``bound="total"`` no element is further than ε from
      z~ = E(S(z)), or from z with ``start="z"``; ε = 0 returns that centre.

    Raises:
      ValueError: for another shape or dtype, NaN or inf, an empty batch, ε < 0, a mask that does
        not fit, or an extractor and a decoder that do not fit z or each other.
    """
    z, mask = _checked(z, mask, extractor, shadow)
    return _protect(z, checks.epsilon(epsilon), mask, extractor, shadow, config)


def protect_sweep(
    z: ArrayLike,
    epsilons: Sequence[float] | ArrayLike,
    *,
    extractor: Extractor,
    shadow: Decoder,
    config: ProtectConfig = ProtectConfig(),
    mask: ArrayLike | None = None,
) -> jax.Array:
    """``protect`` at several ε, with one shadow round trip: (n_ε, b, 77, 77, 64).

    One compiled program serves all lists of this length. On a CPU it computes one ε after the
    other, as fast as all together in a fifth of the memory; elsewhere all together.

    Arguments and errors as for ``protect``; ``epsilons`` has one ε or more.
    """
    z, mask = _checked(z, mask, extractor, shadow)
    return _sweep(z, checks.epsilons(epsilons), mask, extractor, shadow, config)


def lowered(
    z: jax.Array | jax.ShapeDtypeStruct,
    epsilon: ArrayLike,
    *,
    extractor: Extractor,
    shadow: Decoder,
    config: ProtectConfig = ProtectConfig(),
    mask: jax.Array | jax.ShapeDtypeStruct | None = None,
) -> jax.stages.Lowered:
    """The program of ``protect``, or of ``protect_sweep`` for several ε, before compilation: for
    its memory, cost or text. Once compiled here, a call does not compile it again.

    z and mask may be shapes without values; arguments are not checked.
    """
    bound = jnp.asarray(epsilon, jnp.float32)
    program = _sweep if bound.ndim else _protect
    return program.lower(z, bound, mask, extractor, shadow, config)


def shadow_round_trip(
    z: ArrayLike,
    *,
    extractor: Extractor,
    shadow: Decoder,
    statistics: Literal["batch", "running", "example"] = "batch",
    mask: ArrayLike | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The shadow image x~ = S(z) (b,160,160,3) and the shadow feature z~ = E(x~) (b,77,77,64)
    (Eq. 4). Arguments and errors as for ``protect``."""
    checks.choice(statistics, "statistics", STATISTICS)
    z, mask = _checked(z, mask, extractor, shadow)
    return _jitted_round_trip(z, mask, extractor, shadow, statistics)


def _checked(z: ArrayLike, mask: ArrayLike | None, extractor: Extractor, shadow: Decoder):
    z = checks.features(z)
    for name, model in (("extractor", extractor), ("shadow", shadow)):
        strange = [x for x in jax.tree.leaves(model) if not isinstance(x, (jax.Array, np.ndarray))]
        if strange:
            raise ValueError(
                f"got {name}={strange[0]!r}; wanted a Flax NNX module: the arrays of a plain "
                "function would be constants in the compiled program"
            )
    leaves, structure = jax.tree.flatten((extractor, shadow))
    shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (z, *leaves))
    try:
        found = _round_trip_shape(structure, shapes)
        got = f"E(S(z)) of shape {found}"
        fits = found == z.shape
    except (TypeError, ValueError) as error:
        got, fits = f"({error})", False
    if not fits:
        raise ValueError(
            f"the extractor and the decoder do not fit z of shape {z.shape}: got {got}; wanted "
            "z's own shape: take both from one advface_jax.load(…)"
        )
    return z, checks.mask(mask, z.shape[0])


@functools.lru_cache(maxsize=64)  # tracing E and S at every call would take 8 ms
def _round_trip_shape(structure: Any, shapes: tuple[jax.ShapeDtypeStruct, ...]) -> tuple[int, ...]:
    """The shape of E(S(z)), from the shapes of z and of both networks' arrays."""

    def again(z: jax.Array, *leaves: jax.Array) -> jax.Array:
        extractor, shadow = jax.tree.unflatten(structure, leaves)
        return _round_trip(z, None, extractor, shadow, "batch")[1]

    return jax.eval_shape(again, *shapes).shape


def _round_trip(z, mask, extractor, shadow, statistics):
    x_tilde = shadow(z, statistics, mask)  # (b, 160, 160, 3)
    return x_tilde, extractor(x_tilde)  # (b, 77, 77, 64)


_jitted_round_trip = jax.jit(_round_trip, static_argnums=4)


def ascent(
    shadow: Decoder, x_tilde: jax.Array, statistics: str, mask: jax.Array | None
) -> Callable[[jax.Array], jax.Array]:
    """q -> ∇ ‖S(q) - x~‖₁ (Eq. 5), zero in padding; traceable, and checks nothing."""

    def gradient_at(q: jax.Array) -> jax.Array:
        # The derivative of |·| is its sign, so the loss itself is not needed.
        image, vjp = jax.vjp(lambda q: shadow(q, statistics, mask), q)
        residual = jax.tree.map(lambda a, b: jnp.sign(a - b), image, x_tilde)
        if mask is not None:
            weight = mask.astype(q.dtype)[:, None, None, None]
            residual = jax.tree.map(lambda r: r * weight, residual)
        return vjp(residual)[0]

    return gradient_at


def _attack(z, mask, extractor, shadow, config) -> Callable[[jax.Array], jax.Array]:
    """The round trip, and then ε -> z_adv."""
    from advface_jax.models.fast import packed_decoders  # needs Flax, which is slow to import

    form = packed_decoders.form(shadow, config.formulation, z.dtype)
    x_tilde = form.decode(form.pack(z), config.statistics, mask)
    uphill = ascent(form.decode, x_tilde, config.statistics, mask)
    centre = form.pack(extractor(form.image(x_tilde)) if config.start == "z_tilde" else z)

    def begin(epsilon: jax.Array) -> jax.Array | None:
        if config.start == "z_tilde":
            return None
        signs = jax.random.rademacher(jax.random.key(0), z.shape[1:], z.dtype)
        return centre + (NUDGE * epsilon).astype(z.dtype) * form.pack(signs[None])

    def attack(epsilon: jax.Array) -> jax.Array:
        if config.method == "fgsm":
            return gradient.fgsm(uphill, centre, epsilon, begin(epsilon))
        method = gradient.pgd if config.method == "pgd" else gradient.mifgsm
        return method(uphill, centre, epsilon, config, begin(epsilon))

    return lambda epsilon: form.unpack(attack(epsilon))


@functools.partial(jax.jit, static_argnames="config")
def _protect(z, epsilon, mask, extractor, shadow, config):
    return _attack(z, mask, extractor, shadow, config)(epsilon)


@functools.partial(jax.jit, static_argnames="config")
def _sweep(z, epsilons, mask, extractor, shadow, config):
    attack = _attack(z, mask, extractor, shadow, config)
    if jax.default_backend() == "cpu":
        return lax.map(attack, epsilons)
    return jax.vmap(attack)(epsilons)
