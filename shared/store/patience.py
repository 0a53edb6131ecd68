"""How long a call to Redis is tried again: for a time, not for a number of tries.

A number multiplies: redis-py tries a connection inside each try of a command, and a try costs
nothing when the server refuses and a whole socket timeout when it is silent.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

T = TypeVar("T")
LONGEST_PAUSE_S = 1.0
UNLIMITED = -1


class Patience(Retry):
    """Gives up `patience_s` after the first try; a try inside a try shares its limit.

    redis-py copies it for each connection, and a connection serves one thread at a time.
    """

    def __init__(self, patience_s: float, *more: type[redis.RedisError]) -> None:
        pause = ExponentialWithJitterBackoff(base=0.02, cap=min(LONGEST_PAUSE_S, patience_s / 4))
        super().__init__(pause, UNLIMITED, (redis.ConnectionError, redis.TimeoutError, *more))
        self._patience_s = patience_s
        self._end: float | None = None

    def call_with_retry(
        self,
        do: Callable[[], T],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> T:
        def failed(error: Exception, *count: int) -> None:
            fail(error, *count)
            if self._end is not None and time.monotonic() > self._end:
                raise error

        if self._end is not None:
            return super().call_with_retry(do, failed, is_retryable, with_failure_count)
        self._end = time.monotonic() + self._patience_s
        try:
            return super().call_with_retry(do, failed, is_retryable, with_failure_count)
        finally:
            self._end = None
