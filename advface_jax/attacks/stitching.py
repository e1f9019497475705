"""The stitched sibling: a public recogniser put onto z by a linear map in closed form.

First layers of recognisers see nearly the same: edges and colours in a place. So a ridge from
small patches of z to the first features of another, public recogniser, learnt on some tens of
public faces, lets that one read what Ψ reads. The attacker asks E for the features of those faces;
no protected feature, no code of the defence, and no part of Ψ is used.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from advface_jax import checks, networks
from advface_jax.models.fast.convolution import Window, conv

Grid = tuple[np.ndarray, np.ndarray]
BATCH = 8  # 100 MB of patches


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Stitch:
    """A linear map from patches of one feature map to another: ``stitch(z)`` is (b,h,w,c).

    Attributes:
      kernel: (patch, patch, channels of z, c), the map.
      bias: (c,).
      sampling: None if both maps have one grid; or (h, rows of z) and (w, columns of z), the
        weights that sample z on the target's grid first.
      rectify: whether ReLU follows: the target had no negative value.
    """

    kernel: jax.Array
    bias: jax.Array
    sampling: tuple[jax.Array, jax.Array] | None
    rectify: bool = dataclasses.field(metadata={"static": True})

    def __call__(self, z: jax.Array) -> jax.Array:
        edge = self.kernel.shape[0] // 2
        window = Window(padding=((edge, edge), (edge, edge)))
        sampled = _sample(z.astype(jnp.float32), self.sampling)
        y: jax.Array = conv(sampled, self.kernel, window) + self.bias.reshape(1, 1, 1, -1)  # type: ignore[assignment]
        return jnp.maximum(y, 0) if self.rectify else y


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sibling:
    """A recogniser of z, made of a stitch and the rest of another one: z -> embeddings (b,e)."""

    stitch: Callable[[jax.Array], jax.Array]
    recogniser: Callable[[jax.Array], jax.Array]

    def __call__(self, z: jax.Array) -> jax.Array:
        return self.recogniser(self.stitch(z))


def sibling(stitch: Callable[[jax.Array], jax.Array], recogniser: Any) -> Sibling:
    """``recogniser`` (embeddings of the stitch's target, as ``load("facenet-128").server``) on z.

    A callable pytree: it may enter a caller's ``jax.jit`` as an argument, and has gradients.

    Example:
      >>> import numpy as np
      >>> from advface_jax import attacks
      >>> z = np.random.default_rng(0).random((8, 6, 6, 2), "float32")
      >>> stitch = attacks.stitch(z, 2 * z, patch=1)
      >>> sibling = attacks.sibling(stitch, lambda features: features.mean((1, 2)))
      >>> sibling(z).shape  # embeddings of length 1
      (8, 2)
    """
    return Sibling(stitch, networks.Normalised(networks.network(recogniser, "recogniser")))


def stitch(
    z: ArrayLike,
    target: ArrayLike,
    *,
    patch: int = 3,
    ridge: float = 1e-4,
    grid: Grid | None = None,
) -> Stitch:
    """The linear map from patches of z to ``target``, by ridge regression in closed form.

    Args:
      z: (n,h,w,k), the source's features of some public faces; 60 are enough for FaceNet's.
      target: (n,h',w',c), another network's features of the same faces.
      patch: the side of a patch, odd.
      ridge: the penalty on the weights, as a share of a patch element's mean square.
      grid: where the target's rows (h',) and columns (w',) lie in z, in its elements from 0; what
        is outside is z's edge. None: both cover the same picture evenly.

    Raises:
      ValueError: shapes that do not fit each other, NaN or inf, or a wrong setting.

    Example:
      >>> import numpy as np
      >>> from advface_jax import attacks
      >>> z = np.random.default_rng(0).random((8, 6, 6, 2), "float32")  # features of 8 public faces
      >>> stitch = attacks.stitch(z, 2 * z, patch=1)  # another network's of the same faces
      >>> bool(abs(stitch(z) - 2 * z).max() < 0.01)
      True
    """
    shape = _shape(z, "source"), _shape(target, "target")
    if shape[0][0] != shape[1][0]:
        raise ValueError(
            f"got features of {shape[0][0]} faces to learn from and {shape[1][0]} targets; wanted "
            "both of the same faces, in one order"
        )
    if not (isinstance(patch, int) and patch % 2 == 1 and patch > 0):
        raise ValueError(f"got patch={patch!r}; wanted an odd number, as 3")
    checks.above_zero(ridge=ridge)
    sampling = _sampling(shape[0][1:3], shape[1][1:3], grid)
    inputs, outputs = patch * patch * shape[0][3] + 1, shape[1][3]
    gram, cross = np.zeros((inputs, inputs)), np.zeros((inputs, outputs))
    rectify = True
    for start in range(0, shape[0][0], BATCH):
        x = checks.features(z[start : start + BATCH], None)  # type: ignore[index]
        y = checks.features(target[start : start + BATCH], None)  # type: ignore[index]
        # Sums over a batch in float32, over all of them in float64.
        for total, part in zip((gram, cross), _products(x, y, sampling, patch), strict=True):
            total += np.asarray(part, np.float64)
        rectify = rectify and bool((y >= 0).all())
    # A source that is 0 everywhere has no scale, and teaches the target's mean.
    penalty = ridge * np.trace(gram[:-1, :-1]) / (inputs - 1) or 1.0
    weights = np.linalg.solve(gram + np.diag([*[penalty] * (inputs - 1), 0.0]), cross)
    kernel = weights[:-1].reshape(patch, patch, shape[0][3], outputs)
    return Stitch(
        jnp.asarray(kernel, jnp.float32), jnp.asarray(weights[-1], jnp.float32), sampling, rectify
    )


def explained(stitch: Stitch, z: ArrayLike, target: ArrayLike) -> float:
    """R²: the share of the target's variance (in a channel, over faces and places) that a stitch
    explains, of features (n, …) of faces that it did not learn from.

    Example:
      >>> import numpy as np
      >>> from advface_jax import attacks
      >>> z = np.random.default_rng(0).random((8, 6, 6, 2), "float32")
      >>> stitch = attacks.stitch(z[:6], 2 * z[:6], patch=1)
      >>> round(attacks.explained(stitch, z[6:], 2 * z[6:]), 2)
      1.0
    """
    y = np.asarray(target, np.float64)
    parts = [stitch(jnp.asarray(z[i : i + BATCH])) for i in range(0, len(y), BATCH)]  # type: ignore[index]
    error = np.square(np.concatenate(parts) - y).sum()
    return float(1 - error / np.square(y - y.mean((0, 1, 2))).sum())


def _shape(features: ArrayLike, name: str) -> tuple[int, ...]:
    shape = np.shape(features)  # type: ignore[arg-type]
    if len(shape) != 4 or 0 in shape:
        raise ValueError(f"got {name} features of shape {shape}; wanted (n, h, w, channels), n ≥ 1")
    return shape


def _sampling(
    source: tuple[int, ...], target: tuple[int, ...], grid: Grid | None
) -> tuple[jax.Array, jax.Array] | None:
    """Weights (h', h) and (w', w) of linear interpolation."""
    if grid is None:
        if source == target:
            return None
        grid = tuple(
            (np.arange(m) + 0.5) * n / m - 0.5 for n, m in zip(source, target, strict=True)
        )  # type: ignore[assignment]
    weights = []
    for at, n, m in zip(grid, source, target, strict=True):  # type: ignore[arg-type]
        at = np.asarray(at, np.float64)
        if at.shape != (m,) or not np.isfinite(at).all():
            raise ValueError(
                f"got a grid of shape {at.shape}; wanted {m} finite places, one a row or column of "
                "the target"
            )
        near = np.abs(np.clip(at, 0, n - 1)[:, None] - np.arange(n))
        weights.append(jnp.asarray(np.maximum(1 - near, 0), jnp.float32))
    return weights[0], weights[1]


def _sample(z: jax.Array, sampling: tuple[jax.Array, jax.Array] | None) -> jax.Array:
    if sampling is None:
        return z
    rows, columns = sampling
    z = jnp.einsum("rh,bhwc->brwc", rows, z, precision=lax.Precision.HIGHEST)
    return jnp.einsum("sw,brwc->brsc", columns, z, precision=lax.Precision.HIGHEST)


@functools.partial(jax.jit, static_argnames="patch")
def _products(
    z: jax.Array, y: jax.Array, sampling: tuple[jax.Array, jax.Array] | None, patch: int
) -> tuple[jax.Array, jax.Array]:
    """XᵀX and Xᵀy of all patches, in the kernel's order, with a last one for the bias."""
    z = _sample(z.astype(jnp.float32), sampling)
    h, w = z.shape[1:3]
    edge = patch // 2
    padded = jnp.pad(z, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
    moved = [padded[:, i : i + h, j : j + w] for i in range(patch) for j in range(patch)]
    x = jnp.concatenate([*moved, jnp.ones((*z.shape[:3], 1))], -1).reshape(z.shape[0] * h * w, -1)
    flat = y.astype(jnp.float32).reshape(x.shape[0], -1)
    with jax.default_matmul_precision("highest"):
        return x.T @ x, x.T @ flat
