"""From a photograph and the boxes found in it to crops, as facenet-pytorch 2.6.0 cuts them."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
from PIL import Image

from advface_jax.data import pictures
from advface_jax.data.faces import SIZE
from advface_jax.untrusted import PIXELS, BadFile

MARGIN = 14  # pixels of the crop, both sides together
MAX_PIXELS = PIXELS

Choice = Literal["centre", "largest", "probable", "all"]
"""Which of several faces: the largest near the middle; the largest; the most probable; all."""


def decode(data: bytes) -> np.ndarray:
    """An encoded photograph as uint8 (h,w,3), RGB, turned upright as its EXIF data say.

    Raises:
      ValueError: with the reason when the bytes are no picture or claim too large a one.
    """

    def check(wide: int, high: int) -> None:
        if wide * high > MAX_PIXELS:
            size = f"{wide * high / 1e6:,.0f} megapixels, more than {MAX_PIXELS / 1e6:.0f}"
            raise BadFile(f"too large: {size}")

    return np.asarray(pictures.decode(data, check))


def choose(
    boxes: np.ndarray, probabilities: np.ndarray, size: tuple[int, int], how: Choice = "centre"
) -> np.ndarray:
    """Which boxes of a photograph to crop: their indices, best first.

    Args:
      boxes: (n,4), as ``Detections.boxes``.
      probabilities: (n,).
      size: (height, width) of the photograph.
      how: "centre", the area less twice the squared distance (in pixels) from the middle of the
        photograph, as all crops of this project were chosen; "largest", the area; "probable", the
        probability. These give one index at most; "all" gives every one, the most probable first.
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    score = probabilities
    if how in ("largest", "centre"):
        score = sides.prod(1)
    if how == "centre":
        offset = boxes[:, :2] + sides / 2 - np.array(size[::-1], np.float32) / 2
        score = score - 2 * np.square(offset).sum(1)
    order = np.argsort(-score, kind="stable")
    return order if how == "all" else order[:1]


def cut(
    photo: np.ndarray, box: np.ndarray, *, size: int = SIZE, margin: int = MARGIN
) -> np.ndarray:
    """The face in a box of a photograph (h,w,3), uint8 (size,size,3).

    The box grows by ``margin`` pixels of the crop, half of them at each end, is clipped at the
    photograph's edges and rounded down, and resized to a square by Pillow's bilinear filter.

    Raises:
      ValueError: the box lies outside the photograph, or the margin leaves no room for the face.
    """
    if not 0 <= margin < size:
        raise ValueError(f"got margin={margin}, size={size}; wanted a margin from 0 to size - 1")
    grown = margin * (box[2:] - box[:2]) / (size - margin) / 2
    ends = np.array(photo.shape[1::-1])
    low = np.maximum(box[:2] - grown, 0).astype(int)
    high = np.minimum(box[2:] + grown, ends).astype(int)
    if (low >= high).any():
        raise ValueError("the face lies outside the photograph")
    part = Image.fromarray(photo[low[1] : high[1], low[0] : high[0]])
    return np.asarray(part.resize((size, size), Image.Resampling.BILINEAR))


def encode(crop: np.ndarray, suffix: Literal[".jpg", ".png"], quality: int = 95) -> bytes:
    """A crop as the bytes of a file; ``quality`` is JPEG's."""
    out = io.BytesIO()
    options = {"format": "PNG"} if suffix == ".png" else {"format": "JPEG", "quality": quality}
    Image.fromarray(crop).save(out, **options)
    return out.getvalue()
