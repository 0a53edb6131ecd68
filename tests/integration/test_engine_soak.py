"""Many renders of every kind, one after the other: memory stays flat and no pixel is moved."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from shared.errors import Canceled, RenderFailed
from shared.jobs import LoraRef, RenderSpec
from shared.loras import LoraEntry
from shared.models import ModelEntry
from shared.settings import Settings
from tests.adapters import lora_entry, ref, train
from worker.engines.diffusers_sd3 import DiffusersSD3
from worker.health import rss_mb
from worker.loading.load import load
from worker.loading.locate import locate

ENTRY = ModelEntry(
    id="m", source="tiny:size=small", precision="fp32", max_sequence_length=32, min_side_px=16,
    skip_layers=(0,), skip_layer_stop=0.9,
)  # fmt: skip
MOST_GROWTH_MB = 48  # what an allocator keeps to itself; 500 leaked adapters or caches are more
GONE = LoraRef(name="gone", sha256=64 * "0", scale=1.0)


def order(**changes: Any) -> RenderSpec:
    fields = {
        "model": "m", "model_digest": ENTRY.digest, "prompt": "a red fox", "width": 64,
        "height": 64, "steps": 3, "guidance_scale": 4.5, "shift": 3.0, "seed": 7,
    }  # fmt: skip
    return RenderSpec.model_validate({**fields, **changes})


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoraEntry]:
    folder = tmp_path_factory.mktemp("loras")
    model = locate(ENTRY, Settings(model_cache_dir=folder))
    names = [f"style-{k}" for k in range(4)]
    return {
        name: lora_entry(train(folder, model, seed=k, rank=2 + k, name=name), name)
        for k, name in enumerate(names)
    }


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, loras: dict[str, LoraEntry]) -> Any:
    settings = Settings(model_cache_dir=tmp_path_factory.mktemp("cache"))
    engine: Any = load(ENTRY, settings, "cpu", loras=loras)
    engine._loras._kept_bytes = 2 * 2**10  # about half of them: they make room for one another
    return engine


def mixed(loras: dict[str, LoraEntry], count: int) -> Iterator[tuple[RenderSpec, int | None]]:
    """Orders of every kind, and the step after which each is canceled."""
    draw = random.Random(5)
    for seed in range(count):
        steps = draw.randint(1, 4)
        worn = draw.sample(list(loras.values()), draw.choice((0, 0, 1, 2)))
        refs = [ref(lora, draw.choice((-1.0, 0.0, 0.5, 1.0))) for lora in worn]
        yield (
            order(
                seed=seed,
                steps=steps,
                prompt=draw.choice(("a red fox", "a blue boat", "狐")),
                width=16 * draw.randint(1, 6),
                height=16 * draw.randint(1, 6),
                guidance_scale=draw.choice((0.0, 4.5)),
                shift=draw.choice((1.0, 3.0)),
                skip_layer_guidance=draw.choice((0.0, 2.8)),
                preset=draw.choice(("exact", "exact", "balanced", "draft")),
                loras=[*refs, GONE] if draw.random() < 0.1 else refs,
            ),
            draw.randint(1, steps) if draw.random() < 0.2 else None,
        )


def render(engine: DiffusersSD3, spec: RenderSpec, stop_after: int | None) -> str:
    def on_step(done: int, total: int) -> None:
        if done == stop_after:
            raise Canceled

    try:
        engine.render(spec, on_step)
    except Canceled:
        return "canceled"
    except RenderFailed as error:
        return error.code
    return "drawn"


def tensors() -> int:
    gc.collect()
    return sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())


def run(engine: Any, loras: dict[str, LoraEntry], count: int) -> None:
    """Render `count` mixed orders; what was drawn before is drawn after, and nothing has grown."""
    first = next(iter(loras.values()))
    known = [order(), order(loras=[ref(first)]), order(skip_layer_guidance=2.8, width=96)]
    before = [engine.render(spec, lambda *_: None).rgb for spec in known]
    ends = [render(engine, *each) for each in mixed(loras, 40)]  # every cache is full
    engine.render(known[0], lambda *_: None)
    engine._loras.clear()
    held, held_mb = tensors(), rss_mb()

    ends += [render(engine, *each) for each in mixed(loras, count)]

    assert [engine.render(spec, lambda *_: None).rgb for spec in known] == before
    assert {"drawn", "canceled", "lora_unusable"} == set(ends)
    engine._loras.clear()
    assert tensors() - held <= 0
    assert rss_mb() - held_mb <= MOST_GROWTH_MB


def test_sixty_renders_leave_no_trace(engine: Any, loras: dict[str, LoraEntry]) -> None:
    run(engine, loras, 60)


@pytest.mark.slow
def test_five_hundred_renders_leave_no_trace(engine: Any, loras: dict[str, LoraEntry]) -> None:
    run(engine, loras, 500)
