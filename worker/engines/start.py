"""Where a denoising begins: at pure noise, or some way down the schedule over an input picture.

One pipeline does all of it. diffusers' own image-to-image pipelines draw their noise inside, in the
model's dtype, sample the encoder, and its inpainting forgets the decoder's shift; here the noise is
`NOISE_RECIPE`'s, the encoder's mean is taken, and everything is mixed in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shared.flops import LATENT_PX
from shared.jobs import RenderSpec
from worker.engines.port import Inputs


@dataclass(slots=True, frozen=True)
class Start:
    """`latents` (1, 16, H/8, W/8), float32. `sigmas`: the unshifted part of the schedule to run."""

    latents: Tensor
    sigmas: list[float] | None = None  # None: all of it, as the scheduler makes it
    repaint: Repaint | None = None


@dataclass(slots=True, frozen=True)
class Repaint:
    """What stays under the mask: `clean` (1, 16, H/8, W/8); `mask` (1, 1, H/8, W/8), 1 = repaint."""

    clean: Tensor
    noise: Tensor
    mask: Tensor

    def keep(self, latents: Tensor, sigma: float) -> Tensor:
        """`latents` after a step to `sigma`, with the input's own outside the mask."""
        kept = sigma * self.noise + (1 - sigma) * self.clean
        mixed = self.mask * latents.float() + (1 - self.mask) * kept
        return mixed.to(latents.dtype)


def noise_of(spec: RenderSpec, channels: int) -> Tensor:
    """`NOISE_RECIPE`: drawn in float32 on the CPU, whatever the model's dtype and device."""
    generator = torch.Generator("cpu").manual_seed(spec.seed)
    size = (1, channels, spec.height // LATENT_PX, spec.width // LATENT_PX)
    return torch.randn(size, generator=generator)


def start_of(pipe: Any, spec: RenderSpec, given: Inputs | None, device: torch.device) -> Start:
    """`pipe.scheduler` is the one of this render. Encodes the input, if there is one."""
    noise = noise_of(spec, pipe.transformer.config.in_channels)
    if given is None:
        return Start(noise)
    noise = noise.to(device)
    clean = _encoded(pipe.vae, given.rgb, spec, device)
    repaint = Repaint(clean, noise, _cells(given.mask, spec, device)) if given.mask else None
    if spec.steps_to_run == spec.steps:
        return Start(noise, None, repaint)
    sigmas = _last_sigmas(pipe.scheduler, spec)
    first = _shifted(sigmas[0], spec.shift)
    return Start(first * noise + (1 - first) * clean, sigmas, repaint)


def composed(rgb: bytes, given: Inputs) -> bytes:
    """The picture (H, W, 3) where the mask is white, the input where it is black, exactly."""
    if given.mask is None:
        return rgb
    drawn, kept = (np.frombuffer(each, np.uint8).astype(np.uint32) for each in (rgb, given.rgb))
    mask = np.frombuffer(given.mask, np.uint8).astype(np.uint32).repeat(3)
    mixed: bytes = ((drawn * mask + kept * (255 - mask) + 127) // 255).astype(np.uint8).tobytes()
    return mixed


def _encoded(vae: Any, rgb: bytes, spec: RenderSpec, device: torch.device) -> Tensor:
    """The mean of the encoder's distribution, as the transformer sees latents; float32."""
    levels = torch.frombuffer(bytearray(rgb), dtype=torch.uint8).to(device)
    pixels = levels.view(1, spec.height, spec.width, 3).permute(0, 3, 1, 2) / 127.5 - 1
    mean = vae.encode(pixels.to(vae.dtype)).latent_dist.mode().float()
    latents: Tensor = (mean - vae.config.shift_factor) * vae.config.scaling_factor
    return latents


def _cells(mask: bytes, spec: RenderSpec, device: torch.device) -> Tensor:
    """A cell is repainted if any of its pixels is: a soft edge needs something on both sides."""
    levels = torch.frombuffer(bytearray(mask), dtype=torch.uint8).to(device)
    marked = (levels.view(1, 1, spec.height, spec.width) > 0).float()
    cells: Tensor = torch.nn.functional.max_pool2d(marked, LATENT_PX)
    return cells


def _last_sigmas(scheduler: Any, spec: RenderSpec) -> list[float]:
    """As `set_timesteps` begins: linear from the largest to the smallest, before the shift."""
    sigmas = np.linspace(float(scheduler.sigma_max), float(scheduler.sigma_min), spec.steps)
    return [float(sigma) for sigma in sigmas[spec.steps - spec.steps_to_run :]]


def _shifted(sigma: float, shift: float) -> float:
    return shift * sigma / (1 + (shift - 1) * sigma)
