"""Pictures from strangers: every kind that people send, and every trap."""

from __future__ import annotations

import io
import random
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from shared.headers import MOST_JPEG_SCANS, MOST_PNG_CHUNKS
from shared.intake import MOST_BYTES, BadPicture, Role, make_plain, name_of, plain_of

# Pillow tells of damaged EXIF by warnings; where it then reads the picture, so do we.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
EXIF = b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"
PNG = b"\x89PNG\r\n\x1a\n"


def gradient(width: int = 12, height: int = 8) -> Image.Image:
    """Every pixel differs, so that a flip or a turn shows."""
    picture = Image.new("RGB", (width, height))
    for x in range(width):
        for y in range(height):
            picture.putpixel((x, y), (20 * x % 256, 30 * y % 256, (x * y) % 256))
    return picture


def encoded(picture: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def opened(png: bytes) -> Image.Image:
    with Image.open(io.BytesIO(png)) as picture:
        picture.load()
        return picture


def plain(data: bytes, role: Role = "image", **options: bool) -> Image.Image:
    made = make_plain(data, role, **options)
    picture = opened(made.png)
    assert picture.size == (made.width, made.height)
    assert name_of(picture) == made.sha256
    assert plain_of(made.png) == (picture.mode, made.width, made.height)
    return picture


def refused(data: bytes, role: Role = "image") -> str:
    with pytest.raises(BadPicture) as refusal:
        make_plain(data, role)
    return str(refusal.value)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_of(width: int, height: int, *middle: bytes, pixels: bytes = b"") -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(pixels))
    return PNG + head + b"".join(middle) + body + chunk(b"IEND", b"")


# ---------------------------------------------------------------------------------- what people send


def test_the_same_picture_in_two_encodings_is_one() -> None:
    first = make_plain(encoded(gradient(), compress_level=0))
    second = make_plain(encoded(gradient(), "WEBP", lossless=True))

    assert first.sha256 == second.sha256
    assert opened(first.png).tobytes() == gradient().tobytes()


def test_pictures_of_other_shape_and_the_same_bytes_have_other_names() -> None:
    wide, tall = Image.new("RGB", (4, 2)), Image.new("RGB", (2, 4))

    assert make_plain(encoded(wide)).sha256 != make_plain(encoded(tall)).sha256


def test_metadata_is_gone() -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("parameters", "my secret prompt")
    exif = Image.Exif()
    exif[0x010E] = "my secret place"

    made = make_plain(encoded(gradient(), pnginfo=texts, exif=exif))

    assert b"secret" not in made.png
    assert opened(made.png).info == {}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_a_turned_photo_stands_upright(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}, "PNG": {}}

    upright = plain(encoded(gradient(), format, exif=exif, **options[format]))

    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
    }  # fmt: skip
    wanted = gradient().transpose(turns[orientation]) if orientation > 1 else gradient()
    assert furthest(upright, wanted) <= (8 if format == "JPEG" else 0)


def furthest(a: Image.Image, b: Image.Image) -> int:
    assert (a.mode, a.size) == (b.mode, b.size)
    return max(abs(x - y) for x, y in zip(a.tobytes(), b.tobytes(), strict=True))


def test_damaged_exif_is_passed_over() -> None:
    data = encoded(gradient(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 20)

    assert plain(data).size == gradient().size


def test_grey_of_16_bits_keeps_its_range() -> None:
    deep = Image.new("I;16", (3, 1))
    for x, level in enumerate((0, 32_896, 65_535)):
        deep.putpixel((x, 0), level)

    assert plain(encoded(deep)).tobytes() == bytes([0, 0, 0, 128, 128, 128, 255, 255, 255])


def test_colours_of_16_bits_become_8() -> None:
    row = b"\0" + struct.pack(">6H", 65_535, 0, 32_768, 0, 65_535, 256)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
    data = PNG + head + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")

    assert plain(data).tobytes() == bytes([255, 0, 128, 0, 255, 1])


def test_cmyk_becomes_rgb() -> None:
    picture = plain(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100))

    assert picture.mode == "RGB"
    assert furthest(picture, Image.new("RGB", (8, 8), (255, 0, 0))) < 10


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA"])
def test_every_mode_of_a_png_becomes_rgb(mode: str) -> None:
    assert plain(encoded(gradient().convert(mode))).mode == "RGB"


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_what_is_transparent_becomes_white(format: str) -> None:
    picture = Image.new("RGBA", (2, 1), (0, 0, 0, 255))
    picture.putpixel((1, 0), (255, 0, 0, 0))

    options = {"lossless": True} if format == "WEBP" else {}
    assert plain(encoded(picture, format, **options)).tobytes() == bytes([0] * 3 + [255] * 3)


