"""LoRAs on the real pipeline: what a picture shows of them, and that nothing of them stays."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline
from safetensors.torch import load_file, save_file

from shared.errors import Canceled, RenderFailed
from shared.jobs import LoraRef, RenderSpec
from shared.loras import LoraEntry
from shared.models import ModelEntry
from shared.settings import Settings
from tests.adapters import lora_entry, ref, train
from worker.engines.diffusers_sd3 import DiffusersSD3
from worker.engines.loras import Loras
from worker.loading.load import load
from worker.loading.locate import locate
from worker.loading.lora_source import reader

ENTRY = ModelEntry(
    id="m", source="tiny:size=small", precision="fp32", max_sequence_length=32, min_side_px=16
)
Names = tuple[str, ...]


def order(*loras: LoraRef, **changes: Any) -> RenderSpec:
    fields = {
        "model": "m", "model_digest": ENTRY.digest, "prompt": "a red fox", "width": 64,
        "height": 64, "steps": 3, "guidance_scale": 4.5, "shift": 3.0, "seed": 7, "loras": loras,
    }  # fmt: skip
    return RenderSpec.model_validate({**fields, **changes})


def on_step(done: int, total: int) -> None:
    pass


def pixels(engine: DiffusersSD3, spec: RenderSpec) -> np.ndarray:
    picture = engine.render(spec, on_step)
    return np.frombuffer(picture.rgb, np.uint8).reshape(spec.height, spec.width, 3).astype(int)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(model_cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def model(settings: Settings) -> Path:
    return locate(ENTRY, settings)


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory, model: Path) -> dict[str, LoraEntry]:
    folder = tmp_path_factory.mktemp("loras")
    made = {
        "ink": train(folder, model, seed=1, name="ink"),
        "oil": train(folder, model, seed=2, rank=2, name="oil"),
        "loud": train(folder, model, seed=3, lora_alpha=8, name="loud"),
        "mixed": train(
            folder, model, seed=4, lora_alpha=2, alpha_pattern={"attn.to_q": 12}, name="mixed"
        ),
        "stable": train(folder, model, seed=5, lora_alpha=4, use_rslora=True, name="stable"),
    }
    return {name: lora_entry(file, name) for name, file in made.items()}


@pytest.fixture(scope="module")
def engine(settings: Settings, loras: dict[str, LoraEntry]) -> Any:
    return load(ENTRY, settings, "cpu", loras=loras)


def kept(engine: Any) -> Names:
    return engine._loras.kept  # type: ignore[no-any-return]


def fitted(engine: Any, settings: Settings, loras: dict[str, LoraEntry], kept_bytes: int) -> Loras:
    """The engine's adapters anew, with room for so many bytes of them."""
    engine._loras.clear()
    engine._loras = Loras(
        engine._pipe, torch.float32, reader(loras, settings), nullcontext(), kept_bytes
    )
    return engine._loras  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["ink", "loud", "mixed", "stable"])
@pytest.mark.parametrize("scale", [1.0, -0.5])
def test_the_image_is_the_stock_pipelines_with_that_lora(
    engine: Any, model: Path, loras: dict[str, LoraEntry], name: str, scale: float
) -> None:
    spec = order(ref(loras[name], scale))
    pipe = StableDiffusion3Pipeline.from_pretrained(model, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config, shift=3.0)

    pipe.load_lora_weights(loras[name].source.removeprefix("file:"), adapter_name="a")
    pipe.set_adapters(["a"], [scale])
    stock = pipe(
        "a red fox", width=64, height=64, num_inference_steps=3, guidance_scale=4.5,
        max_sequence_length=32, generator=torch.Generator("cpu").manual_seed(7),
    ).images[0]  # fmt: skip

    drawn = pixels(engine, spec)
    assert abs(drawn - np.asarray(stock).astype(int)).max() <= 1
    assert abs(drawn - pixels(engine, order())).mean() > 0.3


def test_scales_and_company_change_the_image_and_their_absence_changes_nothing(
    engine: Any, loras: dict[str, LoraEntry]
) -> None:
    ink, oil = loras["ink"], loras["oil"]
    plain = pixels(engine, order())
    different = [
        pixels(engine, order(*worn))
        for worn in [[ref(ink)], [ref(ink, 0.5)], [ref(oil)], [ref(ink), ref(oil)]]
    ]

    for k, one in enumerate(different):
        for other in [plain, *different[:k]]:
            assert abs(one - other).mean() > 0.1
    assert (pixels(engine, order(ref(ink, 0.0))) == plain).all()
    assert (pixels(engine, order(ref(ink))) == different[0]).all()
    assert (pixels(engine, order()) == plain).all()


def test_a_model_without_loras_and_one_that_has_them_loaded_draw_the_same_bytes(
    engine: Any, loras: dict[str, LoraEntry]
) -> None:
    engine._loras.clear()
    alone = engine.render(order(), on_step).rgb
    modules = [name for name, _ in engine._pipe.transformer.named_modules()]

    engine.render(order(ref(loras["ink"]), ref(loras["oil"], 2.0)), on_step)

    assert len(kept(engine)) == 2
    assert engine.render(order(), on_step).rgb == alone
    engine._loras.clear()
    assert [name for name, _ in engine._pipe.transformer.named_modules()] == modules
    assert engine.render(order(), on_step).rgb == alone


