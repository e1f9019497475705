"""A convolution with its own derivative, fast on a CPU; NHWC features, HWIO kernels.

On a CPU four things pay (XLA:CPU, jax 0.10):
* The derivative of ``conv``: XLA:CPU runs two convolutions of plain autodiff as a scalar loop, an
  order of magnitude slower: the input gradient inside a ``while`` loop (PGD), and the weight
  gradient of a convolution that is dilated or padded by more than one (training the decoders).
* Larger shapes than needed, cut off again, for which XLA has faster code (``_fast_on_cpu``).
* Winograd's sums for large 3×3 convolutions (``winograd``).
* A large batch in parts that stay in the cache (``_in_parts``).
On a GPU or TPU ``conv`` is ``lax.conv_general_dilated`` with that derivative.
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
LAYOUTS = ("NHWC", "HWIO", "NHWC")
FEW_ROWS = 32
"""Below this height, neither several cores nor Winograd's sums pay."""
MOST_BYTES = 24 * 2**20
"""The largest input of one convolution: above 32 MB the C library, unless told otherwise, returns
the memory to the system after each call, which doubles the time."""
PART_BYTES = 2**20
"""The input of each part of a larger one, so that the copies of a part stay in the cache."""
MANY_CORES = 4
"""From this many cores on, a single face takes the code that uses all cores. On two cores it was as
fast as YNNPACK, which uses one, for twice the CPU time; not benchmarked on more."""


class Window(NamedTuple):
    """How a kernel slides: output stride, zeros added around, and zeros put between the inputs."""

    stride: int = 1
    padding: Padding = ((0, 0), (0, 0))
    dilation: int = 1


def _on_cpu(x: jax.Array) -> bool:
    """Whether to take a CPU's forms. A batch of unknown size is an export's, for every platform."""
    return jax.default_backend() == "cpu" and isinstance(x.shape[0], int)


