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
from advface_jax.models.layers import BatchNorm, Conv, Statistics, in_full, max_pool


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


class Norm(NamedTuple):
    """A ``BatchNorm`` for every place of a cell: (1, area·c) each. Made outside a loop, since a
    TPU takes a program of its own for each copy of a few numbers."""

    centre: jax.Array
    var: jax.Array
    scale: jax.Array
    bias: jax.Array
    area: int

    @classmethod
    def of(cls, norm: BatchNorm, area: int) -> "Norm":
        scale = () if norm.scale is None else (norm.scale,)
        arrays = [jnp.tile(v[...], area)[None] for v in (norm.mean, norm.var, norm.bias, *scale)]
        centre, var, bias, *scale = lax.optimization_barrier(arrays)
        return cls(centre, var, scale[0] if scale else jnp.ones_like(bias), bias, area)

    def __call__(
        self, x: jax.Array, of: "Pixels", statistics: Statistics, mask: jax.Array | None
    ) -> jax.Array:
        """Normalise ``x``; stored statistics stay.

        Mean and variance are computed in one pass, as moments about the stored mean, which is so
        near the batch's own that their difference loses no digits.
        """
        of_norm = self.centre, self.scale, self.bias
        if statistics == "running":
            x = of.repeated(x)
            gain, offset = _affine((jnp.zeros_like(self.var), self.var), of_norm)
        else:
            wide = in_full(x).dtype
            axes = (1, 2) if statistics == "example" else (0, 1, 2)
            count, weight = of.size**2, jnp.ones((), wide)
            if statistics != "example" and mask is None:
                count *= x.shape[0]
            elif statistics != "example" and mask is not None:
                weight = mask.astype(wide)[:, None, None, None]
                count = count * weight.sum()
            centre = self.centre[:, None, None].astype(wide)
            first, second, x = _moments(x, centre, weight, of, axes)
            # Sums in full would not fit into the program of the last layer's gradient on a TPU.
            dtype = x.dtype if of.repeats else wide
            given = first, second, jnp.asarray(count, wide), of_norm
            gain, offset = _factors(self.area, dtype, *given)
        return _scaled(x, gain[:, None, None], offset[:, None, None])


