"""From a model entry to an engine that is ready to render."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from shared.errors import ModelError
from shared.logs import event
from shared.loras import LoraEntry
from shared.models import ModelEntry
from shared.settings import Settings
from worker.engines.diffusers_sd3 import DiffusersSD3
from worker.engines.loras import Loras
from worker.engines.port import Renderer
from worker.loading import compiling, lora_source
from worker.loading.card import Card
from worker.loading.devices import card_of, numeric_profile, pick_device, set_threads
from worker.loading.locate import locate
from worker.loading.onnx_load import load_onnx
from worker.loading.parts import files_of, wanted_by
from worker.loading.place import place
from worker.loading.prefetch import prefetch_cold
from worker.loading.profiles import choose, on_cpu, too_large
from worker.loading.quiet import quiet_libraries
from worker.loading.read import DTYPES, read
from worker.loading.refuse import refuse_impossible
from worker.loading.steps import Report, step, untold
from worker.loading.weights import Weights, counted, known

log = logging.getLogger("farm.worker")
# Two loads at once leave meta tensors and a changed default dtype behind, for good.
_LOADING = threading.Lock()


def load(
    entry: ModelEntry,
    settings: Settings,
    device: str,
    report: Report = untold,
    placed: Callable[[str], None] | None = None,
    loras: Mapping[str, LoraEntry] | None = None,
) -> Renderer:
    """Find, read, place and warm up the model; `device` as in `pick_device`.

    `placed` hears the placement, which a profile may have chosen. `loras` are the farm's, by name:
    each is loaded when an order first wants it. Render in the thread that loaded. Raises ModelError.
    """
    quiet_libraries()
    with _LOADING:
        device = pick_device(device)
        card = card_of(device)
        refuse_impossible(entry, card)
        set_threads(settings.torch_threads, device)
        if entry.engine == "onnx":
            if placed:
                placed(entry.placement)
            return load_onnx(entry, settings, device, report, _warm)
        found = _find(entry, settings, card, report)
        if placed:
            placed(found.entry.placement)
        engine = _engine(found, settings, device, report, loras or {})
        with step("warmup", report):
            engine.warm_up()
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
    if card and not weights:
        weights = counted(folder)
        entry = _chosen(entry, card, weights)
    return _Found(entry, folder, card, weights)


def _engine(
    found: _Found,
    settings: Settings,
    device: str,
    report: Report,
    loras: Mapping[str, LoraEntry],
) -> DiffusersSD3:
    entry = found.entry
    _warm(found.folder, entry, settings, report)
    pipe = _read(found, device, report)
    check_layers(pipe.transformer, entry)
    compiling.mark(pipe.transformer, entry, report)
    profile = numeric_profile(entry, device)
    source = lora_source.reader(loras, settings)
    adapters = Loras(pipe, DTYPES[entry.compute_precision], source, _LOADING)
    return DiffusersSD3(pipe, entry, device, profile, loras=adapters)


def _warm(folder: Path, entry: ModelEntry, settings: Settings, report: Report) -> None:
    if not settings.prefetch:
        return
    report("load", "running")
    try:
        read = prefetch_cold(folder, [folder / name for name in files_of(folder, wanted_by(entry))])
    except OSError:
        return  # loading meets the same, and says it of the model
    if read:
        event(log, "prefetched", bytes=read.bytes, seconds=round(read.seconds, 2))


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
        with step("place", report):
            place(pipe, found.entry, device)
    except torch.OutOfMemoryError as error:
        raise ModelError(found.too_large) from error
    return pipe


def check_layers(transformer: Any, entry: ModelEntry) -> None:
    """Raise ModelError for a layer to skip that is not there: diffusers leaves it out in silence."""
    layers = transformer.config.num_layers
    if wrong := [layer for layer in entry.skip_layers if not 0 <= layer < layers]:
        raise ModelError(
            f"skip_layers of {entry.id} names layer {wrong[0]}, and it has 0 to {layers - 1}"
        )
