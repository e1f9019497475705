"""Small networks with fixed weights: what the tests run in the place of FaceNet's millions."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from reference import weights

from advface_jax.models import decoders, facenet, state
from advface_jax.models.layers import BatchNorm, Statistics
from advface_jax.system import System

Module = TypeVar("Module", bound=nnx.Module)


def filled(build: Callable[[], Module], seed: int = 5) -> Module:
    """What ``build`` makes, its weights a function of ``seed`` and their names alone."""
    return state.fill(build, weights.fill(seed, state.shapes(build)))


def small_decoder(kind: decoders.Kind = "transrec", seed: int = 1, **size: int) -> decoders.Decoder:
    """A decoder of 4 channels and no blocks, but for what ``size`` says."""
    config = decoders.DecoderConfig(kind, **({"width": 4, "depth": 0} | size))
    return filled(lambda: decoders.decoder(config, rngs=nnx.Rngs(0)), seed)


def new_extractor(seed: int = 5) -> facenet.Extractor:
    """The real E's shape with other weights."""
    return filled(lambda: facenet.Extractor(rngs=nnx.Rngs(0)), seed)


class Pool(nnx.Module):
    """A Ψ: the feature, averaged over 11×11 places and normalised."""

    def __call__(self, z: jax.Array) -> jax.Array:
        pooled = z.reshape(-1, 7, 11, 7, 11, 64).mean((2, 4)).reshape(z.shape[0], -1)
        return pooled / jnp.linalg.norm(pooled, axis=-1, keepdims=True)


class Pooled(nnx.Module):
    """A recogniser of the real E's shape, and ``Pool``."""

    config = facenet.FaceNetConfig(embedding_size=64 * 49)

    def __init__(self, *, rngs: nnx.Rngs):
        self.extractor = facenet.Extractor(rngs=rngs)
        self.server = Pool()

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.server(self.extractor(images))


def system_of(network: Any, sha256: str = "00", source: str = "random") -> System:
    """A `System` around any network of a test."""
    return System(network, {"source": source, "sha256": sha256})


def pooled_system() -> System:
    return system_of(filled(lambda: Pooled(rngs=nnx.Rngs(0))))


class Sampled(nnx.Module):
    """A small E: every second pixel of an image's middle, its colours mixed to 64 channels."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(nnx.initializers.normal(1.0)(rngs.params(), (3, 64)))

    def __call__(self, images: jax.Array) -> jax.Array:
        return images[:, 3:157:2, 3:157:2] @ self.kernel.astype(images.dtype)  # (b, 77, 77, 64)


class Tiny(nnx.Module):
    """A Ψ to train: colours in a few places, batch norm, one layer."""

    embedding_size = 8

    def __init__(self, *, rngs: nnx.Rngs):
        self.bn = BatchNorm(64 * 4, scale=False)
        self.linear = nnx.Linear(64 * 4, self.embedding_size, rngs=rngs)

    def stages(self, z: jax.Array, statistics: Statistics = "running", mask: Any = None):
        pooled = z[:, ::50, ::50].reshape(len(z), -1)
        yield "bottleneck", (x := self.linear(self.bn(pooled, statistics, mask)))
        yield "embedding", x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-6)

    def __call__(self, z: jax.Array, statistics: Statistics = "running") -> jax.Array:
        return dict(self.stages(z, statistics))["embedding"]


class Small(nnx.Module):
    """E, and ``Tiny`` for Ψ."""

    config = facenet.FaceNetConfig(embedding_size=Tiny.embedding_size)

    def __init__(self, *, rngs: nnx.Rngs):
        self.extractor = facenet.Extractor(rngs=rngs)
        self.server = Tiny(rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.server(self.extractor(images))


def small_system() -> System:
    return system_of(filled(lambda: Small(rngs=nnx.Rngs(0))))


def small_extractor() -> Sampled:
    return filled(lambda: Sampled(rngs=nnx.Rngs(0)))


def distance(a, b) -> np.ndarray:
    """|a - b| without rounding: floats of 32 bits and fewer subtract exactly in 64."""
    return np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64))
