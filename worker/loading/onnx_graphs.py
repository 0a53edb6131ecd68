"""Networks of a pipeline as ONNX graphs: any batch, size and prompt length."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shared.errors import ModelError

OPSET = 20  # the first with Gelu, and old enough for every provider
BF16_OPSET = 22  # the first whose convolution takes bfloat16
FREE = torch.export.Dim.DYNAMIC  # raises where tracing would fix the length
# Traced with sizes that differ from each other, since equal ones would be taken for one.
BATCH, HEIGHT, WIDTH, LENGTH = 2, 16, 24, 77 + 32


class _Velocity(nn.Module):
    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer
        patches: Any = transformer.pos_embed
        patches.cropped_pos_embed = partial(_cropped, patches)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        timestep: Tensor,
    ) -> Tensor:
        velocity: Tensor = self.transformer(
            hidden_states=hidden_states,
            encoder_hidden_states=encoder_hidden_states,
            pooled_projections=pooled_projections,
            timestep=timestep,
            return_dict=False,
        )[0]
        return velocity


def _cropped(patches: Any, height: int, width: int) -> Tensor:
    """(1, patches, width of the network): the middle of the table of positions, as diffusers cuts it.

    Each cut begins or ends at a number that is not negative on its way. From diffusers' own form
    the exporter makes `-height // 2`, and ONNX rounds towards zero: odd counts of patches get one
    row too many.
    """
    side = patches.pos_embed_max_size
    tall, wide = height // patches.patch_size, width // patches.patch_size
    table = patches.pos_embed.reshape(1, side, side, -1)
    table = table[:, (side - tall) // 2 :, (side - wide) // 2 :][:, :tall, :wide]
    cropped: Tensor = table.reshape(1, tall * wide, -1)
    return cropped


class _Decoded(nn.Module):
    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latents: Tensor) -> Tensor:
        pixels: Tensor = self.vae.decode(latents, return_dict=False)[0]
        return pixels


class _Encoded(nn.Module):
    """The mean: start.py samples nothing."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, pixels: Tensor) -> Tensor:
        mean: Tensor = self.vae.encode(pixels).latent_dist.mode()
        return mean


def opset_of(dtype: torch.dtype) -> int:
    return BF16_OPSET if dtype is torch.bfloat16 else OPSET


def write_transformer(transformer: Any, file: Path) -> None:
    """Inputs as of `OnnxTransformer`, in the network's dtype; `timestep` is float32."""
    config, dtype = transformer.config, transformer.dtype
    inputs = {
        "hidden_states": torch.randn(BATCH, config.in_channels, HEIGHT, WIDTH, dtype=dtype),
        "encoder_hidden_states": torch.randn(
            BATCH, LENGTH, config.joint_attention_dim, dtype=dtype
        ),
        "pooled_projections": torch.randn(BATCH, config.pooled_projection_dim, dtype=dtype),
        "timestep": torch.full((BATCH,), 500.0),
    }
    free = {
        "hidden_states": {0: FREE, 2: FREE, 3: FREE},
        "encoder_hidden_states": {0: FREE, 1: FREE},
        "pooled_projections": {0: FREE},
        "timestep": {0: FREE},
    }
    _write(_Velocity(transformer), inputs, free, "velocity", file)


def write_decoder(vae: Any, file: Path) -> None:
    """`latents` (B, 16, H/8, W/8), as the decoder takes them, to pixels (B, 3, H, W)."""
    latents = torch.randn(BATCH, vae.config.latent_channels, HEIGHT, WIDTH, dtype=vae.dtype)
    free = {"latents": {0: FREE, 2: FREE, 3: FREE}}
    _write(_Decoded(vae), {"latents": latents}, free, "pixels", file)


def write_encoder(vae: Any, file: Path) -> None:
    """`pixels` (B, 3, H, W), -1..1, to the mean of the latents (B, 16, H/8, W/8)."""
    scale = 2 ** (len(vae.config.block_out_channels) - 1)
    pixels = torch.randn(BATCH, 3, HEIGHT * scale, WIDTH * scale, dtype=vae.dtype)
    free = {"pixels": {0: FREE, 2: FREE, 3: FREE}}
    _write(_Encoded(vae), {"pixels": pixels}, free, "latents", file)


def quantize(file: Path, quantized: Path) -> None:
    """The blocks' multiplications in 8 bits: weights with one scale a column, inputs as they come.

    What conditions the blocks (of two dimensions, so Gemm) and the projections in and out, which
    come first and last, stay as they are: on the tiny model a third of the error. `file` is spent.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(file, load_external_data=False)
    del model.graph.value_info[:]  # sizes that the exporter's own optimizer left behind, outdated
    onnx.helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})  # it is
    onnx.save(model, file)
    named = [(node.op_type, node.name) for node in model.graph.node]
    blocks = [name for kind, name in named if kind == "MatMul"]
    conditions = [f"{name}_MatMul" for kind, name in named if kind == "Gemm"]
    quantize_dynamic(
        file,
        quantized,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=[blocks[0], blocks[-1], *conditions],
        use_external_data_format=True,
        extra_options={"MatMulConstBOnly": True},
    )


def _write(
    network: nn.Module,
    inputs: Mapping[str, Tensor],
    free: Mapping[str, Mapping[int, Any]],
    output: str,
    file: Path,
) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with torch.no_grad(), _quiet_exporter():
            program = torch.onnx.export(
                network.eval(),
                kwargs=dict(inputs),
                dynamo=True,
                dynamic_shapes=dict(free),
                output_names=[output],
                opset_version=opset_of(next(network.parameters()).dtype),
                verbose=False,
            )
            assert program is not None
            for node in program.model.graph:
                node.metadata_props.clear()  # stack traces: they tell where this was exported
                _transpose(node)
            program.save(file, external_data=True)
    except ImportError as error:
        raise ModelError(
            f"{error.name} is not installed: pip install 'renderfarm[onnx]'"
        ) from error


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    exporter = logging.getLogger("torch.onnx")
    before = exporter.level
    exporter.setLevel(logging.ERROR)  # it names each operator of a library that is not there
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own parts, that they will change
            yield
    finally:
        exporter.setLevel(before)


def _transpose(node: Any) -> None:
    """An Einsum that only permutes, as a Transpose: ONNX knows no Einsum of bfloat16."""
    if node.op_type != "Einsum":
        return
    from onnxscript import ir

    before, _, after = node.attributes.get_string("equation").replace(" ", "").partition("->")
    if sorted(before) == sorted(after):
        node.op_type = "Transpose"
        del node.attributes["equation"]
        node.attributes.add(ir.AttrInt64s("perm", [before.index(axis) for axis in after]))
