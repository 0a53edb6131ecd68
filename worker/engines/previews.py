"""A picture on its way, seen cheaply: latents to colours by one small matrix, or a small decoder.

The matrix is fitted once, when the model is loaded, to what its own decoder makes of patches of
colour. Its pictures are rough and cost about a millisecond; a whole decoder would cost half a step.
The tiny model's decoder is random and far from linear: its previews show that something moves, no
more. A model entry may name a small decoder instead, made for this: TAESD3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from shared.flops import LATENT_PX
from worker.engines.decode import levels, on_host
from worker.engines.port import Previews
from worker.engines.start import Repaint

PATCHES = (4, 12, 32, 128)  # on a side of each picture that is fitted to
FITTED_PX = 256
SKETCH_PX = 512
RIDGE = 1e-3  # a channel that the patches hardly move gets no weight, instead of a wild one


class Look(Protocol):
    """How latents look, about."""

    def seen(self, latents: Tensor) -> Tensor:
        """uint8 (any height, width, 3) of latents (1, 16, H/8, W/8), on their device."""


@dataclass(slots=True, frozen=True)
class Glance:
    """`matrix` (17, 3), on the device: 16 channels and one more for the brightness of nothing."""

    matrix: Tensor

    def seen(self, latents: Tensor) -> Tensor:
        """(H/8, W/8, 3)."""
        colours = _rows(latents.float()) @ self.matrix
        return levels(colours.T.view(1, 3, *latents.shape[-2:]))


@dataclass(slots=True, frozen=True)
class Sketch:
    """`decoder` is a diffusers AutoencoderTiny for SD3's latents."""

    decoder: Any

    def seen(self, latents: Tensor) -> Tensor:
        """Halved until its longer side has at most 512 px."""
        config = self.decoder.config
        scaled = latents.to(self.decoder.dtype) / config.scaling_factor + config.shift_factor
        pixels = self.decoder.decode(scaled, return_dict=False)[0].float()
        while max(pixels.shape[-2:]) > SKETCH_PX:
            pixels = torch.nn.functional.avg_pool2d(pixels, 2)
        return levels(pixels)


def fitted(vae: Any, device: torch.device) -> Glance:
    """By least squares; takes four encodings and decodings of 256 x 256 px."""
    generator = torch.Generator("cpu").manual_seed(0)
    square, product = torch.zeros(17, 17), torch.zeros(17, 3)
    for patches in PATCHES:
        colours = torch.rand((1, 3, patches, patches), generator=generator) * 2 - 1
        rows, seen = _pair(vae, colours, device)
        square += rows.T @ rows / len(rows)
        product += rows.T @ seen / len(rows)
    ridge = RIDGE * len(PATCHES) * torch.diag(torch.tensor([1.0] * 16 + [0.0]))
    return Glance(torch.linalg.solve(square + ridge, product).to(device))


def _pair(vae: Any, colours: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """(1024, 17) and (1024, 3): latents, and what the decoder makes of them."""
    size = (FITTED_PX, FITTED_PX)
    picture = torch.nn.functional.interpolate(colours, size, mode="bilinear")
    with torch.no_grad():
        encoded = vae.encode(picture.to(device, vae.dtype)).latent_dist.mode()
        decoded = vae.decode(encoded, return_dict=False)[0].float()
        latents = (encoded.float() - vae.config.shift_factor) * vae.config.scaling_factor
        seen = torch.nn.functional.avg_pool2d(decoded, LATENT_PX)
    return _rows(latents).cpu(), seen[0].flatten(1).T.cpu()


class Shower:
    """Shows some steps of one render: evenly spaced, never the last, which is the picture."""

    def __init__(self, look: Look, previews: Previews, steps: int) -> None:
        self._look = look
        self._previews = previews
        parts = previews.count + 1
        at = {round(steps * part / parts) for part in range(1, parts)}
        self._numbers = {
            step: number for number, step in enumerate(sorted(at & {*range(1, steps)}))
        }
        self._before: Tensor | None = None

    def begin(self, latents: Tensor) -> None:
        self._before = latents

    def after(
        self, step: int, latents: Tensor, sigmas: Sequence[float], repaint: Repaint | None
    ) -> Callable[[], None] | None:
        """What shows it, to be called when the device is done with the step; None: not this one.

        `latents` after step `step`, from 1; `sigmas` of all steps and 0 at the end.
        """
        number = self._numbers.get(step)
        if number is None or self._before is None:
            return None
        clean = _foreseen(self._before, latents, sigmas[step - 1], sigmas[step])
        if repaint:
            clean = repaint.keep(clean, 0.0)
        rgb = on_host(self._look.seen(clean))
        height, width = rgb.shape[:2]
        return lambda: self._previews.show(number, rgb.numpy().tobytes(), width, height)

    def kept(self, latents: Tensor) -> None:
        """What the next step begins with."""
        self._before = latents


def _foreseen(before: Tensor, after: Tensor, sigma_before: float, sigma: float) -> Tensor:
    """Where the line of this step would end at sigma 0: the picture that the model has in mind."""
    before = before.to(after.device, torch.float32)
    velocity = (after.float() - before) / (sigma - sigma_before)
    return after.float() - sigma * velocity


def _rows(latents: Tensor) -> Tensor:
    """(H/8 * W/8, 17) of (1, 16, H/8, W/8)."""
    rows = latents[0].flatten(1).T
    return torch.cat([rows, torch.ones_like(rows[:, :1])], 1)
