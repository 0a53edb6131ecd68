"""Steps as the device finishes them: true progress, without holding the device up."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import torch

from worker.engines.port import OnStep

AHEAD_STEPS = 1  # that the host may queue beyond the one being told; a cancel comes so much later
Wait = Callable[[], None]


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
        self._queued: deque[tuple[Wait, Wait | None]] = deque()

    def queued(self, then: Wait | None = None) -> None:
        """A step was given to the device; `then` is called when it is done. Raises as `on_step`."""
        self._queued.append((self._mark(), then))
        while len(self._queued) > self._ahead:
            self._tell()

    def finish(self) -> None:
        """Wait for the rest. Raises as `on_step`."""
        while self._queued:
            self._tell()

    def _tell(self) -> None:
        wait, then = self._queued.popleft()
        wait()
        self._told += 1
        self._on_step(self._told, self._steps)
        if then:
            then()


def marks_of(device: torch.device) -> tuple[Callable[[], Wait], int]:
    """What marks the end of the work queued so far, and how far the host may run ahead of it."""
    if device.type != "cuda":
        return (lambda: _done), 0  # a CPU has done it when the call returns

    def mark() -> Wait:
        event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(device))
        wait: Wait = event.synchronize
        return wait

    return mark, AHEAD_STEPS


def _done() -> None: ...
