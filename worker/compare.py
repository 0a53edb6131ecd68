"""Is the picture that was rendered again the one that is stored? Pixel by pixel."""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image

from worker.engines.port import Picture

BEST_DB = 99.0  # of pictures in which nothing differs


def largest_difference(picture: Picture, png: bytes) -> int:
    """Of any sample of any pixel, 0 to 255; 0: they are the same. Of another size: 255."""
    with Image.open(io.BytesIO(png), formats=["PNG"]) as stored:
        there = np.asarray(stored.convert("RGB"), dtype=np.int16)
    # (height, width, 3), signed, so that a difference does not wrap.
    here = np.frombuffer(picture.rgb, np.uint8).astype(np.int16)
    here = here.reshape(picture.height, picture.width, 3)
    if here.shape != there.shape:
        return 255
    return int(np.abs(here - there).max())


def psnr_db(here: bytes, there: bytes) -> float:
    """Of as many 8-bit samples; `BEST_DB` where none differs."""
    pair = (np.frombuffer(each, np.uint8).astype(np.float64) for each in (here, there))
    error = float(np.square(np.subtract(*pair)).mean())
    return min(BEST_DB, 10 * math.log10(255**2 / error)) if error else BEST_DB
