"""From a model entry to an engine that is ready to render."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import torch

from shared.errors import ModelError
from shared.logs import event
from shared.models import ModelEntry
from shared.settings import Settings
from worker.engines.diffusers_sd3 import DiffusersSD3
from worker.engines.port import Renderer
from worker.loading import compiling
from worker.loading.card import Card
from worker.loading.devices import card_of, numeric_profile, pick_device, set_threads
from worker.loading.locate import locate
from worker.loading.place import place
from worker.loading.profiles import choose, on_cpu, too_large
from worker.loading.quiet import quiet_libraries
from worker.loading.read import read
from worker.loading.refuse import refuse_impossible
from worker.loading.steps import Report, step, untold
from worker.loading.weights import Weights, counted, known

log = logging.getLogger("farm.worker")
# Two loads at once leave meta tensors and a changed default dtype behind, for good.
_LOADING = threading.Lock()


def load(entry: ModelEntry, settings: Settings, device: str, report: Report = untold) -> Renderer:
    """Find, read, place and warm up the model; `device` as in `pick_device`.

    Render in the thread that loaded. Raises ModelError.
    """
    quiet_libraries()
    with _LOADING:
        device = pick_device(device)
        card = card_of(device)
        refuse_impossible(entry, card)
        weights = known(entry)
        if weights or not card:  # else its files have to be here first
            entry = _chosen(entry, card, weights)
        set_threads(settings.torch_threads, device)
        folder = locate(entry, settings, report)
        if card and not weights:
            weights = counted(folder)
            entry = _chosen(entry, card, weights)
        pipe = _read(folder, entry, device, card, weights, report)
        compiling.mark(pipe.transformer, entry, report)
        engine = DiffusersSD3(pipe, entry, device, numeric_profile(entry, device))
        with step("warmup", report):
            engine.warm_up()
        return engine


def _chosen(entry: ModelEntry, card: Card | None, weights: Weights | None) -> ModelEntry:
    chosen = choose(entry, card, weights) if card and weights else on_cpu(entry)
    if chosen.why:
        placement, compiled = chosen.entry.placement, chosen.entry.compile
        event(log, "profile", profile=entry.profile, placement=placement, compile=compiled, reason=chosen.why)  # fmt: skip
    return chosen.entry


def _read(
    folder: Path,
    entry: ModelEntry,
    device: str,
    card: Card | None,
    weights: Weights | None,
    report: Report,
) -> Any:
    """The pipeline with its weights in their place."""
    try:
        pipe = read(folder, entry, device, report)
        with step("place", report):
            place(pipe, entry, device)
    except torch.OutOfMemoryError as error:
        told = f"{entry.id} does not fit on {device}"
        raise ModelError(too_large(entry, card, weights) if card and weights else told) from error
    return pipe
