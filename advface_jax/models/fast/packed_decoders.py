"""The decoders over packed maps (see ``packed``), for the loop of ``protect``.

Weights and mathematics are those of ``decoders``. Features and images keep the packed form through
the whole loop: its state, its gradient and x~. On a TPU cells fill the matrix unit; on a CPU cells
of one pixel save the last layer's products with zeros; on a GPU, in half precision, cells spare
passes over memory: maps of few channels are cuDNN's slow case.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from advface_jax.models.decoders import Decoder, ResRec, TransRec, URec
from advface_jax.models.facenet import FEATURE_SHAPE, IMAGE_SIZE
from advface_jax.models.fast.packed import Grid, PackedKernel, convolve, pack, unpack, within
from advface_jax.models.fast.packed_norm import Norm, Pixels
from advface_jax.models.fast.packed_pool import Pool
from advface_jax.models.layers import Conv, ConvBN, Statistics, rectify

Formulation = Literal["auto", "plain", "packed", "subpixel"]
SIZE, CHANNELS = FEATURE_SHAPE[0], FEATURE_SHAPE[-1]
FASTEST: dict[tuple[str, bool], Formulation] = {
    ("tpu", False): "packed",
    ("tpu", True): "packed",
    ("cpu", False): "subpixel",
    ("cpu", True): "subpixel",
    ("cuda", True): "packed",
}
"""By platform, and whether in half precision (docs/performance.md); "plain" elsewhere, where the
others are not benchmarked."""
WIDE = 128
"""The width of a TPU's matrix unit and vector registers, in channels."""

Cell = tuple[int, int]
Apply = Callable[..., jax.Array]
Layer = Callable[..., Apply]


class Form(NamedTuple):
    """A decoder over its own form of features and images.

    Attributes:
      decode: called like a decoder, from features to an image, both of this form.
      pack, unpack: features (b,77,77,64) into this form and back.
      image: the image (b,160,160,3) from this form (an array, or several).
    """

    decode: Callable[..., Any]
    pack: Callable[[jax.Array], jax.Array]
    unpack: Callable[[jax.Array], jax.Array]
    image: Callable[[Any], jax.Array]


def form(decoder: Callable, formulation: Formulation, dtype) -> Form:
    """``decoder`` in a ``formulation``; "auto" is the fastest on this platform.

    Call it outside a loop, since it rewrites the kernels.

    Raises:
      ValueError: "packed" or "subpixel" for another model than the three decoders.
    """
    packable = type(decoder) in (TransRec, ResRec, URec)
    if formulation == "auto":
        here = _platform(), jnp.finfo(dtype).bits < 32
        formulation = FASTEST.get(here, "plain") if packable else "plain"
    if formulation == "plain":
        return Form(decoder, *[lambda x: x] * 3)
    if not packable:
        raise ValueError(
            f"got formulation={formulation!r} for a {type(decoder).__name__}; wanted a TransRec, "
            "ResRec or URec: leave it at 'auto'"
        )
    return packed(decoder, dtype, (1, 1) if formulation == "subpixel" else None)  # type: ignore[arg-type]


def _platform() -> str:
    """JAX's name of the platform, but which of the two kinds of "gpu" it is."""
    name = jax.default_backend()
    if name != "gpu":
        return name
    return "rocm" if "rocm" in jax.devices()[0].client.platform_version.lower() else "cuda"


