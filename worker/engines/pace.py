"""Steps as the device finishes them: true progress and true seconds, without holding the device up."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, Protocol

import torch

from worker.engines.port import OnStep

AHEAD_STEPS = 1  # that the host may queue beyond the one being told; a cancel comes so much later


class Mark(Protocol):
    """The end of the work that the device had been given when this was made."""

    def wait(self) -> None:
        """Return when the device has come to it."""

    def seconds_since(self, earlier: Any) -> float:
        """By the device's own clock, when it has come to both."""


class HostMark:
    """Of a CPU, which has done its work when the call returns."""

    def __init__(self) -> None:
        self._at = time.perf_counter()

    def wait(self) -> None: ...

    def seconds_since(self, earlier: HostMark) -> float:
        return self._at - earlier._at


class CudaMark:
    def __init__(self, device: torch.device) -> None:
        self._event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self._event.record(torch.cuda.current_stream(device))

    def wait(self) -> None:
        self._event.synchronize()

    def seconds_since(self, earlier: CudaMark) -> float:
        milliseconds: float = earlier._event.elapsed_time(self._event)
        return milliseconds / 1000


class Pace:
    """Tells each step of one render once the device is through with it.

    A host that waited for every step would leave the device idle while it queues the next; one that
    never waited would tell of steps that are only queued.
    """

    def __init__(self, device: torch.device, on_step: OnStep, steps: int) -> None:
        self._mark, self._ahead = marks_of(device)
        self._on_step = on_step
        self._steps = steps
        self._told = 0
        self._marks = [self._mark()]  # the beginning, and the end of each step
        self._queued: deque[tuple[Mark, Callable[[], None] | None]] = deque()

    @property
    def steps_s(self) -> tuple[float, ...]:
        """Seconds of each step on the device, waits for the host in them; after `finish`."""
        return tuple(done.seconds_since(before) for before, done in pairwise(self._marks))

    def queued(self, then: Callable[[], None] | None = None) -> None:
        """A step was given to the device; `then` is called when it is done. Raises as `on_step`."""
        self._marks.append(self._mark())
        self._queued.append((self._marks[-1], then))
        while len(self._queued) > self._ahead:
            self._tell()

    def finish(self) -> None:
        """Wait for the rest. Raises as `on_step`."""
        while self._queued:
            self._tell()

    def _tell(self) -> None:
        mark, then = self._queued.popleft()
        mark.wait()
        self._told += 1
        self._on_step(self._told, self._steps)
        if then:
            then()


def marks_of(device: torch.device) -> tuple[Callable[[], Mark], int]:
    """What marks the end of the work queued so far, and how far the host may run ahead of it."""
    if device.type != "cuda":
        return HostMark, 0
    return partial(CudaMark, device), AHEAD_STEPS
