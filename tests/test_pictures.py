"""Pictures as phones, scanners, editors and other tools save them: upright RGB, or a reason."""

import struct
import zlib

import numpy as np
import pytest
from face_files import archive, bin_set, encoded, folder, rec_pack
from PIL import Image, PngImagePlugin

from advface_jax.data import open_faces, read_faces
from advface_jax.data.crops import decode


def ramp() -> np.ndarray:
    """160x160 whose every turn is another picture: red rises to the right, green downwards."""
    step = np.linspace(0, 250, 160).round().astype(np.uint8)
    across = np.broadcast_to(step, (160, 160))
    return np.stack([across, across.T, np.full_like(across, 30)], -1)


UPRIGHT = ramp()
SIDEWAYS = Image.fromarray(UPRIGHT).transpose(Image.Transpose.ROTATE_90)  # EXIF's 6 undoes it
EXIF = Image.Exif()
EXIF[0x112] = 6
XMP = b'<rdf:Description tiff:Orientation="6"/>'


def near(image: np.ndarray, most=12) -> bool:
    return image.shape == UPRIGHT.shape and bool(
        (abs(image.astype(int) - UPRIGHT) <= most).mean() > 0.99
    )


def png_text(key: str, text: str) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_itxt(key, text)
    return encoded(SIDEWAYS, "PNG", pnginfo=info)


RAW = EXIF.tobytes()
TURNED = {
    "jpeg": encoded(SIDEWAYS, "JPEG", exif=EXIF, quality=95),
    "png": encoded(SIDEWAYS, "PNG", exif=EXIF),
    "webp": encoded(SIDEWAYS, "WEBP", exif=EXIF, lossless=True),
    "tiff": encoded(SIDEWAYS, "TIFF", tiffinfo={0x112: 6}),
    "tiff of libtiff": encoded(SIDEWAYS, "TIFF", tiffinfo={0x112: 6}, compression="tiff_lzw"),
    "mpo": encoded(SIDEWAYS, "MPO", save_all=True, append_images=[SIDEWAYS], exif=EXIF),
    "xmp in jpeg": encoded(SIDEWAYS, "JPEG", xmp=XMP, quality=95),
    "xmp in webp": encoded(SIDEWAYS, "WEBP", xmp=XMP, lossless=True),
    "xmp in png": png_text("XML:com.adobe.xmp", "<tiff:Orientation>6</tiff:Orientation>"),
    "imagemagick's": png_text("Raw profile type exif", f"\nexif\n{len(RAW):8}\n{RAW.hex()}\n"),
}


@pytest.mark.parametrize("kind", TURNED)
def test_a_face_is_upright_wherever_its_file_says_which_way_is_up(kind):
    assert near(decode(TURNED[kind]))


def test_every_path_that_reads_a_face_turns_it(tmp_path):
    large = encoded(SIDEWAYS.resize((200, 200)), "PNG", exif=EXIF)
    files = {"a/1.jpg": TURNED["jpeg"], "a/2.png": large}
    sources = (
        folder(tmp_path / "f", files),
        archive(tmp_path / "f.zip", files),
        rec_pack(tmp_path / "r", {0: list(files.values())}),
        bin_set(tmp_path / "f.bin", list(files.values()), [True]),
    )
    for source in sources:
        for faces in (read_faces(source, resize=True), open_faces(source, resize=True)):
            assert all(near(faces.crop(i)) for i in (0, 1)) and near(faces.batch([1])[0])


def damaged(*entries: tuple[int, int, int, bytes], count: int | None = None) -> bytes:
    """EXIF of these (tag, type, count, value), the values of more than 4 bytes behind them."""
    body, more = b"", b""
    for tag, kind, n, value in entries:
        place = struct.pack("<I", 14 + 12 * len(entries) + len(more))
        more += value if len(value) > 4 else b""
        body += struct.pack("<HHI", tag, kind, n) + (
            place if len(value) > 4 else value.ljust(4, b"\0")
        )
    n = len(entries) if count is None else count
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, n) + body + bytes(4) + more


SIX = (0x112, 3, 1, b"\6\0")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow tells of the damage
@pytest.mark.parametrize(
    ("exif", "turned"),
    [
        (damaged(SIX, (0x11A, 10, 1, struct.pack("<ii", -1, 0))), True),
        (damaged(SIX, (0x103, 8, 1, struct.pack("<h", -5))), True),
        (damaged(SIX, (0x11A, 5, 1 << 28, b"\xff" * 4)), True),
        (damaged(SIX, (0x9999, 99, 7, b"xxxx")), True),
        (damaged(SIX, count=60_000), True),
        (damaged((0x112, 4, 1, b"\6")), True),
        (damaged((0x112, 3, 1, b"\x63\0")), False),
        (damaged((0x112, 2, 1, b"6")), False),
        (b"Exif\0\0II*\0\xff\xff\xff\xff", False),
        (b"Exif\0\0nonsense", False),
        (b"Exif\0\0", False),
    ],
)
def test_a_damaged_tag_costs_no_picture(exif, turned):
    wide = Image.new("RGB", (60, 40))
    assert decode(encoded(wide, "JPEG", exif=exif)).shape[:2] == ((60, 40) if turned else (40, 60))


