"""SD3's joint attention with q, k and v as one product each for picture and prompt.

diffusers' own fused processor leaves out the norms of q and k, which draws another picture, and
fails on Medium's second attention. A LoRA names the single layers, which are gone when fused: only
for entries that take none.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

PICTURE = ("to_q", "to_k", "to_v")
PROMPT = ("add_q_proj", "add_k_proj", "add_v_proj")


class FusedJointProcessor:
    """Computes what diffusers' JointAttnProcessor2_0 does, in an attention that `fuse` has joined."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: None = None,  # SD3 has none
    ) -> Any:
        """The picture's tokens (B, tokens, width), and the prompt's where those are given."""
        own = _heads(attn.to_qkv(hidden_states), attn.heads, attn.norm_q, attn.norm_k)
        if encoder_hidden_states is None:  # Medium's second attention, of the picture alone
            return attn.to_out[0](_attended(*own))
        norms = attn.norm_added_q, attn.norm_added_k
        added = _heads(attn.to_added_qkv(encoder_hidden_states), attn.heads, *norms)
        together = (torch.cat(pair, dim=2) for pair in zip(own, added, strict=True))
        attended, tokens = _attended(*together), hidden_states.shape[1]
        prompt = attended[:, tokens:]
        if not attn.context_pre_only:  # nothing reads it after the last block
            prompt = attn.to_add_out(prompt)
        return attn.to_out[0](attended[:, :tokens]), prompt


@torch.no_grad()
def fuse(transformer: Any) -> None:
    """Join the projections of every attention, one after the other, and free the single ones.

    Of plain weights, or of FP8 scaled by row: each row stays bit for bit what it was.
    """
    for block in transformer.transformer_blocks:
        for attn in (block.attn, block.attn2):
            if attn is None:
                continue
            attn.to_qkv = _joined(attn, PICTURE)
            if attn.add_q_proj is not None:
                attn.to_added_qkv = _joined(attn, PROMPT)
            attn.set_processor(FusedJointProcessor())


def _joined(attn: nn.Module, names: tuple[str, ...]) -> nn.Linear:
    """One layer for three, which `attn` has no longer."""
    layers: list[Any] = [attn.get_submodule(name) for name in names]
    rows = sum(layer.out_features for layer in layers)
    joined = nn.Linear(layers[0].in_features, rows, device="meta")
    for part in ("weight", "bias"):
        together = torch.cat([getattr(layer, part) for layer in layers])
        setattr(joined, part, nn.Parameter(together, requires_grad=False))
    for name in names:
        delattr(attn, name)
    return joined


def _heads(qkv: Tensor, heads: int, norm_q: Any, norm_k: Any) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v, (B, heads, tokens, head_dim) each, from (B, tokens, 3 x width)."""
    q, k, v = qkv.view(*qkv.shape[:2], 3, heads, -1).transpose(1, 3).unbind(2)
    return _normed(norm_q, q), _normed(norm_k, k), v


def _normed(norm: Any, heads: Tensor) -> Tensor:
    """SD3.5 has the norms, SD3 has none."""
    return heads if norm is None else norm(heads)


def _attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(B, tokens, width)."""
    return scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
