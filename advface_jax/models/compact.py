"""A small recogniser over features, for training from nothing on a CPU (paper, section 4.4)."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from advface_jax import checks
from advface_jax.models.facenet import FEATURE_SHAPE
from advface_jax.models.layers import ConvBN, Statistics, max_pool, rectify

WIDTHS = (32, 64, 128, 256)


class Compact(nnx.Module):
    """Features z (b,77,77,64) to L2-normalised embeddings (b,128), with 0.7 million weights and
    0.11 GFLOP per face, where FaceNet's Ψ has 23 million and 2.4. Its stages have the names of
    Ψ's, so that the same code trains both. ValueError for another z."""

    embedding_size = 128

    def __init__(self, *, rngs: nnx.Rngs):
        # The decay is such that some hundred steps suffice for the running statistics.
        layer = functools.partial(ConvBN, rngs=rngs, scale=True, decay=0.99)
        same = functools.partial(layer, padding="same")
        first, *others = WIDTHS
        self.stem = same(FEATURE_SHAPE[-1], first, 1)
        pairs = zip(WIDTHS, others, strict=False)
        self.down = nnx.List([layer(i, o, 3, stride=2) for i, o in pairs])
        self.blocks = nnx.List([nnx.List([same(o, o, 3), same(o, o, 3)]) for o in others[:-1]])
        self.bottleneck = nnx.Linear(WIDTHS[-1], self.embedding_size, rngs=rngs)

    def stages(self, z: jax.Array, *how: Any) -> Iterator[tuple[str, jax.Array]]:
        """``how``: statistics and mask, as in ``ConvBN``."""
        x = self.stem(max_pool(z, 3, 2), *how)  # (b, 38, 38, 32)
        for i, down in enumerate(self.down):
            x = down(x, *how)  # (b, 18, 18, 64), (b, 8, 8, 128), (b, 3, 3, 256)
            if i < len(self.blocks):
                first, second = self.blocks[i]
                x = rectify(x + second(first(x, *how), *how, relu=False))
        yield "pool", (x := x.mean((1, 2)))  # (b, 256)
        yield "bottleneck", (x := self.bottleneck(x))  # (b, 128)
        yield "embedding", x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-6)

    def __call__(self, z: jax.Array, statistics: Statistics = "running") -> jax.Array:
        *_, (_, embedding) = self.stages(checks.features(z), statistics)
        return embedding
