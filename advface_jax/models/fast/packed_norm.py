"""Batch norm of packed maps, and their repeated last pixel (see ``packed``).

On a TPU each operation on a few numbers is a program of its own, which takes as long as a hundredth
of an iteration; so the few numbers of a batch norm stay as wide as the map.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from advface_jax.models.fast.packed import Grid, within
from advface_jax.models.layers import BatchNorm, Statistics, in_full


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
        self, x: jax.Array, of: Pixels, statistics: Statistics, mask: jax.Array | None
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
            moments: Any = _moments(x, centre, weight, of, axes)
            first, second, x = moments
            # Sums in full would not fit into the program of the last layer's gradient on a TPU.
            dtype = x.dtype if of.repeats else wide
            given = first, second, jnp.asarray(count, wide), of_norm
            factors: Any = _factors(self.area, dtype, *given)
            gain, offset = factors
        return _scaled(x, gain[:, None, None], offset[:, None, None])


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _moments(x, centre, weight, of: Pixels, axes: tuple[int, ...]):
    """Sums of ``x`` - centre and of its square (1 or b, n), and ``x`` with its edge repeated. The
    derivative needs the latter alone: else the map would be copied for the edge."""
    d = within(x.astype(centre.dtype) - centre, of.inside(x.shape[-1]))
    weighted = d * weight
    first, second = (m.sum(axes).reshape(-1, x.shape[-1]) for m in (weighted, weighted * d))
    return first, second, of.repeated(x)


def _moments_forward(x, centre, weight, of: Pixels, axes: tuple[int, ...]):
    made: Any = _moments(x, centre, weight, of, axes)
    return made, (made[-1], centre, weight)


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
