"""How a long read or download is told to whoever looks: bytes done, and bytes in all."""

from __future__ import annotations

import threading
from collections.abc import Callable

Progress = Callable[[int, int], None]  # (bytes done, bytes in all): both may still grow


def unseen(_done_bytes: int, _total_bytes: int) -> None:
    """Progress that nobody looks at."""


class Tally:
    """Adds up what several threads have done."""

    def __init__(self, progress: Progress, total_bytes: int = 0) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self.done_bytes = 0
        self.total_bytes = total_bytes

    def add(self, done_bytes: int, total_bytes: int = 0) -> None:
        with self._lock:
            self.done_bytes += done_bytes
            self.total_bytes += total_bytes
            self._progress(self.done_bytes, self.total_bytes)
