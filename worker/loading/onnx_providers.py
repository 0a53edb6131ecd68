"""Which execution provider an entry's graphs run on, and what it is told."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from shared.errors import ModelError
from shared.flops import CLIP_TOKENS, LATENT_PX
from shared.models import ModelEntry
from worker.engines.diffusers_sd3 import WARM_UP_SIDE_PX
from worker.engines.previews import FITTED_PX

Shapes = tuple[int, ...]


def provider_of(entry: ModelEntry, device: str) -> str:
    """`cpu`, `cuda` or `tensorrt`. `auto` is the device's own. Raises ModelError."""
    if device == "cpu":
        if entry.provider in ("cuda", "tensorrt"):
            raise ModelError(
                f"provider {entry.provider} of {entry.id} needs a GPU, and this worker has none: "
                "set provider to auto or cpu"
            )
        if entry.precision == "bf16":
            raise ModelError(
                f"{entry.id} is bf16, which provider cpu does not multiply: export the model in "
                "fp32, fp16 or int8"
            )
        return "cpu"
    if entry.provider == "cpu":
        raise ModelError(
            f"provider cpu of {entry.id} computes on the CPU, and this worker has {device}: start "
            "it with device cpu, or set provider to auto"
        )
    if entry.precision == "int8":
        raise ModelError(
            f"{entry.id} is int8, which only provider cpu multiplies, and this worker has "
            f"{device}: start it with device cpu, or export the model in fp16 or bf16"
        )
    return "cuda" if entry.provider == "auto" else entry.provider


def options_of(
    entry: ModelEntry,
    provider: str,
    device: str,
    graph: Path,
    sizes: Mapping[str, int],
    cache: Path,
) -> dict[str, str]:
    """Of one graph's session. `sizes`: the widths of its inputs, as in `input_shapes`.

    Source: ONNX Runtime's pages on its CUDA and TensorRT execution providers.
    """
    number = device.partition(":")[2] or "0"
    if provider == "cpu":
        return {}
    if provider == "cuda":
        return {
            "device_id": number,
            "arena_extend_strategy": "kSameAsRequested",  # torch shares the card
            "cudnn_conv_algo_search": "HEURISTIC",  # not anew for every size
            "use_tf32": "0",  # as torch multiplies by default
        }
    return _tensorrt(entry, number, graph, sizes, cache)


def _tensorrt(
    entry: ModelEntry, number: str, graph: Path, sizes: Mapping[str, int], cache: Path
) -> dict[str, str]:
    ranges = {
        f"trt_profile_{name}_shapes": ",".join(
            f"{tensor}:{'x'.join(map(str, shape))}" for tensor, shape in shapes.items()
        )
        for name, shapes in input_shapes(entry, graph.stem, sizes).items()
    }
    precision = {"fp16": {"trt_fp16_enable": "1"}, "bf16": {"trt_bf16_enable": "1"}}
    chosen = {"device_id": number, **precision.get(entry.precision, {}), **ranges}
    # An engine belongs to the graph and to every option: a folder of its own for each pair.
    named = json.dumps([_stamp(graph), chosen], sort_keys=True)
    folder = str(cache / "tensorrt" / hashlib.sha256(named.encode()).hexdigest()[:16])
    return chosen | {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": folder,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": folder,
    }


def input_shapes(
    entry: ModelEntry, graph: str, sizes: Mapping[str, int]
) -> dict[str, dict[str, Shapes]]:
    """`min`, `opt` and `max` shapes by input: every order fits, the first warm size runs best.

    One range, since outside it TensorRT would build an engine anew, for minutes, within a render.
    """
    low = min(entry.min_side_px, WARM_UP_SIDE_PX, FITTED_PX)
    high = max(entry.max_side_px, FITTED_PX)
    best = entry.warm_sizes[0] if entry.warm_sizes else f"{entry.width}x{entry.height}"
    width, height = map(int, best.split("x"))
    tokens = CLIP_TOKENS + entry.max_sequence_length  # without T5 as well: zeros
    passes = 1 if entry.distilled else 2
    ranges = {"min": (1, low, low), "opt": (passes, height, width), "max": (2, high, high)}
    return {
        name: _shapes(graph, sizes, batch, tall, wide, tokens)
        for name, (batch, tall, wide) in ranges.items()
    }


def _shapes(
    graph: str, sizes: Mapping[str, int], batch: int, height_px: int, width_px: int, tokens: int
) -> dict[str, Shapes]:
    cells = (height_px // LATENT_PX, width_px // LATENT_PX)
    if graph == "encoder":
        return {"pixels": (1, 3, height_px, width_px)}
    if graph == "decoder":
        return {"latents": (1, sizes["latents"], *cells)}
    return {
        "hidden_states": (batch, sizes["hidden_states"], *cells),
        "encoder_hidden_states": (batch, tokens, sizes["encoder_hidden_states"]),
        "pooled_projections": (batch, sizes["pooled_projections"]),
        "timestep": (batch,),
    }


def _stamp(graph: Path) -> str:
    return hashlib.sha256(graph.read_bytes()).hexdigest()
