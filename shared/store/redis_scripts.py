"""What every part of the job store on Redis stands on: its scripts, and its errors in our words."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import redis
from redis.commands.core import Script

from shared.store.faults import fault_of
from shared.store.scripts import SCRIPTS, StoreConfig, prelude, source

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S")


def translated(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """The method, raising StoreUnavailable for what goes wrong with Redis."""

    @wraps(method)
    def call(self: S, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(self, *args, **kwargs)
        except redis.RedisError as error:
            raise fault_of(error) from error

    return cast("Callable[Concatenate[S, P], T]", call)


class RedisScripts:
    """A client, and the scripts registered with it."""

    def __init__(self, client: redis.Redis, config: StoreConfig) -> None:
        self._redis = client
        self._config = config
        self._scripts = {name: self._script(name) for name in SCRIPTS}

    def _script(self, name: str) -> Script:
        return self._redis.register_script(prelude(self._config) + source("lib") + source(name))

    def _run(self, script: str, *args: str | float) -> Any:
        return self._scripts[script](args=args)
