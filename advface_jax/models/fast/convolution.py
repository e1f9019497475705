"""One convolution, with a derivative of its own, and what makes it fast on a CPU.

Layout is NHWC for features and HWIO for kernels. ``conv`` has its own derivative because XLA:CPU
falls back to a scalar loop, an order of magnitude slower, for two of the convolutions that plain
autodiff emits: the input gradient inside a ``while`` loop (PGD), and the weight gradient of a
convolution that is padded by more than one or dilated (training the decoders).
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from advface_jax import sharding
from advface_jax.models.fast import winograd

Padding = tuple[tuple[int, int], tuple[int, int]]


FEW_ROWS = 32
"""A map of fewer is worth neither several cores nor Winograd's sums."""
MOST_BYTES = 24 * 2**20
"""Of a convolution's input at once: of more than 32 MB the C library, unless told otherwise, gives
the memory that it takes back to the system each time, and it takes twice as long."""
PART_BYTES = 2**20
"""Of the input of each part of a larger one: what is cut out, or put in its place, stays cached."""
MANY_CORES = 4
"""With as many, code that takes all cores is given one face alone: on two it was even with YNNPACK,
which takes one core, and half as much time of it. Nobody has timed it on more."""


class Window(NamedTuple):
    """How a kernel slides: output stride, zeros added around, and zeros put between the inputs."""

    stride: int = 1
    padding: Padding = ((0, 0), (0, 0))
    dilation: int = 1


