"""What renders take of one worker's device."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from shared.flops import TERA
from shared.jobs import Effort

_STEP_S = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5)


class EffortMetrics:
    """The gauges tell of the last render."""

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
