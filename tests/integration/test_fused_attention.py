"""Fused projections draw what the single ones draw, where diffusers' own do not."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shared.errors import RenderFailed
from shared.jobs import LoraRef
from tests.engines import apart, drawn, entry_of, loaded, on_step, order
from worker.engines.joint import PICTURE, PROMPT, fuse
from worker.engines.lora_file import Pair, layers_of
from worker.loading import compiling
from worker.loading.steps import untold

SINGLE = {*PICTURE, *PROMPT}
MEDIUM, LARGE = (0,), ()  # layers with a second attention


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def engine(folder: Path) -> Any:
    return loaded(entry_of(), folder)


@pytest.fixture(scope="module")
def fused(folder: Path) -> Any:
    return loaded(entry_of(fuse_qkv=True), folder)


def transformer(engine: Any, dual: tuple[int, ...], **changes: Any) -> Any:
    """Of two layers and the tiny model's shape, with gains in its norms, as training leaves them."""
    stock = engine._pipe.transformer
    shape = {"num_layers": 2, "dual_attention_layers": dual, **changes}
    torch.manual_seed(1)
    made = type(stock).from_config({**stock.config, **shape}).eval()
    with torch.no_grad():
        for name, weight in made.named_parameters():
            weight.normal_(1.0 if "attn" in name and "norm" in name else 0.0, 0.2)
    return made


@torch.no_grad()
def velocity(made: Any) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    shape = made.config
    velocity: Tensor = made(
        hidden_states=torch.randn(2, 16, 8, 8, generator=generator),
        encoder_hidden_states=torch.randn(2, 109, shape.joint_attention_dim, generator=generator),
        pooled_projections=torch.randn(2, shape.pooled_projection_dim, generator=generator),
        timestep=torch.full((2,), 500.0),
        return_dict=False,
    )[0]
    return velocity


def distance(made: Any, stock: Any) -> float:
    """The largest difference of their velocities, as a part of the largest velocity."""
    wanted = velocity(stock)
    return float((velocity(made) - wanted).abs().max() / wanted.abs().max())


def layer_names(made: nn.Module) -> set[str]:
    return {name.rpartition(".")[2] for name in layers_of(made)}


@pytest.mark.parametrize(
    "changes",
    [{}, {"guidance_scale": 0.0}, {"width": 96, "preset": "draft", "steps": 8}],
    ids=["guided", "unguided", "draft"],
)
def test_a_fused_model_draws_the_same_picture(
    engine: Any, fused: Any, changes: dict[str, Any]
) -> None:
    spec = order(**changes)

    assert apart(drawn(fused, spec), drawn(engine, spec)) <= 1
    assert drawn(fused, spec) == drawn(fused, spec)


def test_the_profile_of_its_pictures_says_so(engine: Any, fused: Any) -> None:
    assert fused.render(order(steps=1), on_step).profile["qkv"] == "fused"
    assert "qkv" not in engine.render(order(steps=1), on_step).profile


def test_the_single_layers_are_gone_and_no_weight_is_held_twice(engine: Any, fused: Any) -> None:
    def count(of: Any) -> int:
        return sum(weight.numel() for weight in of._pipe.transformer.parameters())

    assert layer_names(engine._pipe.transformer) >= SINGLE
    assert layer_names(fused._pipe.transformer).isdisjoint(SINGLE)
    assert count(fused) == count(engine)


@pytest.mark.parametrize("norm", ["rms_norm", None])
@pytest.mark.parametrize("dual", [MEDIUM, LARGE], ids=["as medium", "as large"])
def test_every_layout_computes_what_it_computed(
    engine: Any, dual: tuple[int, ...], norm: str | None
) -> None:
    stock = transformer(engine, dual, qk_norm=norm)
    joined = copy.deepcopy(stock)
    fuse(joined)

    assert distance(joined, stock) < 1e-5


def test_diffusers_own_way_loses_the_norms_of_large_in_silence(engine: Any) -> None:
    stock = transformer(engine, LARGE)
    theirs = copy.deepcopy(stock)
    with torch.no_grad():
        theirs.fuse_qkv_projections()

    assert distance(theirs, stock) > 0.01


def test_diffusers_own_way_fails_on_mediums_second_attention(engine: Any) -> None:
    theirs = transformer(engine, MEDIUM)
    with torch.no_grad():
        theirs.fuse_qkv_projections()

    with pytest.raises(AttributeError):
        velocity(theirs)


def test_a_lora_for_a_single_layer_is_refused_and_not_left_out(fused: Any) -> None:
    pair = Pair(torch.zeros(1, 32), torch.zeros(32, 1))
    transformer = fused._pipe.transformer
    fused._loras._read = lambda _ref: {"transformer_blocks.0.attn.to_q": pair}

    with pytest.raises(RenderFailed, match="the LoRA style cannot be used"):
        drawn(fused, order(loras=[LoraRef(name="style", sha256="a" * 64, scale=1.0)]))
    assert not getattr(transformer, "peft_config", {})


def test_rows_in_fp8_are_the_bits_that_they_were(engine: Any) -> None:
    from torchao.quantization.quantize_.workflows import Float8Tensor

    stock = transformer(engine, MEDIUM)
    wanted = copy.deepcopy(stock)
    fuse(wanted)
    in_fp8(stock, SINGLE)
    in_fp8(wanted, {"to_qkv", "to_added_qkv"})

    fuse(stock)

    joined = {name: p for name, p in wanted.named_parameters() if isinstance(p, Float8Tensor)}
    assert len(joined) == 5, "two joint attentions, and one of the picture alone"
    for name, weight in joined.items():
        got = stock.get_parameter(name)
        assert torch.equal(got.qdata.view(torch.uint8), weight.qdata.view(torch.uint8))
        assert torch.equal(got.scale, weight.scale)
        assert got.act_quant_kwargs == weight.act_quant_kwargs


def in_fp8(made: Any, names: set[str]) -> None:
    """As precision `fp8` holds them; its own way to make them asks for a card."""
    from torchao.quantization import PerRow
    from torchao.quantization.quantize_.workflows import (
        Float8Tensor,
        QuantizeTensorToFloat8Kwargs,
    )

    rows = PerRow()
    tokens = QuantizeTensorToFloat8Kwargs(granularity=rows)
    for name, module in made.named_modules():
        if name.rpartition(".")[2] in names and isinstance(module, nn.Linear):
            wide = module.weight.detach().bfloat16()
            small = Float8Tensor.from_hp(wide, granularity=rows, act_quant_kwargs=tokens)
            module.weight = nn.Parameter(small, requires_grad=False)


def test_compiled_it_is_one_graph_and_draws_the_same(folder: Path, engine: Any) -> None:
    torch._dynamo.reset()
    joined = loaded(entry_of(fuse_qkv=True), folder)
    compiling.mark(joined._pipe, entry_of(compile="regional"), "cpu", 1, untold, "eager")
    joined._pipe.vae.decoder._compiled_call_impl = None  # tracing that takes long

    try:  # a break in the graph would be an error: the block is compiled whole
        assert apart(drawn(joined, order()), drawn(engine, order())) <= 1
    finally:
        torch._dynamo.reset()
