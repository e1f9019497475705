"""What a client sends, which may be anything: a picture of a face, or its feature."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from advface_jax import detection
from advface_jax.data import crops, pictures

FORMATS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF")  # JPEG, PNG, WebP
MOST_PIXELS = 25_000_000
LARGEST = 100.0  # of an element of z; FaceNet's stay below 20


def picture(data: bytes, size: int, detector: Any = None) -> np.ndarray:
    """A face (1,size,size,3) float32 in [0,1], from a crop of that size, or found in a photograph
    by ``detection.load_detector()``; None takes crops alone.

    Raises:
      ValueError: no JPEG, PNG or WebP, too large a picture, or no face in it.
    """
    if not data.startswith(FORMATS):
        raise ValueError("got no JPEG, PNG or WebP; wanted one of these")

    def check(wide: int, high: int) -> None:
        if wide * high > MOST_PIXELS:
            raise ValueError(f"got {wide * high / 1e6:,.0f} megapixels; wanted at most 25")

    photo = np.asarray(pictures.decode(data, check))
    if photo.shape[:2] != (size, size):
        if detector is None:
            raise ValueError(f"got a picture that is no {size}×{size} crop; wanted one")
        found = detection.detect(photo, detector, {"min_face": max(20, min(photo.shape[:2]) / 12)})
        best = crops.choose(found.boxes, found.probabilities, photo.shape[:2])
        if not len(best):
            raise ValueError(f"got a picture without a face; wanted one, or a {size}×{size} crop")
        photo = crops.cut(photo, found.boxes[best[0]], size=size)
    return photo[None].astype(np.float32) / 255


def feature(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """A feature (1, *shape), as the client's E gives it: little-endian float32, without a header.

    Raises:
      ValueError: another number of bytes, or values that no E gives.
    """
    wanted = 4 * int(np.prod(shape))
    if len(data) != wanted:
        raise ValueError(f"got a feature of {len(data)} bytes; wanted {wanted}")
    z = np.frombuffer(data, "<f4").reshape(1, *shape)
    if not (np.abs(z) <= LARGEST).all():  # so that NaN is caught too
        raise ValueError(f"got a feature beyond ±{LARGEST:g}, or with NaN; wanted what E gives")
    return z


def png(image: np.ndarray) -> bytes:
    """A uint8 image (s,s,3) as PNG."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()
