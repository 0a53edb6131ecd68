"""One trace per job: what every part of the farm calls. Nothing here imports OpenTelemetry.

A thread, or a task, is in one span at a time: `step` makes a child of it, a log line names its trace.
Who records spans is chosen at the start (`open_traces`). Without a collector nobody does, and the
context that a client sent is handed on all the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, Protocol, TypedDict, Unpack

from shared.errors import SettingsError
from shared.jobs import TraceContext
from shared.settings import Settings

Kind = Literal["internal", "server", "client", "consumer"]
STATE_MOST = 512  # characters of a tracestate that are handed on, as W3C asks for at least


class Told(TypedDict, total=False):
    """What a span may say. Closed: never a prompt, a key, a URL or an owner."""

    attached: int
    attempt: int
    cached: int
    delivery: str
    error: str
    event: str
    height: int
    job: str
    made: int
    method: str
    model: str
    outcome: str
    pool: str
    render: str
    replayed: bool
    request: str
    route: str
    status: int
    steps: int
    width: int
    worker: str


# The names of OpenTelemetry's semantic conventions where they have one; `renderfarm.` and ours else.
_STANDARD = {
    "error": "error.type",
    "method": "http.request.method",
    "route": "http.route",
    "status": "http.response.status_code",
}
NAMES = {told: _STANDARD.get(told, f"renderfarm.{told}") for told in Told.__annotations__}


class Span(Protocol):
    """Something that takes time. Thread-safe; what is said after its end is lost."""

    @property
    def context(self) -> TraceContext | None:
        """What whoever goes on with this trace is told."""

    def begin(self, name: str) -> Span:
        """A part of it that starts now."""

    def rename(self, name: str) -> None: ...

    def tell(self, **told: Unpack[Told]) -> None: ...

    def fail(self, why: str) -> None:
        """It went wrong; `why` is a code or the name of a class, never a message."""

    def end(self, at: float | None = None) -> None:
        """Now, or at that unix second."""


class Traces(Protocol):
    """Where the spans of this process go."""

    def begin(
        self,
        name: str,
        kind: Kind,
        parent: TraceContext | None = None,
        *,
        links: Sequence[TraceContext] = (),
        started_at: float | None = None,
    ) -> Span:
        """A span under `parent`, else the first of a new trace; `started_at` in unix seconds."""

    def close(self) -> None:
        """Send what has ended, within a limit."""


class Unrecorded:
    """A Span that nobody keeps: it only hands its context on."""

    def __init__(self, context: TraceContext | None = None) -> None:
        self._context = context

    @property
    def context(self) -> TraceContext | None:
        return self._context

    def begin(self, name: str) -> Span:
        return self

    def rename(self, name: str) -> None: ...

    def tell(self, **told: Unpack[Told]) -> None: ...

    def fail(self, why: str) -> None: ...

    def end(self, at: float | None = None) -> None: ...


class NoTraces:
    """Traces without a collector."""

    def begin(
        self,
        name: str,
        kind: Kind,
        parent: TraceContext | None = None,
        *,
        links: Sequence[TraceContext] = (),
        started_at: float | None = None,
    ) -> Span:
        return Unrecorded(parent)

    def close(self) -> None: ...


NOWHERE: Span = Unrecorded()
_current: ContextVar[Span] = ContextVar("span", default=NOWHERE)


def open_traces(component: str, settings: Settings, instance: str = "") -> Traces:
    """Where this process' spans go; `instance` tells it from others. Raises SettingsError."""
    if not settings.otlp_endpoint:
        return NoTraces()
    try:
        from shared.otel import OtlpTraces
    except ImportError:
        raise SettingsError(
            "FARM_OTLP_ENDPOINT wants traces, but OpenTelemetry is not installed: "
            "`pip install 'renderfarm[traces]'`, or leave it empty"
        ) from None
    return OtlpTraces.of(component, settings, instance)


def current() -> Span:
    """The span that this thread, or task, is in."""
    return _current.get()


@contextmanager
def within(span: Span) -> Iterator[Span]:
    """Be in this span; who began it ends it."""
    token = _current.set(span)
    try:
        yield span
    finally:
        _current.reset(token)


@contextmanager
def step(name: str) -> Iterator[Span]:
    """A part of the span that this thread is in. What breaks it off is named; its words are not."""
    with within(current().begin(name)) as span:
        try:
            yield span
        except BaseException as error:
            span.tell(error=type(error).__name__)
            raise
        finally:
            span.end()


_PARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-((?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2})(-.*)?"
)
_STATE = re.compile(rf"[ -~]{{1,{STATE_MOST}}}")


def read_context(parents: Sequence[str], states: Sequence[str] = ()) -> TraceContext | None:
    """From the header lines `traceparent` and `tracestate`; None where they are not valid.

    Source: W3C Trace Context, 3.2 and 4.3: a later version is read as far as this one goes.
    """
    found = _PARENT.fullmatch(parents[0]) if len(parents) == 1 else None
    if found is None or (parents[0].startswith("00") and found[2]):
        return None
    state = ",".join(states)
    return TraceContext(parent=f"00-{found[1]}", state=state if _STATE.fullmatch(state) else "")


def headers_of(context: TraceContext | None) -> dict[str, str]:
    """What a request to somebody else bears."""
    if context is None:
        return {}
    state = {"tracestate": context.state} if context.state else {}
    return {"traceparent": context.parent, **state}
