"""Decoys: the server stores somebody else's feature, nudged until Ψ reads the enrolled face.

This project's own method, not the paper's. From a decoy d, the feature of somebody who does not
exist, it ascends within |q - d| ≤ ε on

    cos(Ψ(q), Ψ(z)) + λ Σ cos(shadow_i(q), shadow_i(d)),

where the shadow recognisers are the defender's own guesses at what an attacker reads with. With a
secret pattern p, the recogniser is Ψ_p(z) = Ψ(max(z + p, 0)); the public Ψ, and Ψ under a fresh
foreign pattern in every step, then read the decoy, too. All steps are one compiled program.

docs/decoys.md says what was measured, and what it does not protect against.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jax.typing import ArrayLike

from advface_jax import checks, decoy_ascent, networks, sharding
from advface_jax.decoy_ascent import Reader, cosine

EPSILON = 0.3
"""The usual bound: of the step away from the decoy, so it is no noise on a face."""
DEVIATION = 0.3
"""Of a secret pattern: half of z's own deviation."""


@dataclasses.dataclass(frozen=True)
class DecoyConfig:
    """How a decoy is nudged. One compiled program serves all of them.

    Attributes:
      steps: the most steps of Adam, 1 or more.
      weight: λ, of each shadow recogniser.
      threshold: a face is left as it is once cos(Ψ(q), Ψ(z)) reaches this; 1 takes all steps.
      step: the first step's size, in ε; it falls linearly to 0.
      momentum: of Adam's first moment, from 0 to below 1.
      evenness: 1 moves every element about as far (Adam), 0 in proportion to its gradient;
        between, by that power of the gradient's spread.
      deviation: of the foreign patterns, if there is a secret one: that of its own.

    Example:
      >>> from advface_jax import DecoyConfig
      >>> DecoyConfig(threshold=0.9).steps
      36
    """

    steps: int = 36
    weight: float = 1.0
    threshold: float = 0.95
    step: float = 0.25
    momentum: float = 0.5
    evenness: float = 0.5
    deviation: float = DEVIATION

    def __post_init__(self):
        object.__setattr__(self, "steps", checks.whole("steps", self.steps))
        for name in ("weight", "threshold", "step", "momentum", "evenness", "deviation"):
            object.__setattr__(self, name, checks.plain(getattr(self, name)))
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"got weight={self.weight}; wanted λ, 0 or more")
        if not -1 <= self.threshold <= 1:
            raise ValueError(f"got threshold={self.threshold}; wanted a cosine from -1 to 1")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"got momentum={self.momentum}; wanted 0 or more, below 1")
        if not 0 <= self.evenness <= 1:
            raise ValueError(f"got evenness={self.evenness}; wanted a power from 0 to 1")
        checks.above_zero(step=self.step, deviation=self.deviation)


DEFAULT = DecoyConfig()


class Decoyed(NamedTuple):
    """What ``protect_decoy`` returns.

    Attributes:
      stored: q (b, …), of z's shape and dtype.
      cosine: (b,) float32, cos(Ψ(q), Ψ(z)), by the private Ψ if there is a pattern. A face below
        the threshold is refused: its stored item does not stand for it. Enrol it anew with another
        decoy, more steps or a larger ε, and count it.
    """

    stored: jax.Array
    cosine: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Keyed:
    """The private recogniser Ψ_p(z) = Ψ(max(z + p, 0)), a callable pytree."""

    recogniser: Reader
    pattern: jax.Array

    def __call__(self, z: jax.Array) -> jax.Array:
        return self.recogniser(shifted(z, self.pattern))


def keyed(recogniser: Any, pattern: ArrayLike) -> Keyed:
    """Ψ with a secret pattern (…), of one feature's shape: what a server with a key verifies by.

    Example:
      >>> import jax.numpy as jnp
      >>> from advface_jax import decoy
      >>> private = decoy.keyed(lambda z: z.reshape(len(z), -1), jnp.ones((2, 2, 1)))
      >>> private(jnp.zeros((3, 2, 2, 1))).shape  # Ψ(max(z + p, 0)), of length 1
      (3, 4)
    """
    return Keyed(networks.network(recogniser, "recogniser"), jnp.asarray(pattern))


