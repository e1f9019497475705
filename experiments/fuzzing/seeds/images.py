"""Encoded images of the formats that are read."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from experiments.fuzzing.seeds import Files

SMALL = (20, 20)  # pixels; what reads crops accepts any square


def picture(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    """An encoded image of 20×20 pixels that do not compress away."""
    depth = {"L": 1, "RGB": 3, "RGBA": 4}.get(mode, 3)
    pixels = np.random.default_rng(depth).integers(0, 255, (*SMALL, depth), np.uint8)
    image = Image.fromarray(pixels[..., 0] if depth == 1 else pixels)
    out = io.BytesIO()
    (image if image.mode == mode else image.convert(mode)).save(out, kind, **options)
    return out.getvalue()


def _exif() -> bytes:
    exif = Image.Exif()
    exif[0x112] = 6
    return exif.tobytes()


def jpeg() -> list[Files]:
    kinds = ({}, {"progressive": True}, {"exif": _exif(), "quality": 30}, {"subsampling": 2})
    return [{"w": picture("JPEG", "RGB", **kind)} for kind in kinds] + [
        {"w": picture("JPEG", "L")},
        {"w": picture("JPEG", "CMYK")},
    ]


def png() -> list[Files]:
    still = [{"w": picture("PNG", mode)} for mode in ("RGB", "RGBA", "L", "P", "LA", "1")]
    deep = Image.fromarray(np.arange(400, dtype=np.uint16).reshape(SMALL) * 100)
    out, moving = io.BytesIO(), io.BytesIO()
    deep.save(out, "PNG")
    frames = [Image.new("RGB", SMALL, colour) for colour in ("red", "blue")]
    frames[0].save(moving, "PNG", save_all=True, append_images=frames[1:])
    more = picture("PNG", exif=_exif())
    return [*still, {"w": out.getvalue()}, {"w": moving.getvalue()}, {"w": more}]


def webp() -> list[Files]:
    frames, moving = [Image.new("RGB", SMALL, colour) for colour in ("red", "blue")], io.BytesIO()
    frames[0].save(moving, "WEBP", save_all=True, append_images=frames[1:])
    return [
        {"w": picture("WEBP", lossless=True)},
        {"w": picture("WEBP", quality=50, exif=_exif())},
        {"w": picture("WEBP", "RGBA")},
        {"w": moving.getvalue()},
    ]


def gif() -> list[Files]:
    frames, moving = [Image.new("RGB", SMALL, colour) for colour in ("red", "blue")], io.BytesIO()
    frames[0].save(moving, "GIF", save_all=True, append_images=frames[1:])
    return [{"w": picture("GIF", "P")}, {"w": moving.getvalue()}]


def tiff() -> list[Files]:
    forms = (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
    found = [{"w": picture("TIFF", compression=form)} for form in forms]
    found += [{"w": picture("TIFF", mode)} for mode in ("L", "RGBA", "CMYK", "I;16", "F", "1")]
    return found


def bmp() -> list[Files]:
    rle = bytearray(picture("BMP", "P"))
    rle[30] = 1  # run-length: the same bytes mean other runs
    return [{"w": picture("BMP", mode)} for mode in ("RGB", "P", "1", "RGBA")] + [{"w": bytes(rle)}]


def ppm() -> list[Files]:
    plain = b"P3\n# c\n2 2\n255\n1 2 3 4 5 6 7 8 9 10 11 12\n"
    texts = (plain, b"P1\n3 2\n101 010\n", b"P2\n2 1\n15\n3 4\n", b"P5\n2 2\n65535\n12345678")
    alpha = b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 4\nMAXVAL 255\nTUPLTYPE RGB_ALPHA\nENDHDR\n1234"
    return [{"w": text} for text in (*texts, alpha, b"P4\n9 1\nab", b"Pf\n1 1\n-1.0\n1234")] + [
        {"w": picture("PPM", mode)} for mode in ("RGB", "L", "1")
    ]
