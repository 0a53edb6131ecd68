"""The five networks of SD3.5 at any size: its classes and flags, with widths of one's own."""

from __future__ import annotations

from dataclasses import dataclass

from diffusers import AutoencoderKL, SD3Transformer2DModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel


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
    """Every number of the five networks."""

    layers: int
    dual: int  # the first ones, with a second attention
    heads: int
    head_dim: int
    positions: int  # on a side; of 16 px
    clip_l: Encoder
    clip_g: Encoder
    t5: Encoder
    vae_channels: tuple[int, int, int, int]
    vae_layers: int  # of each block
    vae_groups: int


def networks(size: Dimensions) -> dict[str, nn.Module]:
    """By their names in a pipeline; weights as the libraries draw them."""
    return {
        "text_encoder": _clip(size.clip_l, "quick_gelu"),
        "text_encoder_2": _clip(size.clip_g, "gelu"),
        "text_encoder_3": _t5(size.t5),
        "transformer": _transformer(size),
        "vae": _vae(size),
    }


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
        num_attention_heads=size.heads,
        attention_head_dim=size.head_dim,
        caption_projection_dim=size.heads * size.head_dim,
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
        layers_per_block=size.vae_layers,
        latent_channels=16,
        norm_num_groups=size.vae_groups,
        sample_size=1024,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    return network