class Pixels(NamedTuple):
    """Which places of a map packed by ``grid`` are pixels of a result: the first ``size`` rows and
    columns. If the grid has room for one more, it ``repeats`` the last one."""

    grid: Grid
    size: int

    @property
    def repeats(self) -> bool:
        return self.size < self.grid.rows.size

    def inside(self, channels: int) -> np.ndarray | None:
        """As ``Grid.inside``, of a map of so many channels, cells together."""
        return self.grid.inside(channels // self.grid.area, self.size)

    def repeated(self, x: jax.Array) -> jax.Array:
        return repeat(x, self.grid) if self.repeats else x


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _moments(x, centre, weight, of: Pixels, axes: tuple[int, ...]):
    """Sums of ``x`` - centre and of its square (1 or b, n), and ``x`` with its edge repeated. The
    derivative needs the latter alone: else the map would be copied for the edge."""
    d = within(x.astype(centre.dtype) - centre, of.inside(x.shape[-1]))
    weighted = d * weight
    first, second = (m.sum(axes).reshape(-1, x.shape[-1]) for m in (weighted, weighted * d))
    return first, second, of.repeated(x)


def _moments_forward(x, centre, weight, of: Pixels, axes: tuple[int, ...]):
    first, second, x = _moments(x, centre, weight, of, axes)
    return (first, second, x), (x, centre, weight)


def _moments_backward(of: Pixels, axes: tuple[int, ...], kept, cotangents):
    (x, centre, weight), (first, second, dx) = kept, cotangents
    first, second = (m[:, None, None] for m in (first, second))
    d = x.astype(centre.dtype) - centre
    of_sums = within((first + (d + d) * second) * weight, of.inside(x.shape[-1]))
    dx = _repeat(dx, of.grid, back=True) if of.repeats else dx
    return dx + of_sums.astype(dx.dtype), -of_sums.sum((0, 1, 2), keepdims=True), None


_moments.defvjp(_moments_forward, _moments_backward)


@jax.custom_vjp
def _scaled(x: jax.Array, gain: jax.Array, offset: jax.Array) -> jax.Array:
    """x · gain + offset in x's precision; the derivatives of gain and offset in theirs."""
    return x * gain.astype(x.dtype) + offset.astype(x.dtype)


def _scaled_backward(kept: tuple[jax.Array, jax.Array], dy: jax.Array):
    x, gain = kept
    axes = (1, 2) if gain.shape[0] > 1 else (0, 1, 2)
    own = dy.astype(gain.dtype)
    sums = [m.sum(axes, keepdims=True) for m in (own * x.astype(gain.dtype), own)]
    return dy * gain.astype(dy.dtype), *sums


_scaled.defvjp(lambda x, gain, offset: (_scaled(x, gain, offset), (x, gain)), _scaled_backward)


def _add_places(sums: jax.Array, area: int) -> jax.Array:
    """Sums (k, area·c) of each place to those of all places, in every place."""
    if area == 1:
        return in_full(sums)
    channels = sums.shape[-1] // area
    if jax.default_backend() == "tpu":  # where a reshape of so few numbers is a program, too
        together = np.kron(np.ones((area, area)), np.eye(channels)).astype(sums.dtype)
        exact = {"precision": lax.Precision.HIGHEST, "preferred_element_type": in_full(sums).dtype}
        return jnp.dot(sums, together, **exact)
    return jnp.tile(in_full(sums).reshape(-1, area, channels).sum(-2), area)


def _affine(means: tuple[jax.Array, jax.Array], of_norm) -> tuple[jax.Array, jax.Array]:
    """Gain and offset from the mean of x - centre and of its square."""
    (first, second), (centre, scale, bias) = means, of_norm
    gain = lax.rsqrt(second - jnp.square(first) + BatchNorm.EPSILON) * scale
    return gain, bias - (centre + first) * gain


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _factors(area: int, dtype, first, second, count, of_norm) -> tuple[jax.Array, jax.Array]:
    """``_affine`` of the sums of each place, in ``dtype``.

    Between the sums and the factors all places are alike. So the derivative adds the places first:
    a TPU needs one small program less than if it came last.
    """
    means = _add_places(first, area) / count, _add_places(second, area) / count
    gain, offset = _affine(means, of_norm)
    return gain.astype(dtype), offset.astype(dtype)


def _factors_forward(area, dtype, first, second, count, of_norm):
    means = _add_places(first, area) / count, _add_places(second, area) / count
    gain, offset = _affine(means, of_norm)
    return (gain.astype(dtype), offset.astype(dtype)), (means, count, of_norm)


def _factors_backward(area, dtype, kept, cotangents):
    means, count, of_norm = kept
    of_sums = tuple(_add_places(m, area) / count for m in cotangents)
    _, vjp = jax.vjp(lambda means: _affine(means, of_norm), means)
    first, second = vjp(of_sums)[0]
    _, vjp = jax.vjp(lambda of_norm: _affine(means, of_norm), of_norm)
    own = vjp(tuple(in_full(m) for m in cotangents))[0]
    return first, second, None, own


_factors.defvjp(_factors_forward, _factors_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def repeat(x: jax.Array, grid: Grid) -> jax.Array:
    """``x`` with the last pixel of every row and column made that before it; written in place."""
    return _repeat(x, grid, back=False)


def _repeat(x: jax.Array, grid: Grid, back: bool) -> jax.Array:
    matrices = list(enumerate(_repeating(grid)))
    for axis, repeating in reversed(matrices) if back else matrices:
        start = x.shape[axis + 1] - len(repeating)
        end = lax.slice_in_dim(x, start, x.shape[axis + 1], axis=axis + 1)
        c = x.shape[-1] // grid.area
        how = "bhwi,hiko->bkwo" if axis == 0 else "bhwi,wiko->bhko"
        matrix = np.kron(repeating.reshape(repeating.shape[0] * grid.area, -1), np.eye(c))
        matrix = matrix.reshape(len(repeating), grid.area * c, len(repeating), -1)
        if back:
            matrix = matrix.transpose(2, 3, 0, 1)
        end = jnp.einsum(how, end, matrix.astype(x.dtype), precision=lax.Precision.HIGHEST)
        # Made before: what reads the map and writes it at once works on a copy.
        x = lax.dynamic_update_slice_in_dim(x, lax.optimization_barrier(end), start, axis + 1)
    return x


@functools.cache
def _repeating(grid: Grid) -> list[np.ndarray]:
    """For rows and columns: the matrix (cells, places, cells, places) from the last cell, or the
    last two where a cell has one pixel, to the same with the last pixel made that before it."""
    found = []
    for number, axis in enumerate(grid):
        cells = 2 if axis.cell == 1 else 1
        shape = cells, grid.rows.cell, grid.columns.cell
        at, p, q = np.indices(shape)
        place = np.asarray(axis.order)[q if number else p]
        pixel = at * axis.cell + place
        source = np.where(pixel == cells * axis.cell - 1, pixel - 1, pixel)
        other = p if number else q
        same = (source.reshape(1, -1) == pixel.reshape(-1, 1)) & (
            other.reshape(1, -1) == other.reshape(-1, 1)
        )
        found.append(same.reshape(cells, grid.area, cells, grid.area).astype(np.float32))
    return found


repeat.defvjp(
    lambda x, grid: (_repeat(x, grid, back=False), None),
    lambda grid, _, dy: (_repeat(dy, grid, back=True),),
)


class Pool:
    """The maximum of 2×2 pixels, in and across cells, for the convolution behind it.

    Of four pixels the largest stays and the others become zero, each in its place; the convolution
    has the pooled pixel's kernel for all four (``lanes``), so that its sum is that of the maximum.
    That leaves all channels where they are, and multiplies no more on units of 128 channels.
    Single pixels are pooled as usual.
    """

    def __init__(self, source: Grid, target: Grid, channels: int):
        self.source, self.target, self.channels = source, target, channels
        self.lanes: np.ndarray | None = None
        if source.area > 1:
            self.odd, self.lanes = self._places()

    def _places(self) -> tuple[list[np.ndarray], np.ndarray]:
        """Of each channel, with both pixels of a pair in its cell: whether it is the odd one of
        its pair, by axis; and the channel of the pooled map."""
        orders, sizes = [], []
        for axis in self.source:
            sizes.append((2, 1) if axis.cell == 1 else (1, axis.cell))
            orders.append([0, 1] if axis.cell == 1 else axis.order)
        (gi, p), (gj, q) = sizes
        shape = gj, gi, p, q, self.channels  # columns are paired last
        j, i, at_p, at_q, c = np.indices(shape)
        rows, columns = (np.asarray(order) for order in orders)
        row = rows[i if gi > 1 else at_p].ravel()
        column = columns[j if gj > 1 else at_q].ravel()
        cells = self.target.columns.cell
        pooled = (row // 2 * cells + column // 2) * self.channels + c.ravel()
        return [row % 2, column % 2], pooled

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.lanes is None:
            return max_pool(x, 2, 2)
        for number, axis, cells in zip((1, 2), self.source, self._cells(), strict=True):
            if axis.cell == 1:
                pairs = [lax.slice_in_dim(x, i, 2 * cells, 2, axis=number) for i in range(2)]
                x = jnp.concatenate(pairs, -1)
            else:
                x = lax.slice_in_dim(x, 0, cells, axis=number)
        largest, wins = lax.stop_gradient(x), None
        for odd, swapped in zip(self.odd, self._swaps(), strict=True):
            other = jnp.dot(largest, swapped.astype(x.dtype), precision=lax.Precision.HIGHEST)
            won = (largest > other) | ((largest == other) & (odd == 0))  # the first of equal ones
            wins = won if wins is None else wins & won
            largest = jnp.maximum(largest, other)
        inside = self.target.inside(self.channels)  # 77 pixels end in half a pair
        if inside is not None:
            wins &= inside[..., self.lanes]
        return jnp.where(wins, x, jnp.zeros((), x.dtype))

    def _cells(self) -> tuple[int, int]:
        return self.target.rows.cells, self.target.columns.cells

    def _swaps(self) -> list[np.ndarray]:
        """For each axis, the matrix that exchanges the two pixels of every pair."""
        odd, n = np.stack([*self.odd, self.lanes]), len(self.lanes)  # type: ignore[arg-type]
        swaps = []
        for axis in range(2):
            other = odd.copy()
            other[axis] = 1 - other[axis]
            swaps.append((odd[:, :, None] == other[:, None, :]).all(0).reshape(n, n))
        return swaps
