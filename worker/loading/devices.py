"""The device that a worker renders on, and what about it moves rounding."""

from __future__ import annotations

import platform
from typing import Any

import diffusers
import torch
import transformers

from shared.errors import ModelError
from shared.models import ModelEntry
from worker.loading.card import Card


def pick_device(device: str) -> str:
    """`auto`, `cpu`, `cuda` or `cuda:N` as `cpu` or `cuda:N`. Raises ModelError."""
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return "cuda:0" if cards else "cpu"
    if device == "cpu":
        return "cpu"
    kind, _, number = device.partition(":")
    if kind != "cuda" or not (number or "0").isdecimal():
        raise ModelError(f"the device is auto, cpu, cuda or cuda:N, not {device!r}")
    if int(number or "0") >= cards:
        raise ModelError(f"there is no device {device}: torch sees {cards} CUDA cards")
    return f"cuda:{int(number or '0')}"


def card_uuid(place: str) -> str | None:
    """What the driver calls this device, such as `GPU-...`; None on a CPU."""
    if place == "cpu":
        return None
    return f"GPU-{torch.cuda.get_device_properties(place).uuid}"


def card_of(device: str) -> Card | None:
    """What torch tells of `device`, one of `pick_device`'s; None for a CPU."""
    if device == "cpu":
        return None
    free, total = torch.cuda.mem_get_info(device)
    return Card(
        name=torch.cuda.get_device_name(device),
        capability=torch.cuda.get_device_capability(device),
        memory_bytes=total,
        free_bytes=free,
        cuda=str(torch.version.cuda),
    )


def numeric_profile(entry: ModelEntry, place: str) -> dict[str, str]:
    """What moves the rounding of a picture without being part of its fingerprint."""
    profile = {
        "engine": entry.engine,
        "dtype": entry.precision,
        "placement": entry.placement,
        "compile": entry.compile,
        "device": platform.machine(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
    }
    if entry.fuse_qkv:
        profile["qkv"] = "fused"
    if place == "cpu":
        return profile | {"threads": str(torch.get_num_threads())}
    cudnn: Any = torch.backends.cudnn
    major, minor = torch.cuda.get_device_capability(place)
    return profile | {
        "device": torch.cuda.get_device_name(place),
        "capability": f"{major}.{minor}",
        "cuda": str(torch.version.cuda),
        "cudnn": str(cudnn.version()),
    }


def set_threads(wanted: int, place: str) -> None:
    if wanted or place == "cpu":
        torch.set_num_threads(wanted or 1)
