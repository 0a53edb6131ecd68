"""A LoRA's file: read, proved and understood before any of it reaches a model.

Accepted is diffusers' layout, `transformer.LAYER.lora_A.weight` and `lora_B.weight`, with or without
alphas, as `.alpha` tensors or in the header. Each alpha is multiplied into its `lora_B`, so that
what is left has one meaning. diffusers itself loads a file that fits nowhere in silence.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from shared.errors import ModelError

PREFIX = "transformer."
NUMBERS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_KEY = re.compile(r"(.+)\.(lora_A\.weight|lora_B\.weight|alpha)")
_HEADER_ALPHAS = "lora_adapter_metadata"  # as diffusers writes it; JSON
Layers = Mapping[str, tuple[int, int]]  # (out, in) features of each linear layer, by its name


@dataclass(slots=True, frozen=True)
class Pair:
    """What is added to one layer's weight: `up` (out, rank) @ `down` (rank, in)."""

    down: Tensor
    up: Tensor


def read_lora(path: Path, sha256: str | None = None) -> dict[str, Pair]:
    """The pairs of a safetensors file, by layer. `sha256`: what the file must be.

    Raises ModelError; its message holds no path.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"its file cannot be read: {error.strerror}") from error
    if sha256 and hashlib.sha256(data).hexdigest() != sha256:
        raise ModelError("its file is another one than models.toml says: the SHA-256 differs")
    try:
        tensors, header = load(data), _header(data)
    except (SafetensorError, KeyError, ValueError) as error:  # KeyError: a kind of number
        raise ModelError("its file is no safetensors file, or a newer one") from error
    except (AttributeError, RecursionError) as error:
        raise ModelError("the settings in its header cannot be read") from error
    try:
        return _pairs(tensors, header)
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise ModelError("the settings in its header cannot be read") from error


def check_fit(pairs: Mapping[str, Pair], layers: Layers) -> None:
    """Raise ModelError for the first pair that no layer takes."""
    for name, pair in pairs.items():
        if name not in layers:
            raise ModelError(f"it changes {name}, which is no linear layer of this model")
        wanted = (pair.up.shape[0], pair.down.shape[1])
        if wanted != layers[name]:
            sizes = " and ".join(f"{o} x {i}" for o, i in (wanted, layers[name]))
            raise ModelError(f"it was made for another model: {name} has {sizes} features")


def layers_of(transformer: Any) -> dict[str, tuple[int, int]]:
    """Every linear layer of a transformer that holds no adapters, quantized ones too."""
    return {
        name: (module.out_features, module.in_features)
        for name, module in transformer.named_modules()
        if isinstance(module, torch.nn.Linear)
    }


def _pairs(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> dict[str, Pair]:
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        _check_key(key)
        match = _KEY.fullmatch(key.removeprefix(PREFIX))
        if match is None:
            raise ModelError(f"its tensor {key[:100]} is of no LoRA that this farm knows")
        if tensor.dtype not in NUMBERS:
            raise ModelError(
                f"its tensor {key[:100]} is in {tensor.dtype}: save it in 16 or 32 bits"
            )
        if not tensor.isfinite().all():
            raise ModelError(f"its tensor {key[:100]} is not finite: the file is damaged")
        parts.setdefault(match[1], {})[match[2]] = tensor
    if not parts:
        raise ModelError("its file holds no tensors")
    return {layer: _pair(layer, found, header) for layer, found in parts.items()}


def _check_key(key: str) -> None:
    if key.startswith("text_encoder"):
        raise ModelError(
            "it changes a text encoder, which this farm leaves alone: train it for the transformer"
        )
    if not key.startswith(PREFIX):
        raise ModelError(
            f"its tensor {key[:100]} is not in diffusers' layout, which begins with {PREFIX!r}"
        )


def _pair(layer: str, found: Mapping[str, Tensor], header: Mapping[str, Any]) -> Pair:
    try:
        down, up = found["lora_A.weight"], found["lora_B.weight"]
    except KeyError as error:
        raise ModelError(f"{layer} has no {error.args[0]}") from None
    if down.ndim != 2 or up.ndim != 2 or not down.shape[0] == up.shape[1] > 0:
        raise ModelError(f"the two matrices of {layer} do not fit each other")
    alpha = _number(layer, found["alpha"]) if "alpha" in found else _alpha(layer, header)
    if alpha is None:
        return Pair(down, up)
    rank = down.shape[0]
    share = alpha / (math.sqrt(rank) if header.get("use_rslora") else rank)
    if not math.isfinite(share):
        raise ModelError(f"the alpha of {layer} is not finite: the file is damaged")
    return Pair(down, up if share == 1 else up.float() * share)


def _number(layer: str, alpha: Tensor) -> float:
    if alpha.numel() != 1:
        raise ModelError(f"the alpha of {layer} is not one number")
    return alpha.item()


def _alpha(layer: str, header: Mapping[str, Any]) -> float | None:
    """None: nothing is said, and the pair counts as it is."""
    for pattern, alpha in (header.get("alpha_pattern") or {}).items():
        if f".{layer}".endswith(f".{pattern.removeprefix('^')}"):
            return float(alpha)
    alpha = header.get("lora_alpha")
    return None if alpha is None else float(alpha)


def _header(data: bytes) -> dict[str, Any]:
    """peft's settings in a safetensors header; none of another kind of adapter."""
    (size,) = struct.unpack_from("<Q", data)
    told = json.loads(data[8 : 8 + size]).get("__metadata__", {}).get(_HEADER_ALPHAS, "{}")
    settings = {k.removeprefix(PREFIX): v for k, v in json.loads(told).items()}
    if settings.get("use_dora"):
        raise ModelError("it is a DoRA, not a LoRA")
    return settings
