"""How far is the picture that was rendered again from the one that is stored? Pixel by pixel."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from worker.engines.port import Picture

BEST_DB = 99.0  # of pictures in which nothing differs
FORMATS = ("PNG", "WEBP", "JPEG")  # that a farm writes


@dataclass(slots=True, frozen=True)
class Distance:
    """`max_abs_diff`: of any sample, 0 to 255; 0: they are the same. No `psnr_db`: other sizes."""

    max_abs_diff: int
    psnr_db: float | None


def distance(picture: Picture, image: bytes) -> Distance:
    """`image` is a file of one of `FORMATS`."""
    with Image.open(io.BytesIO(image), formats=FORMATS) as opened:
        there = opened.convert("RGB")
    if there.size != (picture.width, picture.height):
        return Distance(255, None)
    data = there.tobytes()
    # Signed, so that a difference does not wrap.
    pair = (np.frombuffer(each, np.uint8).astype(np.int16) for each in (picture.rgb, data))
    return Distance(int(np.abs(np.subtract(*pair)).max()), psnr_db(picture.rgb, data))


def psnr_db(here: bytes, there: bytes) -> float:
    """Of as many 8-bit samples; `BEST_DB` where none differs."""
    pair = (np.frombuffer(each, np.uint8).astype(np.float64) for each in (here, there))
    error = float(np.square(np.subtract(*pair)).mean())
    return min(BEST_DB, 10 * math.log10(255**2 / error)) if error else BEST_DB
