"""Pooling of packed maps (see ``packed``)."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from advface_jax.models.fast.packed import Grid
from advface_jax.models.layers import max_pool


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
        largest, wins = lax.stop_gradient(x), jnp.ones((1, 1, 1, 1), bool)
        for odd, swapped in zip(self.odd, self._swaps(), strict=True):
            other = jnp.dot(largest, swapped.astype(x.dtype), precision=lax.Precision.HIGHEST)
            first = (odd == 0)[None, None, None]
            wins &= (largest > other) | ((largest == other) & first)
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
