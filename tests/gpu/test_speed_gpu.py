"""What only a card can show of the fast ways: its kernels, its waits, its graphs. `make gpu`."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from shared.catalog import load_catalog
from shared.settings import load_settings
from tests.orders import spec

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def engine_of(folder: Path, **changes: Any) -> Any:
    from worker.loading.load import load

    entry = load_catalog().find("tiny").model_copy(update={"precision": "bf16", **changes})
    return load(entry, load_settings({"FARM_MODEL_CACHE_DIR": str(folder)}), "cuda")


def drawn(engine: Any, **changes: Any) -> Any:
    order = spec(7, **{"width": 256, "height": 256, "steps": 8, **changes})
    return engine.render(order, lambda done, total: None)


def difference(a: bytes, b: bytes) -> float:
    return sum(abs(x - y) for x, y in zip(a, b, strict=True)) / len(a)


@pytest.mark.parametrize("kernel", ["cudnn", "flash", "efficient", "math"])
def test_every_kernel_of_a_card_draws_the_same(folder: Path, kernel: str) -> None:
    picture = drawn(engine_of(folder, attention=kernel))

    assert picture.profile["attention"] == kernel
    assert difference(picture.rgb, drawn(engine_of(folder)).rgb) < 6.0


@pytest.mark.parametrize(
    "held",
    [
        {"precision": "bf16"},
        {"precision": "bf16", "placement": "sequential-offload"},
        {"precision": "fp8"},
        {"precision": "fp8", "compile": "regional"},
    ],
    ids=lambda held: "-".join(held.values()),
)
def test_fused_projections_draw_the_same(folder: Path, held: dict[str, str]) -> None:
    fused = drawn(engine_of(folder, fuse_qkv=True, **held))

    assert fused.profile["qkv"] == "fused"
    assert difference(fused.rgb, drawn(engine_of(folder, **held)).rgb) < 6.0


def test_no_step_makes_the_host_wait(folder: Path) -> None:
    engine = engine_of(folder)
    drawn(engine)
    transformer = engine._pipe.transformer
    hook = transformer.register_forward_pre_hook(lambda *_: torch.cuda.set_sync_debug_mode("error"))
    decode = engine._decode
    try:
        engine._decode = lambda latents: (torch.cuda.set_sync_debug_mode(0), decode(latents))[1]
        drawn(engine)
    finally:
        torch.cuda.set_sync_debug_mode(0)
        hook.remove()
        del engine._decode


def test_steps_are_timed_by_the_card_and_not_by_a_host_that_is_late(folder: Path) -> None:
    engine = engine_of(folder)
    drawn(engine)
    held = threading.Event()

    def late(done: int, total: int) -> None:
        if done == total:  # the card is through, and the host is not
            held.wait(1.0)

    picture = engine.render(spec(7, width=256, height=256, steps=8), late)

    assert len(picture.steps_s) == 8
    assert 0 < sum(picture.steps_s) < picture.timings_s["denoise"] - 0.9


@pytest.mark.parametrize("mode", ["regional", "full"])
def test_warmed_sizes_are_drawn_without_compiling(folder: Path, mode: str) -> None:
    sizes = {"width": 256, "height": 256, "warm_sizes": ("256x320",)}
    engine = engine_of(folder, compile=mode, **sizes)
    made = torch._dynamo.utils.counters["stats"]["unique_graphs"]

    plain = engine_of(folder)
    for changes in ({}, {"height": 320}, {"guidance_scale": 0.0}):
        assert difference(drawn(engine, **changes).rgb, drawn(plain, **changes).rgb) < 6.0
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == made
    assert list((folder / "kernels").iterdir())


@pytest.mark.parametrize("preset", ["balanced", "draft"])
def test_presets_repeat_on_a_card(folder: Path, preset: str) -> None:
    engine = engine_of(folder)

    assert drawn(engine, preset=preset).rgb == drawn(engine, preset=preset).rgb
