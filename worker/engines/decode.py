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
    finite = torch.isfinite(pixels).all()
    # In float32: bfloat16 would put every fifth value one level off.
    rgb = on_host(levels(pixels.float()))
    if not finite.item():  # the one wait: the copy, queued before it, is then done too
        raise RenderFailed("render_error", "the image has values that are not finite")
    return rgb.numpy().tobytes()


def levels(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 (H, W, 3) of float32 (1, 3, H, W), about -1..1: a quarter of the bytes to copy."""
    whole = pixels.mul(127.5).add_(127.5).round_().clamp_(0, 255).to(torch.uint8)
    return whole[0].permute(1, 2, 0).contiguous()


def on_host(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in host memory. From a GPU it is only queued: wait for the device before reading it."""
    if tensor.device.type != "cuda":
        return tensor.cpu()
    # Pinned, or the copy would hold the host up; torch keeps the memory for the next one.
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)
