"""Convolution, pooling and batch norm as FaceNet and the decoders use them.

Layout is NHWC for features and HWIO for kernels throughout.
"""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from advface_jax.models.fast.convolution import Window, conv

Statistics = Literal["running", "batch", "example", "train"]
"""Batch norm's mean and variance: "running", stored in training; "batch", of this batch (the
paper's choice for S, section 4.2); "example", each one's own; "train", of this batch, which also
updates the stored ones."""


@jax.custom_jvp
def rectify(x: jax.Array) -> jax.Array:
    """ReLU, max(x, 0). Its derivative multiplies by the result's sign, 0 or 1: the ``where`` of
    ``jax.nn.relu``'s becomes a branch in XLA:CPU's code (docs/performance.md)."""
    return jnp.maximum(x, 0)


rectify.defjvps(lambda dx, y, x: dx * jnp.sign(y))


class PReLU(nnx.Module):
    """x, and below 0 its multiple by a slope of the channel."""

    def __init__(self, channels: int):
        self.slope = nnx.Param(jnp.full(channels, 0.25))

    def __call__(self, x: jax.Array) -> jax.Array:
        slope = self.slope[...].astype(x.dtype).reshape(*[1] * (x.ndim - 1), -1)
        return jnp.maximum(x, 0) + slope * jnp.minimum(x, 0)


def max_pool(x: jax.Array, size: int, stride: int) -> jax.Array:
    """Maximum over size × size windows, no padding: (b,h,w,c) -> (b,(h-size)//stride+1,…,c)."""
    if size == stride:
        return _tiled_max(x, size)
    return nnx.max_pool(x, (size, size), (stride, stride), "VALID")


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _tiled_max(x: jax.Array, size: int) -> jax.Array:
    """The maximum of each size × size tile; the first of equal ones has its gradient. Written with
    slices: on a CPU the gradients of reduce_window and of a chain of ``jnp.maximum`` are slow."""
    return functools.reduce(jnp.maximum, _corners(x, size))


