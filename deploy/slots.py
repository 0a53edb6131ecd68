"""Where the workers of one machine sit: a slot for each GPU, or slots on the CPU."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from shared.errors import SettingsError

DRIVER_GPUS = Path("/proc/driver/nvidia/gpus")


@dataclass(slots=True, frozen=True)
class Slot:
    """One worker's place. Its name is the same at every start, so that a worker finds its slot."""

    name: str
    env: Mapping[str, str]


def find_gpus(environ: Mapping[str, str] = os.environ) -> list[str]:
    """The ids of the NVIDIA GPUs that this process may use; asks the driver, not torch."""
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu for gpu in visible.replace(" ", "").split(",") if gpu not in ("", "-1")]
    return [str(index) for index in range(_count_gpus())]


def choose_slots(
    gpus: str | None, workers: int | None, device: str, found: list[str]
) -> list[Slot]:
    """One slot for each chosen GPU, or `workers` slots (default one) on the CPU.

    `gpus` is `all`, `none` or ids of `found`; None follows `device`. Raises SettingsError.
    """
    chosen = _choose(gpus if gpus is not None else _gpus_of(device), found)
    host = socket.gethostname()
    if not chosen:
        return [Slot(f"{host}-cpu{k}", {"FARM_DEVICE": "cpu"}) for k in range(workers or 1)]
    if workers and workers > len(chosen):
        raise SettingsError(f"{workers} workers for {len(chosen)} GPUs: a GPU takes one worker")
    return [Slot(f"{host}-gpu{gpu}", _only(gpu)) for gpu in chosen[:workers]]


def _count_gpus() -> int:
    command = shutil.which("nvidia-smi")
    if command:
        with suppress(OSError, subprocess.SubprocessError):
            listed = subprocess.run(  # noqa: S603
                [command, "-L"], capture_output=True, text=True, timeout=30, check=True
            )
            return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
    return len(list(DRIVER_GPUS.iterdir())) if DRIVER_GPUS.is_dir() else 0


def _gpus_of(device: str) -> str:
    """FARM_DEVICE as a choice of GPUs: `auto`, `cpu`, `cuda` or `cuda:N`."""
    kind, _, number = device.partition(":")
    return {"cpu": "none", "cuda": number or "0"}.get(kind, "all")


def _choose(gpus: str, found: list[str]) -> list[str]:
    if gpus in ("all", "none"):
        return found if gpus == "all" else []
    chosen = list(dict.fromkeys(gpus.replace(" ", "").split(",")))
    if missing := [gpu for gpu in chosen if gpu not in found]:
        there = ", ".join(found) or "none"
        raise SettingsError(f"there is no GPU {', '.join(missing)} here; found: {there}")
    return chosen


def _only(gpu: str) -> dict[str, str]:
    # a worker that sees one GPU cannot leave a context on another
    return {
        "FARM_DEVICE": "cuda:0",
        "CUDA_VISIBLE_DEVICES": gpu,
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
