"""Weights from a checked folder into a pipeline in host memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from shared.errors import ModelError
from shared.models import ModelEntry
from worker.loading.parts import T5_PARTS

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def read(folder: Path, entry: ModelEntry) -> Any:
    from diffusers import StableDiffusion3Pipeline  # here: it talks at import, too

    left_out = dict.fromkeys(T5_PARTS) if entry.t5 == "off" else {}
    try:
        pipe = StableDiffusion3Pipeline.from_pretrained(
            folder,
            dtype=DTYPES[entry.compute_precision],  # as a string it would silently be float32
            local_files_only=True,
            use_safetensors=True,
            **left_out,
        )
    except Exception as error:
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ModelError(f"{entry.id} cannot be loaded from {folder}: {why}") from error
    pipe.set_progress_bar_config(disable=True)
    return pipe
