"""The job store's Lua scripts on one Redis: what every part of RedisJobStore stands on."""

from __future__ import annotations

from typing import Any

import redis
from redis.commands.core import Script

from shared.store.scripts import SCRIPTS, StoreConfig, source


class RedisScripts:
    """Thread-safe. Reads no key and asks nothing until a script is run."""

    def __init__(self, client: redis.Redis, config: StoreConfig) -> None:
        self._redis = client
        self._config = config
        self._scripts = {name: self._script(name) for name in SCRIPTS}

    def _script(self, name: str) -> Script:
        return self._redis.register_script(source(name, self._config))

    def _run(self, script: str, *args: str | float) -> Any:
        return self._scripts[script](args=args)
