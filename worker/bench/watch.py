"""What passes between the parts of any pipeline: when, and the latents that the decoder gets."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusion3Pipeline


@dataclass(slots=True)
class Seen:
    """`latents` (1, 16, H/8, W/8) as the transformer left them; times by the monotonic clock."""

    encoded_at: float = 0.0
    denoised_at: float = 0.0
    latents: torch.Tensor | None = None


@contextmanager
def watched(device: torch.device) -> Iterator[Seen]:
    """Inside, encoding and decoding are looked at; what is computed stays what it was.

    By class, not by object: so it does not matter who holds the pipeline.
    """
    seen = Seen()
    encode, decode = StableDiffusion3Pipeline.encode_prompt, AutoencoderKL.decode

    def encode_prompt(*args: Any, **how: Any) -> Any:
        embeddings = encode(*args, **how)
        seen.encoded_at = now(device)
        return embeddings

    def decode_latents(vae: Any, scaled: torch.Tensor, *args: Any, **how: Any) -> Any:
        seen.denoised_at = now(device)
        seen.latents = scaled.detach() - vae.config.shift_factor  # a factor changes no cosine
        return decode(vae, scaled, *args, **how)

    StableDiffusion3Pipeline.encode_prompt, AutoencoderKL.decode = encode_prompt, decode_latents
    try:
        yield seen
    finally:
        StableDiffusion3Pipeline.encode_prompt, AutoencoderKL.decode = encode, decode


def now(device: torch.device) -> float:
    """Once the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