def _convolve(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    if not _on_cpu(x):
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

    return _in_parts(in_tiles, x, 0)  # of a whole batch the sums would take most of the memory


def _in_parts(convolve: Callable[[jax.Array], jax.Array], x: jax.Array, most: int) -> jax.Array:
    """``convolve`` for a part of the examples at a time, if a device has more than ``most`` bytes.
    Each part has examples of every device, so that none moves to another."""
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
    # Made from the input, or XLA:CPU would fill all such arrays of a program at its start.
    anything = jnp.broadcast_to(parts[:, :, :1, :1, :1], (size, b // size, *shape[1:]))
    return lax.fori_loop(0, b // size, place, anything).reshape(b, *shape[1:])


def _sharing(x: jax.Array) -> int:
    """The number of devices that share the examples."""
    return sharding.sharing(x.shape[0])


def _is_worth_winograd(x: jax.Array, kernel: jax.Array, window: Window) -> bool:
    """Not for fewer channels or rows, where it gains nothing, nor in half precision, where it loses
    too many digits. With one example per device its sums are as large as all other memory."""
    square = kernel.shape[:2] == (3, 3) and window.stride == window.dilation == 1
    channels = 32 if x.shape[0] > _sharing(x) else 64
    large = min(kernel.shape[2:]) >= channels and x.shape[1] >= FEW_ROWS
    return square and large and jnp.finfo(x.dtype).bits >= 32


def _wants_all_cores(x: jax.Array) -> bool:
    """Whether this is one example, which cores as devices cannot share. (Not one part of a larger
    batch: that keeps the code that the batch was timed with.)"""
    return x.shape[0] == 1 and min(x.shape[1:3]) >= FEW_ROWS and sharding.cores() >= MANY_CORES


def _multiply(x: jax.Array, kernel: jax.Array, window: Window, *, alone: bool = False) -> jax.Array:
    h, w = (
        ((n - 1) * window.dilation + 1 + sum(padding) - k) // window.stride + 1
        for n, k, padding in zip(x.shape[1:3], kernel.shape[:2], window.padding, strict=True)
    )
    padding = window.padding
    if _on_cpu(x):
        x, kernel, padding = _fast_on_cpu(x, kernel, window, alone)
    strides, dilation = (window.stride,) * 2, (window.dilation,) * 2
    y = lax.conv_general_dilated(x, kernel, strides, padding, dilation, dimension_numbers=LAYOUTS)
    return y[:, :h, :w]


def _fast_on_cpu(
    x: jax.Array, kernel: jax.Array, window: Window, alone: bool
) -> tuple[jax.Array, jax.Array, Padding]:
    """Input, kernel and padding of a larger convolution that a CPU computes faster.

    XLA:CPU (jax 0.10) uses YNNPACK for most convolutions, and slower code if the output is larger
    than the input or there are 16 channels or fewer: zeros enlarge the input or the channels.
    YNNPACK takes two to eight times longer without padding than with some, so padding is added at
    the far ends, to be cut off again. The slower code, however, uses all cores and YNNPACK one: an
    example that is ``alone`` gets an output some rows larger.
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
    sides = zip(window.padding, kernel.shape[:2], strict=True)
    grown = [max(0, lo + hi - k + 1) for (lo, hi), k in sides]
    if not any(grown) or max(kernel.shape[2:]) <= 16:
        return x, kernel, window.padding
    before = [(n // 2, n - n // 2) for n in grown]
    x = lax.optimization_barrier(jnp.pad(x, ((0, 0), *before, (0, 0))))
    pairs = zip(window.padding, before, strict=True)
    rows, columns = ((lo - a, hi - b) for (lo, hi), (a, b) in pairs)
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
    """Whether the convolution is a matrix product at each place. Its gradients as products save a
    quarter of a FaceNet training step's time on a CPU."""
    return kernel.shape[:2] == (1, 1) and window == Window()


def _input_gradient(x: jax.Array, kernel: jax.Array, window: Window, dy: jax.Array) -> jax.Array:
    if _is_product(kernel, window):
        return jnp.einsum("bhwo,io->bhwi", dy, kernel[0, 0])
    # Without the barrier XLA would fold the flip and the transpose into the convolution and take
    # the slow path; flipping a kernel costs little.
    mirrored = lax.optimization_barrier(_mirrored(kernel))
    return _convolve(dy, mirrored, _way_back(x, kernel, window, dy))


def _mirrored(kernel: jax.Array) -> jax.Array:
    return kernel[::-1, ::-1].swapaxes(2, 3)


def _way_back(x: jax.Array, kernel: jax.Array, window: Window, dy: jax.Array) -> Window:
    """The window in which the mirrored kernel over the outputs is the transposed convolution."""

    def along(n: int, m: int, k: int, padding: tuple[int, int]) -> tuple[int, int]:
        """Of one axis, where n inputs gave m outputs under a kernel of k."""
        lo = k - 1 - padding[0]
        return lo, (n - 1) * window.dilation + k - 1 - (m - 1) * window.stride - lo

    rows, columns = map(along, x.shape[1:3], dy.shape[1:3], kernel.shape[:2], window.padding)
    return Window(window.dilation, (rows, columns), window.stride)


def _kernel_gradient(x: jax.Array, kernel: jax.Array, window: Window, dy: jax.Array) -> jax.Array:
    if _is_product(kernel, window):
        return jnp.einsum("bhwi,bhwo->io", x, dy)[None, None]
    if window.dilation > 1:  # from its outputs it is a strided convolution: no zeros to multiply
        back = _way_back(x, kernel, window, dy)
        (gradient,) = jax.vjp(lambda w: _multiply(dy, w, back), _mirrored(kernel))[1](x)
        return _mirrored(gradient)
    if any(p > 1 for pair in window.padding for p in pair):
        x = lax.optimization_barrier(jnp.pad(x, ((0, 0), *window.padding, (0, 0))))
        window = Window(window.stride)
    (gradient,) = jax.vjp(lambda w: _multiply(x, w, window), kernel)[1](dy)
    return gradient


conv.defvjp(_conv_forward, _conv_backward)
