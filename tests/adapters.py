"""LoRA files as a trainer writes them, for the transformer of a tiny model."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from peft import LoraConfig, get_peft_model_state_dict

from shared.jobs import LoraRef
from shared.loras import LoraEntry

LAYERS = ("to_q", "to_k", "to_v", "to_out.0")


def train(
    folder: Path, model: Path, *, seed: int = 0, rank: int = 4, name: str = "style", **config: Any
) -> Path:
    """A file with weights drawn from `seed`, of which a picture shows much; `config` is peft's."""
    transformer = SD3Transformer2DModel.from_pretrained(model, subfolder="transformer")
    fields = {"r": rank, "target_modules": list(LAYERS), **config}
    transformer.add_adapter(LoraConfig(**fields), "trained")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, weight in transformer.named_parameters():
            if "lora_" in key:
                weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    settings = transformer.peft_config["trained"].to_dict()
    StableDiffusion3Pipeline.save_lora_weights(
        folder,
        transformer_lora_layers=get_peft_model_state_dict(transformer, adapter_name="trained"),
        weight_name=f"{name}.safetensors",
        transformer_lora_adapter_metadata={
            k: list(v) if isinstance(v, set) else v for k, v in settings.items()
        },
    )
    return folder / f"{name}.safetensors"


def sha256_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def lora_entry(file: Path, name: str = "style", models: tuple[str, ...] = ("m",)) -> LoraEntry:
    return LoraEntry(name=name, source=f"file:{file}", sha256=sha256_of(file), models=models)


def ref(entry: LoraEntry, scale: float = 1.0) -> LoraRef:
    return LoraRef(name=entry.name, sha256=entry.sha256, scale=scale)