def shifted(z: jax.Array, pattern: jax.Array) -> jax.Array:
    """max(z + p, 0)."""
    return jnp.maximum(z + jnp.broadcast_to(pattern, z.shape).astype(z.dtype), 0)


def protect_decoy(
    z: ArrayLike,
    decoys: ArrayLike,
    *,
    recogniser: Any,
    shadows: Sequence[Any] = (),
    pattern: ArrayLike | None = None,
    key: jax.Array | None = None,
    epsilon: ArrayLike = EPSILON,
    config: DecoyConfig | Mapping[str, Any] = DEFAULT,
    mask: ArrayLike | None = None,
) -> Decoyed:
    """Decoys that Ψ reads as the enrolled faces.

    Every item is made by itself, whatever its batch. One compilation serves every ε, config, key,
    pattern and set of weights. It has no derivative.

    Args:
      z: the enrolled faces' features (b, …), floating, finite, b ≥ 1. Sharded arrays stay sharded.
      decoys: d, of z's shape: a feature of nobody for each item, secret and never used twice. Who
        knows it can amplify the nudge, and then reads the enrolled face.
      recogniser: Ψ, z -> embeddings (b,e), as ``advface_jax.load(…).server``; of any kind that
        ``protect`` takes.
      shadows: shadow recognisers, likewise, as ``attacks.sibling``: to them q stays the decoy.
      pattern: the secret p (…), of one item's shape, as ``keys.pattern`` makes it; verify by
        ``keyed(recogniser, pattern)``. None for no key: whoever has Ψ then reads the face.
      key: with a pattern, of ``jax.random.key``, for the foreign ones: one, or (b,). It is no
        secret; None for ``jax.random.key(0)``.
      epsilon: the bound on |q - d|, a scalar ≥ 0 in units of z.
      config: steps, λ, threshold; or a dict of them.
      mask: (b,) with 0 for padding, whose rows of the result mean nothing.

    Returns:
      stored and cosine. No element of stored is further than ε from d, and none is negative
      unless its decoy has negative elements. ε = 0 stores d itself.

    Raises:
      ValueError: for another shape or dtype, NaN or inf, an empty batch, ε < 0, decoys, a pattern,
        a key or a mask that do not fit, or a recogniser that does not take z.

    Example:
      >>> import jax
      >>> import advface_jax
      >>> normal = lambda seed, *shape: jax.random.normal(jax.random.key(seed), shape)
      >>> z, decoys, weights = normal(0, 2, 64), normal(1, 2, 64), normal(2, 64, 4)
      >>> made = advface_jax.protect_decoy(
      ...     z, decoys, recogniser=lambda z: z @ weights, epsilon=1.0
      ... )
      >>> bool((abs(made.stored - decoys) <= 1).all()), bool((made.cosine > 0.9).all())
      (True, True)
    """
    config = checks.config(config, DecoyConfig)
    z, decoys = checks.features(z, None), checks.features(decoys, None)
    if decoys.shape != z.shape:
        raise ValueError(
            f"got decoys of shape {decoys.shape}; wanted one for each face: {z.shape}, as z"
        )
    if pattern is not None:
        pattern = checks.features(jnp.asarray(pattern)[None], None)[0]
        if pattern.shape != z.shape[1:]:
            raise ValueError(
                f"got a pattern of shape {pattern.shape}; wanted that of one item, {z.shape[1:]}"
            )
    readers = (
        networks.network(recogniser, "recogniser"),
        *(networks.network(one, f"shadows[{i}]") for i, one in enumerate(shadows)),
    )
    leaves, structure = jax.tree.flatten(readers)
    _check_fit(structure, tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (z, *leaves)))
    keys = _keys(jax.random.key(0) if key is None else key, z.shape[0])
    given = z, decoys.astype(z.dtype), checks.epsilon(epsilon), checks.mask(mask, z.shape[0])
    numbers = {field: jnp.float32(value) for field, value in dataclasses.asdict(config).items()}
    return Decoyed(*_protect_decoy(*given, pattern, keys, readers, numbers))