def cell_of(width: int) -> Cell:
    """The cell at the features' resolution: up to 4×4 pixels, with width·pixels ≤ 128."""
    pixels = min(16, max(1, WIDE // width))
    power = pixels.bit_length() - 1
    return 2 ** (power // 2), 2 ** (power - power // 2)


def packed(decoder: Decoder, dtype, cell: Cell | None = None) -> Form:
    """``decoder`` over packed maps of ``dtype``."""
    cell = cell or cell_of(decoder.config.width)
    features = Grid.of(SIZE, cell, -1)
    build = {TransRec: _transrec, ResRec: _resrec, URec: _urec}[type(decoder)]
    body, grid = build(decoder, features, functools.partial(_layer, dtype=dtype))
    # 79 pixels, and the repeated one if it shares its cell with others.
    last = Grid.of(SIZE + (2 if cell == (1, 1) else 3), cell)
    images = Grid.of(IMAGE_SIZE, (2 * cell[0], 2 * cell[1]))
    conv_2a = _layer(decoder.conv_2a, grid, last, size=SIZE + 2, dtype=dtype)
    conv_1a = (_edged if last.area == 1 else _ended)(decoder.conv_1a, last, images, dtype)
    inside = features.inside(CHANNELS)

    def decode(z: jax.Array, statistics: Statistics = "running", mask=None):
        y = body(within(z, inside), statistics, mask)
        return conv_1a(conv_2a(y, statistics, mask))

    def image(parts: tuple[jax.Array, ...]) -> jax.Array:
        if len(parts) == 1:
            return unpack(parts[0], images)
        inner, right, bottom, corner = parts
        top, bottom = (jnp.concatenate(p, 2) for p in ((inner, right), (bottom, corner)))
        return unpack(jnp.concatenate([top, bottom], 1), images)

    return Form(decode, lambda z: pack(z, features), lambda z: unpack(z, features), image)


def _layer(
    layer: ConvBN,
    source: Grid,
    target: Grid,
    *,
    dtype,
    relu=True,
    parts=1,
    size: int | None = None,
    lanes: np.ndarray | None = None,
) -> Apply:
    """``layer`` between packed maps. ``size`` is that of its result, if target's cells have room
    for one more pixel, which then repeats the last one. ``lanes``: of the source, where each
    channel of the input belongs."""
    rewritten = PackedKernel.of(layer.conv, source, target, dtype, parts)
    kernel, norm = rewritten.ready(), Norm.of(layer.bn, target.area)  # type: ignore[arg-type]
    if lanes is not None:
        kernel = lax.optimization_barrier(kernel[:, :, lanes])
    pixels = Pixels(target, size or target.rows.size)
    inside = None if pixels.repeats else pixels.inside(kernel.shape[-1])

    kernels = [kernel]
    if parts > 1 and jax.default_backend() == "tpu":  # where joining the maps costs more
        kernels = lax.optimization_barrier(jnp.split(kernel, parts, 2))

    def apply(x: Any, statistics: Statistics, mask: jax.Array | None) -> jax.Array:
        maps = x if parts > 1 else [x]
        if len(kernels) < parts:
            maps = [jnp.concatenate(x, -1)]
        y = functools.reduce(
            jnp.add,
            (
                convolve(m, k, rewritten.padding, rewritten.dilation)
                for m, k in zip(maps, kernels, strict=True)
            ),
        )
        y = norm(y, pixels, statistics, mask)
        return within(rectify(y) if relu else y, inside)

    return apply


def _ended(
    layer: Conv, source: Grid, target: Grid, dtype
) -> Callable[[jax.Array], tuple[jax.Array, ...]]:
    """The last layer, up to the image, of maps whose last row and column are repeated already."""
    rewritten = PackedKernel.of(layer, source, target, dtype)
    kernel, bias = rewritten.ready(), _bias(layer, target, dtype)

    def apply(y: jax.Array) -> tuple[jax.Array, ...]:
        return (jax.nn.sigmoid(convolve(y, kernel, rewritten.padding) + bias),)

    return apply


def _edged(
    layer: Conv, source: Grid, target: Grid, dtype
) -> Callable[[jax.Array], tuple[jax.Array, ...]]:
    """The same in single pixels, whose map has no room for the repetition.

    The last pixels have kernels of their own, in which the repeated one's tap is added to the last
    one's. Their results (inner, right, bottom, corner) stay separate: joining them costs more.
    """
    a = PackedKernel.of(layer, source, target, dtype).ready()
    b, c = a[:, :1] + a[:, 1:], a[:1] + a[1:]
    b, c, d = lax.optimization_barrier((b, c, c[:, :1] + c[:, 1:]))
    bias = _bias(layer, target, dtype)

    def apply(y: jax.Array) -> tuple[jax.Array, ...]:
        parts = (
            convolve(y, a, ((1, 0), (1, 0))),
            convolve(y[:, :, -1:], b, ((1, 0), (0, 0))),
            convolve(y[:, -1:], c, ((0, 0), (1, 0))),
            convolve(y[:, -1:, -1:], d, ((0, 0), (0, 0))),
        )
        return tuple(jax.nn.sigmoid(part + bias) for part in parts)

    return apply


def _bias(layer: Conv, target: Grid, dtype) -> jax.Array:
    """For every place of a cell; ready as a kernel is."""
    bias = jnp.tile(layer.bias[...], target.area).astype(dtype)  # type: ignore[index]
    return lax.optimization_barrier(bias.reshape(1, 1, 1, -1))


def _transrec(s: TransRec, features: Grid, layer: Layer):
    grid = _shifted(features, 1)
    return layer(s.conv_2b, features, grid), grid


def _resrec(s: ResRec, features: Grid, layer: Layer):
    grid, between = _shifted(features, 1), _shifted(features, 2)
    stem = layer(s.stem, features, grid)
    blocks = [
        (layer(first, grid, between), layer(second, between, grid, relu=False))
        for first, second in s.blocks
    ]

    def body(z, *how):
        y = stem(z, *how)
        for first, second in blocks:
            y = rectify(y + second(first(y, *how), *how))
        return y

    return body, grid


def _urec(s: URec, features: Grid, layer: Layer):
    depth = len(s.down)
    cell = features.rows.cell, features.columns.cell
    cells = [(max(1, cell[0] >> level), max(1, cell[1] >> level)) for level in range(depth + 1)]
    sizes = [SIZE >> level for level in range(depth + 1)]
    # Cells of pooled pixels begin where the cells of their pixels do; kernels are smallest if the
    # cells of the next level begin one pixel later.
    first = [0] * (depth + 1)
    for level in reversed(range(depth)):
        first[level] = 2 * (first[level + 1] - 1)
    grids = [Grid.of(n, c, f) for n, c, f in zip(sizes, cells, first, strict=True)]
    pooled = [Grid.of(sizes[i + 1], cells[i + 1], first[i] // 2) for i in range(depth)]
    merged = [Grid.of(n, c, f + 1) for n, c, f in zip(sizes, cells, first, strict=True)]
    merged[-1] = grids[-1]
    merged[0] = Grid.of(SIZE, cell) if depth else grids[0]
    stem = layer(s.stem, features, grids[0])
    pools = [
        Pool(grids[i], pooled[i], inner.conv.kernel.shape[2]) for i, inner in enumerate(s.down)
    ]
    down = [layer(s.down[i], pooled[i], grids[i + 1], lanes=pools[i].lanes) for i in range(depth)]
    up = [layer(s.up[i], merged[i + 1], grids[i]) for i in range(depth)]
    merge = [layer(s.merge[i], grids[i], merged[i], parts=2) for i in range(depth)]

    def body(z, *how):
        y, skips = stem(z, *how), []
        for level in range(depth):
            skips.append(y)
            y = down[level](pools[level](y), *how)
        for level in reversed(range(depth)):
            y = up[level](y, *how)
            y = merge[level]([skips[level], y], *how)
        return y

    return body, merged[0]


def _shifted(grid: Grid, pixels: int) -> Grid:
    """The same pixels, in cells that begin ``pixels`` later."""
    cell = grid.rows.cell, grid.columns.cell
    rows, columns = (Grid.of(axis.size, cell, axis.first + pixels) for axis in grid)
    return Grid(rows.rows, columns.columns)
