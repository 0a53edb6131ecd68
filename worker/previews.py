"""Previews on their way to whoever watches: encoded and told off the thread of the render."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from queue import Full, Queue
from threading import Thread

from PIL import Image

from shared.errors import FarmError
from shared.logs import event
from shared.store.values import Claim
from worker.engines.port import Previews

log = logging.getLogger("farm.worker")
WAITING = 4  # more than one render has in a hurry; a store that hangs costs previews and no more
LONGEST_PX = 512
ENLARGED = 4  # times: a preview has one pixel for 8 x 8 of the picture

Tell = Callable[[str, str, int, bytes], object]  # JobStore.preview


class Gallery:
    """Nothing that goes wrong here harms a render: a preview that cannot be told is dropped."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._waiting: Queue[tuple[Claim, int, bytes, int, int]] = Queue(WAITING)
        # A daemon: what has not been told when the worker ends is of no use to anybody.
        Thread(target=self._work, name="previews", daemon=True).start()

    def of(self, claim: Claim) -> Previews | None:
        def show(number: int, rgb: bytes, width: int, height: int) -> None:
            try:
                self._waiting.put_nowait((claim, number, rgb, width, height))
            except Full:
                event(log, "preview_dropped", logging.DEBUG, **claim.who, number=number)

        return Previews(claim.previews, show) if claim.previews else None

    def _work(self) -> None:
        while True:
            claim, number, rgb, width, height = self._waiting.get()
            try:
                self._tell(claim.render_id, claim.token, number, jpeg(rgb, width, height))
            except FarmError as error:
                event(log, "preview_dropped", logging.DEBUG, **claim.who, reason=str(error))
            except Exception:
                log.exception("internal error while telling a preview")


def jpeg(rgb: bytes, width: int, height: int) -> bytes:
    """`rgb` is uint8, (height, width, 3); about 10 kB, its longer side at most 512 px."""
    scale = min(ENLARGED, LONGEST_PX / max(width, height))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    file = io.BytesIO()
    small = Image.frombytes("RGB", (width, height), rgb)
    small.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=85)
    return file.getvalue()
