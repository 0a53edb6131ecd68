"""Who draws: the engine as a worker runs it, or the pipeline as diffusers' documentation shows it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers import StableDiffusion3Pipeline

from shared.jobs import RenderSpec
from shared.models import ModelEntry
from worker.bench.watch import now, watched
from worker.engines.dtypes import DTYPES
from worker.engines.port import Renderer
from worker.engines.start import noise_of


@dataclass(slots=True, frozen=True)
class Drawn:
    """One picture. `rgb` is uint8, (H, W, 3); phases are `text`, `denoise`, `decode`, seconds."""

    rgb: bytes
    phases_s: dict[str, float]
    profile: dict[str, str]


class Drawer(Protocol):
    def draw(self, spec: RenderSpec) -> Drawn:
        """From a prompt to pixels in host memory."""

    def compared(self, spec: RenderSpec) -> tuple[torch.Tensor | None, bytes]:
        """The latents before decoding and the pixels, from the noise that all drawers share."""


class Engine:
    """Ours."""

    def __init__(self, renderer: Renderer, device: torch.device) -> None:
        self._renderer = renderer
        self._device = device

    def draw(self, spec: RenderSpec) -> Drawn:
        picture = self._renderer.render(spec, _untold)
        return Drawn(picture.rgb, picture.timings_s, picture.profile)

    def compared(self, spec: RenderSpec) -> tuple[torch.Tensor | None, bytes]:
        with watched(self._device) as seen:
            rgb = self.draw(spec).rgb
        return seen.latents, rgb


class Naive:
    """The documentation's example; only the length of prompts is the entry's."""

    def __init__(self, folder: Path, entry: ModelEntry, device: torch.device) -> None:
        dtype = DTYPES[entry.compute_precision]
        pipe: Any = StableDiffusion3Pipeline.from_pretrained(folder, dtype=dtype)
        pipe.set_progress_bar_config(disable=True)
        self._pipe = pipe.to(device)
        self._device = device
        self._max_sequence_length = entry.max_sequence_length

    def draw(self, spec: RenderSpec) -> Drawn:
        generator = torch.Generator("cpu").manual_seed(spec.seed)
        with watched(self._device) as seen:
            started = now(self._device)
            rgb = self._picture(spec, generator=generator)
            ended = now(self._device)
        phases_s = {
            "text": seen.encoded_at - started,
            "denoise": seen.denoised_at - seen.encoded_at,
            "decode": ended - seen.denoised_at,
        }
        return Drawn(rgb, phases_s, {"engine": "plain diffusers"})

    def compared(self, spec: RenderSpec) -> tuple[torch.Tensor | None, bytes]:
        network = self._pipe.transformer
        noise = noise_of(spec, network.config.in_channels).to(self._device, network.dtype)
        with watched(self._device) as seen:
            rgb = self._picture(spec, latents=noise)
        return seen.latents, rgb

    def _picture(self, spec: RenderSpec, **noise: Any) -> bytes:
        picture = self._pipe(
            spec.prompt,
            negative_prompt=spec.negative_prompt,
            width=spec.width,
            height=spec.height,
            num_inference_steps=spec.steps,
            guidance_scale=spec.guidance_scale,
            max_sequence_length=self._max_sequence_length,
            **noise,
        ).images[0]
        rgb: bytes = picture.tobytes()
        return rgb


def _untold(done: int, total: int) -> None: ...