def test_a_palette_may_be_transparent_too() -> None:
    picture = Image.new("P", (2, 1), 0)
    picture.putpalette([0, 0, 255, 255, 0, 0])
    picture.putpixel((1, 0), 1)

    data = encoded(picture, transparency=1)

    assert plain(data).tobytes() == bytes([0, 0, 255, 255, 255, 255])


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    for format, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)

        assert plain(data).tobytes() == frames[0].tobytes(), format


def test_colours_of_a_profile_become_srgb() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

    assert furthest(plain(encoded(gradient(), icc_profile=srgb)), gradient()) <= 1
    unfit = plain(encoded(gradient(), icc_profile=profile))  # for other colours than these
    assert unfit.tobytes() == gradient().tobytes()
    assert plain(encoded(gradient(), icc_profile=b"nonsense")).tobytes() == gradient().tobytes()


# --------------------------------------------------------------------------------------------- masks


def test_a_mask_is_read_by_brightness_and_transparent_is_kept() -> None:
    mask = Image.new("RGBA", (3, 1), (255, 255, 255, 255))
    mask.putpixel((1, 0), (0, 0, 0, 255))
    mask.putpixel((2, 0), (255, 255, 255, 0))

    assert plain(encoded(mask), "mask").tobytes() == bytes([255, 0, 0])
    assert plain(encoded(mask), "mask", invert=True).tobytes() == bytes([0, 255, 255])


def test_a_mask_by_transparency_repaints_what_is_transparent() -> None:
    mask = Image.new("RGBA", (2, 1), (9, 9, 9, 255))
    mask.putpixel((1, 0), (9, 9, 9, 0))

    assert plain(encoded(mask), "alpha").tobytes() == bytes([0, 255])
    assert "no transparency" in refused(encoded(gradient()), "alpha")


def test_a_mask_that_marks_nothing_is_refused() -> None:
    assert "repainted" in refused(encoded(Image.new("L", (4, 4), 0)), "mask")


# --------------------------------------------------------------------------------------------- traps


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GIF89a" + b"\0" * 100,
        b"BM" + b"\0" * 100,
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7\n" + encoded(gradient(), "JPEG"),
        b"RIFF\x10\0\0\0WAVEfmt " + b"\0" * 40,
        encoded(gradient(), "GIF"),
        encoded(gradient(), "TIFF"),
    ],
)
def test_what_is_no_png_jpeg_or_webp_is_refused(data: bytes) -> None:
    assert refused(data) == "it must be a PNG, JPEG or WebP picture"


def test_more_than_20_mib_are_refused_unread() -> None:
    assert "20 MiB" in refused(b"\0" * (MOST_BYTES + 1))


