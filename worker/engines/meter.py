"""What a render takes of its device: steps, arithmetic, memory."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

import torch

from shared.flops import TERA, Mmdit, SkipLayers, denoise_flop
from shared.jobs import Effort, RenderSpec
from shared.models import ModelEntry
from worker.engines.ceiling import matrix_rate


class Meter:
    """Watches one engine, one render at a time. `config` is the transformer's."""

    def __init__(self, config: Mapping[str, Any], entry: ModelEntry, device: torch.device) -> None:
        self._mmdit = Mmdit.of(config)
        self._skip = SkipLayers(
            frozenset(entry.skip_layers), entry.skip_layer_start, entry.skip_layer_stop
        )
        self._device = device
        self._precision = entry.compute_precision
        self._ceiling: float | None = None  # FLOP/s
        self._most_bytes = 0
        self._counts = (0, 0)
        self.steps_s: tuple[float, ...] = ()  # of this render's denoising, when it is done

    def measure_ceiling(self) -> None:
        """Once: a later self-test would find the memory taken."""
        self._ceiling = self._ceiling or matrix_rate(self._device, self._precision)

    def begin(self, prompts: tuple[int, int]) -> None:
        """A render begins. `prompts`: remembered and encoded, so far."""
        self._counts = prompts
        self.steps_s = ()
        if self._device.type == "cuda":
            self._most_bytes = self.most_bytes()
            torch.cuda.reset_peak_memory_stats(self._device)

    def peak_bytes(self) -> int | None:
        """The most that tensors took since `begin`; None on a CPU."""
        if self._device.type != "cuda":
            return None
        return torch.cuda.max_memory_allocated(self._device)

    def most_bytes(self) -> int:
        """The most since the process began."""
        return max(self._most_bytes, self.peak_bytes() or 0)

    def effort(
        self, spec: RenderSpec, text_tokens: int, denoise_s: float, prompts: tuple[int, int]
    ) -> Effort:
        # What a preset leaves out is decided step by step, and nobody counts it.
        whole = spec.preset == "exact"
        flop = denoise_flop(self._mmdit, spec, text_tokens, self._skip) if whole else 0
        rate = flop / denoise_s if flop else None
        remembered, encoded = (now - then for now, then in zip(prompts, self._counts, strict=True))
        return Effort(
            tflop=_told(flop / TERA) if flop else None,
            tflop_per_s=_told(rate / TERA) if rate else None,
            ceiling_share=_told(rate / self._ceiling) if rate and self._ceiling else None,
            step_s=_told(median(self.steps_s)),
            slowest_step_s=_told(max(self.steps_s)),
            peak_memory_bytes=self.peak_bytes(),
            prompts_remembered=remembered,
            prompts_encoded=encoded,
        )


def _told(value: float) -> float:
    """Six digits: clocks know no more, and records stay short."""
    return float(f"{value:.6g}")
