"""Child processes that are kept alive: start, watch, start again after a growing pause, end.

Pure of farm knowledge and of threads: `Child.tick` never blocks. Linux kills a child when the
thread that started it ends, so start children from the thread that outlives them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from deploy.tether import tethered

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 10.0
SETTLED_S = 30.0  # a child that lived so long gets the short pause again
LARGE_LOG_BYTES = 10 * 2**20
LOOK_S = 0.02
WORDS_LENGTH = 300
STRAGGLER_S = 2.0  # what a child itself started may take so long to leave after it

Report = Callable[[str], None]
Killed = Callable[[], str | None]  # what ended a process that got SIGKILL, where that is known


class Clock(Protocol):
    """What this module needs of the module `time`."""

    def monotonic(self) -> float: ...
    def sleep(self, seconds: float, /) -> None: ...


@dataclass(slots=True, frozen=True)
class Program:
    """What to run; `argv[0]` is a path. An exit code in `final_codes` means that starting again cannot help.

    `exit_words` says what its exit codes mean, `killed` who sent a SIGKILL.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    log: Path
    final_codes: frozenset[int] = frozenset()
    exit_words: Mapping[int, str] = field(default_factory=dict)
    killed: Killed = lambda: None


class Backoff:
    """The pause before the next start: doubles with every early death."""

    def __init__(self) -> None:
        self._pause_s = FIRST_PAUSE_S

    def after(self, lived_s: float) -> float:
        """Seconds to wait, given how long the process had lived."""
        pause_s = FIRST_PAUSE_S if lived_s >= SETTLED_S else self._pause_s
        self._pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        return pause_s


class Child:
    """One program and the process that runs it now, if any; `gave_up` after a final exit code."""

    def __init__(self, program: Program, report: Report, clock: Clock = time) -> None:
        self.program = program
        self.gave_up = False
        self._report = report
        self._clock = clock
        self._backoff = Backoff()
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = self._due_at = clock.monotonic()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        rotate(self.program.log)
        self._spawn()

    def tick(self) -> None:
        """Notice a death, and start again once its pause is over."""
        if self.alive or self.gave_up:
            return
        if self._process is not None:
            code = self._process.returncode
            why = describe_exit(code, self.program.exit_words, self.program.killed)
            self._bury(why, code)
        elif self._clock.monotonic() >= self._due_at:
            self._spawn()

    def terminate(self) -> None:
        if self._process and self.alive:
            self._process.terminate()

    def kill(self) -> None:
        """End the process and whatever it started, and return when they are gone."""
        if self._process is None:
            return
        self._process.kill()  # does nothing to a process that was reaped
        self._process.wait()
        self._clear_group(self._process.pid)
        self._process = None
        self.gave_up = True

    def last_words(self) -> str:
        """The last line of its log, cut to a length that people read."""
        with suppress(OSError):
            lines = self.program.log.read_text("utf-8", "replace").rstrip().splitlines()
            return lines[-1].strip()[:WORDS_LENGTH] if lines else ""
        return ""

    def _spawn(self) -> None:
        self._started_at = self._clock.monotonic()
        try:
            with self.program.log.open("ab") as log:
                self._process = subprocess.Popen(  # noqa: S603
                    tethered(self.program.argv, signal.SIGKILL),
                    env=dict(self.program.env),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C in the terminal is the supervisor's alone
                )
        except OSError as error:
            self._bury(f"cannot start: {error}", None)

    def _bury(self, why: str, code: int | None) -> None:
        self._process = None
        self.gave_up = code in self.program.final_codes
        if self.gave_up:
            self._report(f"{self.program.name} {why}")
            return
        now = self._clock.monotonic()
        pause_s = self._backoff.after(now - self._started_at)
        self._due_at = now + pause_s
        again = f"starts again in {pause_s:g} s (log: {self.program.log})"
        said = f": {self.last_words()}" if code and code > 0 else ""
        self._report(f"{self.program.name} {why}{said}; {again}")

    def _clear_group(self, group: int) -> None:
        late_at = self._clock.monotonic() + STRAGGLER_S
        with suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a zombie
            while self._clock.monotonic() < late_at:
                os.killpg(group, 0)
                self._clock.sleep(LOOK_S)
            os.killpg(group, signal.SIGKILL)


def stop_all(
    children: Sequence[Child], grace_s: float, hurry: Callable[[], bool], clock: Clock = time
) -> None:
    """SIGTERM to all; SIGKILL to those left after `grace_s`, or as soon as `hurry()`."""
    for child in children:
        child.terminate()
    late_at = clock.monotonic() + grace_s
    while any(child.alive for child in children) and clock.monotonic() < late_at and not hurry():
        clock.sleep(LOOK_S)
    for child in children:
        child.kill()


def describe_exit(
    code: int, words: Mapping[int, str] | None = None, killed: Killed = lambda: None
) -> str:
    """`exited with code 1`, or the signal that ended it; `code` as subprocess gives it."""
    if code >= 0 and code != 128 + signal.SIGKILL:
        return f"exited with code {code}" + (
            f": it {words[code]}" if words and code in words else ""
        )
    number = -code if code < 0 else code - 128
    if number == signal.SIGKILL:
        why = killed() or "the kernel's out-of-memory killer?"
        return f"was ended by SIGKILL ({why})"
    with suppress(ValueError):
        return f"was ended by {signal.Signals(number).name}"
    return f"was ended by signal {number}"


def rotate(log: Path) -> None:
    """Make room for the log: a large one becomes `<name>.1` and takes the place of an older one."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > LARGE_LOG_BYTES:
        log.replace(log.with_name(log.name + ".1"))
