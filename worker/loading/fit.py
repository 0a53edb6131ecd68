"""What an entry needs of a card's memory, by placement: arithmetic over its weights, no torch.

Nothing here was measured on a card. Weights are exact but for a quantization's scales;
activations were counted on the real modules without their memory; `SLACK_BYTES` is a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import get_args

from shared.flops import CLIP_TOKENS
from shared.models import ModelEntry, Placement
from worker.loading.weights import Weights, known

PLACEMENTS: tuple[Placement, ...] = get_args(Placement)
SLACK_BYTES = 750_000_000  # kernels' workspaces, and what the allocator cannot use
# NF4: half a byte, and a float32 for every 64 numbers.
_BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "fp8-storage": 1.0, "int8": 1.0}
_BYTES |= {"nf4": 0.5625}
_GGUF_BYTES = {
    "q2_k": 0.328, "q3_k": 0.43, "q4_0": 0.5625, "q4_1": 0.625, "q4_k": 0.5625, "q5_0": 0.6875,
    "q5_1": 0.75, "q5_k": 0.6875, "q6_k": 0.82, "q8_0": 1.0625, "f16": 2.0, "bf16": 2.0,
}  # fmt: skip
# Live at once, in tensors of (batch, tokens, width); 12.4 in Large and 13.4 in Medium, eager.
_STREAMS = 13.4
_VAE_NUMBERS_PER_PX = 768  # of its decoder, at the last block
_TILE_PX = 1024 * 1024


@dataclass(slots=True, frozen=True)
class Sizes:
    """Bytes of each part's weights, and of what denoising and decoding hold beside them."""

    transformer: int
    encoders: int
    vae: int
    layer: int
    denoising: int
    decoding: int


def need(entry: ModelEntry, weights: Weights) -> dict[Placement, int]:
    """The peak in bytes on the card, by placement, for one picture of the entry's default size."""
    peaks = _peaks(sizes(entry, weights))
    return {place: peaks[place] + SLACK_BYTES for place in PLACEMENTS}


def least(entry: ModelEntry, weights: Weights) -> dict[Placement, int]:
    """What no card can do without: the weights alone that a placement has there at once."""
    return _peaks(replace(sizes(entry, weights), denoising=0, decoding=0))


def _peaks(size: Sizes) -> dict[Placement, int]:
    working = max(size.denoising, size.decoding)
    drawing = size.transformer + size.vae
    return {
        "gpu": drawing + size.encoders + working,
        "text-offload": drawing + max(size.encoders, working),
        "model-offload": max(
            size.encoders, size.transformer + size.denoising, size.vae + size.decoding
        ),
        "group-offload": 2 * size.layer + working,  # one works while the next arrives
        "sequential-offload": size.layer + working,
    }


def fits(entry: ModelEntry, memory_bytes: int) -> tuple[Placement, ...] | None:
    """The placements that so much memory holds, the fastest first; None: only files can tell."""
    weights = known(entry)
    return holds(need(entry, weights), memory_bytes) if weights else None


def holds(needed: Mapping[Placement, int], memory_bytes: int) -> tuple[Placement, ...]:
    return tuple(place for place in PLACEMENTS if needed[place] <= memory_bytes)


def sizes(entry: ModelEntry, weights: Weights) -> Sizes:
    held = _BYTES[entry.compute_precision]  # of all that is not quantized
    return Sizes(
        transformer=_transformer(entry, weights, held),
        encoders=round(weights.clip * held + _t5(entry, weights, held)),
        vae=round(weights.vae * held),
        layer=round(weights.layer * held),
        denoising=_denoising(entry, weights, held),
        decoding=_decoding(entry, held),
    )


def _transformer(entry: ModelEntry, weights: Weights, held: float) -> int:
    if entry.precision == "gguf":
        return round(weights.transformer * _gguf_bytes(entry.gguf_file))
    rate = _BYTES[entry.precision]
    adaln = rate if entry.precision == "nf4" else held
    return round(weights.blocks * rate + weights.adaln * adaln + weights.ends * held)


def _gguf_bytes(file: str) -> float:
    """By the usual ending of its name; a name that says nothing counts as unquantized."""
    name = file.lower()
    return max((rate for kind, rate in _GGUF_BYTES.items() if kind in name), default=2.0)


def _t5(entry: ModelEntry, weights: Weights, held: float) -> float:
    if entry.t5 == "off":
        return 0
    rate = held if entry.t5 == "on" else _BYTES[entry.t5]
    wide = 4.0 if entry.compute_precision == "fp16" else held
    wo = rate if entry.t5 == "fp8" else wide
    return weights.t5 * rate + weights.t5_wo * wo + weights.t5_rest * held


def _denoising(entry: ModelEntry, weights: Weights, held: float) -> int:
    batch = 2 if entry.guidance_scale > 1 else 1
    tokens = entry.width * entry.height / 256 + CLIP_TOKENS + entry.max_sequence_length
    return round(_STREAMS * batch * tokens * weights.width * held)


def _decoding(entry: ModelEntry, held: float) -> int:
    pixels = entry.width * entry.height
    return round(
        (min(pixels, _TILE_PX) if entry.vae_tiling else pixels) * _VAE_NUMBERS_PER_PX * held
    )
