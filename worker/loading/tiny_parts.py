"""The networks of the tiny SD3.5: every class and flag of SD3.5 Medium, only the widths are small."""

from __future__ import annotations

import math
import zlib

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from worker.loading.tiny import Size
from worker.loading.tokenizers import clip_tokenizer, t5_tokenizer

JOINT = 64  # width of the text that the transformer reads
CLIP_WIDTHS = (24, 32)
MAX_SIDE_PX = 1536


def pipeline(size: Size, seed: int) -> StableDiffusion3Pipeline:
    """All parts, float32, on the CPU; the same weights from the same seed on any machine."""
    tokenizer, tokenizer_2, tokenizer_3 = clip_tokenizer(), clip_tokenizer(pad="!"), t5_tokenizer()
    networks = {
        "text_encoder": _clip(len(tokenizer), CLIP_WIDTHS[0], "quick_gelu"),
        "text_encoder_2": _clip(len(tokenizer_2), CLIP_WIDTHS[1], "gelu"),
        "text_encoder_3": _t5(len(tokenizer_3)),
        "transformer": _transformer(size),
        "vae": _vae(size),
    }
    for name, network in networks.items():
        _draw_weights(network, f"{seed}/{name}")
    _behave_as_trained(networks["transformer"])
    return StableDiffusion3Pipeline(
        **networks,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        tokenizer_3=tokenizer_3,
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0),
    )


def _clip(vocabulary: int, width: int, activation: str) -> nn.Module:
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        hidden_act=activation,
        bos_token_id=0,
        eos_token_id=2,  # as in SD3.5: it means "pool at the highest id"
        pad_token_id=1,
    )
    network: nn.Module = CLIPTextModelWithProjection(config)
    return network


def _t5(vocabulary: int) -> nn.Module:
    config = T5Config(
        vocab_size=vocabulary,
        d_model=JOINT,
        d_ff=2 * JOINT,
        d_kv=16,
        num_heads=4,
        num_layers=2,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )
    network: nn.Module = T5EncoderModel(config)
    return network


def _transformer(size: Size) -> nn.Module:
    network: nn.Module = SD3Transformer2DModel(
        sample_size=128,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=size.layers,
        dual_attention_layers=tuple(range(size.dual)),
        num_attention_heads=size.heads,
        attention_head_dim=16,
        caption_projection_dim=16 * size.heads,
        joint_attention_dim=JOINT,
        pooled_projection_dim=sum(CLIP_WIDTHS),
        pos_embed_max_size=MAX_SIDE_PX // 16,
        qk_norm="rms_norm",
    )
    return network


def _vae(size: Size) -> nn.Module:
    network: nn.Module = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=size.vae_channels,
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=4,
        sample_size=1024,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    return network


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
