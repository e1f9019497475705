"""Pictures of what is stored, by a trained decoder or by ascent over pixels; and their replay."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from advface_jax import checks, networks
from advface_jax.attacks.attack import Attack
from advface_jax.attacks.reading import cleaner

STEPS = 200


def decoded(name: str, decoder: Any, knows: Sequence[str], before: Any = None) -> Attack:
    """A decoder's picture: the paper's R, or one trained on protected features.

    Args:
      name, knows: of the ``Attack``.
      decoder: stored (after ``before``) -> images (b,160,160,3).
      before: stored -> features, as ``cleaning.clip`` or a stitch learnt on pairs of stored and
        raw features; None leaves them as they are.

    Example:
      >>> import jax.numpy as jnp
      >>> from advface_jax import attacks
      >>> R = lambda z: jnp.resize(z, (len(z), 160, 160, 3))  # any decoder
      >>> attacks.pictures.decoded("R", R, ("extractor",))(jnp.ones((2, 4, 4, 3))).shape
      (2, 160, 160, 3)
    """
    net = networks.network(decoder, "decoder")
    clean = cleaner(before)
    return Attack(name, tuple(knows), "picture", lambda stored: _decode(net, clean, stored))


def solved(
    name: str,
    extractor: Any,
    knows: Sequence[str] = ("extractor",),
    *,
    steps: int = STEPS,
    rate: float = 0.03,
    smooth: float = 0.02,
    first: Any = None,
    recogniser: Any = None,
) -> Attack:
    """The picture x whose E(x) is nearest to what is stored, by Adam over its pixels.

    It minimises the mean |E(x) - stored| plus ``smooth`` times the mean difference of neighbouring
    pixels. It needs no training and no faces (Mahendran and Vedaldi, CVPR 2015).

    Args:
      name, knows: of the ``Attack``.
      extractor: E, as an oracle with gradients.
      steps: of Adam, each one pass of E forward and back.
      rate: its step in brightness, falling to 0 as a cosine.
      smooth: the weight of the differences.
      first: stored -> the picture to start from, as R; None for mid grey.
      recogniser: Ψ for an attacker who has it: 1 - cos(Ψ(E(x)), Ψ(stored)) then takes the place of
        the distance of features. What is stored may then be Ψ's embedding (b,e) itself.

    Example:
      >>> import jax.numpy as jnp
      >>> from advface_jax import attacks
      >>> E = lambda x: x[:, ::2, ::2]
      >>> attack = attacks.pictures.solved("Adam", E, steps=2)
      >>> attack(jnp.ones((1, 80, 80, 3))).shape
      (1, 160, 160, 3)
    """
    checks.positive(steps=steps)
    checks.above_zero(rate=rate)
    if not smooth >= 0:
        raise ValueError(f"got smooth={smooth}; wanted 0 or more")
    e = networks.network(extractor, "extractor")
    start = None if first is None else networks.network(first, "first")
    psi = None
    if recogniser is not None:
        psi = networks.Normalised(networks.network(recogniser, "recogniser"))

    def run(stored: jax.Array) -> jax.Array:
        return _solve((e, start, psi), stored, jnp.float32(rate), jnp.float32(smooth), steps)

    passes = {"passes of E": steps} | ({"passes of Ψ": steps} if recogniser is not None else {})
    return Attack(name, tuple(knows), "picture", run, passes)


def replayed(picture: Attack, recogniser: Any, knows: Sequence[str] = (), name: str = "") -> Attack:
    """Who a recogniser sees in an attack's picture: it is presented as a photograph.

    Args:
      picture: an attack that reads pictures.
      recogniser: images (b,160,160,3) -> embeddings: the same system's, or another one.
      knows: beside what ``picture`` knows, as the recogniser's name in ``KNOWLEDGE``. An attacker
        who only presents the picture needs none.
      name: of the ``Attack``; by default the picture's with ", replayed".

    Example:
      >>> import jax.numpy as jnp
      >>> from advface_jax import attacks
      >>> seen = attacks.pictures.decoded("R", lambda z: z / 2, ("extractor",))
      >>> attack = attacks.pictures.replayed(seen, lambda x: x.mean((1, 2)))
      >>> attack.name, attack(jnp.ones((1, 4, 4, 3))).shape
      ('R, replayed', (1, 3))
    """
    if picture.reads != "picture":
        raise ValueError(f"got {picture.name}, which reads an {picture.reads}; wanted a picture")
    net = networks.Normalised(networks.network(recogniser, "recogniser"))

    def run(*given: jax.Array) -> jax.Array:
        return _recognise(net, jnp.asarray(picture.run(*given)))

    known = tuple(dict.fromkeys((*picture.knows, *knows)))
    return Attack(name or f"{picture.name}, replayed", known, "identity", run, picture.cost)


@jax.jit
def _decode(decoder: Any, before: Any, stored: jax.Array) -> jax.Array:
    features = stored if before is None else before(stored)
    return jnp.clip(decoder(features).astype(jnp.float32), 0, 1)


@jax.jit
def _recognise(recogniser: Any, pictures: jax.Array) -> jax.Array:
    return recogniser(pictures).astype(jnp.float32)


@functools.partial(jax.jit, static_argnames="steps")
def _solve(
    parts: tuple[Any, Any, Any], stored: jax.Array, rate: jax.Array, smooth: jax.Array, steps: int
) -> jax.Array:
    extractor, first, recogniser = parts
    stored = stored.astype(jnp.float32)
    if first is None:
        x = jnp.full((stored.shape[0], 160, 160, 3), 0.5)
    else:
        x = jnp.clip(first(stored).astype(jnp.float32), 0, 1)
    # An embedding that is stored itself is what Ψ must see in the picture.
    wanted = stored if recogniser is None or stored.ndim == 2 else recogniser(stored)

    def loss(x: jax.Array) -> jax.Array:  # the sum over items: each descends alone
        z = extractor(x)
        if recogniser is None:
            distance = jnp.abs(z - wanted).mean(tuple(range(1, z.ndim)))
        else:
            distance = 1 - (recogniser(z) * wanted).sum(-1)
        roughness = sum(jnp.abs(jnp.diff(x, axis=axis)).mean((1, 2, 3)) for axis in (1, 2))
        return (distance + smooth * roughness).sum()

    adam = optax.scale_by_adam()

    def step(t: jax.Array, carry: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
        x, memory = carry
        update: Any
        update, memory = adam.update(jax.grad(loss)(x), memory)
        now = rate * 0.5 * (1 + jnp.cos(jnp.pi * t.astype(jnp.float32) / steps))
        return jnp.clip(x - now * update, 0, 1), memory

    return jax.lax.fori_loop(0, steps, step, (x, adam.init(x)))[0]
