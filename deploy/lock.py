"""A folder with one holder at a time."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.errors import SettingsError

_POLL_S = 0.01


@contextmanager
def lock(folder: Path, *, patience_s: float = 0.0) -> Iterator[int]:
    """Be the only holder of the folder; yields the lock's descriptor, which children may inherit.

    Held until every process that has the descriptor closed it. Raises SettingsError, with the
    holder's process id, and where the folder cannot be written.
    """
    fd = _opened(folder)
    try:
        deadline = time.monotonic() + patience_s
        while not _flocked(fd):
            if time.monotonic() >= deadline:
                holder = os.pread(fd, 32, 0).decode() or "unknown"
                raise SettingsError(f"{folder} is in use by another process (pid {holder})")
            time.sleep(_POLL_S)
        sign(fd, os.getpid())
        yield fd
    finally:
        os.close(fd)


def _flocked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def sign(fd: int, pid: int) -> None:
    os.ftruncate(fd, 0)
    os.pwrite(fd, str(pid).encode(), 0)


def _opened(folder: Path) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SettingsError(f"{folder} cannot be used: {error.strerror}") from error
