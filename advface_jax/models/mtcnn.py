"""MTCNN's three networks, which find faces: P proposes boxes, R refines them, O adds landmarks.

Zhang et al. 2016 (arXiv:1604.02878), in the form of facenet-pytorch 2.6.0, whose weights
``weights_convert`` converts. Each maps RGB pixels in 0..255, float32 NHWC, to the probability of a
face at each place or box and to offsets of its edges, in units of the box.
``advface_jax.detection`` runs them one after the other.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from advface_jax.models.layers import Conv, PReLU

CELL, STRIDE = 12, 2  # P sees a face in 12×12 pixels, at every second place

# Below every value that a convolution of pixels gives, and finite, so that nothing becomes NaN.
_LOWEST = -1e9


class Found(NamedTuple):
    """A network's output: probability (…,) of a face, offsets of x1, y1, x2, y2 (…,4), and O's
    landmarks (…,10), five x and then five y in [0,1] of the box."""

    probability: jax.Array
    moves: jax.Array
    landmarks: jax.Array | None = None


def ceil_max_pool(x: jax.Array, size: int) -> jax.Array:
    """Maximum over size × size windows at stride 2; as in Caffe a last, partial window counts.

    (b,h,w,c) -> (b, ceil((h-size)/2)+1, …, c).
    """
    outputs = [-((size - n) // 2) + 1 for n in x.shape[1:3]]
    ends = [max(2 * (m - 1) + size - n, 0) for m, n in zip(outputs, x.shape[1:3], strict=True)]
    x = jnp.pad(x, ((0, 0), (0, ends[0]), (0, ends[1]), (0, 0)), constant_values=_LOWEST)
    h, w = (2 * m - 1 for m in outputs)
    # Slices, as in layers.max_pool: reduce_window is slower on a CPU.
    return functools.reduce(
        jnp.maximum, [x[:, i : i + h : 2, j : j + w : 2] for i in range(size) for j in range(size)]
    )


def _standardize(pixels: jax.Array) -> jax.Array:
    return (pixels - 127.5) * 0.0078125


def _probability(scores: jax.Array) -> jax.Array:
    """The second of two classes, no face and face."""
    return jax.nn.softmax(scores)[..., 1]


def _flatten(x: jax.Array) -> jax.Array:
    """(b,h,w,c) -> (b, w·h·c): width first, the order of the Caffe weights."""
    return x.swapaxes(1, 2).reshape(x.shape[0], -1)


class PNet(nnx.Module):
    """P, fully convolutional: ``places`` counts its outputs."""

    def __init__(self, *, rngs: nnx.Rngs):
        conv = functools.partial(Conv, rngs=rngs, bias=True)
        self.conv1, self.prelu1 = conv(3, 10, 3), PReLU(10)
        self.conv2, self.prelu2 = conv(10, 16, 3), PReLU(16)
        self.conv3, self.prelu3 = conv(16, 32, 3), PReLU(32)
        self.conv4_1, self.conv4_2 = conv(32, 2, 1), conv(32, 4, 1)

    def __call__(self, pixels: jax.Array, size: jax.Array | None = None) -> Found:
        """(b,h,w,3) to Found over (b, places(h), places(w)).

        ``size`` int (b,2): each picture's height and width, where several sizes share a batch. The
        rest is padding and does not change the first ``places`` of that size.
        """
        x = self.prelu1(self.conv1(_standardize(pixels)))
        if size is not None:
            rows, columns = (
                jnp.arange(n)[None] < size[:, axis, None] - 2 for axis, n in enumerate(x.shape[1:3])
            )
            inside = rows[:, :, None] & columns[:, None, :]
            x = jnp.where(inside[..., None], x, _LOWEST)  # padding never wins a maximum
        x = ceil_max_pool(x, 2)
        x = self.prelu2(self.conv2(x))
        x = self.prelu3(self.conv3(x))
        return Found(_probability(self.conv4_1(x)), self.conv4_2(x))


def places(n: int) -> int:
    """The number of P's outputs along n pixels, n ≥ 12."""
    return (n - 1) // 2 - 4


class RNet(nnx.Module):
    """R: crops (b,24,24,3) of the boxes to Found over (b,)."""

    def __init__(self, *, rngs: nnx.Rngs):
        conv = functools.partial(Conv, rngs=rngs, bias=True)
        dense = functools.partial(nnx.Linear, rngs=rngs)
        self.conv1, self.prelu1 = conv(3, 28, 3), PReLU(28)
        self.conv2, self.prelu2 = conv(28, 48, 3), PReLU(48)
        self.conv3, self.prelu3 = conv(48, 64, 2), PReLU(64)
        self.dense4, self.prelu4 = dense(576, 128), PReLU(128)
        self.dense5_1, self.dense5_2 = dense(128, 2), dense(128, 4)

    def __call__(self, pixels: jax.Array) -> Found:
        x = self.prelu1(self.conv1(_standardize(pixels)))  # (b, 22, 22, 28)
        x = self.prelu2(self.conv2(ceil_max_pool(x, 3)))  # (b, 9, 9, 48)
        x = self.prelu3(self.conv3(ceil_max_pool(x, 3)))  # (b, 3, 3, 64)
        x = self.prelu4(self.dense4(_flatten(x)))  # (b, 128)
        return Found(_probability(self.dense5_1(x)), self.dense5_2(x))


class ONet(nnx.Module):
    """O: crops (b,48,48,3) of the boxes to Found over (b,), with landmarks."""

    def __init__(self, *, rngs: nnx.Rngs):
        conv = functools.partial(Conv, rngs=rngs, bias=True)
        dense = functools.partial(nnx.Linear, rngs=rngs)
        self.conv1, self.prelu1 = conv(3, 32, 3), PReLU(32)
        self.conv2, self.prelu2 = conv(32, 64, 3), PReLU(64)
        self.conv3, self.prelu3 = conv(64, 64, 3), PReLU(64)
        self.conv4, self.prelu4 = conv(64, 128, 2), PReLU(128)
        self.dense5, self.prelu5 = dense(1152, 256), PReLU(256)
        self.dense6_1, self.dense6_2 = dense(256, 2), dense(256, 4)
        self.dense6_3 = dense(256, 10)

    def __call__(self, pixels: jax.Array) -> Found:
        x = self.prelu1(self.conv1(_standardize(pixels)))  # (b, 46, 46, 32)
        x = self.prelu2(self.conv2(ceil_max_pool(x, 3)))  # (b, 21, 21, 64)
        x = self.prelu3(self.conv3(ceil_max_pool(x, 3)))  # (b, 8, 8, 64)
        x = self.prelu4(self.conv4(ceil_max_pool(x, 2)))  # (b, 3, 3, 128)
        x = self.prelu5(self.dense5(_flatten(x)))  # (b, 256)
        return Found(_probability(self.dense6_1(x)), self.dense6_2(x), self.dense6_3(x))


class MTCNN(nnx.Module):
    """The three networks, which share one checkpoint."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.pnet, self.rnet, self.onet = PNet(rngs=rngs), RNet(rngs=rngs), ONet(rngs=rngs)
