"""An OpenTelemetry collector: a real OTLP/HTTP server on loopback that remembers the spans it got."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

Value = str | bool | int | float


@dataclass(frozen=True)
class Got:
    """One span; times in nanoseconds, `service` is the process that sent it."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    kind: str
    started: int
    ended: int
    failed: bool
    told: dict[str, Value]
    links: tuple[str, ...]  # traces


@dataclass
class Collector:
    url: str = ""
    status: int = 200
    spans: list[Got] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def of(self, trace: str) -> list[Got]:
        return sorted((s for s in self.spans if s.trace == trace), key=lambda s: s.started)

    def named(self, name: str, trace: str = "") -> list[Got]:
        return [s for s in self.spans if s.name == name and trace in ("", s.trace)]

    def take(self, data: bytes) -> None:
        for each in ExportTraceServiceRequest.FromString(data).resource_spans:
            service = _told(each.resource.attributes)["service.name"]
            for scope in each.scope_spans:
                self.spans += (_got(str(service), span) for span in scope.spans)


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(collector))
    server.daemon_threads = True
    collector.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(collector: Collector) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            collector.headers.append({k.lower(): v for k, v in self.headers.items()})
            if collector.status == 200 and self.path == "/v1/traces":
                zipped = self.headers.get("Content-Encoding") == "gzip"
                collector.take(gzip.decompress(data) if zipped else data)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(collector.status)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


def _got(service: str, span: trace_pb2.Span) -> Got:
    return Got(
        service=service,
        name=span.name,
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        started=span.start_time_unix_nano,
        ended=span.end_time_unix_nano,
        failed=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
        told=_told(span.attributes),
        links=tuple(link.trace_id.hex() for link in span.links),
    )


def _told(attributes: object) -> dict[str, Value]:
    pairs: list[KeyValue] = list(attributes)  # type: ignore[call-overload]
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in pairs}