def _corners(x: jax.Array, size: int) -> list[jax.Array]:
    """Each place of all tiles, (b,h//size,w//size,c): upper left first."""
    h, w = (n // size * size for n in x.shape[1:3])
    return [x[:, i:h:size, j:w:size] for i in range(size) for j in range(size)]


def _tiled_max_forward(x: jax.Array, size: int):
    # The winner's place, not its value: XLA may compute x twice with two roundings, and then no
    # place equals the maximum and its gradient is lost (XLA:CPU of jax 0.8 did).
    y, *others = _corners(x, size)
    winner = jnp.zeros(y.shape, jnp.int8)
    for place, corner in enumerate(others, 1):
        winner = jnp.where(corner > y, jnp.int8(place), winner)
        y = jnp.maximum(y, corner)
    return y, (winner, x[:0])  # x for its shape


def _tiled_max_backward(size: int, residuals, dy: jax.Array):
    winner, x = residuals
    b, h, w, c = dy.shape
    place = jnp.arange(size * size, dtype=jnp.int8).reshape(1, 1, size, 1, size, 1)
    won = winner[:, :, None, :, None] == place  # (b, h, size, w, size, c)
    dx = jnp.where(won, dy[:, :, None, :, None], 0).reshape(b, h * size, w * size, c)
    rest = [(0, n - m) for n, m in zip(x.shape[1:3], dx.shape[1:3], strict=True)]
    return (jnp.pad(dx, ((0, 0), *rest, (0, 0))),)


_tiled_max.defvjp(_tiled_max_forward, _tiled_max_backward)


class Conv(nnx.Module):
    """A square or oblong convolution; ``padding`` "same" keeps the size at stride 1.

    With ``transpose`` it is the mirror of a VALID convolution of that stride,
    y[s·i + k] += x[i] w[k], of (n-1)·s + k outputs.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int | tuple[int, int],
        *,
        rngs: nnx.Rngs,
        stride: int = 1,
        padding: Literal["valid", "same"] = "valid",
        transpose: bool = False,
        bias: bool = False,
    ):
        kh, kw = (size, size) if isinstance(size, int) else size
        initial = nnx.initializers.he_normal()
        self.kernel = nnx.Param(initial(rngs.params(), (kh, kw, inputs, outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs)) if bias else None
        self.transpose = transpose
        if transpose:
            self.window = Window(1, ((kh - 1, kh - 1), (kw - 1, kw - 1)), stride)
        elif padding == "same":
            self.window = Window(stride, ((kh // 2, (kh - 1) // 2), (kw // 2, (kw - 1) // 2)))
        else:
            self.window = Window(stride)

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.kernel[...].astype(x.dtype)
        if self.transpose:
            kernel = lax.optimization_barrier(kernel[::-1, ::-1])
        y: jax.Array = conv(x, kernel, self.window)  # type: ignore[assignment]
        return y if self.bias is None else y + _along(x, self.bias[...]).astype(x.dtype)


class BatchNorm(nnx.Module):
    """Batch norm with slim's conventions: eps 1e-3, and in FaceNet no gamma (``scale=False``)."""

    EPSILON = 1e-3

    def __init__(self, features: int, *, scale: bool, decay: float = 0.995):
        self.scale = nnx.Param(jnp.ones(features)) if scale else None
        self.bias = nnx.Param(jnp.zeros(features))
        self.mean = nnx.BatchStat(jnp.zeros(features))
        self.var = nnx.BatchStat(jnp.ones(features))
        self.decay = decay

    def __call__(
        self, x: jax.Array, statistics: Statistics = "running", mask: jax.Array | None = None
    ) -> jax.Array:
        """Normalise ``x`` (b,…,c); items where ``mask`` (b,) is 0 do not count in batch means."""
        if statistics == "running":
            mean, var = _along(x, self.mean[...]), _along(x, self.var[...])
        else:
            mean, var = _moments(x, per_example=statistics == "example", mask=mask)
        if statistics == "train":
            for stored, seen in ((self.mean, mean), (self.var, var)):
                stored[...] = self.decay * stored[...] + (1 - self.decay) * seen.ravel()
        gain = lax.rsqrt(var + self.EPSILON)
        if self.scale is not None:
            gain = gain * _along(x, self.scale[...])
        # One multiply-add per element, whatever the mode; statistics stay in float32.
        return x * gain.astype(x.dtype) + (_along(x, self.bias[...]) - mean * gain).astype(x.dtype)


def _along(x: jax.Array, channels: jax.Array) -> jax.Array:
    """A vector (c,) shaped to broadcast over x (…,c)."""
    return channels.reshape(*[1] * (x.ndim - 1), -1)


def in_full(x: jax.Array) -> jax.Array:
    """``x`` in the precision of statistics: float32, or float64 if it has that."""
    return x.astype(jnp.float64 if x.dtype == jnp.float64 else jnp.float32)


def _moments(x: jax.Array, *, per_example: bool, mask: jax.Array | None):
    """Mean and (biased) variance over space, and over the batch unless ``per_example``."""
    x = in_full(x)
    space = tuple(range(1, x.ndim - 1))
    axes = space if per_example else (0, *space)
    if mask is None or per_example:
        mean = x.mean(axes, keepdims=True)
        return mean, jnp.square(x - mean).mean(axes, keepdims=True)
    weight = mask.astype(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
    count = weight.sum() * x[0, ..., 0].size
    mean = (x * weight).sum(axes, keepdims=True) / count
    return mean, (jnp.square(x - mean) * weight).sum(axes, keepdims=True) / count


class ConvBN(nnx.Module):
    """Convolution, batch norm, ReLU; with ``folded`` the norm is already in kernel and bias.

    ``how``: stride, padding and transpose of ``Conv``.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int | tuple[int, int],
        *,
        rngs: nnx.Rngs,
        folded: bool = False,
        scale: bool = False,
        decay: float = 0.995,
        **how: Any,
    ):
        self.conv = Conv(inputs, outputs, size, rngs=rngs, bias=folded, **how)
        self.bn = None if folded else BatchNorm(outputs, scale=scale, decay=decay)

    def __call__(
        self,
        x: jax.Array,
        statistics: Statistics = "running",
        mask: jax.Array | None = None,
        *,
        relu: bool = True,
        crop: tuple[int, int] | None = None,
    ) -> jax.Array:
        """``crop`` (height, width) keeps that corner of the convolution, before the norm."""
        y = self.conv(x)
        if crop is not None:
            y = y[:, : crop[0], : crop[1]]
        if self.bn is not None:
            y = self.bn(y, statistics, mask)
        return rectify(y) if relu else y


class Mix(nnx.Module):
    """A 1×1 convolution from frequency channels to a few features, batch norm, ReLU.

    The channels' magnitudes differ by a factor of a thousand, so each is divided by its root mean
    square, a statistic that is kept like batch norm's. On a CPU the matrix product is five times
    as fast as XLA's 1×1 convolution of so many channels.
    """

    EVERY = 4  # the root mean square is estimated from every fourth row and column

    def __init__(self, channels: int, width: int, *, decay: float, rngs: nnx.Rngs):
        initial = nnx.initializers.he_normal()
        self.kernel = nnx.Param(initial(rngs.params(), (channels, width)))
        # Not its square, which half precision, the format of stored decoders, could not hold.
        self.size = nnx.BatchStat(jnp.ones(channels))
        self.bn = BatchNorm(width, scale=True, decay=decay)
        self.decay = decay

    def __call__(
        self, x: jax.Array, statistics: Statistics = "running", mask: jax.Array | None = None
    ) -> jax.Array:
        """x (b,n,n,channels) to (b,n,n,width), ≥ 0; "example" takes the running scale."""
        size = self.size[...]
        if statistics in ("batch", "train"):
            some = x[:, :: self.EVERY, :: self.EVERY]  # (b, n/4, n/4, channels)
            weight = jnp.ones(x.shape[0]) if mask is None else mask
            of_each = jnp.square(some.astype(jnp.float32)).mean((1, 2))  # (b, channels)
            size = jnp.sqrt((of_each * weight[:, None]).sum(0) / weight.sum())
        if statistics == "train":
            self.size[...] = self.decay * self.size[...] + (1 - self.decay) * size
        kernel = self.kernel[...] / (size + 1e-3)[:, None]  # (channels, width)
        y = jnp.dot(x, kernel.astype(x.dtype))
        return rectify(self.bn(y, statistics, mask))
