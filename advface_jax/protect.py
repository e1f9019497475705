"""AdvFace: features that a decoder no longer turns into faces (paper, section 4).

The server has the extractor E and its shadow decoder S. From the client's z it rebuilds the shadow
image x~ = S(z), re-extracts z~ = E(x~), and ascends from z~ on ‖S(·) - x~‖₁ within ε. All of this
is one compiled program for one batch shape and every ε.

E and S may be any recogniser's: Flax NNX modules, Linen modules with their variables, other
callable pytrees (Equinox), functions. docs/own-recogniser.md has an example.

AdvFace protects a picture against a decoder that does not expect it. It does not protect against an
adaptive attacker, nor an identity against another public recogniser (README, docs/attacks.md).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec
from jax.typing import ArrayLike

from advface_jax import checks, gradient, networks, sharding

Extractor = Callable[[jax.Array], jax.Array]
Decoder = Callable[..., jax.Array]
LinenPair = tuple[Any, Mapping[str, Any]]
"""A Linen module and its variables, in the place of either."""
STATISTICS = ("batch", "running", "example")
STARTS = ("z_tilde", "z")
FORMULATIONS = ("auto", "plain", "packed", "subpixel")
NUDGE = 0.01
"""With start="z", how far from z the ascent begins, in ε: at z itself the gradient is zero."""


@dataclasses.dataclass(frozen=True)
class ProtectConfig(gradient.PGDConfig):
    """The paper's protection (section 4.2): 40 steps of PGD with α = 0.2, S on batch statistics.

    Beside the attributes of ``PGDConfig``:

    Attributes:
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
        "auto": packed on a TPU and in half precision on a GPU, subpixel on a CPU, else plain.

    Example:
      >>> from advface_jax import ProtectConfig
      >>> ProtectConfig(steps=10, statistics="example").alpha
      0.2
      >>> ProtectConfig.fast().steps
      3
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

    @classmethod
    def fast(cls) -> ProtectConfig:
        """The paper's, but three steps instead of forty, for much to protect.

        On 1,000 LFW pairs at ε = 0.2 they hide as much: SSIM .288 instead of .328, replayed
        pictures accepted 18.0 instead of 16.1 %, ACC 98.6 instead of 98.8 % (docs/performance.md).
        """
        return cls(steps=3)


PAPER = ProtectConfig()


def protect(
    z: ArrayLike,
    *,
    extractor: Extractor | LinenPair,
    shadow: Decoder | LinenPair,
    epsilon: ArrayLike = 0.2,
    config: ProtectConfig | Mapping[str, Any] = PAPER,
    mask: ArrayLike | None = None,
) -> jax.Array:
    """Adversarial features z_adv for the client's features z (Eq. 4-6).

    They hide the picture from a decoder trained on unprotected features, and from nobody else. On
    1,043 LFW faces at ε = 0.2 another public recogniser, stitched on with 60 public faces, reads
    the identities (rank 1 .98, TAR at FAR 1e-2 .99), and a linear map learnt on 60 protected faces
    gives a decoder the pictures back (SSIM .87, .33 without; docs/attacks.md). Against theft of the
    database alone encryption at rest protects.

    The derivative is the exact one of this arithmetic (``advface_jax.gradient``): to z it is that
    of z~ = E(S(z)), since the signs of the ascent are constant almost everywhere. ``jax.grad`` and
    ``jax.vjp`` work for all networks; ``jax.jvp`` where E and S have a forward derivative, which
    this package's own, made for training, have not.

    Args:
      z: features (b, …), floating, finite, b ≥ 1; FaceNet's are (b,77,77,64). Sharded arrays stay
        sharded.
      extractor: E, images -> z, as ``advface_jax.load(…).extractor``. A Flax NNX module, a pair
        (Linen module, variables), any callable pytree (Equinox, ``jax.tree_util.Partial``), or a
        function; a function's own arrays become constants of the compiled program, which is
        compiled anew for every new function.
      shadow: S, z -> images that E takes, as ``advface_jax.load(…).shadow``; of the same kinds. It
        is called as S(z), or, if it has parameters of these names, as S(z, statistics=…, mask=…).
      epsilon: the bound on |z_adv - z~|, a scalar ≥ 0 in units of z (paper: 0.2).
      config: steps, step size, reading of the bound, method, batch statistics, start; or a dict of
        them. Every new config compiles anew.
      mask: (b,) with 0 for padding, which then influences no other item; ignore its rows of the
        result. (A decoder without ``mask`` must treat each item by itself.)

    Returns:
      z_adv, of z's shape and dtype. With ``bound="total"`` no element is further than ε from
      z~ = E(S(z)), or from z with ``start="z"``; ε = 0 returns that centre.

    Raises:
      ValueError: for another shape or dtype, NaN or inf, an empty batch, ε < 0, a mask that does
        not fit, or an extractor and a decoder that do not fit z or each other.

    Example:
      >>> import jax.numpy as jnp
      >>> import advface_jax
      >>> E, S = (lambda x: 2 * x), (lambda z: z / 2 + 0.01 * z**2)  # any networks
      >>> z = jnp.ones((3, 4))  # three features
      >>> z_adv = advface_jax.protect(z, extractor=E, shadow=S, epsilon=0.2)
      >>> _, z_tilde = advface_jax.shadow_round_trip(z, extractor=E, shadow=S)
      >>> bool((abs(z_adv - z_tilde) <= 0.2).all()), bool((z_adv != z_tilde).all())
      (True, True)
    """
    z, mask, extractor, shadow, config = _checked(z, mask, extractor, shadow, config)
    return _run(_protect, z, checks.epsilon(epsilon), mask, extractor, shadow, config)


