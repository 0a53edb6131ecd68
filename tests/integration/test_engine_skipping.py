"""Skip-layer guidance on the real pipeline: stock diffusers' pixels, and layers that are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

from shared.errors import ModelError
from shared.jobs import RenderSpec
from shared.models import ModelEntry
from shared.settings import Settings
from worker.engines.diffusers_sd3 import DiffusersSD3
from worker.loading.load import load
from worker.loading.locate import locate

ENTRY = ModelEntry(
    id="m", source="tiny:", precision="fp32", max_sequence_length=32, min_side_px=16,
    skip_layers=(1, 3), skip_layer_stop=0.5,
)  # fmt: skip


def order(**changes: Any) -> RenderSpec:
    fields = {
        "model": "m", "model_digest": ENTRY.digest, "prompt": "a red fox", "width": 64,
        "height": 64, "steps": 8, "guidance_scale": 4.5, "shift": 3.0, "seed": 7,
    }  # fmt: skip
    return RenderSpec.model_validate({**fields, **changes})


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(model_cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def engine(settings: Settings) -> Any:
    return load(ENTRY, settings, "cpu")


def pixels(engine: DiffusersSD3, spec: RenderSpec) -> np.ndarray:
    rgb = engine.render(spec, lambda done, total: None).rgb
    return np.frombuffer(rgb, np.uint8).reshape(spec.height, spec.width, 3).astype(int)


def stock_pixels(folder: Path, spec: RenderSpec) -> np.ndarray:
    pipe = StableDiffusion3Pipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = FlowMatchEulerDiscreteScheduler.from_config(
        pipe.scheduler.config, shift=spec.shift
    )
    image = pipe(
        spec.prompt, width=spec.width, height=spec.height, num_inference_steps=spec.steps,
        guidance_scale=spec.guidance_scale, max_sequence_length=32,
        generator=torch.Generator("cpu").manual_seed(spec.seed), skip_guidance_layers=[1, 3],
        skip_layer_guidance_scale=spec.skip_layer_guidance, skip_layer_guidance_start=0.01,
        skip_layer_guidance_stop=0.5,
    ).images[0]  # fmt: skip
    return np.asarray(image).astype(int)


def test_the_image_is_the_stock_pipelines(engine: Any, settings: Settings) -> None:
    spec = order(skip_layer_guidance=2.8)

    drawn = pixels(engine, spec)

    assert abs(drawn - stock_pixels(locate(ENTRY, settings), spec)).max() <= 1
    assert abs(drawn - pixels(engine, order())).mean() > 0.1
    assert abs(drawn - pixels(engine, order(skip_layer_guidance=5.0))).mean() > 0.1


def test_it_works_on_top_of_guidance_only(engine: Any) -> None:
    plain = pixels(engine, order(guidance_scale=1.0))

    assert (pixels(engine, order(guidance_scale=1.0, skip_layer_guidance=2.8)) == plain).all()


def test_as_many_passes_are_made_as_were_predicted(engine: Any) -> None:
    batches: list[int] = []
    hook = engine._pipe.transformer.register_forward_pre_hook(
        lambda _module, _given, named: batches.append(len(named["hidden_states"])),
        with_kwargs=True,
    )

    engine.render(order(skip_layer_guidance=2.8), lambda done, total: None)
    hook.remove()

    assert (batches.count(2), batches.count(1)) == (8, ENTRY.skipping_steps(8))


def test_a_layer_that_is_not_there_refuses_to_load(settings: Settings) -> None:
    entry = ENTRY.model_copy(update={"skip_layers": (4, 5)})

    with pytest.raises(ModelError, match="skip_layers of m names layer 5, and it has 0 to 4"):
        load(entry, settings, "cpu")
