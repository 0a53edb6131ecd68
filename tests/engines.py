"""Real engines on tiny models, and orders for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from shared.jobs import RenderSpec
from shared.models import ModelEntry
from shared.settings import Settings


def entry_of(size: str = "small", **changes: Any) -> ModelEntry:
    fields = {"precision": "fp32", "max_sequence_length": 32, "min_side_px": 16}
    small = {"width": 64, "height": 64}
    return ModelEntry.model_validate(
        {"id": "m", "source": f"tiny:size={size}", **fields, **small, **changes}
    )


def loaded(entry: ModelEntry, folder: Path) -> Any:
    from worker.loading.load import load

    return load(entry, Settings(model_cache_dir=folder), "cpu")


def order(seed: int = 7, **changes: Any) -> RenderSpec:
    fields = {"width": 64, "height": 64, "steps": 4, "guidance_scale": 4.5, "shift": 3.0}
    prompts = {"prompt": "a red fox in the snow", "negative_prompt": "blurry"}
    return RenderSpec.model_validate(
        {"model": "m", "model_digest": "d", "seed": seed, **prompts, **fields, **changes}
    )


def on_step(done: int, total: int) -> None: ...


def drawn(engine: Any, spec: RenderSpec, inputs: Any = None) -> bytes:
    rgb: bytes = engine.render(spec, on_step, inputs).rgb
    return rgb


def apart(a: bytes, b: bytes) -> int:
    """The largest difference of any sample, 0 to 255."""
    return int(abs(np.frombuffer(a, np.uint8).astype(int) - np.frombuffer(b, np.uint8)).max())
