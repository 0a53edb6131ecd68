"""LoRAs on a model however it is held: quantized, or with its weights elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import gguf
import numpy as np
import pytest

from shared.jobs import LoraRef, RenderSpec
from shared.loras import LoraEntry
from shared.models import ModelEntry
from shared.settings import Settings
from tests import gguf_files
from tests.adapters import lora_entry, ref, train
from worker.engines.diffusers_sd3 import DiffusersSD3
from worker.engines.dtypes import DTYPES
from worker.engines.loras import Loras
from worker.loading.locate import locate
from worker.loading.lora_source import reader
from worker.loading.place import place
from worker.loading.read import read
from worker.loading.steps import untold

ENTRY = ModelEntry(
    id="m", source="tiny:size=small", precision="fp32", max_sequence_length=32, min_side_px=16
)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(model_cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory, settings: Settings) -> dict[str, LoraEntry]:
    folder, model = tmp_path_factory.mktemp("loras"), locate(ENTRY, settings)
    files = {name: train(folder, model, seed=k, name=name) for k, name in enumerate(("ink", "oil"))}
    return {name: lora_entry(file, name) for name, file in files.items()}


def engine_of(settings: Settings, loras: dict[str, LoraEntry], **changes: Any) -> Any:
    """As `load` makes it, without the refusal that a CPU gets for an offload."""
    entry = ENTRY.model_copy(update=changes)
    pipe = read(locate(entry, settings), entry, "cpu", untold)
    place(pipe, entry, "cpu")
    dtype = DTYPES[entry.compute_precision]
    adapters = Loras(pipe, dtype, reader(loras, settings), Lock(), kept_bytes=1)
    return DiffusersSD3(pipe, entry, "cpu", {}, loras=adapters)


@pytest.fixture(scope="module")
def resting(settings: Settings, loras: dict[str, LoraEntry]) -> Callable[[str], Any]:
    """An engine with all on its device; the same one for the same precision."""
    return cache(lambda precision: engine_of(settings, loras, precision=precision))


def drawn(engine: Any, *loras: LoraRef) -> Any:
    spec = RenderSpec(
        model="m", model_digest=ENTRY.digest, prompt="a red fox", width=64, height=64, steps=2,
        guidance_scale=4.5, shift=3.0, seed=7, loras=loras,
    )  # fmt: skip
    return np.frombuffer(engine.render(spec, lambda done, total: None).rgb, np.uint8).astype(int)


@pytest.mark.parametrize("precision", ["bf16", "fp16", "int8", "gguf"])
def test_a_lora_shows_about_as_in_fp32_and_goes_again(
    settings: Settings,
    loras: dict[str, LoraEntry],
    resting: Callable[[str], Any],
    tmp_path: Path,
    precision: str,
) -> None:
    file = tmp_path / "q8.gguf"
    if precision == "gguf":
        kind = gguf.GGMLQuantizationType.Q8_0
        gguf_files.write(locate(ENTRY, settings), file, kind, original=False)
    ink = ref(loras["ink"])
    exact = resting("fp32")
    engine = engine_of(settings, loras, precision=precision, gguf_file=str(file))
    plain, inked = drawn(engine), drawn(engine, ink)

    effect = drawn(exact, ink) - drawn(exact)
    assert np.corrcoef(inked - plain, effect)[0, 1] > 0.5
    assert (drawn(engine) == plain).all()
    assert (drawn(engine, ink) == inked).all()


@pytest.mark.parametrize(
    ("precision", "placement"),
    [
        ("fp32", "text-offload"),
        ("fp32", "model-offload"),
        ("fp32", "group-offload"),
        ("int8", "model-offload"),
    ],
)
def test_no_placement_moves_a_pixel_by_more_than_rounding(
    settings: Settings,
    loras: dict[str, LoraEntry],
    resting: Callable[[str], Any],
    precision: str,
    placement: str,
) -> None:
    stays = resting(precision)
    moving = engine_of(settings, loras, precision=precision, placement=placement)
    # Only layers that stay are read into tables of the modulation, which round.
    most_levels = 1 if placement == "group-offload" else 0
    ink, oil = ref(loras["ink"]), ref(loras["oil"], -0.5)

    # one of them has room: they push each other out
    for worn in ((), (ink,), (), (oil,), (ink, oil), ()):
        levels_off = abs(drawn(moving, *worn) - drawn(stays, *worn))
        assert levels_off.max() <= most_levels
    moving._loras.clear()
    assert abs(drawn(moving) - drawn(stays)).max() <= most_levels
