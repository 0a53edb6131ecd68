"""From an entry with engine `onnx` to an engine that is ready to render."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from shared.errors import ModelError
from shared.models import ModelEntry
from shared.settings import Settings
from worker.engines.diffusers_sd3 import DiffusersSD3
from worker.engines.dtypes import DTYPES
from worker.engines.ladder import Ladder, Rung
from worker.engines.onnx_modules import OnnxTransformer, OnnxVae
from worker.engines.onnx_sd3 import OnnxSD3
from worker.engines.onnx_session import PROVIDERS, Graph, open_session, runtime
from worker.loading.devices import numeric_profile
from worker.loading.onnx_folder import (
    DECODER,
    ENCODER,
    TRANSFORMER,
    Manifest,
    check_graphs,
    read_manifest,
)
from worker.loading.onnx_providers import options_of, provider_of
from worker.loading.parts import T5_PARTS, wanted_by
from worker.loading.preflight import check
from worker.loading.steps import Report, step
from worker.loading.warming import warm


def load_onnx(entry: ModelEntry, settings: Settings, device: str, report: Report) -> OnnxSD3:
    """As `load.load`, whose lock is held. The text encoders are torch's. Raises ModelError."""
    ort = runtime()
    provider = provider_of(entry, device)
    folder = Path(entry.source.removeprefix("dir:")).expanduser()
    report("download", "skipped")
    with step("preflight", report):
        manifest = read_manifest(folder)
        check_graphs(folder, manifest, entry)
        wanted = wanted_by(entry)
        check(folder, wanted if manifest.has_vae else replace(wanted, bare=("transformer",)))
    warm(folder, entry, settings, report)
    with step("load", report):
        opened = _Opener(entry, settings, device, provider, folder, DTYPES[manifest.dtype])
        pipe = _pipe(entry, folder, manifest, opened)
    report("quantize", "skipped")  # when it was exported
    with step("place", report):
        pipe.to(device)
    report("compile", "skipped")  # the provider's own affair, at the first render of the warm-up
    profile = numeric_profile(entry, device) | {
        "provider": PROVIDERS[provider],
        "onnxruntime": ort.__version__,
        "opset": str(manifest.opset),
    }
    rungs = [Rung.empty_caches] + ([Rung.text_encoders_off] if device != "cpu" else [])
    ladder = Ladder(pipe, torch.device(device), rungs)  # graphs cannot be moved
    engine = OnnxSD3(DiffusersSD3(pipe, entry, device, profile, ladder))
    with step("warmup", report):
        engine.warm_up()
    return engine


class _Opener:
    """Opens the graphs of one folder, all in the same way."""

    def __init__(
        self,
        entry: ModelEntry,
        settings: Settings,
        device: str,
        provider: str,
        folder: Path,
        dtype: torch.dtype,
    ) -> None:
        self._entry = entry
        self._cache = settings.cache_dir
        self._threads = settings.torch_threads or (1 if provider == "cpu" else 0)
        self._provider = provider
        self._folder = folder
        self.dtype = dtype
        self.device = torch.device(device)

    def config(self, part: str) -> dict[str, Any]:
        file = self._folder / part / "config.json"
        try:
            config: dict[str, Any] = json.loads(file.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"{file} cannot be read: {error}") from error
        return config

    def graph(self, name: str, sizes: dict[str, int]) -> Graph:
        file = self._folder / name
        options = options_of(
            self._entry, self._provider, str(self.device), file, sizes, self._cache
        )
        return Graph(open_session(file, self._provider, options, self._threads), self.device)


def _pipe(entry: ModelEntry, folder: Path, manifest: Manifest, opened: _Opener) -> Any:
    from diffusers import StableDiffusion3Pipeline

    networks = {"transformer": _transformer(opened)}
    if manifest.has_vae:
        networks["vae"] = _vae(opened)
    left_out = dict.fromkeys(T5_PARTS) if entry.t5 == "off" else {}
    try:
        rest = StableDiffusion3Pipeline.from_pretrained(
            folder,
            dtype=opened.dtype,
            local_files_only=True,
            use_safetensors=True,
            **dict.fromkeys(networks),
            **left_out,
        )
    except Exception as error:
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ModelError(f"{entry.id} cannot be loaded from {folder}: {why}") from error
    pipe = StableDiffusion3Pipeline(**{**rest.components, **networks})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _transformer(opened: _Opener) -> Any:
    config = opened.config("transformer")
    sizes = {
        "hidden_states": config["in_channels"],
        "encoder_hidden_states": config["joint_attention_dim"],
        "pooled_projections": config["pooled_projection_dim"],
    }
    graph = opened.graph(TRANSFORMER, sizes)
    return OnnxTransformer(graph, config, opened.dtype, opened.device)


def _vae(opened: _Opener) -> Any:
    config = opened.config("vae")
    sizes = {"latents": config["latent_channels"]}
    encoder, decoder = opened.graph(ENCODER, sizes), opened.graph(DECODER, sizes)
    return OnnxVae(encoder, decoder, config, opened.dtype, opened.device)
