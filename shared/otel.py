"""Spans by OpenTelemetry, sent as OTLP over HTTP. The only module that imports it: shared/traces.py.

A collector that is away costs spans and nothing else: they wait in a bounded queue, a thread sends
them, and what does not fit is dropped.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from threading import Thread
from typing import Unpack
from urllib.parse import unquote

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared.errors import SettingsError
from shared.jobs import TraceContext
from shared.logs import event
from shared.settings import Settings
from shared.traces import NAMES, Kind, Span, Told, headers_of

log = logging.getLogger("farm.traces")
PATH = "/v1/traces"
QUEUE_MOST, BATCH_MOST = 2048, 512  # spans
EVERY_S = 1.0  # so a process that is killed loses a second of spans
SEND_S = 5.0  # one batch, with what the exporter tries again
CLOSE_S = 5.0

_W3C = TraceContextTextMapPropagator()
_KINDS = {
    kind: trace.SpanKind[kind.upper()] for kind in ("internal", "server", "client", "consumer")
}


class OtlpTraces:
    """Traces that a collector gets. Thread-safe."""

    def __init__(self, provider: TracerProvider, processor: BatchSpanProcessor) -> None:
        self._processor = processor
        self._tracer = provider.get_tracer("renderfarm", _version())

    @staticmethod
    def of(component: str, settings: Settings, instance: str) -> OtlpTraces:
        """Connects to nothing: the first batch does. Raises SettingsError."""
        logging.getLogger("opentelemetry.exporter").setLevel("CRITICAL")  # `_Noted` says it, once
        exporter = OTLPSpanExporter(
            f"{(settings.otlp_endpoint or '').rstrip('/')}{PATH}",
            headers=_headers(settings),
            timeout=SEND_S,
        )
        processor = BatchSpanProcessor(
            _Noted(exporter), QUEUE_MOST, EVERY_S * 1000, BATCH_MOST, SEND_S * 1000
        )
        provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(settings.trace_sample_ratio)),
            resource=_resource(component, instance),
            shutdown_on_exit=False,  # it would wait longer than `close`
        )
        provider.add_span_processor(processor)
        return OtlpTraces(provider, processor)

    def begin(
        self,
        name: str,
        kind: Kind,
        parent: TraceContext | None = None,
        *,
        links: Sequence[TraceContext] = (),
        started_at: float | None = None,
    ) -> Span:
        return _Recorded(
            self._tracer,
            self._tracer.start_span(
                name,
                trace.set_span_in_context(_remote(parent)),
                kind=_KINDS[kind],
                links=[trace.Link(_remote(link).get_span_context()) for link in links],
                start_time=_ns(started_at),
            ),
        )

    def close(self) -> None:
        last = Thread(target=self._processor.shutdown, name="last traces", daemon=True)
        last.start()
        last.join(CLOSE_S)  # its own limit is longer, and no setting


class _Recorded:
    """A Span that the collector gets when it has ended."""

    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self._tracer = tracer
        self._span = span

    @property
    def context(self) -> TraceContext:
        carrier: dict[str, str] = {}
        _W3C.inject(carrier, trace.set_span_in_context(self._span))
        return TraceContext(parent=carrier["traceparent"], state=carrier.get("tracestate", ""))

    def begin(self, name: str) -> Span:
        under = trace.set_span_in_context(self._span)
        return _Recorded(self._tracer, self._tracer.start_span(name, under))

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def tell(self, **told: Unpack[Told]) -> None:
        for name, value in told.items():
            self._span.set_attribute(NAMES[name], value)  # type: ignore[arg-type]

    def fail(self, why: str) -> None:
        self._span.set_status(trace.StatusCode.ERROR, why)
        self.tell(error=why)

    def end(self, at: float | None = None) -> None:
        self._span.end(_ns(at))


class _Noted(SpanExporter):
    """Says once that the collector does not take spans, and once that it does again."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._lost = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        if result is not SpanExportResult.SUCCESS:
            if not self._lost:
                event(log, "not_traced", logging.WARNING, reason="the collector takes no spans")
            self._lost += len(spans)
        elif self._lost:
            event(log, "traced_again", spans_lost=self._lost)
            self._lost = 0
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


def _remote(context: TraceContext | None) -> trace.Span:
    """The span that somebody else was in."""
    return trace.get_current_span(_W3C.extract(headers_of(context), Context()))


def _ns(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * 1e9)


def _headers(settings: Settings) -> dict[str, str]:
    """Raises SettingsError, which shows nothing of them."""
    given = settings.otlp_headers.get_secret_value() if settings.otlp_headers else ""
    pairs = [part.partition("=") for part in given.split(",") if part.strip()]
    if not all(name.strip() and equals for name, equals, _ in pairs):
        raise SettingsError("FARM_OTLP_HEADERS must be `name=value`, separated by commas")
    return {name.strip(): unquote(value.strip()) for name, _, value in pairs}


def _resource(component: str, instance: str) -> Resource:
    """Whose spans these are. OTEL_RESOURCE_ATTRIBUTES adds to it, as everywhere."""
    return Resource.create(
        {
            "service.name": f"renderfarm-{component}",
            "service.namespace": "renderfarm",
            "service.instance.id": instance or f"{socket.gethostname()}-{os.getpid()}",
            "service.version": _version(),
        }
    )


def _version() -> str:
    try:
        return version("renderfarm")
    except PackageNotFoundError:  # run from a folder that was never installed
        return "0"
