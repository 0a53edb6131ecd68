"""SD3.5 at its true size with random weights, made on the device and saved as a model folder.

So what is measured is loaded as any model is, and there is nothing to download.

Random weights take the same time and memory as trained ones; they say nothing of quality, and drift
between variants is smaller than with trained weights, which have outliers.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline
from torch import nn

from worker.loading.networks import Dimensions, Encoder, networks
from worker.loading.tokenizers import clip_tokenizer, t5_tokenizer, use_clip_files

LARGE = Dimensions(
    layers=38,
    dual=0,
    heads=38,
    head_dim=64,
    positions=192,
    clip_l=Encoder(768, 3072, 12, 12, 49408),
    clip_g=Encoder(1280, 5120, 20, 32, 49408),
    t5=Encoder(4096, 10240, 64, 24, 32128),
    vae_channels=(128, 256, 512, 512),
    vae_layers=2,
    vae_groups=32,
)
MEDIUM = replace(LARGE, layers=24, heads=24, dual=13, positions=384)
DIMENSIONS = {"large": LARGE, "medium": MEDIUM}


def shrunk(full: Dimensions) -> Dimensions:
    """The same in small, for a dry run on a CPU."""
    return replace(
        full,
        layers=2,
        heads=2,
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
            parts = networks(size)
    finally:
        torch.set_default_dtype(before)
    for seed, network in enumerate(parts.values()):
        network.to(dtype).eval().requires_grad_(False)
        _draw_weights(network, seed)
    with torch.no_grad():  # velocities near 1: else the picture is saturated
        for weight in parts["transformer"].get_submodule("proj_out").parameters():
            weight.mul_(0.08)
    return StableDiffusion3Pipeline(
        **parts,
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(pad="!"),
        tokenizer_3=t5_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0),
    )


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
