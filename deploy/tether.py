"""Children that do not outlive the process that started them, however it ends."""

from __future__ import annotations

import os
import sys

# PR_SET_PDEATHSIG survives exec; a preexec_fn would not be safe beside threads.
_TETHER = """\
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


def tethered(command: list[str]) -> list[str]:
    """The command so that it gets SIGTERM when the calling thread ends, however it ends (Linux).

    `command[0]` is a path. Elsewhere the command as it is.
    """
    if not sys.platform.startswith("linux"):
        return command
    return [sys.executable, "-I", "-S", "-c", _TETHER, str(os.getpid()), *command]
