"""SFace, a recogniser of another family than FaceNet: MobileNet-like, trained on other faces.

Zhong et al. 2021 (arXiv:2205.12010), in the form of OpenCV's zoo (Apache-2.0): 14 convolutions, 13
of them split into one by channel and one by place, each with batch norm (here folded in) and PReLU;
one matrix product on 7×7×1024; a 128-d embedding. Split after its third block, where places are as
dense as FaceNet's z, so that a stitch (``attacks.stitching``) can put the rest onto z.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from advface_jax import checks
from advface_jax.models.layers import Conv, PReLU

SIZE = 112
FEATURE_SHAPE = (56, 56, 128)
MARGINS = (40, 5, 22, 22)
"""Pixels above, below, left and right by which a 160×160 crop is enlarged, its edge repeated: SFace
was trained on a looser frame."""

BLOCKS = (  # channels, and the stride with which places are halved
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1)),
    *((512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)),
)
SPLIT = 2  # blocks on the client's side


def grid() -> tuple[np.ndarray, np.ndarray]:
    """Where the rows and columns of SFace's features (b,56,56,128) lie in FaceNet's z.

    For ``attacks.stitch(…, grid=sface.grid())``. Row i sees pixel 2i of the 112×112 frame; element
    j of z sees pixel 2j + 3 of the crop.
    """
    above, below, left, right = MARGINS
    places = []
    for before, after in ((above, below), (left, right)):
        in_frame = (2 * np.arange(FEATURE_SHAPE[0]) + 0.5) * (160 + before + after) / SIZE
        places.append((in_frame - before - 0.5 - 3) / 2)
    return places[0], places[1]


def frame(images: jax.Array) -> jax.Array:
    """Crops (b,160,160,3) in [0,1], enlarged by ``MARGINS`` and resized: (b,112,112,3)."""
    above, below, left, right = MARGINS
    wide = jnp.pad(images, ((0, 0), (above, below), (left, right), (0, 0)), mode="edge")
    return jax.image.resize(wide, (len(wide), SIZE, SIZE, 3), "linear")


class Depthwise(nnx.Module):
    """A 3×3 convolution of each channel alone, padded by one, with bias.

    As a sum over the nine places of the kernel: XLA:CPU's grouped convolution is slow, its gradient
    the more.
    """

    def __init__(self, channels: int, stride: int, *, rngs: nnx.Rngs):
        initial = nnx.initializers.normal(1 / 3)
        self.kernel = nnx.Param(initial(rngs.params(), (3, 3, channels)))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.stride = stride

    def __call__(self, x: jax.Array) -> jax.Array:
        b, h, w, c = x.shape
        s = self.stride
        kernel = self.kernel[...].astype(x.dtype)
        wide = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        y = jnp.broadcast_to(self.bias[...].astype(x.dtype), (b, -(-h // s), -(-w // s), c))
        for i in range(3):
            for j in range(3):
                part = lax.slice(wide, (0, i, j, 0), (b, i + h, j + w, c), (1, s, s, 1))
                y = y + part * kernel[i, j].reshape(1, 1, 1, c)
        return y


class Block(nnx.Module):
    """By channel, then by place, each with PReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, rngs: nnx.Rngs):
        self.depthwise = Depthwise(inputs, stride, rngs=rngs)
        self.between = PReLU(inputs)
        self.pointwise = Conv(inputs, outputs, 1, rngs=rngs, bias=True)
        self.after = PReLU(outputs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.after(self.pointwise(self.between(self.depthwise(x))))


def _blocks(start: int, stop: int, *, rngs: nnx.Rngs) -> nnx.List:
    inputs = [32, *(channels for channels, _ in BLOCKS)]
    return nnx.List([Block(inputs[i], *BLOCKS[i], rngs=rngs) for i in range(start, stop)])


class Extractor(nnx.Module):
    """Images (b,160,160,3) in [0,1] to features (b,56,56,128), of either sign. ValueError for other
    images."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.stem = Conv(3, 32, 3, rngs=rngs, padding="same", bias=True)
        self.relu = PReLU(32)
        self.blocks = _blocks(0, SPLIT, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.of_frame(frame(checks.images(images)))

    def of_frame(self, x: jax.Array) -> jax.Array:
        """Features of faces (b,112,112,3) in [0,1] that are framed as SFace's own."""
        x = self.relu(self.stem((255 * x - 127.5) / 128))  # (b, 112, 112, 32)
        for block in self.blocks:
            x = block(x)
        return x


class Server(nnx.Module):
    """Features (b,56,56,128) to L2-normalised embeddings (b,128). ValueError for others."""

    embedding_size = 128

    def __init__(self, *, rngs: nnx.Rngs):
        self.blocks = _blocks(SPLIT, len(BLOCKS), rngs=rngs)
        self.linear = nnx.Linear(7 * 7 * 1024, self.embedding_size, rngs=rngs)

    def __call__(self, features: jax.Array) -> jax.Array:
        x: Any = checks.features(features, FEATURE_SHAPE)
        for block in self.blocks:
            x = block(x)
        x = self.linear(x.reshape(len(x), -1))  # (b, 128)
        return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-6)


class SFace(nnx.Module):
    """The whole recogniser: images (b,160,160,3) in [0,1] to embeddings (b,128)."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.extractor = Extractor(rngs=rngs)
        self.server = Server(rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.server(self.extractor(images))
