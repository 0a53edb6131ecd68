"""How far a long read or download is: a bar with bytes and rate on a terminal, else lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

LINE_EVERY_S = 10.0


@contextmanager
def meter(doing: str) -> Iterator[Callable[[int, int], None]]:
    """Yields what takes (bytes done, bytes in all); threads may call it. Writes to stderr."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines(doing, console)
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(doing, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)


class Lines:
    """A line now and then, for logs."""

    def __init__(
        self, doing: str, console: Console, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._doing = doing
        self._console = console
        self._clock = clock
        self._began = self._told = clock()
        self._first_bytes: int | None = None

    def __call__(self, done_bytes: int, total_bytes: int) -> None:
        now = self._clock()
        if self._first_bytes is None:
            self._first_bytes = done_bytes  # what lay there already says nothing about the rate
        if now - self._told < LINE_EVERY_S:
            return
        self._told = now
        rate = (done_bytes - self._first_bytes) / (now - self._began)
        line = f"{self._doing}: {gb(done_bytes)} of {gb(total_bytes)}, {rate / 1e6:.1f} MB/s"
        self._console.print(f"renderfarm: {line}", markup=False, highlight=False, soft_wrap=True)


def gb(size_bytes: int) -> str:
    """`27.6 GB`, or `3.1 MB` where it is less than one."""
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.1f} MB"
