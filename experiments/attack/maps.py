"""Maps that attackers learn or compose: pytrees that enter a compiled program."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

RIDGE = 1e-2
"""Of a template's pictures, as a share of the mean square of an embedding's element."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class After:
    """One network after another."""

    first: Any
    second: Any

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.second(self.first(x))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Back:
    """What is stored, less a step as guessed from it."""

    step: Any

    def __call__(self, stored: jax.Array) -> jax.Array:
        return jnp.maximum(stored - self.step(stored), 0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FromTemplate:
    """A picture that is linear in an embedding (b,e)."""

    weights: jax.Array
    centre: jax.Array
    mean: jax.Array

    @jax.jit
    def __call__(self, embedding: jax.Array) -> jax.Array:
        picture = self.mean[None] + (embedding - self.centre[None]) @ self.weights
        return jnp.clip(picture, 0, 1).reshape(-1, 160, 160, 3)


def from_template(embeddings: np.ndarray, images: np.ndarray) -> FromTemplate:
    """By ridge on faces (n,160,160,3) uint8 and their embeddings (n,e)."""
    embeddings = embeddings.astype(np.float64)
    pixels = images.reshape(len(embeddings), -1) / np.float32(255)
    mean, centre = pixels.mean(0), embeddings.mean(0)
    x = embeddings - centre
    penalty = RIDGE * np.square(x).mean() * len(x)
    weights = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ (pixels - mean))
    parts = (jnp.asarray(a, jnp.float32) for a in (weights, centre, mean))
    return FromTemplate(*parts)
