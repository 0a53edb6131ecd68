"""How long it takes until what a fault hit goes on: one thread that looks every few milliseconds."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable

import redis

LOOK_S = 0.01
Gone = Callable[[], bool]


class Recoveries:
    """`watch(kind, moved)` measures from now until `moved()`; `seconds` has the results by kind."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)
        self._watched: list[tuple[str, float, Gone]] = []
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recoveries")
        self._thread.start()

    def watch(self, kind: str, moved: Gone, since: float | None = None) -> None:
        with self._lock:
            self._watched.append((kind, since or time.monotonic(), moved))

    def stop(self) -> list[str]:
        """The kinds of those that never recovered."""
        self._stopped.set()
        self._thread.join()
        return [kind for kind, _, _ in self._watched]

    def _run(self) -> None:
        while not self._stopped.wait(LOOK_S):
            with self._lock:
                watched = tuple(self._watched)
            for entry in watched:
                if _holds(entry[2]):
                    self.seconds[entry[0]].append(time.monotonic() - entry[1])
                    with self._lock:
                        self._watched.remove(entry)


def _holds(moved: Gone) -> bool:
    try:
        return moved()
    except (redis.RedisError, OSError):  # what it asks is away just now
        return False


def slowest(seconds: list[float], share: float = 1.0) -> float:
    """The quantile `share` of these times; the slowest by default."""
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