@pytest.mark.parametrize("at", [1, 2])
def test_a_canceled_render_leaves_its_lora_behind(
    engine: Any, loras: dict[str, LoraEntry], at: int
) -> None:
    before = engine.render(order(), on_step).rgb

    def cancel(done: int, total: int) -> None:
        if done == at:
            raise Canceled

    with pytest.raises(Canceled):
        engine.render(order(ref(loras["ink"])), cancel)

    assert engine.render(order(), on_step).rgb == before


def test_where_the_second_lora_cannot_be_had_the_first_is_off_again(
    engine: Any, settings: Settings, loras: dict[str, LoraEntry]
) -> None:
    before = engine.render(order(), on_step).rgb
    engine._loras.clear()
    gone = LoraRef(name="gone", sha256="0" * 64, scale=1.0)

    with pytest.raises(RenderFailed, match="the LoRA gone cannot be used"):
        engine.render(order(ref(loras["ink"]), gone), on_step)

    assert engine.render(order(), on_step).rgb == before


def test_the_longest_unused_make_room(
    engine: Any, settings: Settings, loras: dict[str, LoraEntry]
) -> None:
    ink, oil, loud = (ref(loras[name]) for name in ("ink", "oil", "loud"))
    drawn = {lora.name: engine.render(order(lora), on_step).rgb for lora in (ink, oil, loud)}
    most = fitted(engine, settings, loras, 2**30)
    for lora in (ink, oil, loud):
        engine.render(order(lora), on_step)
    sizes = dict(most._sizes)

    few = fitted(engine, settings, loras, sum(sizes.values()) - 1)
    for lora in (ink, oil, ink, loud):
        assert engine.render(order(lora), on_step).rgb == drawn[lora.name]

    assert few.kept == (ink.sha256[:32], loud.sha256[:32])
    assert engine.render(order(oil), on_step).rgb == drawn["oil"]
    assert few.kept == (loud.sha256[:32], oil.sha256[:32])

    one = fitted(engine, settings, loras, 1)
    engine.render(order(ink, oil), on_step)  # of one render all stay
    assert len(one.kept) == 2
    engine.render(order(loud), on_step)
    assert one.kept == (loud.sha256[:32],)
    fitted(engine, settings, loras, 2**30)


def test_it_is_read_once(engine: Any, settings: Settings, loras: dict[str, LoraEntry]) -> None:
    read: list[str] = []
    adapters = fitted(engine, settings, loras, 2**30)
    inner = adapters._read

    def counted(lora: LoraRef) -> Any:
        read.append(lora.name)
        return inner(lora)

    adapters._read = counted
    for scale in (1.0, 0.3, 1.0):
        engine.render(order(ref(loras["ink"], scale)), on_step)

    assert read == ["ink"]


def edit(file: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def rename(old: str, new: str) -> Callable[[dict[str, torch.Tensor]], object]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        for key in list(tensors):
            tensors[key.replace(old, new)] = tensors.pop(key)

    return change


def widen(tensors: dict[str, torch.Tensor]) -> None:
    for key in [key for key in tensors if "lora_A" in key]:
        tensors[key] = torch.zeros(4, 2 * tensors[key].shape[1])


def spoil(tensors: dict[str, torch.Tensor]) -> None:
    next(iter(tensors.values()))[0, 0] = float("nan")


def halve(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[next(key for key in tensors if "lora_B" in key)]


def narrow(tensors: dict[str, torch.Tensor]) -> None:
    for key in tensors:
        tensors[key] = tensors[key].to(torch.float8_e4m3fn)


def empty(tensors: dict[str, torch.Tensor]) -> None:
    for key, tensor in tensors.items():
        tensors[key] = tensor[:0] if "lora_A" in key else tensor[:, :0]


def many_alphas(tensors: dict[str, torch.Tensor]) -> None:
    first = next(key for key in tensors if "lora_A" in key)
    tensors[first.replace("lora_A.weight", "alpha")] = torch.ones(2)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (narrow, "save it in 16 or 32 bits"),
        (empty, "do not fit each other"),
        (many_alphas, "is not one number"),
        (rename("transformer.", "unet."), "diffusers' layout"),
        (rename("transformer.transformer_blocks.0", "text_encoder.layers.0"), "text encoder"),
        (rename("blocks.0", "blocks.77"), "no linear layer of this model"),
        (rename("lora_A", "lora_magnitude"), "of no LoRA"),
        (widen, "made for another model"),
        (spoil, "not finite"),
        (halve, "has no lora_B"),
        (dict.clear, "no tensors"),
    ],
)
def test_a_file_that_is_none_of_this_models_fails_its_render_in_words(
    engine: Any, settings: Settings, model: Path, tmp_path: Path, change: Any, why: str
) -> None:
    before = engine.render(order(), on_step).rgb
    file = train(tmp_path, model, seed=9)
    edit(file, change)
    bad = lora_entry(file)
    fitted(engine, settings, {"style": bad}, 2**30)

    with pytest.raises(RenderFailed, match=why) as failure:
        engine.render(order(ref(bad)), on_step)

    assert failure.value.code == "lora_unusable"
    assert str(tmp_path) not in str(failure.value)
    assert kept(engine) == ()
    assert engine.render(order(), on_step).rgb == before