def protect_sweep(
    z: ArrayLike,
    epsilons: Sequence[float] | ArrayLike,
    *,
    extractor: Extractor | LinenPair,
    shadow: Decoder | LinenPair,
    config: ProtectConfig | Mapping[str, Any] = PAPER,
    mask: ArrayLike | None = None,
) -> jax.Array:
    """``protect`` at several ε, with one shadow round trip: (n_ε, *z.shape).

    One compiled program serves all lists of this length. On a CPU it computes one ε after the
    other, as fast as all together in a fifth of the memory; elsewhere all together.

    Arguments and errors as for ``protect``; ``epsilons`` has one ε or more.

    Example:
      >>> import jax.numpy as jnp
      >>> import advface_jax
      >>> E, S = (lambda x: 2 * x), (lambda z: z / 2 + 0.01 * z**2)  # any networks
      >>> z = jnp.ones((3, 4))  # three features
      >>> advface_jax.protect_sweep(z, [0, 0.1, 0.2], extractor=E, shadow=S).shape
      (3, 3, 4)
    """
    z, mask, extractor, shadow, config = _checked(z, mask, extractor, shadow, config)
    return _run(_sweep, z, checks.epsilons(epsilons), mask, extractor, shadow, config)


def lowered(
    z: jax.Array | jax.ShapeDtypeStruct,
    epsilon: ArrayLike,
    *,
    extractor: Extractor | LinenPair,
    shadow: Decoder | LinenPair,
    config: ProtectConfig | Mapping[str, Any] = PAPER,
    mask: jax.Array | jax.ShapeDtypeStruct | None = None,
) -> jax.stages.Lowered:
    """The program of ``protect``, or of ``protect_sweep`` for several ε, before compilation: for
    its memory, cost or text. Once compiled here, a call does not compile it again.

    z and mask may be shapes without values; arguments are not checked.
    """
    bound = jnp.asarray(epsilon, jnp.float32)
    program = _sweep if bound.ndim else _protect
    extractor, shadow = _networks(extractor, shadow)
    config = checks.config(config, ProtectConfig)
    return program.lower(z, bound, mask, extractor, shadow, config)


