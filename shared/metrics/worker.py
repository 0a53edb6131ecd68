"""What one worker counts. Its page puts `worker` and `model` before every label."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from shared.metrics.effort import EffortMetrics
from shared.store.values import Claim, Gpu

_RENDER_S = (0.03, 0.1, 0.3, 0.5, 1, 2, 3, 5, 8, 13, 21, 34, 60, 120, 300)
_IDLE_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5, 30)
_WAIT_S = (0.1, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)
_ATTEMPTS = (1, 2, 3, 5)
_MIB = 2**20


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
        self.busy_seconds = Counter(
            "renderfarm_worker_busy_seconds",
            "Time from a claim until the device was free again; its rate is how busy the worker is",
            registry=registry,
        )
        self.wait_seconds = Histogram(
            "renderfarm_render_wait_seconds",
            "Time that a render waited in the queue until it was claimed first",
            buckets=_WAIT_S, registry=registry,
        )  # fmt: skip
        self.attempts = Histogram(
            "renderfarm_render_attempts", "Attempts that a picture took", buckets=_ATTEMPTS,
            registry=registry,
        )  # fmt: skip
        self.pixels = Counter(
            "renderfarm_rendered_pixels", "Pixels of the pictures that were made", registry=registry
        )
        self.device_memory = Gauge(
            "renderfarm_device_memory_bytes",
            "Device memory of this process after its last render: its tensors, their peak, "
            "what its allocator holds, and what the card has",
            ["kind"], registry=registry,
        )  # fmt: skip

    def made(self, claim: Claim) -> None:
        self.renders.labels("succeeded").inc()
        self.attempts.observe(claim.attempt)
        self.pixels.inc(claim.spec.width * claim.spec.height)

    def loaded(self, seconds: Mapping[str, float]) -> None:
        for step, took in seconds.items():
            self.load_seconds.labels(step).set(took)

    def holds(self, gpu: Gpu) -> None:
        """What it has taken on its device."""
        for kind, mb in (
            ("used", gpu.memory_used_mb), ("peak", gpu.memory_peak_mb),
            ("reserved", gpu.memory_reserved_mb), ("total", gpu.memory_total_mb),
        ):  # fmt: skip
            if mb is not None:
                self.device_memory.labels(kind).set(mb * _MIB)
