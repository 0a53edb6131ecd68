"""Every metric of the farm. Labels come from closed sets: never an id, a key or a prompt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from shared.errors import StoreUnavailable
from shared.flops import TERA
from shared.jobs import Effort
from shared.store.outbox import OUTCOMES, OutboxStats
from shared.store.port import JobStore

_HTTP_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_RENDER_S = (0.03, 0.1, 0.3, 0.5, 1, 2, 3, 5, 8, 13, 21, 34, 60, 120, 300)
_STEP_S = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5)
_IDLE_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5, 30)


class ApiMetrics:
    """What one API process counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "renderfarm_http_requests",
            "HTTP requests",
            ["route", "method", "status"],
            registry=registry,
        )
        self.request_seconds = Histogram(
            "renderfarm_http_request_seconds", "Time to answer", ["route", "method"],
            buckets=_HTTP_S, registry=registry,
        )  # fmt: skip
        self.images = Counter(
            "renderfarm_images_ordered", "Images ordered, by how the cache answered",
            ["outcome"], registry=registry,
        )  # fmt: skip
        for outcome in ("hit", "attached", "new"):
            self.images.labels(outcome)
        self.waiting = Gauge(
            "renderfarm_waiting_clients", "Clients that follow or wait for a job now",
            registry=registry,
        )  # fmt: skip


class WorkerMetrics:
    """What one worker counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.renders = Counter(
            "renderfarm_renders", "Renders ended by this worker", ["outcome"], registry=registry
        )
        for outcome in (
            "succeeded", "found", "failed", "canceled", "retried", "lost", "given_back",
            "device_fault",
        ):  # fmt: skip
            self.renders.labels(outcome)
        self.phase_seconds = Histogram(
            "renderfarm_render_phase_seconds", "Time per phase of a render", ["phase"],
            buckets=_RENDER_S, registry=registry,
        )  # fmt: skip
        self.idle_seconds = Histogram(
            "renderfarm_worker_idle_seconds", "Time between two renders", buckets=_IDLE_S,
            registry=registry,
        )  # fmt: skip
        self.idle_tickets = Counter(
            "renderfarm_tickets_idle", "Tickets that found nothing to render", registry=registry
        )
        self.load_seconds = Gauge(
            "renderfarm_model_load_seconds", "Time of each step of loading the model", ["step"],
            registry=registry,
        )  # fmt: skip
        self.effort = EffortMetrics(registry)


class EffortMetrics:
    """What renders take of one worker's device. The gauges tell of the last one."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.step_seconds = Histogram(
            "renderfarm_denoise_step_seconds", "Time of one denoising step", buckets=_STEP_S,
            registry=registry,
        )  # fmt: skip
        self.flops = Counter(
            "renderfarm_denoise_flops", "Arithmetic of denoising, by formula", registry=registry
        )
        self.rate = Gauge(
            "renderfarm_denoise_flops_per_second", "FLOP/s of the last denoising", registry=registry
        )
        self.ceiling_ratio = Gauge(
            "renderfarm_denoise_ceiling_ratio",
            "FLOP/s of the last denoising by those of large matrix products on this device",
            registry=registry,
        )
        self.peak_bytes = Gauge(
            "renderfarm_render_peak_memory_bytes", "Device memory that the last render took at most",
            registry=registry,
        )  # fmt: skip
        self.prompts = Counter(
            "renderfarm_prompts", "Prompts of renders: encoded, or remembered from an earlier one",
            ["outcome"], registry=registry,
        )  # fmt: skip
        for outcome in ("encoded", "remembered"):
            self.prompts.labels(outcome)

    def observe(self, effort: Effort, steps_s: Iterable[float]) -> None:
        for seconds in steps_s:
            self.step_seconds.observe(seconds)
        self.prompts.labels("encoded").inc(effort.prompts_encoded)
        self.prompts.labels("remembered").inc(effort.prompts_remembered)
        if effort.tflop is not None and effort.tflop_per_s is not None:
            self.flops.inc(effort.tflop * TERA)
            self.rate.set(effort.tflop_per_s * TERA)
        if effort.ceiling_share is not None:
            self.ceiling_ratio.set(effort.ceiling_share)
        if effort.peak_memory_bytes is not None:
            self.peak_bytes.set(effort.peak_memory_bytes)


class StoreCollector:
    """Queue depth, ages and totals, read from the job store at scrape time, the same from any process."""

    def __init__(self, store: JobStore) -> None:
        self._store = store

    def describe(self) -> list[Metric]:
        return []  # nothing is read when the registry is built

    def collect(self) -> Iterator[Metric]:
        try:
            stats, workers = self._store.stats(), self._store.workers()
            outbox = self._store.outbox_stats()
        except StoreUnavailable:
            yield GaugeMetricFamily("renderfarm_store_up", "1 if the job store answers", value=0)
            return
        yield GaugeMetricFamily("renderfarm_store_up", "1 if the job store answers", value=1)
        pending = GaugeMetricFamily("renderfarm_renders_pending", "Queued renders", labels=["pool"])
        delayed = GaugeMetricFamily(
            "renderfarm_renders_delayed", "Renders in the pause before a retry", labels=["pool"]
        )
        tickets = GaugeMetricFamily("renderfarm_tickets", "Tickets in the broker", labels=["pool"])
        for pool in stats.pools:
            pending.add_metric([pool.pool], pool.pending)
            delayed.add_metric([pool.pool], pool.delayed)
            tickets.add_metric([pool.pool], pool.tickets)
        yield pending
        yield delayed
        yield tickets
        yield GaugeMetricFamily(
            "renderfarm_leases", "Renders that a worker holds", value=stats.leases
        )
        yield from _webhooks(outbox)
        totals = CounterMetricFamily(
            "renderfarm_store", "Renders by outcome, farm-wide", labels=["outcome"]
        )
        for outcome, count in sorted(stats.totals.items()):
            totals.add_metric([outcome], count)
        yield totals
        states = GaugeMetricFamily(
            "renderfarm_workers", "Workers by state", labels=["pool", "state"]
        )
        counted: dict[tuple[str, str], int] = {}
        for worker in workers:
            key = (worker.pool, worker.state)
            counted[key] = counted.get(key, 0) + 1
        for (pool_name, state), count in sorted(counted.items()):
            states.add_metric([pool_name, state], count)
        yield states


def _webhooks(outbox: OutboxStats) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "renderfarm_webhooks_waiting", "Webhooks not yet delivered", value=outbox.waiting
    )
    yield GaugeMetricFamily(
        "renderfarm_webhooks_late_seconds",
        "How long the oldest webhook should have been tried already",
        value=outbox.late_s,
    )
    attempts = CounterMetricFamily(
        "renderfarm_webhook_attempts", "Attempts to deliver a webhook", labels=["outcome"]
    )
    for outcome in OUTCOMES:
        attempts.add_metric([outcome], outbox.totals.get(outcome, 0))
    yield attempts
