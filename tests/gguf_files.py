"""Real GGUF files of a tiny transformer, by the names that Stability gave and others kept."""

from __future__ import annotations

from pathlib import Path

import gguf
import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor


def write(folder: Path, file: Path, kind: gguf.GGMLQuantizationType, *, original: bool) -> None:
    """The transformer of `folder`; tensors of two dimensions quantized, as far as rows allow."""
    transformer = SD3Transformer2DModel.from_pretrained(folder, subfolder="transformer")
    tensors = dict(transformer.state_dict())
    if original:
        dual = len(transformer.config.dual_attention_layers)
        tensors = original_names(tensors, transformer.config.num_layers, dual)
    writer = gguf.GGUFWriter(file, "sd3")
    for name, tensor in tensors.items():
        numbers = tensor.float().numpy()
        fits = tensor.ndim == 2 and tensor.shape[1] % gguf.GGML_QUANT_SIZES[kind][0] == 0
        chosen = kind if fits else gguf.GGMLQuantizationType.F32
        quantized = gguf.quants.quantize(numbers, chosen)
        writer.add_tensor(name, quantized, raw_dtype=chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def original_names(ours: dict[str, Tensor], layers: int, dual: int) -> dict[str, Tensor]:
    """diffusers' names turned back: the inverse of its own converter for SD3 checkpoints."""
    theirs = {"pos_embed": ours["pos_embed.pos_embed"]}
    for kind in ("weight", "bias"):
        for old, new in _ENDS.items():
            theirs[f"{old}.{kind}"] = ours[f"{new}.{kind}"]
        theirs[f"final_layer.adaLN_modulation.1.{kind}"] = _swapped(ours[f"norm_out.linear.{kind}"])
        for number in range(layers):
            last, two = number == layers - 1, number < dual
            theirs |= _block(ours, number, kind, last=last, two=two)
    for number in range(layers):
        theirs |= _norms(ours, number, two=number < dual)
    return theirs


_ENDS = {
    "x_embedder.proj": "pos_embed.proj",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    "context_embedder": "context_embedder",
    "final_layer.linear": "proj_out",
}
_BLOCK = {
    "x_block.attn.proj": "attn.to_out.0",
    "x_block.adaLN_modulation.1": "norm1.linear",
    "x_block.mlp.fc1": "ff.net.0.proj",
    "x_block.mlp.fc2": "ff.net.2",
}
_CONTEXT = {
    "context_block.attn.proj": "attn.to_add_out",
    "context_block.mlp.fc1": "ff_context.net.0.proj",
    "context_block.mlp.fc2": "ff_context.net.2",
}
_NORMS = {
    "x_block.attn.ln_q": "attn.norm_q",
    "x_block.attn.ln_k": "attn.norm_k",
    "context_block.attn.ln_q": "attn.norm_added_q",
    "context_block.attn.ln_k": "attn.norm_added_k",
}


def _block(
    ours: dict[str, Tensor], number: int, kind: str, *, last: bool, two: bool
) -> dict[str, Tensor]:
    """The linears of one block; the last has no context to write."""

    def get(name: str) -> Tensor:
        return ours[f"transformer_blocks.{number}.{name}.{kind}"]

    adaln = get("norm1_context.linear")
    found = {
        "x_block.attn.qkv": torch.cat([get(f"attn.to_{each}") for each in "qkv"]),
        "context_block.attn.qkv": torch.cat([get(f"attn.add_{each}_proj") for each in "qkv"]),
        "context_block.adaLN_modulation.1": _swapped(adaln) if last else adaln,
    }
    found |= {old: get(new) for old, new in {**_BLOCK, **({} if last else _CONTEXT)}.items()}
    if two:
        found["x_block.attn2.qkv"] = torch.cat([get(f"attn2.to_{each}") for each in "qkv"])
        found["x_block.attn2.proj"] = get("attn2.to_out.0")
    return {f"joint_blocks.{number}.{name}.{kind}": tensor for name, tensor in found.items()}


def _norms(ours: dict[str, Tensor], number: int, *, two: bool) -> dict[str, Tensor]:
    names = dict(_NORMS)
    if two:
        names |= {f"x_block.attn2.ln_{each}": f"attn2.norm_{each}" for each in "qk"}
    theirs, here = f"joint_blocks.{number}", f"transformer_blocks.{number}"
    return {f"{theirs}.{old}.weight": ours[f"{here}.{new}.weight"] for old, new in names.items()}


def _swapped(tensor: Tensor) -> Tensor:
    shift, scale = tensor.chunk(2)
    return torch.cat([scale, shift])
