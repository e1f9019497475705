"""One encoded picture, as any camera, scanner or editor saves it, to upright 8-bit RGB."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable

import numpy as np
from PIL import Image, UnidentifiedImageError

from advface_jax.untrusted import SCANNED_PIXELS, BadFile

# Whatever the name says. For some other formats Pillow runs a program (EPS: Ghostscript).
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by EXIF's orientation
_TILE = 1024  # pixels a side
_SCAN = b"\xff\xda"  # begins a scan of a JPEG
_ORIENTATION, _PHOTOMETRIC = 0x112, 262
_SLOW, _MOST_SLOW = (
    ("'ppm'", "'ppm_plain'", "'bmp_rle'"),
    1 << 20,
)  # written in Python: 2 µs a value
_WHOLE = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}  # EXIF's types of whole numbers
_XMP = re.compile(rb"tiff:Orientation\s*(?:=\s*[\"']|>)\s*([1-8])\b")

BEGIN = 16  # bytes that tell a picture
# How files begin, for the reason why one is not read.
_OTHERS = {
    "HEIC or AVIF": rb".{4}ftyp(?:avi|hei|hev|mif|msf)",
    "JPEG 2000": rb".{4}jP  |\xff\x4f\xff\x51",
    "JPEG XL": rb".{4}JXL |\xff\x0a",
}
_OURS = {"JPEG": rb"\xff\xd8\xff", "PNG": rb"\x89PNG", "TIFF": rb"II[*+]\0|MM\0[*+]"}
_OURS |= {"GIF": rb"GIF8", "WebP": rb"RIFF.{4}WEBP"}


def decode(data: bytes, check: Callable[[int, int], None]) -> Image.Image:
    """The picture as RGB, upright; of several frames or pages the first.

    Grey of more than 8 bits is scaled by the bits that its brightest pixel needs (8, 12 or 16);
    what is transparent becomes white. Colour profiles are not applied.

    Args:
      data: The encoded bytes.
      check: Called with (width, height), known from the header before any pixel is decoded; it
        raises ValueError for a size that is not wanted.

    Raises:
      ValueError: from ``check``; or with the reason, when the bytes are no readable picture.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:  # its message shows an address in memory
        raise BadFile(f"unreadable: {_unidentified(data)}") from None
    except MemoryError:
        raise
    except Exception as error:  # of Pillow alone, which raises a dozen kinds
        raise BadFile(reason(error)) from error
    with image:
        check(*image.size)
        coding = str(image.tile[:1])  # Pillow's decoder and how the pixels are stored
        if any(slow in coding for slow in _SLOW) and image.width * image.height > _MOST_SLOW:
            raise BadFile("too large: more than a megapixel in this form of file: save it as PNG")
        if (
            image.format == "JPEG"
            and data.count(_SCAN) * image.width * image.height > SCANNED_PIXELS
        ):
            raise BadFile("too large: a JPEG of more scans than a picture has: save it as PNG")
        halved = ";16" in coding and not image.mode.startswith("I")
        try:
            image.load()  # a PNG may have its EXIF data at the end
        except MemoryError:
            raise
        except Exception as error:  # of Pillow alone
            raise BadFile(reason(error)) from error
        try:
            picture = _rgb(_upright(image))
        except (ValueError, OSError) as error:
            raise BadFile(reason(error)) from error
        # Of 16 bits a colour Pillow keeps the upper 8: smaller numbers in them come out black.
        if halved and np.asarray(picture).max() < 16:
            raise BadFile("unreadable: 16 bits a colour, all below 4,096: save it as 8 bits")
        return picture


def is_one(begin: bytes) -> bool:
    """Whether a file's first bytes are a picture's, of a format that is read here or not."""
    return any(re.match(mark, begin, re.DOTALL) for mark in (_OURS | _OTHERS).values())


def reason(error: Exception) -> str:
    """Why an image is unreadable, in words that are the same at every run."""
    return f"unreadable: {error or type(error).__name__}"


def _unidentified(data: bytes) -> str:
    if not data:
        return "an empty file"
    for kind, mark in _OTHERS.items():
        if re.match(mark, data, re.DOTALL):
            return f"{kind}, whatever its ending says: save it as JPEG or PNG"
    for kind, mark in _OURS.items():
        if re.match(mark, data, re.DOTALL):
            return f"a {kind} that is damaged, or of a kind that Pillow does not read"
    return "not an image that is read here"


def _upright(image: Image.Image) -> Image.Image:
    if image.format == "TIFF":
        return image  # Pillow has turned it
    turn = _TURNS.get(_orientation(image.info))
    return image if turn is None else image.transpose(turn)


def _orientation(info: dict) -> int:
    """EXIF's orientation, else XMP's, else 1.

    Only that tag is looked at: Pillow's own reader fails on damage in any other.
    """
    exif = info.get("exif", b"")
    if not exif and "Raw profile type exif" in info:  # ImageMagick's, in PNG
        digits = re.sub(r"\s", "", "".join(str(info["Raw profile type exif"]).split("\n")[3:]))
        exif = bytes.fromhex(digits) if re.fullmatch("(?:[0-9a-fA-F]{2})*", digits) else b""
    xmp = info.get("xmp") or info.get("XML:com.adobe.xmp") or b""
    xmp = xmp if isinstance(xmp, bytes) else str(xmp).encode("utf-8", "replace")
    found = _XMP.search(xmp)
    return _of_exif(exif) or (int(found[1]) if found else 1)


def _of_exif(exif: bytes) -> int | None:
    """The orientation, 1 to 8, in the first directory of an EXIF block, however damaged."""
    exif = re.sub(rb"\A(?:Exif\0\0)+", b"", exif)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None or len(exif) < 8:
        return None
    (at,) = struct.unpack_from(f"{order}I", exif, 4)
    count = int.from_bytes(exif[at : at + 2], "little" if order == "<" else "big")
    for entry in range(at + 2, min(at + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind = struct.unpack_from(f"{order}HH", exif, entry)
        if tag == _ORIENTATION and kind in _WHOLE:
            (value,) = struct.unpack_from(order + _WHOLE[kind], exif, entry + 8)
            return value if 1 <= value <= 8 else None
    return None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise BadFile("its pixels are floating-point numbers: save it as 8 bits")
    if image.mode.startswith("I"):
        grey = np.asarray(image)
        tags = getattr(image, "tag_v2", {})
        if tags.get(_PHOTOMETRIC) == 0:  # a TIFF's white; of 8 bits Pillow has turned it
            grey = 0xFFFF - grey
        image = Image.fromarray(_eight_bits(grey))
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getchannel("A").getbbox():  # else everything is transparent, which nobody meant
            return _on_white(image)
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    """RGBA over white, in tiles: the whole at once would take three times the memory."""
    out = Image.new("RGB", image.size)
    for top in range(0, image.height, _TILE):
        for left in range(0, image.width, _TILE):
            right, bottom = min(left + _TILE, image.width), min(top + _TILE, image.height)
            tile = image.crop((left, top, right, bottom))
            white = Image.new("RGBA", tile.size, "white")
            out.paste(Image.alpha_composite(white, tile).convert("RGB"), (left, top))
    return out


def _eight_bits(grey: np.ndarray) -> np.ndarray:
    """Whole numbers as 8 bits: the brightest says whether they have 8, 12 or 16."""
    low, high = int(grey.min()), int(grey.max())
    if low < 0 or high > 0xFFFF:
        raise BadFile(f"its pixels go from {low:,} to {high:,}: save it as 8 bits")
    return (grey >> (0 if high <= 0xFF else 4 if high <= 0xFFF else 8)).astype(np.uint8)
