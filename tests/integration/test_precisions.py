"""Every precision that a CPU can run, on a real tiny pipeline: what is packed, and what it draws."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from shared.errors import ModelError
from shared.jobs import RenderSpec
from shared.models import ModelEntry
from shared.settings import Settings
from tests import gguf_files
from worker.engines.diffusers_sd3 import DiffusersSD3
from worker.loading import quantize
from worker.loading.load import load
from worker.loading.locate import locate
from worker.loading.quantize import prove, quantized
from worker.loading.read import read
from worker.loading.steps import untold

ENTRY = ModelEntry(
    id="m", source="tiny:size=small", precision="fp32", max_sequence_length=32, min_side_px=16
)
SPEC = RenderSpec(
    model="m", model_digest=ENTRY.digest, prompt="a red fox in the snow", negative_prompt="blurry",
    width=64, height=64, steps=3, guidance_scale=4.5, shift=3.0, seed=7,
)  # fmt: skip
Engine = Callable[..., DiffusersSD3]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(model_cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def engine(settings: Settings) -> Engine:
    """The engine of the tiny entry with some fields changed; the same one for the same change."""

    @cache
    def loaded(**changes: Any) -> DiffusersSD3:
        found = load(ENTRY.model_copy(update=changes), settings, "cpu")
        assert isinstance(found, DiffusersSD3)
        return found

    return loaded


def pixels(engine: DiffusersSD3) -> Any:
    drawn = engine.render(SPEC, lambda step, steps: None).rgb
    return np.frombuffer(drawn, np.uint8).astype(int)


def linears(network: nn.Module) -> dict[str, bool]:
    """By name, whether it is quantized."""
    return {
        name: quantized(module.weight)
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear)
    }


# How far from fp32, of 255 levels; about twice what is measured.
@pytest.mark.parametrize(
    ("changes", "levels"),
    [
        ({"precision": "bf16"}, 2.5),
        ({"precision": "fp16"}, 0.5),
        ({"precision": "int8"}, 3.0),
        ({"precision": "fp8-storage"}, 6.0),
        ({"precision": "bf16", "t5": "int8"}, 2.5),
        ({"precision": "bf16", "t5": "nf4"}, 5.0),
        ({"precision": "bf16", "t5": "fp8"}, 2.5),
        ({"precision": "fp16", "t5": "nf4"}, 5.0),
        ({"precision": "fp32", "t5": "fp8"}, 2.5),
        ({"precision": "int8", "t5": "nf4"}, 5.0),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else "",
)
def test_it_draws_nearly_what_fp32_draws_and_again_to_the_bit(
    engine: Engine, changes: dict[str, str], levels: float
) -> None:
    first, again = pixels(engine(**changes)), pixels(engine(**changes))

    assert (first == again).all()
    assert first.std() > 10
    assert 0 < abs(first - pixels(engine())).mean() < levels


@pytest.mark.parametrize("precision", ["int8", "fp8-storage"])
def test_the_blocks_are_packed_and_the_norms_and_ends_are_not(
    engine: Engine, precision: str
) -> None:
    pipe = engine(precision=precision)._pipe
    packed = linears(pipe.transformer)

    inner = {name for name in packed if ".attn" in name or ".ff" in name}
    assert {name for name in inner if not packed[name]} == set()
    kept = {name for name in packed if not packed[name]}
    assert {"proj_out", "norm_out.linear", "transformer_blocks.0.norm1.linear"} <= kept
    encoders = (pipe.text_encoder, pipe.text_encoder_2, pipe.text_encoder_3)
    assert not any(any(linears(encoder).values()) for encoder in encoders)


@pytest.mark.parametrize("t5", ["int8", "nf4", "fp8"])
def test_of_the_text_encoders_only_t5_is_packed(engine: Engine, t5: str) -> None:
    pipe = engine(precision="bf16", t5=t5)._pipe

    packed = linears(pipe.text_encoder_3)
    assert {name for name in packed if not packed[name]} == {
        name for name in packed if name.endswith(".wo") and t5 != "fp8"
    }
    for other in (pipe.text_encoder, pipe.text_encoder_2, pipe.transformer):
        assert not any(linears(other).values())


def test_fp16_keeps_the_part_of_t5_that_would_overflow(engine: Engine) -> None:
    pipe = engine(precision="fp16")._pipe

    wide = {n for n, p in pipe.text_encoder_3.named_parameters() if p.dtype == torch.float32}
    assert wide
    assert all(".wo." in name for name in wide)
    assert {p.dtype for p in pipe.transformer.parameters()} == {torch.float16}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_dtype_is_never_a_string(engine: Engine, precision: str) -> None:
    pipe = engine(precision=precision)._pipe

    parts = (pipe.transformer, pipe.vae, pipe.text_encoder, pipe.text_encoder_2)
    assert {part.dtype for part in parts} == {
        {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    }


@pytest.mark.parametrize(
    ("kind", "original", "levels"),
    [("Q8_0", True, 2.5), ("Q8_0", False, 2.5), ("Q4_0", True, 20.0)],
)
def test_a_gguf_file_draws_nearly_what_fp32_draws(
    engine: Engine, settings: Settings, tmp_path: Path, kind: str, original: bool, levels: float
) -> None:
    file = tmp_path / f"tiny-{kind}.gguf"
    gguf_files.write(
        locate(ENTRY, settings), file, gguf.GGMLQuantizationType[kind], original=original
    )

    packed = engine(precision="gguf", gguf_file=str(file))

    first, again = pixels(packed), pixels(packed)
    assert (first == again).all()
    assert first.std() > 10
    assert 0 < abs(first - pixels(engine())).mean() < levels


def test_a_gguf_file_that_is_not_there_is_named(settings: Settings) -> None:
    entry = ENTRY.model_copy(update={"precision": "gguf", "gguf_file": "gone.gguf"})

    with pytest.raises(ModelError, match=r"gguf_file gone\.gguf is neither in .* nor a path"):
        load(entry, settings, "cpu")


def test_a_file_that_is_no_gguf_is_one_clear_fault(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(100))
    entry = ENTRY.model_copy(update={"precision": "gguf", "gguf_file": str(tmp_path / "x.gguf")})

    with pytest.raises(ModelError, match=r"x\.gguf is cut short, or its header is damaged"):
        load(entry, settings, "cpu")


def test_without_the_list_of_what_is_kept_loading_fails(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchao would take the adaptive norms as well, and say nothing."""
    monkeypatch.setattr(quantize, "KEEP", ["a name that is nowhere"])

    with pytest.raises(ModelError, match=r"linears in transformer, \d+ are not as"):
        load(ENTRY.model_copy(update={"precision": "int8"}), settings, "cpu")


