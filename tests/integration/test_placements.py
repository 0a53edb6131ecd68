"""Every placement's hooks on a real tiny pipeline, run on the CPU: no pixel may move."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from shared.errors import ModelError
from shared.jobs import RenderSpec
from shared.models import ModelEntry
from shared.settings import Settings
from worker.engines.diffusers_sd3 import DiffusersSD3
from worker.engines.ladder import Rung, rungs_of
from worker.loading import load as loading
from worker.loading.card import Card
from worker.loading.load import load
from worker.loading.locate import locate
from worker.loading.place import home, place
from worker.loading.read import read
from worker.loading.steps import untold

ENTRY = ModelEntry(
    id="m", source="tiny:size=small", precision="fp32", max_sequence_length=32, min_side_px=16
)
SPEC = RenderSpec(
    model="m", model_digest=ENTRY.digest, prompt="a red fox in the snow", negative_prompt="blurry",
    width=64, height=64, steps=2, guidance_scale=4.5, shift=3.0, seed=7,
)  # fmt: skip
OFFLOADS = ("text-offload", "model-offload", "group-offload")
CARD = Card("a pretended card", (8, 6), 12_000_000_000, 11_000_000_000, "13.0")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(model_cache_dir=tmp_path_factory.mktemp("cache"))


def engine_of(settings: Settings, **changes: Any) -> DiffusersSD3:
    """As `load` makes it, without the refusal that a CPU gets."""
    entry = ENTRY.model_copy(update=changes)
    pipe = read(locate(entry, settings), entry, "cpu", untold)
    place(pipe, entry, "cpu")
    return DiffusersSD3(pipe, entry, "cpu", {})


@pytest.fixture(scope="module")
def resting(settings: Settings) -> Callable[..., DiffusersSD3]:
    """An engine with all on its device; the same one for the same change."""
    return cache(lambda **changes: engine_of(settings, **changes))


def drawn(engine: DiffusersSD3, **changes: Any) -> bytes:
    return engine.render(SPEC.model_copy(update=changes), lambda step, steps: None).rgb


@pytest.mark.parametrize("placement", OFFLOADS)
def test_no_placement_moves_a_pixel(
    settings: Settings, resting: Callable[..., DiffusersSD3], placement: str
) -> None:
    engine, plain = engine_of(settings, placement=placement), resting()
    engine.warm_up()

    for changes in ({}, {"guidance_scale": 0.0}, {"prompt": "a boat"}, {}):
        assert drawn(engine, **changes) == drawn(plain, **changes)


def test_sequential_offload_leaves_no_weight_anywhere(settings: Settings) -> None:
    """Its hooks bring each. No picture is drawn: with a CPU in the place of a card accelerate's
    hooks fail, those of a pipeline of diffusers' own as well. tests/gpu draws one.
    """
    pipe = engine_of(settings, placement="sequential-offload")._pipe

    for part in (pipe.transformer, pipe.text_encoder, pipe.text_encoder_2, pipe.text_encoder_3):
        assert {weight.device.type for weight in part.parameters()} == {"meta"}


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "int8", "placement": "model-offload"},
        {"precision": "int8", "placement": "group-offload"},
        {"precision": "fp8-storage", "placement": "model-offload"},
        {"precision": "fp8-storage", "placement": "group-offload"},
        {"precision": "bf16", "t5": "int8", "placement": "model-offload"},
        {"precision": "bf16", "t5": "nf4", "placement": "model-offload"},
        {"precision": "bf16", "t5": "nf4", "placement": "text-offload"},
        {"precision": "bf16", "t5": "fp8", "placement": "text-offload"},
        {"precision": "bf16", "t5": "int8", "placement": "group-offload"},
        {"precision": "bf16", "t5": "nf4", "placement": "group-offload"},
        {"precision": "bf16", "t5": "fp8", "placement": "group-offload"},
    ],
    ids=lambda changes: "-".join(changes.values()),
)
def test_what_is_quantized_moves_as_well(
    settings: Settings, resting: Callable[..., DiffusersSD3], changes: dict[str, str]
) -> None:
    stays = resting(**{name: how for name, how in changes.items() if name != "placement"})

    assert drawn(engine_of(settings, **changes)) == drawn(stays)


def test_text_offload_keeps_the_encoders_away_but_while_they_encode(settings: Settings) -> None:
    engine = engine_of(settings, placement="text-offload")
    pipe = engine._pipe

    drawn(engine)

    assert (pipe.text_encoder, pipe.text_encoder_2, pipe.text_encoder_3) == (None, None, None)
    assert {home(name, engine._entry, "cuda:0") for name in ("transformer", "vae")} == {"cuda:0"}
    assert home("text_encoder_3", engine._entry, "cuda:0") == "cpu"


@pytest.mark.parametrize(
    ("placement", "rungs"),
    [
        ("gpu", [Rung.empty_caches, Rung.text_encoders_off, Rung.model_offload]),
        ("text-offload", [Rung.empty_caches, Rung.model_offload]),
        ("model-offload", [Rung.empty_caches]),
        ("group-offload", [Rung.empty_caches]),
    ],
)
def test_a_placement_begins_on_its_own_rung(placement: str, rungs: list[Rung]) -> None:
    entry = ENTRY.model_copy(update={"placement": placement})

    assert list(rungs_of(entry, torch.device("cuda:0"))) == rungs


def test_from_text_offload_a_ladder_goes_on_to_model_offload(settings: Settings) -> None:
    entry = ENTRY.model_copy(update={"placement": "text-offload"})
    engine = engine_of(settings, placement="text-offload")
    before = drawn(engine)

    engine._ladder._exact = list(rungs_of(entry, torch.device("cuda:0")))
    assert engine._ladder.step_down()
    assert engine._ladder.step_down()

    assert engine._ladder.rung is Rung.model_offload
    assert drawn(engine) == before


def test_vae_tiling_changes_what_is_larger_than_a_tile_and_nothing_else(settings: Settings) -> None:
    tiled, whole = engine_of(settings, vae_tiling=True), engine_of(settings)
    long = {"width": 1088, "height": 32, "steps": 1}

    assert drawn(tiled) == drawn(whole)
    assert drawn(tiled, **long) != drawn(whole, **long)
    picture = tiled.render(SPEC.model_copy(update=long), lambda step, steps: None)
    assert picture.exact, "its entry asked for it, and its fingerprint says so"


def test_an_entry_that_tiles_always_has_no_rung_that_would_end_it() -> None:
    entry = ENTRY.model_copy(update={"vae_tiling": True, "allow_tiling": True})

    assert Rung.vae_tiling not in rungs_of(entry, torch.device("cpu"))


def test_too_little_memory_while_placing_says_what_to_change(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("worker.loading.diffusers_load.place", full)
    monkeypatch.setattr(loading, "card_of", lambda device: CARD)
    told: list[tuple[str, str]] = []

    with pytest.raises(
        ModelError, match=r"m needs about .* a pretended card has 11\.0 GB free: set"
    ):
        load(ENTRY, settings, "cpu", lambda *step: told.append(step))

    assert told[-1] == ("place", "failed")


def test_a_profile_is_expanded_by_the_worker_and_told_in_its_log(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loading, "card_of", lambda device: CARD)
    entry = ENTRY.model_copy(update={"profile": "eco"})

    heard: list[str] = []
    engine = load(entry, settings, "cpu", placed=heard.append)

    assert isinstance(engine, DiffusersSD3)
    assert heard == ["model-offload"]
    assert engine._profile["placement"] == "model-offload"
    told = next(r for r in caplog.records if getattr(r, "action", "") == "profile")
    assert (told.profile, told.placement) == ("eco", "model-offload")  # type: ignore[attr-defined]


def test_damaged_headers_are_one_clear_fault_on_a_card_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "card_of", lambda device: CARD)
    settings = Settings(model_cache_dir=tmp_path)
    weights = locate(ENTRY, settings) / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])

    with pytest.raises(ModelError):
        load(ENTRY, settings, "cpu")
