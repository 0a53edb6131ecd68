"""SD3.5 at its true size with random weights, made on the device and saved as a model folder.

So what is measured is loaded as any model is, and there is nothing to download.

Random weights take the same time and memory as trained ones; they say nothing of quality, and drift
between variants is smaller than with trained weights, which have outliers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from worker.loading.tokenizers import clip_tokenizer, t5_tokenizer, use_clip_files


@dataclass(slots=True, frozen=True)
class Encoder:
    """One text encoder: its feed-forward is `inner` wide."""

    width: int
    inner: int
    heads: int
    layers: int
    vocabulary: int


@dataclass(slots=True, frozen=True)
class Dimensions:
    """Every number of the five networks. The transformer's heads are as many as its layers."""

    layers: int
    dual: int  # the first ones, with a second attention
    head_dim: int
    positions: int
    clip_l: Encoder
    clip_g: Encoder
    t5: Encoder
    vae_channels: tuple[int, int, int, int]
    vae_groups: int


LARGE = Dimensions(
    layers=38,
    dual=0,
    head_dim=64,
    positions=192,
    clip_l=Encoder(768, 3072, 12, 12, 49408),
    clip_g=Encoder(1280, 5120, 20, 32, 49408),
    t5=Encoder(4096, 10240, 64, 24, 32128),
    vae_channels=(128, 256, 512, 512),
    vae_groups=32,
)
MEDIUM = replace(LARGE, layers=24, dual=13, positions=384)
DIMENSIONS = {"large": LARGE, "medium": MEDIUM}


def shrunk(full: Dimensions) -> Dimensions:
    """The same in small, for a dry run on a CPU."""
    return replace(
        full,
        layers=2,
        dual=min(full.dual, 1),
        head_dim=16,
        clip_l=Encoder(24, 48, 2, 1, 2048),
        clip_g=Encoder(32, 64, 2, 1, 2048),
        t5=Encoder(64, 128, 4, 1, 1024),
        vae_channels=(8, 8, 8, 8),
        vae_groups=4,
    )


def save(folder: Path, size: Dimensions, device: str, dtype: torch.dtype) -> None:
    """A diffusers folder: 28 GB of Large, 17 GB of Medium in 16 bits."""
    pipe = pipeline(size, device, dtype)
    pipe.save_pretrained(folder, max_shard_size="4GB")
    for name in ("tokenizer", "tokenizer_2"):
        use_clip_files(folder / name, getattr(pipe, name))


def pipeline(size: Dimensions, device: str, dtype: torch.dtype) -> StableDiffusion3Pipeline:
    """All parts on `device`."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # else they would be made in float32, which takes twice the room
    try:
        with torch.device(device):
            networks = {
                "text_encoder": _clip(size.clip_l, "quick_gelu"),
                "text_encoder_2": _clip(size.clip_g, "gelu"),
                "text_encoder_3": _t5(size.t5),
                "transformer": _transformer(size),
                "vae": _vae(size),
            }
    finally:
        torch.set_default_dtype(before)
    for seed, network in enumerate(networks.values()):
        network.to(dtype).eval().requires_grad_(False)
        _draw_weights(network, seed)
    with torch.no_grad():  # velocities near 1: else the picture is saturated
        for weight in networks["transformer"].get_submodule("proj_out").parameters():
            weight.mul_(0.08)
    return StableDiffusion3Pipeline(
        **networks,
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(pad="!"),
        tokenizer_3=t5_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0),
    )


def _clip(size: Encoder, activation: str) -> nn.Module:
    config = CLIPTextConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        intermediate_size=size.inner,
        projection_dim=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        hidden_act=activation,
        bos_token_id=0,
        eos_token_id=2,  # as in SD3.5: it means "pool at the highest id"
        pad_token_id=1,
    )
    network: nn.Module = CLIPTextModelWithProjection(config)
    return network


def _t5(size: Encoder) -> nn.Module:
    config = T5Config(
        vocab_size=size.vocabulary,
        d_model=size.width,
        d_ff=size.inner,
        d_kv=size.width // size.heads,
        num_heads=size.heads,
        num_layers=size.layers,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )
    network: nn.Module = T5EncoderModel(config)
    return network


def _transformer(size: Dimensions) -> nn.Module:
    network: nn.Module = SD3Transformer2DModel(
        sample_size=128,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=size.layers,
        dual_attention_layers=tuple(range(size.dual)),
        num_attention_heads=size.layers,
        attention_head_dim=size.head_dim,
        caption_projection_dim=size.layers * size.head_dim,
        joint_attention_dim=size.t5.width,
        pooled_projection_dim=size.clip_l.width + size.clip_g.width,
        pos_embed_max_size=size.positions,
        qk_norm="rms_norm",
    )
    return network


def _vae(size: Dimensions) -> nn.Module:
    network: nn.Module = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=size.vae_channels,
        layers_per_block=2,
        latent_channels=16,
        norm_num_groups=size.vae_groups,
        sample_size=1024,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    return network


@torch.no_grad()
def _draw_weights(network: nn.Module, seed: int) -> None:
    """Of trained weights' spread, since the speed of a matrix product depends on it."""
    device = next(network.parameters()).device
    if device.type == "meta":
        return
    generator = torch.Generator(device).manual_seed(seed)
    for name, weight in network.named_parameters():
        if weight.ndim == 1:
            weight.fill_(float(name.endswith("weight")))  # gains 1, biases 0
        elif "embed" in name or "shared" in name:
            weight.normal_(0, 0.5, generator=generator)
        else:
            weight.normal_(0, 1 / math.sqrt(math.prod(weight.shape[1:])), generator=generator)