WHOLE = Image.fromarray(UPRIGHT)
COLOURS = {
    "progressive": encoded(WHOLE, "JPEG", progressive=True, quality=95),
    "cmyk of adobe, inverted": encoded(WHOLE.convert("CMYK"), "JPEG", quality=95),
    "cmyk": encoded(WHOLE.convert("CMYK"), "TIFF"),
    "ycbcr": encoded(WHOLE.convert("YCbCr"), "TIFF"),
    "palette": encoded(WHOLE.quantize(256), "PNG"),
    "gif": encoded(WHOLE, "GIF", save_all=True, append_images=[SIDEWAYS]),
    "moving png": encoded(WHOLE, "PNG", save_all=True, append_images=[SIDEWAYS]),
    "moving webp": encoded(WHOLE, "WEBP", save_all=True, append_images=[SIDEWAYS], lossless=True),
    "pages": encoded(WHOLE.copy(), "TIFF", save_all=True, append_images=[SIDEWAYS.copy()]),
    "ppm": encoded(WHOLE, "PPM"),
}


@pytest.mark.parametrize("kind", COLOURS)
def test_other_codings_and_the_first_of_several_frames(kind):
    assert near(decode(COLOURS[kind]), most=25)


def test_what_is_transparent_is_white_unless_all_is():
    image = WHOLE.convert("RGBA")
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, (0, 0, 80, 160))
    image.putalpha(alpha)
    seen = decode(encoded(image))
    assert (seen[:, :80] == 255).all() and (seen[:, 80:] == UPRIGHT[:, 80:]).all()
    image.putalpha(0)
    assert (decode(encoded(image)) == UPRIGHT).all()
    palette = Image.new("P", (4, 1), 1)
    palette.putpalette([9, 9, 9, 200, 100, 50])
    palette.putpixel((0, 0), 0)
    assert decode(encoded(palette, transparency=0))[0, :2].tolist() == [[255] * 3, [200, 100, 50]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize(
    ("values", "wanted"),
    [((0, 100, 255), (0, 100, 255)), ((0, 1600, 4095), (0, 100, 255)),
     ((0, 100 << 8, 65535), (0, 100, 255)), ((0, 0, 0), (0, 0, 0))],
)  # fmt: skip
def test_grey_of_16_bits_is_read_by_the_bits_it_uses(values, wanted, kind):
    image = decode(encoded(Image.fromarray(np.array([values], np.uint16)), kind))
    assert image[0, :, 0].tolist() == list(wanted)


def png_of_16_bits(value: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0" + struct.pack(">H", value) * 6))
    return b"\x89PNG\r\n\x1a\n" + head + pixels + chunk(b"IEND", b"")


def test_colours_of_16_bits_are_read_or_refused_and_never_black():
    assert (decode(png_of_16_bits(100 << 8)) == 100).all()
    for value in (200, 4000):
        with pytest.raises(ValueError, match="16 bits a colour, all below 4,096"):
            decode(png_of_16_bits(value))


def test_a_negative_of_16_bits_is_read_as_a_positive():
    grey = Image.fromarray(np.array([[0, 65535 - (100 << 8), 65535]], np.uint16))
    assert decode(encoded(grey, "TIFF", tiffinfo={262: 0}))[0, :, 0].tolist() == [255, 100, 0]


@pytest.mark.parametrize("head", [b"P2 1025 1025 255 ", b"P5 1025 1025 300 "])
def test_what_takes_minutes_to_decode_is_refused_before(head):
    with pytest.raises(ValueError, match="too large: more than a megapixel"):
        decode(head + b"1 " * 9)
    assert decode(b"P2 2 1 255 7 9")[0, :, 0].tolist() == [7, 9]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "floating-point"),
        (encoded(Image.fromarray(np.full((4, 4), 1 << 20, np.int32)), "TIFF"), "to 1,048,576"),
        (encoded(Image.fromarray(np.full((4, 4), -1, np.int32)), "TIFF"), "from -1"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC or AVIF, whatever its ending"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"\xff\x0a" + bytes(9), "JPEG XL"),
        (b"GIF89a" + bytes(3), "a GIF that is damaged, or of a kind"),
        (b"", "an empty file"),
        (b"<html>", "not an image that is read here"),
    ],
)
def test_what_is_not_read_has_a_reason_that_is_true(data, message):
    with pytest.raises(ValueError, match=f"^unreadable: .*{message}"):
        decode(data)
