"""Feature maps with cells of pixels as channels, which fill a TPU's 128-wide matrix unit.

A packed map (b,H,W,P·Q·c) holds in each place a cell of P×Q neighbouring pixels of c channels
(space-to-depth). A 3×3 convolution of pixels is then a 2×2 convolution of cells wherever the cells
of the result begin in between those of its input; a transposed convolution of stride 2 has cells
of twice the size as its result and multiplies no zeros (a sub-pixel convolution). Places of a cell
that are outside the map are kept zero. The mathematics is that of ``layers``; the sums run in
another order.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from advface_jax.models.fast.convolution import Padding, Window, conv
from advface_jax.models.layers import BatchNorm, Conv, Statistics, in_full


class Axis(NamedTuple):
    """How the pixels 0 … size-1 of one axis lie in cells, the first of which begins at pixel
    ``first``: 0, or before the map."""

    size: int
    cell: int
    first: int = 0

    @property
    def cells(self) -> int:
        return -(-(self.size - self.first) // self.cell)

    @property
    def order(self) -> list[int]:
        """The pixels of a cell as they follow each other."""
        return [*range(0, self.cell, 2), *range(1, self.cell, 2)]

    def inside(self, size: int) -> np.ndarray:
        """Which places of each cell are pixels below ``size``: bool (cells, cell)."""
        pixels = self.first + np.arange(self.cells * self.cell).reshape(self.cells, self.cell)
        return ((pixels >= 0) & (pixels < size))[:, self.order]


class Grid(NamedTuple):
    """How a map's pixels lie in cells."""

    rows: Axis
    columns: Axis

    @classmethod
    def of(cls, size: int, cell: tuple[int, int], first: int = 0) -> "Grid":
        """Of size × size pixels, where a cell begins at pixel ``first``: any one will do."""
        rows, columns = (Axis(size, n, -(-first % n)) for n in cell)
        return cls(rows, columns)

    @property
    def area(self) -> int:
        return self.rows.cell * self.columns.cell

    def inside(self, channels: int, size: int | None = None) -> np.ndarray | None:
        """Where a packed map holds pixels (of the first ``size`` rows and columns, or of all):
        bool (1, H, W, P·Q·channels); None if everywhere."""
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
    """``x``, and its gradient, with zeros where there is no pixel."""
    return x if inside is None else jnp.where(inside, x, jnp.zeros((), x.dtype))


class Taps(NamedTuple):
    """Which tap of a kernel leads from place p of input cell t to place q of an output cell: index
    (t, p, q), or the kernel's size where none does; the cells to add around the input, and how far
    apart its cells are to be put."""

    index: np.ndarray
    padding: tuple[int, int]
    dilation: int = 1


