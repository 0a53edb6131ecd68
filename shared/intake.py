"""Pictures from strangers: checked before they are decoded, then made plain.

Whatever came in, what the farm keeps is a PNG without metadata: RGB, or for a mask one channel of
grey. Its name is the SHA-256 of its mode, size and pixels, not of its file: the same picture in two
encodings is one, and another version of a compressor renames nothing.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from PIL import Image, ImageCms, ImageFile, ImageOps
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from shared.headers import Header, Kind, NoPicture, read_header

MOST_BYTES = 20 * 2**20
MOST_PIXELS = 16_000_000
MOST_PROFILE_BYTES = 4 * 2**20  # the largest of print's CMYK profiles have about 2.5

# How a picture is read. image: transparency becomes white. mask: brightness, transparency is black;
# white = repaint. alpha: only its transparency, which is what to repaint.
Role = Literal["image", "mask", "alpha"]

_READERS: dict[Kind, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "png": PngImageFile,
    "jpeg": JpegImageFile,
    "webp": WebPImageFile,
}
_MODES = {0: "L", 2: "RGB"}  # the colour types of our own PNGs


class BadPicture(ValueError):
    """This cannot be an input; the message says why, for the client."""


@dataclass(slots=True, frozen=True)
class Plain:
    """A picture as it is kept: `png` is RGB, or L for a mask."""

    sha256: str  # of mode, size and pixels
    width: int  # px
    height: int  # px
    png: bytes


def make_plain(data: bytes, role: Role = "image", *, invert: bool = False) -> Plain:
    """Check, decode and normalize; `invert` turns a mask's black and white round.

    The largest picture takes up to 3 s and 250 MB. Raises BadPicture.
    """
    header = _check(data)
    image = _decoded(data, header)
    if role == "image":
        return _plain(_flat(image))
    mask = _mask(image, role)
    mask = ImageOps.invert(mask) if invert else mask
    if mask.getextrema() == (0, 0):
        raise BadPicture("nothing in the mask is marked to be repainted")
    return _plain(mask)


def plain_of(png: bytes) -> tuple[str, int, int]:
    """(mode, width, height) of a PNG that `make_plain` made, without decoding it."""
    width, height, _, colour = struct.unpack_from(">IIBB", png, 16)
    return _MODES[colour], width, height


def name_of(image: Image.Image) -> str:
    """The SHA-256 that names a plain picture."""
    digest = hashlib.sha256(f"{image.mode} {image.width}x{image.height}\n".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def _check(data: bytes) -> Header:
    if len(data) > MOST_BYTES:
        raise BadPicture(f"the file has more than {MOST_BYTES // 2**20} MiB")
    try:
        header = read_header(data)
    except NoPicture as error:
        raise BadPicture(str(error)) from None
    if not 0 < header.width * header.height <= MOST_PIXELS:
        size = f"{header.width} x {header.height}"
        raise BadPicture(f"{size} pixels are more than {MOST_PIXELS // 10**6} megapixels, or none")
    return header


def _decoded(data: bytes, header: Header) -> Image.Image:
    """The first frame, upright, in one of the modes RGB, RGBA, L, LA and CMYK."""
    try:
        image = _READERS[header.kind](io.BytesIO(data))
        if image.size != (header.width, header.height):
            raise BadPicture("the file gives two sizes")
        image.load()
        return _upright(_common_mode(image))
    except BadPicture:
        raise
    except Exception as error:  # what decoders make of hostile bytes is any exception
        raise BadPicture("the file is damaged or cut off") from error


def _common_mode(image: ImageFile.ImageFile) -> Image.Image:
    if image.mode == "I;16":  # grey of 16 bits, of which `convert` would keep the lowest levels
        return image.point(lambda level: level * (1 / 257)).convert("L")
    if image.mode in ("P", "PA", "1") or "transparency" in image.info:
        clear = "transparency" in image.info or image.mode == "PA"
        return image.convert("RGBA" if clear else "RGB")
    if image.mode not in ("RGB", "RGBA", "L", "LA", "CMYK"):
        return image.convert("RGB")
    return image


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # EXIF is often damaged, and the picture is none the worse
        return image


def _flat(image: Image.Image) -> Image.Image:
    """RGB in sRGB, on white."""
    alpha = image.getchannel("A") if image.mode in ("RGBA", "LA") else None
    colours = image.convert({"RGBA": "RGB", "LA": "L"}[image.mode]) if alpha else image
    rgb = _in_srgb(colours, image.info.get("icc_profile"))
    if alpha is None:
        return rgb
    white = Image.new("RGB", rgb.size, "white")
    white.paste(rgb, mask=alpha)
    return white


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """A profile that is damaged, or for other colours than the picture has, is passed over."""
    if profile and len(profile) <= MOST_PROFILE_BYTES:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            target = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
            return converted or image.convert("RGB")
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass
    return image.convert("RGB")


def _mask(image: Image.Image, role: Role) -> Image.Image:
    alpha = image.getchannel("A") if image.mode in ("RGBA", "LA") else None
    if role == "alpha":
        if alpha is None:
            raise BadPicture("the mask has no transparency to say what to repaint")
        return ImageOps.invert(alpha)
    grey = image.convert("L")
    if alpha is None:
        return grey
    black = Image.new("L", grey.size, 0)
    black.paste(grey, mask=alpha)
    return black


def _plain(image: Image.Image) -> Plain:
    image.info = {}
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)  # a tenth of the default's time
    return Plain(name_of(image), image.width, image.height, file.getvalue())
