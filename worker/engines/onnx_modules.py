"""Stand-ins for the pipeline's transformer and VAE: the same calls, run by ONNX graphs."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from diffusers.configuration_utils import FrozenDict
from torch import Tensor, nn

from worker.engines.onnx_session import Graph


class _StandIn(nn.Module):
    """Holds no weights: a pipeline that is moved leaves it where its sessions are."""

    def __init__(self, config: Mapping[str, Any], dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.config = FrozenDict(config)
        self.dtype = dtype
        self.device = device


class OnnxTransformer(_StandIn):
    """As SD3Transformer2DModel is called by its pipeline; it knows no LoRAs and skips no layer."""

    def __init__(
        self,
        graph: Graph,
        config: Mapping[str, Any],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__(config, dtype, device)
        self.transformer_blocks = nn.ModuleList()  # a graph shows none to whoever looks for them
        self._graph = graph

    def forward(
        self,
        hidden_states: Tensor,  # (B, 16, H/8, W/8)
        timestep: Tensor,  # (B,)
        encoder_hidden_states: Tensor,  # (B, 77 + T5 length, 4096)
        pooled_projections: Tensor,  # (B, 2048)
        joint_attention_kwargs: None = None,
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        """The velocity, in the size of `hidden_states`."""
        velocity = self._graph(
            tuple(hidden_states.shape),
            hidden_states=hidden_states.to(self.dtype),
            encoder_hidden_states=encoder_hidden_states.to(self.dtype),
            pooled_projections=pooled_projections.to(self.dtype),
            timestep=timestep.float(),
        )
        return (velocity,)


class OnnxVae(_StandIn):
    """As AutoencoderKL is called by the engine."""

    def __init__(
        self,
        encoder: Graph,
        decoder: Graph,
        config: Mapping[str, Any],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__(config, dtype, device)
        self._encoder = encoder
        self._decoder = decoder
        self._scale = 2 ** (len(self.config.block_out_channels) - 1)

    def encode(self, pixels: Tensor) -> SimpleNamespace:
        """`latent_dist.mode()` is the mean (B, 16, H/8, W/8) of pixels (B, 3, H, W), -1..1."""
        batch, _, height, width = pixels.shape
        size = (batch, self.config.latent_channels, height // self._scale, width // self._scale)
        mean = self._encoder(size, pixels=pixels.to(self.dtype))
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: mean))

    def decode(self, latents: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        """Pixels (B, 3, H, W), about -1..1, of latents (B, 16, H/8, W/8)."""
        batch, _, height, width = latents.shape
        size = (batch, 3, height * self._scale, width * self._scale)
        return (self._decoder(size, latents=latents.to(self.dtype)),)
