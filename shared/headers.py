"""What a picture's file says of itself, read from its first bytes before any decoder sees it.

A decoder must not learn from a stranger how much memory to take: a file of a kilobyte may claim
30000 x 30000 pixels. So kind, size and the work that decoding would be are read here, in bounded
time, and a decoder runs only on what passed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["png", "jpeg", "webp"]

# libpng writes a chunk for every 8 KiB, so 20 MiB have about 2,560.
MOST_PNG_CHUNKS = 16_384
# A progressive JPEG has about ten scans, its thumbnail some more. Each one walks the whole picture,
# in a few bytes of file: a thousand of them would hold a processor for minutes.
MOST_JPEG_SCANS = 100

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
# Start of frame: all but DHT (c4), JPG (c8) and DAC (cc).
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a length


@dataclass(slots=True, frozen=True)
class Header:
    kind: Kind
    width: int  # px
    height: int  # px


class NoPicture(ValueError):
    """The bytes do not begin as a PNG, JPEG or WebP file does, or would be absurd to decode."""


def read_header(data: bytes) -> Header:
    """By the content, never by what the sender calls it. Raises NoPicture."""
    try:
        if data.startswith(_PNG):
            return _png(data)
        if data.startswith(_JPEG):
            return _jpeg(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
    except (struct.error, IndexError):
        raise NoPicture("the file is cut off") from None
    raise NoPicture("it must be a PNG, JPEG or WebP picture")


def _png(data: bytes) -> Header:
    length, name, width, height = struct.unpack_from(">I4sII", data, 8)
    if name != b"IHDR" or length != 13:
        raise NoPicture("the PNG does not begin with its size")
    at = 8
    for _ in range(MOST_PNG_CHUNKS):
        if at + 8 > len(data) or data[at + 4 : at + 8] == b"IEND":
            return Header("png", width, height)
        at += 12 + struct.unpack_from(">I", data, at)[0]
    raise NoPicture("the PNG has too many chunks")


def _jpeg(data: bytes) -> Header:
    if data.count(b"\xff\xda") > MOST_JPEG_SCANS:
        raise NoPicture("the JPEG has too many scans")
    for marker, at in _segments(data):
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return Header("jpeg", width, height)
        if marker == 0xDA:
            break
    raise NoPicture("the JPEG does not say its size")


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """(marker, where its 0xff stands), up to the end of the header. Each has 2 bytes at least."""
    at = 2
    while True:
        while data[at + 1] == 0xFF:  # padding
            at += 1
        if data[at] != 0xFF:
            raise NoPicture("the JPEG is damaged")
        marker = data[at + 1]
        yield marker, at
        at += 2 if marker in _BARE else 2 + max(2, struct.unpack_from(">H", data, at + 2)[0])


def _webp(data: bytes) -> Header:
    """Source: RFC 9649, 2.5 to 2.7."""
    name = data[12:16]
    if name == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        if len(data) < 30:
            raise IndexError
    elif name == b"VP8 ":
        if data[23:26] != b"\x9d\x01\x2a":
            raise NoPicture("the WebP is damaged")
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    elif name == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        raise NoPicture("the WebP is damaged")
    return Header("webp", width, height)