def claims() -> dict[str, bytes]:
    """Files that claim 30000 x 30000 pixels, or 16383 x 16383 where a format has no more."""
    jpeg = bytearray(encoded(gradient(), "JPEG"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 30_000, 30_000)
    lossy = bytearray(encoded(gradient(), "WEBP"))
    lossy[26:30] = struct.pack("<HH", 16_383, 16_383)
    lossless = bytearray(encoded(gradient(), "WEBP", lossless=True))
    lossless[21:25] = struct.pack("<I", 16_382 | 16_382 << 14)
    wide = bytearray(encoded(gradient(), "WEBP", exif=EXIF))
    wide[24:30] = (29_999).to_bytes(3, "little") * 2
    return {
        "png": png_of(30_000, 30_000, pixels=b"\0" * 10**6) + b"\0" * 10**6,
        "jpeg": bytes(jpeg),
        "webp": bytes(lossy),
        "webp lossless": bytes(lossless),
        "webp extended": bytes(wide),
    }


@pytest.mark.parametrize("kind", claims())
def test_a_bomb_of_pixels_costs_no_memory(kind: str) -> None:
    data = claims()[kind]
    tracemalloc.start()

    assert "pixels" in refused(data)

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**6


def test_a_second_size_inside_the_file_is_not_believed() -> None:
    huge = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0))

    assert refused(png_of(4, 4, huge, pixels=b"\0" * 13 * 4)) == "the file gives two sizes"


@pytest.mark.parametrize("name", [b"iCCP", b"zTXt", b"iTXt"])
def test_a_bomb_of_text_costs_no_memory(name: bytes) -> None:
    packed = zlib.compress(b"\0" * (60 * 2**20), 1)
    head = {b"iCCP": b"p\0\0", b"zTXt": b"t\0\0", b"iTXt": b"t\0\1\0\0\0"}[name]
    data = png_of(4, 4, chunk(name, head + packed), pixels=b"\0" * 13 * 4)
    tracemalloc.start()

    message = refused(data)

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "damaged" in message
    assert peak < 10 * 2**20


def test_work_without_end_is_refused_before_it_begins() -> None:
    crumbs = [chunk(b"IDAT", b"")] * (MOST_PNG_CHUNKS + 1)
    scans = encoded(gradient(), "JPEG", progressive=True) + b"\xff\xda" * MOST_JPEG_SCANS

    assert refused(png_of(4, 4, *crumbs)) == "the PNG has too many chunks"
    assert refused(scans) == "the JPEG has too many scans"


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_a_file_cut_anywhere_is_refused_or_whole(format: str) -> None:
    data = encoded(gradient(64, 64), format)
    whole = make_plain(data).sha256

    for length in range(0, len(data), max(1, len(data) // 60)):
        try:
            assert make_plain(data[:length]).sha256 == whole
        except BadPicture:
            continue
        assert length > len(data) - 30, "a picture with a part missing was taken"


SEEDS: list[Callable[[], bytes]] = [
    lambda: encoded(gradient()),
    lambda: encoded(gradient().convert("P")),
    lambda: encoded(gradient(), "JPEG", progressive=True, exif=EXIF),
    lambda: encoded(gradient(), "WEBP"),
    lambda: encoded(gradient(), "WEBP", lossless=True, exif=EXIF),
    lambda: encoded(gradient(), save_all=True, append_images=[gradient().rotate(180)]),
]


@settings(max_examples=300, deadline=2000)
@given(st.sampled_from(range(len(SEEDS))), st.randoms(use_true_random=False), st.integers(1, 12))
def test_a_damaged_file_is_a_picture_or_a_refusal_and_nothing_else(
    which: int, dice: random.Random, hits: int
) -> None:
    data = bytearray(SEEDS[which]())
    for _ in range(hits):
        data[dice.randrange(len(data))] = dice.randrange(256)

    for role in ("image", "mask", "alpha"):
        try:
            made = make_plain(bytes(data), role)
        except BadPicture:
            continue
        assert made.width * made.height <= 16_000_000


@given(st.sampled_from([PNG, b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBPVP8 ", b""]), st.binary())
def test_any_bytes_are_refused_in_words(magic: bytes, rest: bytes) -> None:
    assert refused(magic + rest)


def test_the_largest_picture_is_taken_in_time() -> None:
    started = time.monotonic()

    made = make_plain(encoded(Image.new("RGB", (4000, 4000), "navy"), compress_level=1))

    assert (made.width, made.height) == (4000, 4000)
    assert time.monotonic() - started < 20
    assert ImageOps.fit(opened(made.png), (1, 1)).getpixel((0, 0)) == (0, 0, 128)
