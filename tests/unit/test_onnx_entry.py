"""What an entry with engine `onnx` may ask for, which provider it gets, and what that is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from shared.errors import ModelError
from shared.models import ModelEntry
from worker.loading.onnx_providers import input_shapes, options_of, provider_of

FIELDS = {"id": "m", "source": "dir:/models/onnx", "engine": "onnx", "precision": "fp16"}
SIZES = {"hidden_states": 16, "encoder_hidden_states": 4096, "pooled_projections": 2048}


def entry(**changes: Any) -> ModelEntry:
    return ModelEntry.model_validate({**FIELDS, **changes})


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"source": "hf:somebody/something"}, "dir:FOLDER"),
        ({"precision": "nf4"}, "fp32, bf16, fp16, int8"),
        ({"precision": "gguf", "gguf_file": "x.gguf"}, "fp32, bf16, fp16, int8"),
        ({"precision": "int8", "provider": "tensorrt"}, "choose fp16 or bf16"),
        ({"t5": "int8"}, "t5 is on or off"),
        ({"placement": "model-offload"}, "placement is gpu"),
        ({"compile": "regional"}, "leave compile"),
        ({"profile": "fast"}, "leave compile, profile"),
        ({"attention": "cudnn"}, "attention out"),
        ({"fuse_qkv": True}, "leave fuse_qkv out"),
        ({"vae_tiling": True}, "leave vae_tiling"),
        ({"allow_tiling": True}, "allow_tiling out"),
        ({"skip_layers": (7, 8)}, "leave skip_layers out"),
        ({"preset": "draft"}, "always does whole steps"),
    ],
)
def test_what_a_graph_cannot_do_is_refused_when_the_entry_is_read(
    changes: dict[str, Any], why: str
) -> None:
    with pytest.raises(ValidationError, match=why):
        entry(**changes)


def test_the_same_is_no_fault_of_an_entry_with_engine_diffusers() -> None:
    entry(engine="diffusers", precision="nf4", compile="regional", vae_tiling=True)


def test_graphs_in_8_bits_multiply_the_rest_in_float32() -> None:
    assert entry(precision="int8").compute_precision == "fp32"
    assert entry(precision="int8", engine="diffusers").compute_precision == "bf16"


@pytest.mark.parametrize(
    ("changes", "device", "provider"),
    [
        ({}, "cpu", "cpu"),
        ({"provider": "cpu"}, "cpu", "cpu"),
        ({"precision": "int8"}, "cpu", "cpu"),
        ({}, "cuda:1", "cuda"),
        ({"precision": "bf16", "provider": "tensorrt"}, "cuda:0", "tensorrt"),
    ],
)
def test_auto_is_the_devices_own_provider(
    changes: dict[str, Any], device: str, provider: str
) -> None:
    assert provider_of(entry(**changes), device) == provider


@pytest.mark.parametrize(
    ("changes", "device", "why"),
    [
        ({"provider": "cuda"}, "cpu", "needs a GPU, and this worker has none"),
        ({"provider": "tensorrt"}, "cpu", "needs a GPU, and this worker has none"),
        ({"precision": "bf16"}, "cpu", "bf16, which provider cpu does not multiply"),
        ({"provider": "cpu"}, "cuda:0", "start it with device cpu"),
        ({"precision": "int8"}, "cuda:0", "only provider cpu multiplies"),
    ],
)
def test_a_provider_that_does_not_fit_the_device_is_refused(
    changes: dict[str, Any], device: str, why: str
) -> None:
    with pytest.raises(ModelError, match=why):
        provider_of(entry(**changes), device)


def test_tensorrt_gets_one_range_of_sizes_that_holds_every_order() -> None:
    turbo = entry(guidance_scale=0.0, max_side_px=1536, warm_sizes=("768x1024",))

    shapes = input_shapes(turbo, "model", SIZES)

    assert shapes["min"]["hidden_states"] == (1, 16, 8, 8)  # of the warm-up
    assert shapes["opt"]["hidden_states"] == (1, 16, 128, 96)  # height first
    assert shapes["max"]["hidden_states"] == (2, 16, 192, 192)  # an order may ask for guidance
    assert {each["encoder_hidden_states"][1] for each in shapes.values()} == {77 + 256}
    assert input_shapes(turbo, "encoder", {})["max"] == {"pixels": (1, 3, 1536, 1536)}
    assert input_shapes(turbo, "decoder", {"latents": 16})["opt"] == {"latents": (1, 16, 128, 96)}


def test_a_tensorrt_engine_is_kept_for_the_graph_and_the_options_it_was_built_with(
    tmp_path: Path,
) -> None:
    graph = tmp_path / "model.onnx"

    def folder(content: bytes, **changes: Any) -> str:
        graph.write_bytes(content)
        chosen = entry(**changes)
        options = options_of(chosen, "tensorrt", "cuda:1", graph, SIZES, tmp_path)
        assert options["device_id"] == "1"
        assert all(isinstance(value, str) for value in options.values())
        return options["trt_engine_cache_path"]

    first = folder(b"one")

    assert folder(b"one") == first
    others = {folder(b"two"), folder(b"one", precision="fp32"), folder(b"one", max_side_px=1024)}
    assert len(others | {first}) == 4


@pytest.mark.parametrize(
    ("precision", "flags"),
    [("fp32", set()), ("fp16", {"trt_fp16_enable"}), ("bf16", {"trt_bf16_enable"})],
)
def test_tensorrt_may_round_only_as_the_graph_does(
    tmp_path: Path, precision: str, flags: set[str]
) -> None:
    graph = tmp_path / "model.onnx"
    graph.write_bytes(b"graph")

    options = options_of(entry(precision=precision), "tensorrt", "cuda:0", graph, SIZES, tmp_path)

    assert {"trt_fp16_enable", "trt_bf16_enable"} & set(options) == flags
    assert options["trt_profile_min_shapes"].startswith("hidden_states:1x16x8x8,")


def test_cuda_multiplies_in_full_float32_and_a_cpu_needs_no_options(tmp_path: Path) -> None:
    cuda = options_of(entry(), "cuda", "cuda:0", tmp_path / "model.onnx", SIZES, tmp_path)

    assert (cuda["device_id"], cuda["use_tf32"]) == ("0", "0")
    assert options_of(entry(), "cpu", "cpu", tmp_path / "model.onnx", SIZES, tmp_path) == {}