def lowered(
    z: jax.Array | jax.ShapeDtypeStruct,
    *,
    recogniser: Any,
    shadows: Sequence[Any] = (),
    pattern: bool = False,
    config: DecoyConfig | Mapping[str, Any] = DEFAULT,
) -> jax.stages.Lowered:
    """The program of ``protect_decoy`` before compilation, without or with a ``pattern``: for its
    memory, cost or text. z may be a shape without values; arguments are not checked."""
    config = checks.config(config, DecoyConfig)
    number = jax.ShapeDtypeStruct((), jnp.float32)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), z.shape[0]))
    given = z, z, number, None, jax.ShapeDtypeStruct(z.shape[1:], jnp.float32) if pattern else None
    readers = (
        networks.network(recogniser, "recogniser"),
        *(networks.network(one, f"shadows[{i}]") for i, one in enumerate(shadows)),
    )
    numbers = dict.fromkeys(dataclasses.asdict(config), number)
    return _protect_decoy.lower(*given, keys, readers, numbers)


def _keys(key: jax.Array, batch: int) -> jax.Array:
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    if (
        dtype is None
        or not jnp.issubdtype(dtype, jax.dtypes.prng_key)
        or shape not in ((), (batch,))
    ):
        raise ValueError(
            f"got key of type {type(key).__name__}, dtype {dtype} and shape {shape}; wanted "
            f"jax.random.key(seed), or ({batch},) of them, one for each item"
        )
    return key if key.ndim else jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch))


@functools.lru_cache(maxsize=64)  # tracing the recognisers at every call would take long
def _check_fit(structure: Any, shapes: tuple[jax.ShapeDtypeStruct, ...]) -> None:
    z = shapes[0]
    for i, reader in enumerate(jax.tree.unflatten(structure, shapes[1:])):
        name = f"shadows[{i - 1}]" if i else "recogniser"
        try:
            result = jax.eval_shape(lambda reader, z: reader(z), reader, z)
            got, cause = f"an embedding of shape {result.shape}", None
            if len(result.shape) == 2 and result.shape[0] == z.shape[0]:
                continue
        except Exception as error:  # somebody else's network may raise anything
            got, cause = f"{type(error).__name__}: {error}", error
        raise ValueError(
            f"{name} does not fit z of shape {z.shape}: got {got}; wanted embeddings "
            f"({z.shape[0]}, e): take Ψ from advface_jax.load(…).server"
        ) from cause


@jax.jit
def _protect_decoy(z, decoys, epsilon, mask, pattern, keys, readers, config):
    both = sharding.automatic(_nudge, lambda spec: spec, lambda spec: PartitionSpec(*spec[:1]))
    return both(z, decoys, epsilon, mask, pattern, keys, readers, config)


def _nudge(z, decoys, epsilon, mask, pattern, keys, readers, config):
    public, *shadows = readers
    own = public if pattern is None else Keyed(public, pattern)
    decoy_readers = shadows if pattern is None else [*shadows, public]

    def foreign(keys: jax.Array) -> Reader:
        """Ψ under a fresh pattern for each item."""
        draw = jax.vmap(lambda key: jax.random.normal(key, z.shape[1:]))
        return Keyed(public, config["deviation"] * draw(keys))

    face, read = own(z), [reader(decoys) for reader in decoy_readers]
    # E ends in a ReLU, and so does what is stored; an E of another kind keeps its negative values.
    least = decoys.min(tuple(range(1, z.ndim)), keepdims=True)
    least = jnp.where(least >= 0, 0, -jnp.inf).astype(z.dtype)
    aim = decoy_ascent.Aim(decoys, least, face, read, keys)
    how = None if pattern is None else foreign, epsilon, mask, config
    stored = decoy_ascent.ascend(aim, own, decoy_readers, *how)
    return stored, cosine(own(stored), face)
