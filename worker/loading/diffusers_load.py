"""From an entry with engine `diffusers` to an engine that is ready to render."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from shared.errors import ModelError
from shared.logs import event
from shared.loras import LoraEntry
from shared.models import ModelEntry
from shared.settings import Settings
from worker.engines.attention import attention_of
from worker.engines.diffusers_sd3 import DiffusersSD3
from worker.engines.dtypes import DTYPES
from worker.engines.joint import fuse
from worker.engines.loras import Loras
from worker.loading import compiling, lora_source
from worker.loading.card import Card
from worker.loading.devices import numeric_profile
from worker.loading.kernels import kernels_of
from worker.loading.locate import locate
from worker.loading.place import place
from worker.loading.profiles import choose, on_cpu, too_large
from worker.loading.read import read
from worker.loading.sketching import sketch_of
from worker.loading.steps import Report, step
from worker.loading.warming import warm
from worker.loading.weights import Weights, counted, known

log = logging.getLogger("farm.worker")


def load_diffusers(
    entry: ModelEntry,
    settings: Settings,
    device: str,
    card: Card | None,
    report: Report,
    placed: Callable[[str], None],
    loras: Mapping[str, LoraEntry],
    lock: AbstractContextManager[Any],
) -> DiffusersSD3:
    """As `load.load`, whose `lock` is held now, and again when a LoRA is loaded. Raises ModelError."""
    found = _find(entry, settings, card, report)
    entry = found.entry
    placed(entry.placement)
    warm(found.folder, entry, settings, report)
    pipe = _read(found, device, report)
    kernels = kernels_of(entry, settings.cache_dir / "kernels", device)
    if entry.compile != "off":
        kernels.load()
    compiling.mark(pipe, entry, device, settings.compile_threads, report)
    source = lora_source.reader(loras, settings)
    adapters = Loras(pipe, DTYPES[entry.compute_precision], source, lock)
    engine = _engine(pipe, entry, device, adapters)
    with step("warmup", report):
        engine.warm_up()
    if entry.compile != "off":
        kernels.save()
    return engine


@dataclass(slots=True, frozen=True)
class _Found:
    """A model on this machine, and how it is to be placed. `weights`: None only on a CPU."""

    entry: ModelEntry
    folder: Path
    card: Card | None
    weights: Weights | None

    @property
    def too_large(self) -> str:
        if self.card and self.weights:
            return too_large(self.entry, self.card, self.weights)
        return f"{self.entry.id} does not fit into memory"


def _find(entry: ModelEntry, settings: Settings, card: Card | None, report: Report) -> _Found:
    """What is known to be too large is refused before it is downloaded."""
    weights = known(entry)
    if weights or not card:
        entry = _chosen(entry, card, weights)
    folder = locate(entry, settings, report)
    check_layers(folder, entry)
    if card and not weights:
        weights = counted(folder)
        entry = _chosen(entry, card, weights)
    return _Found(entry, folder, card, weights)


def _engine(pipe: Any, entry: ModelEntry, device: str, loras: Loras) -> DiffusersSD3:
    attention = attention_of(entry, pipe.transformer, torch.device(device))
    profile = numeric_profile(entry, device) | {"attention": attention.kernel}
    sketch = sketch_of(entry, device, pipe.vae.dtype)
    return DiffusersSD3(
        pipe, entry, device, profile, loras=loras, attention=attention, sketch=sketch
    )


def _chosen(entry: ModelEntry, card: Card | None, weights: Weights | None) -> ModelEntry:
    chosen = choose(entry, card, weights) if card and weights else on_cpu(entry)
    if chosen.why:
        placement, compiled = chosen.entry.placement, chosen.entry.compile
        event(log, "profile", profile=entry.profile, placement=placement, compile=compiled, reason=chosen.why)  # fmt: skip
    return chosen.entry


def _read(found: _Found, device: str, report: Report) -> Any:
    """The pipeline with its weights in their place."""
    try:
        pipe = read(found.folder, found.entry, device, report)
        if found.entry.fuse_qkv:
            fuse(pipe.transformer)
        with step("place", report):
            place(pipe, found.entry, device)
    except torch.OutOfMemoryError as error:
        raise ModelError(found.too_large) from error
    return pipe


def check_layers(folder: Path, entry: ModelEntry) -> None:
    """Raise ModelError for a layer to skip that is not there: diffusers leaves it out in silence."""
    config = json.loads((folder / "transformer" / "config.json").read_text("utf-8"))
    layers = config.get("num_layers", 18)  # diffusers' default
    if wrong := [layer for layer in entry.skip_layers if not 0 <= layer < layers]:
        raise ModelError(
            f"skip_layers of {entry.id} names layer {wrong[0]}, and it has 0 to {layers - 1}"
        )