def test_a_quantization_that_did_nothing_is_found(engine: Engine) -> None:
    """A wrong name is only logged by the libraries."""
    pipe = engine(precision="bf16")._pipe

    for part, entry in (
        ("transformer", ENTRY.model_copy(update={"precision": "int8"})),
        ("transformer", ENTRY.model_copy(update={"precision": "gguf"})),
        ("text_encoder_3", ENTRY.model_copy(update={"t5": "nf4"})),
    ):
        with pytest.raises(ModelError, match="not as its precision asks"):
            prove(part, getattr(pipe, part), entry)


def test_pickled_weights_are_never_opened(tmp_path: Path) -> None:
    """Even where the preflight, which refuses them too, was not asked."""
    folder = locate(ENTRY, Settings(model_cache_dir=tmp_path))
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()

    with pytest.raises(ModelError, match="m cannot be loaded"):
        read(folder, ENTRY, "cpu", untold)


def test_quantizing_is_a_step_of_its_own(settings: Settings) -> None:
    told: list[tuple[str, str]] = []
    entry = ENTRY.model_copy(update={"precision": "int8"})

    load(entry, settings, "cpu", lambda *step: told.append(step))

    assert told.index(("load", "done")) < told.index(("quantize", "running"))
    assert told.index(("quantize", "done")) < told.index(("place", "running"))
