"""Where the weights rest: on the device, or in host memory until they work."""

from __future__ import annotations

from typing import Any

import torch

from shared.models import ModelEntry


def home(network: str, entry: ModelEntry, device: str) -> str:
    """Where a network of the pipeline rests between its turns."""
    if entry.placement == "gpu":
        return device
    stays = entry.placement == "text-offload" and not network.startswith("text_encoder")
    return device if stays else "cpu"


def place(pipe: Any, entry: ModelEntry, device: str) -> None:
    """Take `pipe`, whose networks are at home, to its placement. Raises torch.OutOfMemoryError.

    Under `text-offload` the engine's ladder brings the text encoders (worker/engines/ladder.py).
    """
    if entry.vae_tiling:
        pipe.vae.enable_tiling()
    if entry.placement == "model-offload":
        pipe.enable_model_cpu_offload(device=device)
    elif entry.placement == "sequential-offload":
        pipe.enable_sequential_cpu_offload(device=device)
    elif entry.placement == "group-offload":
        pipe.enable_group_offload(
            onload_device=torch.device(device),
            offload_type="leaf_level",
            use_stream=torch.device(device).type == "cuda",  # the next layer comes meanwhile
        )
