"""The parts of the tiny SD3.5: SD3.5 Medium's, only the widths are small."""

from __future__ import annotations

import math
import zlib

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline
from torch import nn

from worker.loading.networks import Dimensions, Encoder, networks
from worker.loading.tiny import Size
from worker.loading.tokenizers import clip_tokenizer, t5_tokenizer

MAX_SIDE_PX = 1536


def pipeline(size: Size, seed: int) -> StableDiffusion3Pipeline:
    """All parts, float32, on the CPU; the same weights from the same seed on any machine."""
    tokenizer, tokenizer_2, tokenizer_3 = clip_tokenizer(), clip_tokenizer(pad="!"), t5_tokenizer()
    parts = networks(_dimensions(size, len(tokenizer), len(tokenizer_3)))
    for name, network in parts.items():
        _draw_weights(network, f"{seed}/{name}")
    _behave_as_trained(parts["transformer"])
    return StableDiffusion3Pipeline(
        **parts,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        tokenizer_3=tokenizer_3,
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0),
    )


def _dimensions(size: Size, clip_words: int, t5_words: int) -> Dimensions:
    return Dimensions(
        layers=size.layers,
        dual=size.dual,
        heads=size.heads,
        head_dim=16,
        positions=MAX_SIDE_PX // 16,
        clip_l=Encoder(24, 48, 2, 2, clip_words),
        clip_g=Encoder(32, 64, 2, 2, clip_words),
        t5=Encoder(64, 128, 4, 2, t5_words),
        vae_channels=size.vae_channels,
        vae_layers=1,
        vae_groups=4,
    )


@torch.no_grad()
def _draw_weights(network: nn.Module, key: str) -> None:
    """Each tensor from its own generator, so that neither order nor defaults of a library matter."""
    for name, weight in network.named_parameters():
        # crc32, because a CPU generator keeps 32 bits of its seed
        generator = torch.Generator("cpu").manual_seed(zlib.crc32(f"{key}/{name}".encode()))
        noise = torch.randn(weight.shape, generator=generator)
        if weight.ndim == 1:
            weight.copy_(float(name.endswith("weight")) + 0.02 * noise)  # gains near 1, biases 0
        elif "embed" in name or "shared" in name:
            weight.copy_(0.5 * noise)
        else:
            weight.copy_(noise / math.sqrt(math.prod(weight.shape[1:])))


@torch.no_grad()
def _behave_as_trained(transformer: nn.Module) -> None:
    """Two habits of trained weights that random ones lack, and that images and speed-ups rely on."""
    # Velocities near 1: else every image is saturated and hardly knows its seed.
    projection = transformer.get_submodule("proj_out")
    for weight in projection.parameters():
        weight.mul_(0.08)
    # Smooth in time: damp the fast columns of the sine and cosine halves.
    columns = transformer.get_parameter("time_text_embed.timestep_embedder.linear_1.weight")
    half = columns.shape[1] // 2
    slow = torch.arange(half) >= 0.6 * half
    columns.mul_(torch.where(slow.repeat(2), 1.0, 0.02))
