"""Parts of the pipeline in fewer bits: made while they are read, and proved afterwards.

CLIP is never quantized, nor are the transformer's ends. Its adaptive norms are where that saves
the card (NF4, and GGUF files, which were quantized by others).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from shared.errors import ModelError
from shared.models import ModelEntry
from worker.loading.weights import ADALN, ENDS

KEEP = [*ADALN, *ENDS]


def transformer_config(entry: ModelEntry) -> Any | None:
    """What diffusers quantizes the transformer with while it reads; None: it reads it as it is."""
    if entry.precision == "nf4":
        from diffusers import BitsAndBytesConfig

        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.bfloat16,
            llm_int8_skip_modules=list(ENDS),  # of four bits too, in spite of its name
        )
    if entry.precision not in ("fp8", "int8"):
        return None
    from diffusers import TorchAoConfig
    from torchao.quantization import (
        Float8DynamicActivationFloat8WeightConfig,
        Int8WeightOnlyConfig,
        PerRow,
    )

    fp8 = entry.precision == "fp8"
    # By row, so that one row's outlier costs the others nothing; it wants bfloat16.
    kind = Float8DynamicActivationFloat8WeightConfig(granularity=PerRow()) if fp8 else None
    return TorchAoConfig(kind or Int8WeightOnlyConfig(), modules_to_not_convert=[*KEEP])


def t5_config(entry: ModelEntry) -> Any | None:
    """The same for transformers and T5."""
    if entry.t5 in ("on", "off"):
        return None
    if entry.t5 == "fp8":  # the weights alone: T5 cannot be cast layer by layer
        from torchao.quantization import Float8WeightOnlyConfig
        from transformers import TorchAoConfig

        return TorchAoConfig(Float8WeightOnlyConfig())
    from transformers import BitsAndBytesConfig

    if entry.t5 == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    half = entry.compute_precision == "fp16"
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.float16 if half else torch.bfloat16,
    )


def packed(folder: Path, part: str) -> str | None:
    """What a baked folder holds the part in already: `fp8`, `int8` or `nf4`; None: plain weights."""
    config = json.loads((folder / part / "config.json").read_text("utf-8"))
    saved = config.get("quantization_config")
    if not saved:
        return None
    if saved.get("quant_method") == "bitsandbytes":
        return "int8" if saved.get("load_in_8bit") else "nf4"
    return "fp8" if "Float8" in json.dumps(saved) else "int8"


def refuse_other_packing(folder: Path, part: str, entry: ModelEntry) -> None:
    """Raise ModelError where the part is packed, and not as the entry says: it would be served so."""
    kind = packed(folder, part)
    field = {"transformer": "precision", "text_encoder_3": "t5"}.get(part, "")
    if kind and kind != getattr(entry, field, None):
        raise ModelError(
            f"{part} in {folder} is packed in {kind}: {entry.id} must say {field} = {kind!r}"
        )


def store_in_fp8(transformer: Any) -> None:
    """Weights in 8 bits, widened layer by layer where they multiply: any device can do that."""
    transformer.enable_layerwise_casting(
        storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16
    )


def read_gguf(folder: Path, file: Path) -> Any:
    """The transformer from one GGUF file, by its original or by diffusers' names."""
    from diffusers import GGUFQuantizationConfig, SD3Transformer2DModel

    return SD3Transformer2DModel.from_single_file(
        str(file),
        quantization_config=GGUFQuantizationConfig(compute_dtype=torch.bfloat16),
        config=str(folder),  # without it, and the subfolder, it asks the network
        subfolder="transformer",
        dtype=torch.bfloat16,
        local_files_only=True,
    )


def prove(part: str, network: nn.Module, entry: ModelEntry) -> None:
    """Raise ModelError unless just those linears are quantized that should be.

    The libraries pass over a name that they do not find, in silence.
    """
    mixed = part == "transformer" and entry.precision == "gguf"  # as its maker chose
    kept = _kept(part, entry)
    linears = {
        name: quantized(module.weight)
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear)
    }
    wrong = [name for name, done in linears.items() if done is not kept.isdisjoint(name.split("."))]
    if not any(linears.values()) or (wrong and not mixed):
        example = f", as {wrong[0]}" if wrong else ""
        raise ModelError(
            f"{entry.id}: of the {len(linears)} linears in {part}, {len(wrong)} are not as "
            f"its precision asks{example}: other versions of the libraries may help"
        )


def quantized(weight: torch.Tensor) -> bool:
    """Of another class than plain weights, or of 8 bits."""
    if weight.dtype == torch.float8_e4m3fn:
        return True
    return type(weight) is not nn.Parameter and getattr(weight, "quant_type", 2) not in _PLAIN_GGUF


_PLAIN_GGUF = (0, 1, 30)  # F32, F16, BF16 in GGUF's numbering
# Layer by layer, diffusers casts whatever is not called a norm, or an end by its own name.
_CAST = {*ADALN, "norm_out", "proj_out", "pos_embed"}


def _kept(part: str, entry: ModelEntry) -> set[str]:
    """Names of modules of which the linears inside stay as they were."""
    if part == "transformer":
        return {"nf4": {*ENDS}, "fp8-storage": _CAST}.get(entry.precision, {*ADALN, *ENDS})
    return set() if entry.t5 == "fp8" else {"wo"}  # which transformers keeps from bitsandbytes
