"""From a model entry to an engine that is ready to render."""

from __future__ import annotations

import platform
import threading
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from shared.errors import ModelError
from shared.models import ModelEntry
from shared.settings import Settings
from worker.engines.diffusers_sd3 import DiffusersSD3
from worker.engines.port import Renderer
from worker.loading.locate import T5_PARTS, locate
from worker.loading.quiet import quiet_libraries
from worker.loading.steps import Report, step, untold

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# Two loads at once leave meta tensors and a changed default dtype behind, for good.
_LOADING = threading.Lock()


def load(entry: ModelEntry, settings: Settings, device: str, report: Report = untold) -> Renderer:
    """Find, read, place and warm up the model; `device` as in `pick_device`.

    Render in the thread that loaded. Raises ModelError.
    """
    quiet_libraries()
    with _LOADING:
        place = pick_device(device)
        _check_placement(entry, place)
        _set_threads(settings.torch_threads, place)
        folder = locate(entry, settings, report)
        with step("load", report):
            pipe = _read(folder, entry)
        report("quantize", "skipped")  # no precision of today's asks for it
        with step("place", report):
            _place(pipe, entry, place)
        _compile(pipe.transformer, entry, report)
        engine = DiffusersSD3(pipe, entry, place, numeric_profile(entry, place))
        with step("warmup", report):
            engine.warm_up()
        return engine


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


def _check_placement(entry: ModelEntry, place: str) -> None:
    if entry.placement != "gpu" and place == "cpu":
        raise ModelError(
            f"placement {entry.placement} of {entry.id} moves weights between host and GPU "
            "memory, and this worker has no GPU: set placement to gpu, which a CPU takes as well"
        )


def _set_threads(wanted: int, place: str) -> None:
    if wanted or place == "cpu":
        torch.set_num_threads(wanted or 1)


def _read(folder: Path, entry: ModelEntry) -> Any:
    from diffusers import StableDiffusion3Pipeline  # here: it talks at import, too

    left_out = dict.fromkeys(T5_PARTS) if entry.t5 == "off" else {}
    try:
        pipe = StableDiffusion3Pipeline.from_pretrained(
            folder,
            dtype=DTYPES[entry.precision],  # as a string it would silently be float32
            local_files_only=True,
            use_safetensors=True,
            **left_out,
        )
    except Exception as error:
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ModelError(f"{entry.id} cannot be loaded from {folder}: {why}") from error
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _place(pipe: Any, entry: ModelEntry, place: str) -> None:
    try:
        if entry.placement == "gpu":
            pipe.to(place)
        elif entry.placement == "model-offload":
            pipe.enable_model_cpu_offload(device=place)
        else:
            pipe.enable_sequential_cpu_offload(device=place)
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"{entry.id} does not fit on {place}: set its placement to model-offload, or t5 to off"
        ) from error


def _compile(transformer: Any, entry: ModelEntry, report: Report) -> None:
    """Only marks what to compile; the warm-up compiles it."""
    if entry.compile == "off":
        report("compile", "skipped")
        return
    with step("compile", report):
        # fullgraph raises at the limit, and every size, batch and length counts.
        torch._dynamo.config.recompile_limit = 64
        torch._dynamo.config.accumulated_recompile_limit = 1024
        if entry.compile == "regional":
            type(transformer)._repeated_blocks = ["JointTransformerBlock"]  # unset for SD3
            transformer.compile_repeated_blocks(fullgraph=True, dynamic=True)
        else:
            transformer.compile(fullgraph=True, mode="reduce-overhead")
