"""Feature maps with cells of pixels as channels, which fill a TPU's 128-wide matrix unit.

A packed map (b,H,W,P·Q·c) has in each place a cell of P×Q neighbouring pixels of c channels
(space-to-depth). A 3×3 convolution of pixels becomes a 2×2 convolution of cells, if the output's
cells begin between those of the input. A transposed convolution of stride 2 gives cells of twice
the size and multiplies no zeros (a sub-pixel convolution), which with cells of one pixel also pays
on a CPU. Places of a cell outside the map are zero. The mathematics is that of ``layers``; the sums
run in another order.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from advface_jax.models.fast.convolution import LAYOUTS, Padding, Window, conv
from advface_jax.models.layers import Conv


class Axis(NamedTuple):
    """How the pixels 0 … size-1 of one axis lie in cells; the first cell begins at pixel ``first``,
    0 or negative."""

    size: int
    cell: int
    first: int = 0

    @property
    def cells(self) -> int:
        return -(-(self.size - self.first) // self.cell)

    @property
    def order(self) -> list[int]:
        """The order of a cell's pixels: even ones, then odd ones."""
        return [*range(0, self.cell, 2), *range(1, self.cell, 2)]

    def inside(self, size: int) -> np.ndarray:
        """The places of each cell that are pixels below ``size``: bool (cells, cell)."""
        pixels = self.first + np.arange(self.cells * self.cell).reshape(self.cells, self.cell)
        return ((pixels >= 0) & (pixels < size))[:, self.order]


class Grid(NamedTuple):
    """How a map's pixels lie in cells."""

    rows: Axis
    columns: Axis

    @classmethod
    def of(cls, size: int, cell: tuple[int, int], first: int = 0) -> "Grid":
        """A grid over size × size pixels; ``first`` is the first pixel of any one cell."""
        rows, columns = (Axis(size, n, -(-first % n)) for n in cell)
        return cls(rows, columns)

    @property
    def area(self) -> int:
        return self.rows.cell * self.columns.cell

    def inside(self, channels: int, size: int | None = None) -> np.ndarray | None:
        """Where a packed map has pixels (of the first ``size`` rows and columns, or of all): bool
        (1, H, W, P·Q·channels); None if everywhere."""
        rows, columns = (axis.inside(size or axis.size) for axis in self)
        if rows.all() and columns.all():
            return None
        both = rows[:, None, :, None] & columns[None, :, None, :]  # (H, W, P, Q)
        return np.repeat(both.reshape(1, *both.shape[:2], -1), channels, axis=-1)


def pack(x: jax.Array, grid: Grid) -> jax.Array:
    """(b,h,w,c) to (b,H,W,P·Q·c), with zeros outside the map."""
    edges = [(-axis.first, axis.first + axis.cells * axis.cell - axis.size) for axis in grid]
    x = jnp.pad(x, ((0, 0), *edges, (0, 0)))
    (h, p, r), (w, q, s) = (_split(axis) for axis in grid)
    b, c = x.shape[0], x.shape[-1]
    x = x.reshape(b, h, p, r, w, q, s, c).transpose(0, 1, 4, 3, 2, 6, 5, 7)
    return x.reshape(b, h, w, grid.area * c)


def unpack(x: jax.Array, grid: Grid) -> jax.Array:
    """The inverse of ``pack``."""
    (h, p, r), (w, q, s) = (_split(axis) for axis in grid)
    (rows, columns), b, c = grid, x.shape[0], x.shape[-1] // grid.area
    x = x.reshape(b, h, w, r, p, s, q, c).transpose(0, 1, 4, 3, 2, 6, 5, 7)
    x = x.reshape(b, h * p * r, w * q * s, c)
    return x[:, -rows.first :, -columns.first :][:, : rows.size, : columns.size]


