"""How a worker's process ends: its exit codes, in words, and what each means for what it held."""

from __future__ import annotations

import os
import signal

from shared.store.values import Cause

OK = 0  # drained, or told to leave
NOT_LOADED = 1
REFUSED = 2  # wrong settings or usage: the command line's own code
DEAF = 3
DEVICE_FAULT = 4
UNWELL = 5

WORDS = {
    NOT_LOADED: "could not load its model",
    REFUSED: "refused its settings",
    DEAF: "was deaf: renders waited and it took none",
    DEVICE_FAULT: "met a device fault that only a new process cures",
    UNWELL: "was unwell: failures in a row, or growing memory",
}

CAUSES: dict[int, Cause] = {DEAF: "deaf", DEVICE_FAULT: "device_fault", UNWELL: "unwell"}


class Ending:
    """How this process will end."""

    def __init__(self) -> None:
        self.code = OK
        self._asked = False

    @property
    def cause(self) -> Cause | None:
        return CAUSES.get(self.code)

    def leave(self, code: int = OK) -> None:
        """Drain as SIGTERM does, then exit with this code; the first one given counts."""
        self.code = self.code or code
        os.kill(os.getpid(), signal.SIGTERM)

    def interrupt(self, *_: object) -> None:
        """The handler of SIGTERM while the model loads. Raises SystemExit."""
        self._asked = True
        raise SystemExit(OK)

    def check(self) -> None:
        """Raises SystemExit if `interrupt` did, and a library that was loading swallowed it."""
        if self._asked:
            raise SystemExit(OK)
