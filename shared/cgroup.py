"""The memory cgroup of this process: its limit, and how often the kernel killed for it.

Reads files only, under a root that a test may choose. cgroup v2 (`memory.events`) and v1
(`memory.oom_control`, with the count of kills since Linux 4.13).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

RECENT_S = 5.0
UNLIMITED_BYTES = 2**60  # v1 says "no limit" with a number like this or larger


@dataclass(slots=True, frozen=True)
class MemoryGroup:
    """`oom_kills` also counts those for the limit of a parent, or of the whole machine."""

    oom_kills: int
    limit_bytes: int | None  # the nearest that binds
    used_bytes: int | None = None


def read_memory(root: Path = Path("/")) -> MemoryGroup | None:
    """The group of this process; None where there is none to read."""
    for folder, mount in _folders(root):
        with suppress(OSError, ValueError):
            if (folder / "memory.events").exists():
                kills = _field(folder / "memory.events", "oom_kill")
                return MemoryGroup(kills, _limit(folder, mount), _number(folder / "memory.current"))
            kills = _field(folder / "memory.oom_control", "oom_kill")
            limit = _field(folder / "memory.stat", "hierarchical_memory_limit")
            used = _number(folder / "memory.usage_in_bytes")
            return MemoryGroup(kills, limit if limit < UNLIMITED_BYTES else None, used)
    return None


def oom_kills(read: Callable[[], MemoryGroup | None] = read_memory) -> int:
    """How often the kernel killed in this group so far; 0 where there is none."""
    group = read()
    return group.oom_kills if group else 0


class OomWatch:
    """Whether the kernel killed for memory a moment ago. Call `look` every second or so.

    `before`: how many it had killed already; read now unless it is given.
    """

    def __init__(
        self,
        before: int | None = None,
        *,
        read: Callable[[], MemoryGroup | None] = read_memory,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._clock = clock
        self._before = self._latest = oom_kills(read) if before is None else before
        self._looked_at = clock()

    def look(self) -> None:
        """Forget kills that nobody asked about for `RECENT_S`: they were of another process."""
        if self._clock() - self._looked_at >= RECENT_S:
            self._before, self._latest = self._latest, oom_kills(self._read)
            self._looked_at = self._clock()

    def words(self) -> str | None:
        """What killed, in words for an operator; None if the kernel killed nothing lately."""
        group = self._read()
        if group is None or group.oom_kills <= self._before:
            return None
        if group.limit_bytes is None:
            return "the machine ran out of memory and the kernel killed the worker"
        limit_gib = group.limit_bytes / 2**30
        return (
            f"the container's memory limit ({limit_gib:.3g} GiB) killed the worker; "
            "raise the limit or use a smaller placement"
        )


def _folders(root: Path) -> Iterator[tuple[Path, Path]]:
    """(group, its mount); without a cgroup namespace a container's group lies at the mount."""
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if "memory" in controllers.split(","):
                mount = root / "sys/fs/cgroup/memory"
            elif not controllers:
                mount = root / "sys/fs/cgroup"
            else:
                continue
            yield mount / path.lstrip("/"), mount
            yield mount, mount


def _field(file: Path, name: str) -> int:
    """Raises ValueError where the file has no such line."""
    for line in file.read_text().splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    raise ValueError(name)


def _number(file: Path) -> int | None:
    with suppress(OSError, ValueError):  # the root group of v2 has no such file
        return int(file.read_text())
    return None


def _limit(folder: Path, mount: Path) -> int | None:
    limits = []
    while folder.is_relative_to(mount):
        with suppress(OSError, ValueError):  # `max`, or the root group, which has no limit
            limits.append(int((folder / "memory.max").read_text()))
        folder = folder.parent
    return min(limits, default=None)