def _split(axis: Axis) -> tuple[int, int, int]:
    """An axis as (cells, pairs in a cell, pixels in a pair); a cell of one has a pair of one."""
    return axis.cells, max(1, axis.cell // 2), min(2, axis.cell)


def within(x: jax.Array, inside: np.ndarray | None) -> jax.Array:
    """``x`` and its gradient, with zeros where there is no pixel."""
    return x if inside is None else jnp.where(inside, x, jnp.zeros((), x.dtype))


class Taps(NamedTuple):
    """The taps of a kernel between cells along one axis.

    Attributes:
      index: (t, p, q), the tap from place p of input cell t to place q of an output cell; the
        kernel's size where there is none.
      padding, dilation: of the convolution of cells.
    """

    index: np.ndarray
    padding: tuple[int, int]
    dilation: int = 1


@functools.cache
def taps(source: Axis, target: Axis, size: int, stride: int, shift: int) -> Taps:
    """The taps of y[stride·i + k - shift] += x[i] w[k], k < size, the form of every layer.

    Raises:
      ValueError: if target's cells are neither ``stride`` times source's nor both one pixel.
    """
    dilation = stride if source.cell == target.cell == 1 else 1
    if dilation == 1 and target.cell != stride * source.cell:
        raise ValueError(
            f"got cells of {source.cell} and {target.cell} pixels around a transposed stride of "
            f"{stride}; wanted them to differ by that factor, or both of one pixel"
        )
    links = []  # (input cell, place in it, place in the first output cell, tap)
    for q in range(target.cell):
        for k in range(size):
            far = target.first + q + shift - k - stride * source.first  # stride · pixel
            if dilation > 1:
                links.append((far, 0, q, k))
            elif far % stride == 0:
                links.append((*divmod(far // stride, source.cell), q, k))
    lowest, highest = min(links)[0], max(links)[0]
    shape = highest - lowest + 1, source.cell, target.cell
    index = np.full(shape, size, np.int32)  # a width that x64 does not change
    for t, p, q, k in links:
        index[t - lowest, p, q] = k
    length = (source.cells - 1) * dilation + 1
    index = index[:, source.order][:, :, target.order]
    return Taps(index, (-lowest, highest + target.cells - length), dilation)


class PackedKernel(NamedTuple):
    """A kernel (t·p, u·r, part, i, q·s·o), from input cells t×u with places p×r to output places
    q×s, and its convolution's padding and dilation."""

    kernel: jax.Array
    taps: tuple[int, int]
    padding: Padding
    dilation: tuple[int, int] = (1, 1)

    @classmethod
    def of(cls, layer: Conv, source: Grid, target: Grid, dtype, parts: int = 1) -> "PackedKernel":
        """``layer``'s kernel between maps packed as source and target. The input may be ``parts``
        packed maps, concatenated along channels."""
        kernel = layer.kernel[...].astype(dtype)
        size, _, inputs, outputs = kernel.shape
        if layer.transpose:
            stride, shift = layer.window.dilation, 0
        else:
            stride, shift = 1, size - 1 - layer.window.padding[0][0]
            kernel = kernel[::-1, ::-1]
        axes = zip(source, target, strict=True)
        rows, columns = (taps(a, b, size, stride, shift) for a, b in axes)
        kernel = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))  # zero where there is no tap
        kernel = kernel[rows.index][:, :, :, columns.index]  # (t, p, q, u, r, s, i, o)
        kernel = kernel.transpose(0, 1, 3, 4, 6, 2, 5, 7)  # (t, p, u, r, i, q, s, o)
        t, p, u, r = kernel.shape[:4]
        kernel = kernel.reshape(t * p, u * r, parts, inputs // parts, target.area * outputs)
        padding, dilation = (rows.padding, columns.padding), (rows.dilation, columns.dilation)
        return cls(kernel, (t, u), padding, dilation)

    def ready(self) -> jax.Array:
        """The kernel of the convolution, (t, u, part·p·r·i, q·s·o); computed here, not in each
        iteration of a loop that uses it."""
        (t, u), (_, _, parts, i, o) = self.taps, self.kernel.shape
        k = self.kernel.reshape(t, -1, u, self.kernel.shape[1] // u, parts, i, o)
        k = k.transpose(0, 2, 4, 1, 3, 5, 6).reshape(t, u, -1, o)
        return lax.optimization_barrier(k)


def convolve(
    x: jax.Array, kernel: jax.Array, padding: Padding, dilation: tuple[int, int] = (1, 1)
) -> jax.Array:
    """A plain convolution with a derivative that is fast on this platform."""
    if jax.default_backend() == "cpu" and dilation[0] == dilation[1]:
        return conv(x, kernel, Window(1, padding, dilation[0]))  # type: ignore[return-value]
    return lax.conv_general_dilated(x, kernel, (1, 1), padding, dilation, dimension_numbers=LAYOUTS)
