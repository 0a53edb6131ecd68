"""The arithmetic of a render, by formula: against torch's counter, and how it follows an order."""

from __future__ import annotations

from typing import Any

import pytest

from shared.flops import Mmdit, SkipLayers, denoise_flop
from tests.orders import spec

TEXT = 77 + 256
LARGE = {
    "num_layers": 38, "num_attention_heads": 38, "attention_head_dim": 64, "patch_size": 2,
    "in_channels": 16, "out_channels": 16, "joint_attention_dim": 4096,
    "pooled_projection_dim": 2048, "caption_projection_dim": 2432, "dual_attention_layers": (),
    "pos_embed_max_size": 192, "qk_norm": "rms_norm", "sample_size": 128,
}  # fmt: skip
MEDIUM = LARGE | {
    "num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536,
    "dual_attention_layers": tuple(range(13)), "pos_embed_max_size": 384,
}  # fmt: skip
SMALL = LARGE | {
    "num_layers": 3, "num_attention_heads": 2, "attention_head_dim": 16, "joint_attention_dim": 40,
    "pooled_projection_dim": 24, "caption_projection_dim": 32, "pos_embed_max_size": 32,
}  # fmt: skip
ODD = SMALL | {"dual_attention_layers": (1,), "in_channels": 8, "out_channels": 4, "patch_size": 4}


def counted(config: dict[str, Any], width: int, height: int, text: int, batch: int, **how: Any):
    """FLOP of one call of the real module on the meta device: no weights, no memory."""
    import torch
    from diffusers import SD3Transformer2DModel
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        module = SD3Transformer2DModel(**config)
        latents = torch.empty(batch, config["in_channels"], height // 8, width // 8)
        prompt = torch.empty(batch, text, config["joint_attention_dim"])
        pooled = torch.empty(batch, config["pooled_projection_dim"])
        timestep = torch.empty(batch)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(latents, prompt, pooled, timestep, return_dict=False, **how)
    return counter.get_total_flops()


@pytest.mark.parametrize("config", [SMALL, ODD], ids=["small", "odd"])
@pytest.mark.parametrize(("width", "height", "text", "batch"), [(64, 64, 109, 2), (128, 96, 80, 1)])
def test_it_is_what_torch_counts_on_small_ones(config, width, height, text, batch) -> None:
    formula = Mmdit.of(config).call_flop(width, height, text, batch)

    assert formula == counted(config, width, height, text, batch)


@pytest.mark.parametrize(
    ("config", "side"), [(LARGE, 1024), (MEDIUM, 512)], ids=["large", "medium"]
)
def test_it_is_what_torch_counts_on_the_real_ones(config, side) -> None:
    assert Mmdit.of(config).call_flop(side, side, TEXT, 2) == counted(config, side, side, TEXT, 2)


def test_a_skipped_layer_is_not_counted() -> None:
    formula = Mmdit.of(SMALL).call_flop(64, 64, 109, skipped={0, 1})

    assert formula == counted(SMALL, 64, 64, 109, 1, skip_layers=[0, 1])


@pytest.mark.parametrize(("config", "tflop"), [(LARGE, 62.242229815296), (MEDIUM, 22.499147415552)])
def test_one_guided_step_at_1024_px(config, tflop) -> None:
    assert Mmdit.of(config).call_flop(1024, 1024, TEXT, 2) == tflop * 1e12


def test_guidance_doubles_it_and_an_input_picture_takes_steps_away() -> None:
    mmdit = Mmdit.of(SMALL)
    plain = denoise_flop(mmdit, spec(steps=10, guidance_scale=1.0), 109)
    guided = denoise_flop(mmdit, spec(steps=10, guidance_scale=4.5), 109)
    half = denoise_flop(
        mmdit, spec(steps=10, guidance_scale=1.0, init_image_sha256="0", strength=0.5), 109
    )

    assert plain == 10 * mmdit.call_flop(64, 64, 109)
    assert (guided, half) == (plain * 2, plain / 2)


def test_skip_layer_guidance_is_one_call_more_in_its_part_of_the_schedule() -> None:
    mmdit, skip = Mmdit.of(SMALL), SkipLayers(frozenset({1}), 0.01, 0.2)
    without, asked = spec(steps=28), spec(steps=28, skip_layer_guidance=2.8)
    unguided = spec(steps=28, skip_layer_guidance=2.8, guidance_scale=1.0)

    def more(order) -> int:
        return denoise_flop(mmdit, order, 109, skip) - denoise_flop(mmdit, order, 109)

    assert skip.calls(28) == 5  # 0.28 < i < 5.6
    assert skip.calls(4) == 0
    assert more(without) == more(unguided) == 0
    assert more(asked) == 5 * mmdit.call_flop(64, 64, 109, skipped={1})


def test_a_preset_that_leaves_steps_out_has_no_number() -> None:
    assert denoise_flop(Mmdit.of(SMALL), spec(preset="draft"), 109) is None