def test_a_file_that_was_exchanged_or_removed_is_not_used(
    engine: Any, settings: Settings, model: Path, tmp_path: Path
) -> None:
    file = train(tmp_path, model, seed=9)
    entry = lora_entry(file)
    fitted(engine, settings, {"style": entry}, 2**30)

    train(tmp_path, model, seed=10)
    with pytest.raises(RenderFailed, match="the SHA-256 differs") as other:
        engine.render(order(ref(entry)), on_step)
    file.unlink()
    with pytest.raises(RenderFailed, match="cannot be read") as gone:
        engine.render(order(ref(entry)), on_step)

    assert all(str(tmp_path) not in str(error.value) for error in (other, gone))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04 a pickle, say",
        struct.pack("<Q", 2**63),
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 39) + b'{"__metadata__":{"lora_adapter_metadata"',
    ],
)
def test_what_is_no_safetensors_is_refused(
    engine: Any, settings: Settings, tmp_path: Path, data: bytes
) -> None:
    file = tmp_path / "style.safetensors"
    file.write_bytes(data)
    entry = lora_entry(file)
    fitted(engine, settings, {"style": entry}, 2**30)

    with pytest.raises(RenderFailed, match="no safetensors file"):
        engine.render(order(ref(entry)), on_step)


@pytest.mark.parametrize(
    "told", ["[" * 100_000, "[1]", json.dumps({"transformer.lora_alpha": 10**400}), "{"]
)
def test_settings_in_a_header_that_make_no_sense_are_refused(
    engine: Any, settings: Settings, model: Path, tmp_path: Path, told: str
) -> None:
    file = train(tmp_path, model, seed=9)
    save_file(load_file(file), file, metadata={"lora_adapter_metadata": told})
    bad = lora_entry(file)
    fitted(engine, settings, {"style": bad}, 2**30)

    with pytest.raises(RenderFailed, match=r"no safetensors|settings in its header") as failure:
        engine.render(order(ref(bad)), on_step)

    assert failure.value.code == "lora_unusable"


def test_alphas_beside_the_weights_count_as_those_in_the_header(
    engine: Any, settings: Settings, model: Path, tmp_path: Path
) -> None:
    headed = train(tmp_path, model, seed=6, lora_alpha=8, name="headed")
    beside = train(tmp_path, model, seed=6, name="beside")
    edit(
        beside,
        lambda tensors: tensors.update(
            {
                key.replace("lora_A.weight", "alpha"): torch.tensor(8.0)
                for key in list(tensors)
                if "lora_A" in key
            }
        ),
    )
    both = {"headed": lora_entry(headed, "headed"), "beside": lora_entry(beside, "beside")}
    fitted(engine, settings, both, 2**30)

    drawn = [pixels(engine, order(ref(lora))) for lora in both.values()]

    assert (drawn[0] == drawn[1]).all()


def test_memory_that_is_short_takes_the_loras_too(
    engine: Any, settings: Settings, loras: dict[str, LoraEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine._ladder, "step_down", lambda: True)  # there is a rung for each
    fitted(engine, settings, loras, 2**30)
    expected = engine.render(order(ref(loras["ink"])), on_step).rgb
    engine.render(order(ref(loras["oil"])), on_step)
    seen: list[Names] = []

    def short_once(*_: Any) -> None:
        seen.append(kept(engine))
        if len(seen) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    hook = engine._pipe.transformer.register_forward_pre_hook(short_once)
    drawn = engine.render(order(ref(loras["ink"])), on_step).rgb
    hook.remove()

    assert (len(seen[0]), len(seen[1])) == (2, 1)
    assert drawn == expected


def test_a_load_that_breaks_off_for_want_of_memory_is_tried_again_and_leaves_nothing(
    engine: Any, settings: Settings, loras: dict[str, LoraEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine._ladder, "step_down", lambda: True)
    fitted(engine, settings, loras, 2**30)
    plain = engine.render(order(), on_step).rgb
    expected = engine.render(order(ref(loras["ink"])), on_step).rgb
    engine._loras.clear()
    whole, tried = peft.set_peft_model_state_dict, list[int]()

    def short(*given: Any, **named: Any) -> Any:
        tried.append(1)
        if len(tried) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(*given, **named)

    monkeypatch.setattr(peft, "set_peft_model_state_dict", short)
    drawn = engine.render(order(ref(loras["ink"])), on_step).rgb

    assert (len(tried), drawn == expected) == (2, True)
    assert engine.render(order(), on_step).rgb == plain
