"""Latents to pixels: the decoder, and the way from its numbers to bytes."""

from __future__ import annotations

from typing import Any

import torch

from shared.errors import RenderFailed


def decoded(vae: Any, latents: torch.Tensor) -> bytes:
    """uint8 (H, W, 3), row by row, of latents (1, 16, H/8, W/8).

    Raises RenderFailed for numbers that are no picture: they would be stored as black.
    """
    scaled = latents / vae.config.scaling_factor + vae.config.shift_factor
    pixels = vae.decode(scaled, return_dict=False)[0]  # (1, 3, H, W), about -1..1
    if not torch.isfinite(pixels).all():
        raise RenderFailed("render_error", "the image has values that are not finite")
    # In float32: bfloat16 would put every fifth value one level off.
    levels = pixels.float().mul_(127.5).add_(127.5).round_().clamp_(0, 255).to(torch.uint8)
    rgb: bytes = levels[0].permute(1, 2, 0).cpu().numpy().tobytes()
    return rgb