def _convolve(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    if jax.default_backend() != "cpu":
        return _multiply(x, kernel, window)
    if _wants_all_cores(x):
        return _multiply(x, kernel, window, alone=True)
    if not _is_worth_winograd(x, kernel, window):
        most = MOST_BYTES if window.dilation == 1 else PART_BYTES
        return _in_parts(lambda x: _multiply(x, kernel, window), x, most)
    rows, columns = window.padding
    beside = Window(padding=((0, 0), columns))
    kernels = winograd.kernels(kernel)

    def in_tiles(x: jax.Array) -> jax.Array:
        return winograd.convolve(x, kernels, rows, lambda x, k: _multiply(x, k, beside))

    return _in_parts(in_tiles, x, 0)  # or its sums and products take more memory than all else


def _in_parts(convolve: Callable[[jax.Array], jax.Array], x: jax.Array, most: int) -> jax.Array:
    """``convolve`` of a part of the examples at a time, where a device has more bytes of them than
    ``most``. Each part has some of every device's, so that none of them moves to another."""
    b, kept = x.shape[0], _sharing(x)
    if x.nbytes <= most * kept or b == kept:
        return convolve(x)
    sizes = [n for n in range(kept, b, kept) if b % n == 0]
    size = max([n for n in sizes if n * x.nbytes <= b * kept * PART_BYTES] or sizes[:1])
    parts = x.reshape(size, b // size, *x.shape[1:])

    def place(i: jax.Array, y: jax.Array) -> jax.Array:
        part = lax.dynamic_index_in_dim(parts, i, 1, keepdims=False)
        return lax.dynamic_update_index_in_dim(y, convolve(part), i, 1)

    shape = jax.eval_shape(convolve, parts[:, 0]).shape
    # Of the input, or XLA:CPU fills all of a program's such arrays at once, before any is wanted.
    anything = jnp.broadcast_to(parts[:, :, :1, :1, :1], (size, b // size, *shape[1:]))
    return lax.fori_loop(0, b // size, place, anything).reshape(b, *shape[1:])


def _sharing(x: jax.Array) -> int:
    """Among how many devices the examples can be shared."""
    devices = jax.device_count()
    return devices if x.shape[0] % devices == 0 else 1


def _is_worth_winograd(x: jax.Array, kernel: jax.Array, window: Window) -> bool:
    """Of fewer channels or rows it gains nothing; in half precision it loses too many digits. Where
    a device has one example only, its sums are as large as all other memory."""
    square = kernel.shape[:2] == (3, 3) and window.stride == window.dilation == 1
    channels = 32 if x.shape[0] > _sharing(x) else 64
    large = min(kernel.shape[2:]) >= channels and x.shape[1] >= FEW_ROWS
    return square and large and jnp.finfo(x.dtype).bits >= 32


def _wants_all_cores(x: jax.Array) -> bool:
    """A single example cannot be shared among cores as devices. (One of a larger batch, taken by
    itself, is not meant: it would take other code than the batch was timed with.)"""
    return x.shape[0] == 1 and min(x.shape[1:3]) >= FEW_ROWS and sharding.cores() >= MANY_CORES


def _multiply(x: jax.Array, kernel: jax.Array, window: Window, *, alone: bool = False) -> jax.Array:
    h, w = (
        ((n - 1) * window.dilation + 1 + sum(padding) - k) // window.stride + 1
        for n, k, padding in zip(x.shape[1:3], kernel.shape[:2], window.padding, strict=True)
    )
    padding = window.padding
    if jax.default_backend() == "cpu":
        x, kernel, padding = _fast_on_cpu(x, kernel, window, alone)
    y = lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(window.stride,) * 2,
        padding=padding,
        lhs_dilation=(window.dilation,) * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y[:, :h, :w]


def _fast_on_cpu(
    x: jax.Array, kernel: jax.Array, window: Window, alone: bool
) -> tuple[jax.Array, jax.Array, Padding]:
    """The input, kernel and padding of a convolution of which a CPU may make more than is wanted.

    XLA:CPU (jax 0.10) has YNNPACK for most convolutions, and slower code for those with an output
    larger than the input and for those of 16 channels or fewer: they get a larger input, or more
    channels, of zeros. YNNPACK takes two to eight times longer over a convolution without padding
    than over one that has some, so it gets some at the far ends, to be cut off again. The slower
    code, however, takes all cores, and YNNPACK one: an example that is ``alone`` gets an output
    some rows larger.
    """
    if window.dilation > 1 or kernel.shape[:2] == (1, 1):
        return x, kernel, window.padding
    if alone and window.stride == 1:
        (lo, hi), columns = window.padding
        return x, kernel, ((lo, max(hi, kernel.shape[0] - lo)), columns)
    inputs, outputs = kernel.shape[2:]
    if 8 <= inputs <= 16 >= outputs:
        x, kernel = (
            jnp.pad(a, [(0, 20 - inputs if axis == where else 0) for axis in range(4)])
            for a, where in ((x, 3), (kernel, 2))
        )
    if not any(map(any, window.padding)):
        rows, columns = ((0, int(k > 1)) for k in kernel.shape[:2])
        return x, kernel, (rows, columns)
    grown = [
        max(0, lo + hi - k + 1)
        for (lo, hi), k in zip(window.padding, kernel.shape[:2], strict=True)
    ]
    if not any(grown) or max(kernel.shape[2:]) <= 16:
        return x, kernel, window.padding
    before = [(n // 2, n - n // 2) for n in grown]
    x = lax.optimization_barrier(jnp.pad(x, ((0, 0), *before, (0, 0))))
    rows, columns = (
        (lo - a, hi - b) for (lo, hi), (a, b) in zip(window.padding, before, strict=True)
    )
    return x, kernel, (rows, columns)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """Cross-correlate ``x`` (b,h,w,i) with ``kernel`` (k,k,i,o): (b,h',w',o)."""
    return _convolve(x, kernel, window)


def _conv_forward(x: jax.Array, kernel: jax.Array, window: Window):
    return _convolve(x, kernel, window), (x, kernel)


def _conv_backward(window: Window, residuals, dy: jax.Array):
    x, kernel = residuals
    return _input_gradient(x, kernel, window, dy), _kernel_gradient(x, kernel, window, dy)


def _is_product(kernel: jax.Array, window: Window) -> bool:
    """Whether the convolution is a matrix product at each place. As such its gradients take a
    quarter less of a FaceNet training step on a CPU than as convolutions."""
    return kernel.shape[:2] == (1, 1) and window == Window()


def _input_gradient(x: jax.Array, kernel: jax.Array, window: Window, dy: jax.Array) -> jax.Array:
    if _is_product(kernel, window):
        return jnp.einsum("bhwo,io->bhwi", dy, kernel[0, 0])
    # The barrier keeps XLA from folding the flip and the transpose into the convolution, which is
    # what would put it on the slow path; flipping a kernel costs nothing beside the convolution.
    mirrored = lax.optimization_barrier(_mirrored(kernel))
    return _convolve(dy, mirrored, _way_back(x, kernel, window, dy))


def _mirrored(kernel: jax.Array) -> jax.Array:
    return kernel[::-1, ::-1].swapaxes(2, 3)


def _way_back(x: jax.Array, kernel: jax.Array, window: Window, dy: jax.Array) -> Window:
    """How the mirrored kernel slides over outputs, to be the transpose of the convolution."""
    padding = tuple(
        _transposed_padding(n, m, k, before, window)
        for n, m, k, (before, _) in zip(
            x.shape[1:3], dy.shape[1:3], kernel.shape[:2], window.padding, strict=True
        )
    )
    return Window(window.dilation, padding, window.stride)  # type: ignore[arg-type]


def _transposed_padding(n: int, m: int, k: int, before: int, window: Window) -> tuple[int, int]:
    """Padding of the input gradient, where n inputs gave m outputs under a kernel of k."""
    dilated_n, dilated_m = (n - 1) * window.dilation + 1, (m - 1) * window.stride + 1
    lo = k - 1 - before
    return lo, dilated_n + k - 1 - dilated_m - lo


def _kernel_gradient(x: jax.Array, kernel: jax.Array, window: Window, dy: jax.Array) -> jax.Array:
    if _is_product(kernel, window):
        return jnp.einsum("bhwi,bhwo->io", x, dy)[None, None]
    if window.dilation > 1:  # seen from its outputs it has a stride instead: no zeros to multiply
        back = _way_back(x, kernel, window, dy)
        (gradient,) = jax.vjp(lambda w: _multiply(dy, w, back), _mirrored(kernel))[1](x)
        return _mirrored(gradient)
    if any(p > 1 for pair in window.padding for p in pair):
        x = lax.optimization_barrier(jnp.pad(x, ((0, 0), *window.padding, (0, 0))))
        window = Window(window.stride)
    (gradient,) = jax.vjp(lambda w: _multiply(x, w, window), kernel)[1](dy)
    return gradient


conv.defvjp(_conv_forward, _conv_backward)
