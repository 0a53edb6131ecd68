"""Children that do not outlive the process that started them, however it ends."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

# PR_SET_PDEATHSIG survives exec; a preexec_fn would not be safe beside threads.
_TETHER = """\
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, int(sys.argv[2]))
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[3], sys.argv[3:])
"""


def tethered(command: Sequence[str], number: int = signal.SIGTERM) -> list[str]:
    """The command so that it gets this signal when the calling thread ends, however it ends (Linux).

    `command[0]` is a path. Elsewhere the command as it is.
    """
    if not sys.platform.startswith("linux"):
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _TETHER, str(os.getpid()), str(int(number)), *command]
