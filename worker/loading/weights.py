"""How many numbers a model holds, part by part: what the arithmetic of memory begins with."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from shared.errors import ModelError
from shared.models import ModelEntry
from worker.loading.headers import shapes_of
from worker.loading.parts import Wanted, files_of

# Linears of the transformer that every quantization leaves alone: a few small ones at its two ends.
ENDS = ("norm_out", "time_text_embed", "context_embedder", "proj_out", "pos_embed")
# Its adaptive norms: a third of the weights, read for one token a step, and the first to suffer.
ADALN = ("norm1", "norm1_context")
# How bitsandbytes and torchao name what they store beside a packed tensor.
_NF4_STATE = ".quant_state.bitsandbytes__nf4"
_SCALES = (
    _NF4_STATE, ".SCB", ".weight_format", "absmax", "quant_map", "_weight_scale",
    "_weight_zero_point",
)  # fmt: skip


@dataclass(slots=True, frozen=True)
class Weights:
    """Counts of numbers, not of bytes. `width` is the transformer's, `layer` the largest layer."""

    blocks: int
    adaln: int
    ends: int  # and the table of positions
    t5: int  # its linears, but for
    t5_wo: int  # those that bitsandbytes leaves alone, and that stay float32 beside float16
    t5_rest: int  # the embedding of its vocabulary, and norms
    clip: int  # both
    vae: int
    width: int
    layer: int = 131_596_288  # T5's embedding; too much where T5 is off

    @property
    def transformer(self) -> int:
        return self.blocks + self.adaln + self.ends


_TEXT = {
    "t5": 3_623_878_656, "t5_wo": 1_006_632_960, "t5_rest": 131_799_040, "clip": 818_310_144,
    "vae": 83_819_683,
}  # fmt: skip
_LARGE = Weights(5_342_564_096, 2_674_509_312, 129_207_360, **_TEXT, width=2432)
# Counted on the real modules without their memory (torch's meta device).
KNOWN = {
    "stable-diffusion-3.5-medium": Weights(
        1_461_146_240, 762_548_736, 245_968_960, **_TEXT, width=1536, layer=226_492_416
    ),
    "stable-diffusion-3.5-large": _LARGE,
    "stable-diffusion-3.5-large-turbo": _LARGE,
}


def known(entry: ModelEntry) -> Weights | None:
    """By the last name in its source, without looking anywhere; None: only its files can tell."""
    return KNOWN.get(entry.source.rpartition("/")[2].lower())


def counted(folder: Path) -> Weights:
    """From the headers of a diffusers folder's weights. Raises ModelError."""
    try:
        return _counted(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:  # headers.Damaged is a ValueError
        raise ModelError(f"the weights in {folder} cannot be counted: {error}") from error


def _counted(folder: Path) -> Weights:
    parts = _numbers(folder)
    transformer, t5 = parts["transformer"], parts["text_encoder_3"]
    clip = parts["text_encoder"] | {f"2.{name}": n for name, n in parts["text_encoder_2"].items()}
    config = json.loads((folder / "transformer" / "config.json").read_text("utf-8"))
    adaln, ends = _sum(transformer, ADALN), _sum(transformer, ENDS)
    wo = _sum(t5, ("wo",))
    linears = sum(count for name, count in t5.items() if _is_linear(name)) - wo
    return Weights(
        blocks=sum(transformer.values()) - adaln - ends,
        adaln=adaln,
        ends=ends,
        t5=linears,
        t5_wo=wo,
        t5_rest=sum(t5.values()) - linears - wo,
        clip=sum(clip.values()),
        vae=sum(parts["vae"].values()),
        width=config["num_attention_heads"] * config["attention_head_dim"],
        layer=max([*transformer.values(), *t5.values(), *clip.values()]),
    )


def _numbers(folder: Path) -> dict[str, dict[str, int]]:
    """How many each tensor has, by part and name; also where a baked folder holds it packed."""
    parts: dict[str, dict[str, int]] = defaultdict(dict)
    for name in files_of(folder, Wanted()):
        if name.endswith(".safetensors"):
            shapes = shapes_of(folder / name)
            parts[name.partition("/")[0]] |= {n: math.prod(shape) for n, shape in shapes.items()}
    return defaultdict(dict, {part: _unpacked(stored) for part, stored in parts.items()})


def _unpacked(stored: dict[str, int]) -> dict[str, int]:
    """Without the scales of packed tensors; NF4 holds two numbers in each stored byte."""
    return {
        name: count * (2 if f"{name}{_NF4_STATE}" in stored else 1)
        for name, count in stored.items()
        if not name.endswith(_SCALES)
    }


def _sum(numbers: dict[str, int], modules: tuple[str, ...]) -> int:
    return sum(n for name, n in numbers.items() if not {*modules}.isdisjoint(name.split(".")))


def _is_linear(name: str) -> bool:
    """Of T5: its positions are an embedding inside the attention."""
    return ".layer." in name and "relative_attention_bias" not in name and "layer_norm" not in name