@functools.cache
def taps(source: Axis, target: Axis, size: int, stride: int, shift: int) -> Taps:
    """Those of y[stride·i + k - shift] += x[i] w[k], k < size: every layer is of this form.

    Raises:
      ValueError: where target's cells are not ``stride`` times source's, or both of one pixel.
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
    index = np.full((highest - lowest + 1, source.cell, target.cell), size)
    for t, p, q, k in links:
        index[t - lowest, p, q] = k
    length = (source.cells - 1) * dilation + 1
    index = index[:, source.order][:, :, target.order]
    return Taps(index, (-lowest, highest + target.cells - length), dilation)


class PackedKernel(NamedTuple):
    """A kernel (t·p, u·r, part, i, q·s·o), for input cells t×u with places p×r to output places
    q×s, and how it is applied."""

    kernel: jax.Array
    taps: tuple[int, int]
    padding: Padding
    dilation: tuple[int, int] = (1, 1)

    @classmethod
    def of(cls, layer: Conv, source: Grid, target: Grid, dtype, parts: int = 1) -> "PackedKernel":
        """``layer``'s, between maps packed like source and target. Its input may be ``parts`` maps
        beside each other, each of them packed."""
        kernel = layer.kernel[...].astype(dtype)
        size, _, inputs, outputs = kernel.shape
        if layer.transpose:
            stride, shift = layer.window.dilation, 0
        else:
            stride, shift = 1, size - 1 - layer.window.padding[0][0]
            kernel = kernel[::-1, ::-1]
        rows, columns = (
            taps(a, b, size, stride, shift) for a, b in zip(source, target, strict=True)
        )
        kernel = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))  # the tap that is none
        kernel = kernel[rows.index][:, :, :, columns.index]  # (t, p, q, u, r, s, i, o)
        kernel = kernel.transpose(0, 1, 3, 4, 6, 2, 5, 7)  # (t, p, u, r, i, q, s, o)
        t, p, u, r = kernel.shape[:4]
        kernel = kernel.reshape(t * p, u * r, parts, inputs // parts, target.area * outputs)
        return cls(
            kernel, (t, u), (rows.padding, columns.padding), (rows.dilation, columns.dilation)
        )

    def repeating(self, axis: int) -> "PackedKernel":
        """For a last output cell along ``axis`` whose last input pixel shall be the one before."""
        k = jnp.moveaxis(self.kernel, axis, 0)
        cell = len(k) // self.taps[axis]
        before = len(k) - (cell // 2 + 1 if cell > 1 else 2)  # the last of the even pixels
        k = k.at[before].add(k[-1]).at[-1].set(0)
        return self._replace(kernel=jnp.moveaxis(k, 0, axis))

    def ready(self) -> jax.Array:
        """The kernel as a convolution wants it, (t, u, part·p·r·i, q·s·o): computed where this is
        called, and not again in a loop that uses it."""
        (t, u), (_, _, parts, i, o) = self.taps, self.kernel.shape
        k = self.kernel.reshape(t, -1, u, self.kernel.shape[1] // u, parts, i, o)
        k = k.transpose(0, 2, 4, 1, 3, 5, 6).reshape(t, u, -1, o)
        return lax.optimization_barrier(k)


def convolve(
    x: jax.Array, kernel: jax.Array, padding: Padding, dilation: tuple[int, int] = (1, 1)
) -> jax.Array:
    """A plain convolution, whose derivative is fast on the platform at hand."""
    if jax.default_backend() == "cpu" and dilation[0] == dilation[1]:
        return conv(x, kernel, Window(1, padding, dilation[0]))  # type: ignore[return-value]
    layouts = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), padding, dilation, dimension_numbers=layouts)


def normalise(
    x: jax.Array,
    norm: BatchNorm,
    inside: np.ndarray | None,
    statistics: Statistics,
    mask: jax.Array | None,
) -> jax.Array:
    """Batch norm of a packed map, of which only what is ``inside`` counts; as ``BatchNorm`` does
    it for other maps, which keeps stored statistics as they are.

    Mean and variance come of one pass, as moments about the stored mean, which is near enough to
    the batch's own for their difference to lose no digits.
    """
    centre, bias = norm.mean[...].reshape(1, -1), norm.bias[...].reshape(1, -1)
    channels, area = centre.size, x.shape[-1] // centre.size
    if statistics == "running":
        mean, var = centre, norm.var[...].reshape(1, -1)
    else:
        wide = in_full(x)
        middle = jnp.tile(centre, area).reshape(1, 1, 1, -1).astype(wide.dtype)
        d = weighted = within(wide - middle, inside)
        axes = (1, 2) if statistics == "example" else (0, 1, 2)
        count = x[0, ..., 0].size * area if inside is None else int(inside.sum()) // channels
        if statistics != "example" and mask is None:
            count *= x.shape[0]
        elif statistics != "example" and mask is not None:
            weight = mask.astype(wide.dtype)
            weighted, count = d * weight[:, None, None, None], count * weight.sum()
        first, second = (
            m.sum(axes).reshape(-1, area, channels).sum(-2) / count  # (1 or b, c)
            for m in (weighted, weighted * d)
        )
        mean, var = centre + first, second - jnp.square(first)
    gain = lax.rsqrt(var + norm.EPSILON)
    if norm.scale is not None:
        gain = gain * norm.scale[...].reshape(1, -1)
    shape = -1, 1, 1, x.shape[-1]
    gain, offset = (jnp.tile(v, area).astype(x.dtype) for v in (gain, bias - mean * gain))
    return x * gain.reshape(shape) + offset.reshape(shape)
