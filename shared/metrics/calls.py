"""Calls of the two stores, counted from outside: nobody who asks or answers knows of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, TypeVar, cast

from prometheus_client import CollectorRegistry, Counter, Histogram

from shared.errors import Unavailable

T = TypeVar("T")
Name = Literal["jobs", "results"]
_CALL_S = (0.001, 0.005, 0.02, 0.1, 0.5, 2, 10)


class CallMetrics:
    """`jobs` is Redis, `results` the storage of pictures; an operation is a method of the port."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.seconds = Histogram(
            "renderfarm_store_call_seconds",
            "Calls of the job store (Redis) and of the result store (S3 or a folder)",
            ["store", "operation"], buckets=_CALL_S, registry=registry,
        )  # fmt: skip
        self.errors = Counter(
            "renderfarm_store_call_errors", "Calls that the store did not answer",
            ["store", "operation"], registry=registry,
        )  # fmt: skip
        self.bytes = Counter(
            "renderfarm_store_bytes", "Bytes of pictures and other objects that went to or fro",
            ["store", "direction"], registry=registry,
        )  # fmt: skip
        for direction in ("written", "read"):
            self.bytes.labels("results", direction)


def counted(store: T, name: Name, metrics: CallMetrics) -> T:
    """The same store, whose calls are counted: how many, how long, how many bytes, how often in vain.

    What it hands out piece by piece is counted when the last piece is taken. Only Unavailable is an
    error here: that there is no such job is an answer.
    """
    return cast("T", _Counted(store, name, metrics))


class _Counted:
    def __init__(self, store: object, name: Name, metrics: CallMetrics) -> None:
        self._store = store
        self._name = name
        self._metrics = metrics

    def __getattr__(self, operation: str) -> Any:
        found = getattr(self._store, operation)
        if not callable(found):
            return found
        call = self._call(operation)
        setattr(self, operation, call)  # made once
        return call

    def _call(self, operation: str) -> Callable[..., Any]:
        self._metrics.errors.labels(self._name, operation)  # 0, so that a rate sees the first come

        def call(*args: Any, **options: Any) -> Any:
            begun = time.perf_counter()
            try:
                answer = getattr(self._store, operation)(*args, **options)
            except Exception as error:
                self._note(operation, begun, error)
                raise
            self._carry("written", (*args, *options.values()))
            if isinstance(answer, Iterator):
                return self._pieces(operation, begun, answer)
            self._carry("read", (answer,))
            self._note(operation, begun)
            return answer

        return call

    def _pieces(self, operation: str, begun: float, pieces: Iterator[Any]) -> Iterator[Any]:
        failure: Exception | None = None
        try:
            for piece in pieces:
                self._carry("read", (piece,))
                yield piece
        except Exception as error:
            failure = error
            raise
        finally:
            self._note(operation, begun, failure)

    def _carry(self, direction: str, values: Iterable[object]) -> None:
        if size := sum(len(value) for value in values if isinstance(value, bytes)):
            self._metrics.bytes.labels(self._name, direction).inc(size)

    def _note(self, operation: str, begun: float, error: Exception | None = None) -> None:
        seconds = time.perf_counter() - begun
        self._metrics.seconds.labels(self._name, operation).observe(seconds)
        if isinstance(error, Unavailable):
            self._metrics.errors.labels(self._name, operation).inc()
