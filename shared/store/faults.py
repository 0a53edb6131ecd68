"""What an error of Redis means, in words for an operator. Never a password: no URL is quoted."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import redis

from shared.errors import StoreRefuses, StoreUnavailable

P = ParamSpec("P")
T = TypeVar("T")

# What the server says -> what it means. Before Redis 7 an error of a script hides its code in a
# longer text, so the codes are searched for anywhere.
_REFUSALS = {
    "OOM": "Redis is full: raise its maxmemory, or let jobs be forgotten sooner (FARM_JOB_RETENTION_S)",
    "MISCONF": "Redis cannot write to its disk, so it takes no writes: see its log, free its disk",
    "READONLY": "this Redis is a replica: FARM_REDIS_URL must name the primary, or its sentinels",
    "NOREPLICAS": "Redis has fewer replicas than min-replicas-to-write asks for",
    "NOPERM": "the Redis user of FARM_REDIS_URL may not do this; docs/redis.md has the least it needs",
    "NOAUTH": "Redis wants a password; put it into FARM_REDIS_URL",
    "WRONGPASS": "Redis does not know the user or password of FARM_REDIS_URL",
    "LOADING": "Redis has started and is still reading its data",
    "MASTERDOWN": "this Redis is a replica and its primary is down",
    "BUSY": "Redis is busy with another program's script",
    "CLUSTERDOWN": "this is Redis Cluster, which the farm does not support",
    "CROSSSLOT": "this is Redis Cluster, which the farm does not support",
    "MOVED": "this is Redis Cluster, which the farm does not support",
}


def fault_of(error: redis.RedisError) -> StoreUnavailable:
    """StoreRefuses where the server answers but will not serve, else StoreUnavailable."""
    said = f"{getattr(error, 'status_code', None) or ''} {error}"
    words = set(said.replace("-", " ").replace(":", " ").split())
    for code, meaning in _REFUSALS.items():
        if code in words:
            return StoreRefuses(f"{meaning} ({code})")
    if isinstance(error, redis.AuthenticationError):  # "invalid password", without a code
        return StoreRefuses(f"{_REFUSALS['WRONGPASS']} (WRONGPASS)")
    if isinstance(error, redis.TimeoutError):
        return StoreUnavailable("the job store does not answer in time")
    return StoreUnavailable(f"the job store does not answer: {error}")


def translated(method: Callable[P, T]) -> Callable[P, T]:
    """The same method of a store, raising our errors instead of redis-py's."""

    @wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(*args, **kwargs)
        except redis.RedisError as error:
            raise fault_of(error) from error

    return call
