"""Input pictures on their way to the device: fetched beside the text encoding, fitted to the size."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from functools import lru_cache
from threading import Thread

from PIL import Image, ImageOps

from shared.errors import RenderFailed, ResultsUnavailable
from shared.intake import name_of
from shared.jobs import RenderSpec
from shared.results.inputs import InputMissing
from shared.results.inputs import Inputs as StoredInputs
from worker.engines.port import Inputs

KEPT = 2  # fitted pictures: the images of one job start from the same
LOOK_UP_S = 0.2  # how often a slow storage lets the render ask whether it goes on

Key = tuple[str, str | None, int, int]  # picture, mask, width, height


class Pantry:
    """Fetches inputs for one worker. One render at a time."""

    def __init__(self, stored: StoredInputs) -> None:
        self._stored = stored
        self._ready = lru_cache(KEPT)(self._fetched)

    def fetch(self, spec: RenderSpec, check: Callable[[], None]) -> Callable[[], Inputs] | None:
        """Begin; what it returns waits for the end, and `check` may end the wait by raising.

        None where the render starts from noise. The wait raises RenderFailed `input_missing`, which
        is for good, or `storage_unavailable`, which may pass.
        """
        if spec.init_image_sha256 is None:
            return None
        key = (spec.init_image_sha256, spec.mask_image_sha256, spec.width, spec.height)
        coming: Future[Inputs] = Future()

        def work() -> None:
            try:
                coming.set_result(self._ready(key))
            except Exception as error:  # for the thread of the render
                coming.set_exception(error)

        Thread(target=work, name="inputs", daemon=True).start()  # nobody waits for one that hangs
        return lambda: _awaited(coming, check)

    def _fetched(self, key: Key) -> Inputs:
        init, mask, width, height = key
        return inputs_of(self._read(init), self._read(mask) if mask else None, width, height)

    def _read(self, sha256: str) -> Image.Image:
        try:
            picture = Image.open(io.BytesIO(self._stored.get(sha256)), formats=["PNG"])
            picture.load()
        except InputMissing:
            raise RenderFailed("input_missing", "the input picture is no longer stored") from None
        except ResultsUnavailable as error:
            message = "the storage did not answer; the input picture could not be fetched"
            raise RenderFailed("storage_unavailable", message, retryable=True) from error
        except (OSError, SyntaxError) as error:
            raise _damaged() from error
        if name_of(picture) != sha256:
            raise _damaged()
        return picture


def inputs_of(init: Image.Image, mask: Image.Image | None, width: int, height: int) -> Inputs:
    """Plain pictures of any size as what a render of this size starts from."""
    rgb = fitted(init, width, height).convert("RGB").tobytes()
    return Inputs(rgb, fitted(mask, width, height).convert("L").tobytes() if mask else None)


def fitted(picture: Image.Image, width: int, height: int) -> Image.Image:
    """Scaled to cover, and the middle cut out: shapes stay as they are. Of this size: untouched."""
    method = Image.Resampling.BILINEAR if picture.mode == "L" else Image.Resampling.LANCZOS
    return ImageOps.fit(picture, (width, height), method)


def _awaited(coming: Future[Inputs], check: Callable[[], None]) -> Inputs:
    while True:
        try:
            return coming.result(LOOK_UP_S)
        except NotYet:
            check()


def _damaged() -> RenderFailed:
    return RenderFailed("input_missing", "the stored input picture is damaged; send it again")
