"""Where the weights rest: on the device, or in host memory until they work."""

from __future__ import annotations

from typing import Any

import torch

from shared.errors import ModelError
from shared.models import ModelEntry


def check_placement(entry: ModelEntry, place: str) -> None:
    if entry.placement != "gpu" and place == "cpu":
        raise ModelError(
            f"placement {entry.placement} of {entry.id} moves weights between host and GPU "
            "memory, and this worker has no GPU: set placement to gpu, which a CPU takes as well"
        )


def place(pipe: Any, entry: ModelEntry, device: str) -> None:
    try:
        if entry.placement == "gpu":
            pipe.to(device)
        elif entry.placement == "model-offload":
            pipe.enable_model_cpu_offload(device=device)
        else:
            pipe.enable_sequential_cpu_offload(device=device)
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"{entry.id} does not fit on {device}: set its placement to model-offload, or t5 to off"
        ) from error
