"""A wall clock that tests can set, for the processes that are started with it (Linux, glibc)."""

from __future__ import annotations

import shlex
import shutil
import struct
import subprocess
import sys
from pathlib import Path

from tests.servers import absent, need

HOUR_S = 3600
SOURCE = Path(__file__).with_name("clock.c")


def can_be_set() -> bool:
    return sys.platform == "linux" and shutil.which("cc") is not None


class Clock:
    """What these processes call monotonic goes on evenly, as on a host whose clock is set."""

    def __init__(self, folder: Path) -> None:
        need("cc")
        if not can_be_set():
            absent("only on Linux can a process be given a clock of its own")
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._library, self._file = folder / "clock.so", folder / "clock"
        command = ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-o", self._library, SOURCE]
        subprocess.run(command, check=True)
        self._file.write_bytes(struct.pack("@q", 0))
        self.ahead_s = 0

    def jump(self, seconds: int) -> None:
        """Set it on, or back."""
        self.ahead_s += seconds
        with self._file.open("r+b") as file:  # the same file: it is mapped
            file.write(struct.pack("@q", self.ahead_s))

    @property
    def env(self) -> dict[str, str]:
        """What a process must be started with."""
        return {"LD_PRELOAD": str(self._library), "TEST_CLOCK": str(self._file)}

    def program(self, binary: Path) -> Path:
        """A program that runs this one by this clock."""
        words = [f"{name}={value}" for name, value in self.env.items()]
        path = self._folder / binary.name
        path.write_text(
            f'#!/bin/sh\nexec env {shlex.join(words)} {shlex.quote(str(binary))} "$@"\n'
        )
        path.chmod(0o755)
        return path