def shadow_round_trip(
    z: ArrayLike,
    *,
    extractor: Extractor | LinenPair,
    shadow: Decoder | LinenPair,
    statistics: Literal["batch", "running", "example"] = "batch",
    mask: ArrayLike | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The shadow image x~ = S(z) and the shadow feature z~ = E(x~), of z's shape (Eq. 4).

    Arguments and errors as for ``protect``.

    Example:
      >>> import jax.numpy as jnp
      >>> import advface_jax
      >>> E, S = (lambda x: 2 * x), (lambda z: z / 2 + 0.01 * z**2)  # any networks
      >>> z = jnp.ones((3, 4))  # three features
      >>> x_tilde, z_tilde = advface_jax.shadow_round_trip(z, extractor=E, shadow=S)
      >>> x_tilde.shape, z_tilde.shape
      ((3, 4), (3, 4))
    """
    checks.choice(statistics, "statistics", STATISTICS)
    config = ProtectConfig(statistics=statistics)
    z, mask, extractor, shadow, _ = _checked(z, mask, extractor, shadow, config)
    return _run(_round_trip, z, mask, extractor, shadow, statistics)


def _networks(extractor: Any, shadow: Any) -> tuple[Extractor, Decoder]:
    return networks.network(extractor, "extractor"), networks.network(shadow, "shadow")


def _checked(z: ArrayLike, mask: ArrayLike | None, extractor: Any, shadow: Any, config: Any):
    config = checks.config(config, ProtectConfig)
    extractor, shadow = _networks(extractor, shadow)
    z = checks.features(z, getattr(shadow, "takes", None))
    if config.statistics != "batch" and not networks.takes_statistics(shadow):
        raise ValueError(
            f"got statistics={config.statistics!r} for a decoder that has no such parameter; "
            "wanted 'batch', the default, which is then without effect"
        )
    leaves, structure = jax.tree.flatten((extractor, shadow))
    shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (z, *leaves))
    networks.check_fit(structure, shapes)
    return z, checks.mask(mask, z.shape[0]), extractor, shadow, config


def _run(program: Callable[..., Any], z: jax.Array, *arguments: Any) -> Any:
    try:
        return program(z, *arguments)
    except TypeError as error:
        if "forward-mode" not in str(error):
            raise
        raise ValueError(
            "got a forward derivative (jax.jvp, jax.jacfwd, jax.linearize) of networks that have "
            "only a backward one; wanted jax.grad, jax.vjp or jax.jacrev"
        ) from error


@functools.partial(jax.jit, static_argnames="statistics")
def _round_trip(z, mask, extractor, shadow, statistics):
    def again(z, mask, extractor, shadow):
        x_tilde = networks.decoder(shadow)(z, statistics, mask)
        return x_tilde, extractor(x_tilde)

    both = sharding.automatic(again, lambda spec: PartitionSpec(spec[0]), lambda spec: spec)
    return both(z, mask, extractor, shadow)


def ascent(
    shadow: Decoder, x_tilde: jax.Array, statistics: str, mask: jax.Array | None
) -> Callable[[jax.Array], jax.Array]:
    """q -> ∇ ‖S(q) - x~‖₁ (Eq. 5), zero in padding; traceable, and checks nothing."""

    def gradient_at(q: jax.Array) -> jax.Array:
        # The derivative of |·| is its sign, so the loss itself is not needed.
        image, vjp = jax.vjp(lambda q: shadow(q, statistics, mask), q)
        residual = jax.tree.map(lambda a, b: jnp.sign(a - b), image, x_tilde)
        if mask is not None:
            residual = jax.tree.map(functools.partial(_without_padding, mask), residual)
        return vjp(residual)[0]

    return gradient_at


def _without_padding(mask: jax.Array, items: jax.Array) -> jax.Array:
    return items * mask.astype(items.dtype).reshape(-1, *[1] * (items.ndim - 1))


def _attack(z, mask, extractor, shadow, config) -> Callable[[jax.Array], jax.Array]:
    """The round trip, and then ε -> z_adv."""
    from advface_jax.models.fast import packed_decoders  # needs Flax, which is slow to import

    form = packed_decoders.form(shadow, config.formulation, z.dtype)
    decode = networks.decoder(form.decode)
    x_tilde = decode(form.pack(z), config.statistics, mask)
    uphill = ascent(decode, x_tilde, config.statistics, mask)
    z_tilde = extractor(form.image(x_tilde)) if config.start == "z_tilde" else z
    centre = form.pack(z_tilde.astype(z.dtype))

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
    def one(z, epsilon, mask, extractor, shadow):
        return _attack(z, mask, extractor, shadow, config)(epsilon)

    return sharding.automatic(one, lambda spec: spec)(z, epsilon, mask, extractor, shadow)


@functools.partial(jax.jit, static_argnames="config")
def _sweep(z, epsilons, mask, extractor, shadow, config):
    def several(z, epsilons, mask, extractor, shadow):
        attack = _attack(z, mask, extractor, shadow, config)
        if jax.default_backend() == "cpu":
            return lax.map(attack, epsilons)
        return jax.vmap(attack)(epsilons)

    every = sharding.automatic(several, lambda spec: PartitionSpec(None, *spec))
    return every(z, epsilons, mask, extractor, shadow)
