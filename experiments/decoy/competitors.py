"""The defences of the table: AdvFace, decoys, and at screening size other ways to the same end."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from advface_jax import System, ball, defenses
from advface_jax.defenses import Defense
from advface_jax.defenses.defense import EPSILON
from experiments.decoy.cases import Case, World

STEPS, RATE, RANK = 40, 0.01, 64
"""Of the ascents; of the decoder's own steps, in shares of a kernel's length; of the features."""


class Competitor(NamedTuple):
    """A row: a defence at its ε, in the networks it is attacked with; ``case`` for what has a start
    that is known."""

    name: str
    defense: Defense
    epsilon: float | None
    world: World
    case: Case | None = None


def planned(
    system: System, world: World, cases: Sequence[Case], threshold: float
) -> list[Competitor]:
    """No defence, AdvFace, and the decoys."""
    advface = defenses.advface(extractor=system.extractor, shadow=system.shadow)
    return [
        Competitor("Unprotected", defenses.none(), None, world),
        Competitor("AdvFace", advface, EPSILON, world),
        *(
            Competitor("Decoy", world.defense(case, threshold), case.epsilon, world, case)
            for case in cases
        ),
    ]


def competitors(
    system: System, world: World, public: np.ndarray, base: Case, threshold: float
) -> list[Competitor]:
    """All of them; ``public`` are features (n,77,77,64) of faces that are not measured."""
    mean = world.faces.mean(0, keepdims=True)
    one = dataclasses.replace(world, faces=(mean + mean[:, :, ::-1]) / 2)
    free = base._replace(parts=1, epsilon=1.0, key=False)
    decoders = tuple(system.decoder(kind, "shadow") for kind in system.kinds)
    networks = {"extractor": system.extractor, "decoders": decoders}
    both: dict[str, Any] = {"takes_epsilon": True, "takes_key": True}
    epsilon = base.epsilon
    return [
        Competitor(
            "Min-max AdvFace", Defense("Min-max", min_max, None, networks, **both), epsilon, world
        ),
        Competitor(
            "AdvFace, ensemble and transforms",
            Defense("Ensemble", ensemble, None, networks, **both),
            epsilon,
            world,
        ),
        *(
            Competitor(
                f"Rank {RANK}, noise {noise:g}",
                Defense("Low rank", low_rank, noise, basis(public, RANK), takes_key=True),
                None,
                world,
            )
            for noise in (0.0, 0.1)
        ),
        Competitor("Synthesis from one public start", one.defense(free, threshold), 1.0, one, free),
    ]


def min_max(z, keys, epsilon, mask, settings, networks) -> jax.Array:
    """AdvFace's ascent against a decoder that takes a step of its own after every step."""
    return _min_max(z, epsilon, mask, networks["extractor"], networks["decoders"][0])


@jax.jit
def _min_max(z, epsilon, mask, extractor, shadow):
    x = shadow(z, "running", mask)
    centre = extractor(x)
    onto_ball = ball.projection(centre, epsilon)
    structure, weights = nnx.split(shadow)

    def loss(weights: Any, q: jax.Array) -> jax.Array:
        away = jnp.abs(nnx.merge(structure, weights)(q, "running", mask) - x).mean((1, 2, 3))
        return (away if mask is None else away * mask).sum()

    def down(w: jax.Array, g: jax.Array) -> jax.Array:
        length = jnp.sqrt(jnp.square(g).sum()) + 1e-12
        return w - RATE * jnp.sqrt(jnp.square(w).sum()) * g / length

    def step(_, state):
        weights, q = state
        weights = jax.tree.map(down, weights, jax.grad(loss)(weights, q))
        uphill = jax.grad(loss, 1)(weights, q)
        return weights, onto_ball(q + epsilon / 10 * jnp.sign(uphill))

    # The ascent begins beside the centre, where the loss has no direction.
    beside = jax.random.rademacher(jax.random.key(0), z.shape, z.dtype)
    return lax.fori_loop(0, STEPS, step, (weights, onto_ball(centre + 0.01 * epsilon * beside)))[1]


def ensemble(z, keys, epsilon, mask, settings, networks) -> jax.Array:
    """AdvFace's ascent against several decoders, each behind a fresh shift, gain and noise."""
    return _ensemble(z, keys, epsilon, mask, networks["extractor"], networks["decoders"])


@jax.jit
def _ensemble(z, keys, epsilon, mask, extractor, decoders):
    drawn = [one(z, "running", mask) for one in decoders]
    centre = extractor(drawn[0])
    onto_ball = ball.projection(centre, epsilon)

    def transformed(q: jax.Array, key: jax.Array) -> jax.Array:
        def one(q: jax.Array, key: jax.Array) -> jax.Array:
            by, size, noise = jax.random.split(key, 3)
            down, right = jax.random.randint(by, (2,), -1, 2)
            gains = 1 + 0.1 * jax.random.normal(size, (1, 1, q.shape[-1]))
            moved = jnp.roll(jnp.roll(q, down, 0), right, 1)
            return moved * gains + 0.05 * jax.random.normal(noise, q.shape)

        return jax.vmap(one)(q, key)

    def loss(q: jax.Array, t: jax.Array) -> jax.Array:
        seen = transformed(q, jax.vmap(jax.random.fold_in, (0, None))(keys, t))
        pairs = zip(decoders, drawn, strict=True)
        away = jnp.stack([jnp.abs(one(seen, "running", mask) - x) for one, x in pairs])
        away = away.mean((0, 2, 3, 4))
        return (away if mask is None else away * mask).sum()

    def step(t, q):
        return onto_ball(q + epsilon / 10 * jnp.sign(jax.grad(loss)(q, t)))

    return lax.fori_loop(0, STEPS, step, centre)


def basis(public: np.ndarray, rank: int) -> dict[str, jax.Array]:
    """The mean (77,77,64) and the ``rank`` principal directions (rank,d) of features (n,…)."""
    flat = public.reshape(len(public), -1).astype(np.float32)
    mean = flat.mean(0)
    values, vectors = np.linalg.eigh((flat - mean) @ (flat - mean).T)
    rank = min(rank, len(public) - 1)
    axes = vectors[:, -rank:].T @ (flat - mean) / np.sqrt(values[-rank:, None])
    return {"mean": jnp.asarray(mean), "axes": jnp.asarray(axes, jnp.float32)}


def low_rank(z, keys, epsilon, mask, settings, networks) -> jax.Array:
    """The feature in few principal directions of public faces, and Laplace noise of a scale."""
    return _low_rank(z, keys, jnp.float32(settings), networks["mean"], networks["axes"])


@jax.jit
def _low_rank(z, keys, noise, mean, axes):
    with jax.default_matmul_precision("highest"):
        away = z.reshape(len(z), -1).astype(jnp.float32) - mean[None]
        kept = mean[None] + (away @ axes.T) @ axes
    drawn = jax.vmap(lambda key: jax.random.laplace(key, z.shape[1:]))(keys)
    return jnp.maximum(kept.reshape(z.shape) + noise * drawn, 0).astype(z.dtype)
