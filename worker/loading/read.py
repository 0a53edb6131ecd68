"""Weights from a checked folder into a pipeline: each network straight to where it will rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from shared.errors import FarmError, ModelError
from shared.models import ModelEntry
from worker.engines.dtypes import DTYPES
from worker.loading.parts import T5_PARTS, gguf_of
from worker.loading.place import home
from worker.loading.quantize import (
    packed,
    prove,
    read_gguf,
    refuse_other_packing,
    store_in_fp8,
    t5_config,
    transformer_config,
)
from worker.loading.steps import Report, step


def read(folder: Path, entry: ModelEntry, device: str, report: Report) -> Any:
    """The pipeline, its networks where `home` says. Raises ModelError, torch.OutOfMemoryError.

    Tells `load`, then `quantize` for the networks that are read in fewer bits: one at a time, so
    that never a whole one stays beside its quantized self.
    """
    shrunk = {
        "transformer": entry.precision not in DTYPES,
        "text_encoder_3": entry.t5 not in ("on", "off"),
    }
    try:
        for name in _networks(entry):
            refuse_other_packing(folder, name, entry)
        with step("load", report):
            networks = {
                name: _plain(name, folder, entry, home(name, entry, device))
                for name in _networks(entry)
                if not shrunk.get(name)
            }
        if any(shrunk.values()):
            with step("quantize", report):
                for name in filter(shrunk.get, shrunk):
                    networks[name] = _shrunk(name, folder, entry, device)
                    prove(name, networks[name], entry)
        else:
            report("quantize", "skipped")
        return _pipeline(folder, entry, networks)
    except (FarmError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ModelError(f"{entry.id} cannot be loaded from {folder}: {why}") from error


def _networks(entry: ModelEntry) -> dict[str, Any]:
    """The class of each, as SD3.5 has them; here, because the libraries talk at import, too."""
    from diffusers import AutoencoderKL, SD3Transformer2DModel
    from transformers import CLIPTextModelWithProjection, T5EncoderModel

    networks = {
        "transformer": SD3Transformer2DModel,
        "text_encoder": CLIPTextModelWithProjection,
        "text_encoder_2": CLIPTextModelWithProjection,
        "text_encoder_3": T5EncoderModel,
        "vae": AutoencoderKL,
    }
    if entry.t5 == "off":
        del networks["text_encoder_3"]
    return networks


def _plain(name: str, folder: Path, entry: ModelEntry, place: str, config: Any = None) -> Any:
    how: dict[str, Any] = {"quantization_config": config} if config else {}
    if place != "cpu":  # and on a CPU torchao would take a map for an order to leave it as it is
        how["device_map"] = {"": place}  # no copy in host memory on the way
    return _networks(entry)[name].from_pretrained(
        folder,
        subfolder=name,
        dtype=DTYPES[entry.compute_precision],  # as a string it would silently be float32
        local_files_only=True,
        use_safetensors=True,  # else a lone .bin is unpickled
        **how,
    )


def _shrunk(name: str, folder: Path, entry: ModelEntry, device: str) -> Any:
    """Quantized on the device, which is quicker, then moved to where it rests."""
    rests = home(name, entry, device)
    if name == "transformer" and (file := gguf_of(entry, folder)):
        return read_gguf(folder, file).to(rests)
    if name == "transformer" and entry.precision == "fp8-storage":
        network = _plain(name, folder, entry, "cpu")  # whole it may be too large for the card
        store_in_fp8(network)
        return network.to(rests)
    config = None  # of what a baked folder holds packed, it says so itself
    if packed(folder, name) is None:
        config = transformer_config(entry) if name == "transformer" else t5_config(entry)
    return _plain(name, folder, entry, device, config).to(rests)


def _pipeline(folder: Path, entry: ModelEntry, networks: dict[str, Any]) -> Any:
    from diffusers import StableDiffusion3Pipeline

    left_out = dict.fromkeys(T5_PARTS) if entry.t5 == "off" else {}
    pipe = StableDiffusion3Pipeline.from_pretrained(
        folder, local_files_only=True, **networks, **left_out
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
