"""Weights into the page cache before they are loaded: whole files, several at a time.

Loading alone reads through a memory map, page after page, in one thread.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from worker.loading.progress import Progress, Tally, unseen

_AT_ONCE = 8
_PIECE_BYTES = 32 * 2**20
_SAMPLES = 64  # places of a file that are looked at
_COLD_PART = 0.05  # less is read faster than it is worth


@dataclass(slots=True, frozen=True)
class Read:
    bytes: int
    seconds: float

    @property
    def gb_per_s(self) -> float:
        return self.bytes / 1e9 / max(self.seconds, 1e-9)


def prefetch(files: list[Path], progress: Progress = unseen) -> Read:
    """Read all of the files, the largest first. Raises OSError."""
    sizes = {file: file.stat().st_size for file in files}
    tally = Tally(progress, sum(sizes.values()))
    pieces = [
        (file, start)
        for file in sorted(files, key=sizes.__getitem__, reverse=True)
        for start in range(0, sizes[file], _PIECE_BYTES)
    ]
    began = time.perf_counter()
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="prefetch") as pool:
        for read_bytes in pool.map(lambda piece: _read(*piece), pieces):
            tally.add(read_bytes)
    return Read(tally.done_bytes, time.perf_counter() - began)


def prefetch_cold(folder: Path, files: list[Path]) -> Read | None:
    """`prefetch` where it helps, else None: the files are warm, or memory does not hold them all.

    Of several workers that start at once on one machine, one reads and the others wait for it.
    """
    if sum(file.stat().st_size for file in files) > _memory_bytes() // 2:
        return None
    with _one_at_a_time(folder / "model_index.json"):
        cold = [file for file in files if cold_part(file) > _COLD_PART]
        return prefetch(cold) if cold else None


def cold_part(file: Path) -> float:
    """About which part of a file is not in memory, 0 to 1; 0 where the system does not say."""
    size_bytes = file.stat().st_size
    # Others each time: asking for a page may be what brings it in.
    places = random.choices(range(size_bytes), k=_SAMPLES) if size_bytes else []  # noqa: S311
    with file.open("rb", buffering=0) as opened:
        try:
            # Else asking for one byte would fetch its neighbours, and the next answer be wrong.
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            cold = sum(not _in_memory(opened.fileno(), place) for place in places)
        except (OSError, AttributeError):  # a file system, or a system, that cannot be asked
            return 0.0
    return cold / max(1, len(places))


def _in_memory(number: int, place: int) -> bool:
    try:
        return os.preadv(number, [bytearray(1)], place, os.RWF_NOWAIT) == 1
    except BlockingIOError:
        return False


def _read(file: Path, start: int) -> int:
    buffer, done = bytearray(2**20), 0
    with file.open("rb", buffering=0) as opened:
        opened.seek(start)
        while done < _PIECE_BYTES and (read := opened.readinto(buffer)):
            done += read
    return done


def _memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def _one_at_a_time(file: Path) -> Iterator[None]:
    with file.open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:  # such as NFS, which locks only what may be written
            if error.errno not in (errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP):
                raise
        yield
