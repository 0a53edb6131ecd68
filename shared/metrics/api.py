"""What one API process counts: requests, refusals, waits, and what the cache saved."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_HTTP_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_WAIT_S = (0.1, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 240)
_ERROR = (0.05, 0.1, 0.25, 0.5, 1, 2, 5)


class ApiMetrics:
    """Exact for one process; where several share a port, `page` adds them up."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "renderfarm_http_requests",
            "HTTP requests",
            ["route", "method", "status"],
            registry=registry,
        )
        self.request_seconds = Histogram(
            "renderfarm_http_request_seconds",
            "Time to answer, but for requests that wait for a job",
            ["route", "method"],
            buckets=_HTTP_S, registry=registry,
        )  # fmt: skip
        self.wait_seconds = Histogram(
            "renderfarm_http_wait_seconds", "How long a request was held that waits for a job",
            ["route"], buckets=_WAIT_S, registry=registry,
        )  # fmt: skip
        self.refusals = Counter(
            "renderfarm_http_refusals", "Answers that refuse or fail, by the code of their problem",
            ["code"], registry=registry,
        )  # fmt: skip
        self.images = Counter(
            "renderfarm_images_ordered", "Images ordered, by how the cache answered",
            ["outcome"], registry=registry,
        )  # fmt: skip
        self.saved_seconds = Counter(
            "renderfarm_gpu_saved_seconds",
            "Device seconds that the cache saved: measured of a hit, predicted of an attached image",
            ["outcome"], registry=registry,
        )  # fmt: skip
        for outcome in ("hit", "attached", "new"):
            self.images.labels(outcome)
        for outcome in ("hit", "attached"):
            self.saved_seconds.labels(outcome)
        self.waiting = Gauge(
            "renderfarm_waiting_clients", "Clients that follow or wait for a job now",
            registry=registry, multiprocess_mode="livesum",
        )  # fmt: skip
        self.eta_error = Histogram(
            "renderfarm_eta_error_ratio",
            "How far the first ETA that a client saw was off, by the time that was left then",
            buckets=_ERROR, registry=registry,
        )  # fmt: skip
