"""From a model entry to an engine that is ready to render."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from shared.errors import ModelError
from shared.loras import LoraEntry
from shared.models import ModelEntry
from shared.settings import Settings
from worker.engines.diffusers_sd3 import DiffusersSD3
from worker.engines.loras import Loras
from worker.engines.port import Renderer
from worker.loading import compiling, lora_source
from worker.loading.devices import numeric_profile, pick_device, set_threads
from worker.loading.locate import locate
from worker.loading.place import check_placement, place
from worker.loading.quiet import quiet_libraries
from worker.loading.read import read
from worker.loading.steps import Report, step, untold

# Two loads at once leave meta tensors and a changed default dtype behind, for good.
_LOADING = threading.Lock()


def load(
    entry: ModelEntry,
    settings: Settings,
    device: str,
    report: Report = untold,
    loras: Mapping[str, LoraEntry] | None = None,
) -> Renderer:
    """Find, read, place and warm up the model; `device` as in `pick_device`.

    Its LoRAs are loaded when an order first wants them; `loras` are the farm's, by name. Render in the thread that loaded. Raises ModelError.
    """
    quiet_libraries()
    with _LOADING:
        device = pick_device(device)
        check_placement(entry, device)
        set_threads(settings.torch_threads, device)
        folder = locate(entry, settings, report)
        with step("load", report):
            pipe = read(folder, entry)
            check_layers(pipe.transformer, entry)
        report("quantize", "skipped")  # no precision of today's asks for it
        with step("place", report):
            place(pipe, entry, device)
        compiling.mark(pipe.transformer, entry, report)
        engine = DiffusersSD3(
            pipe,
            entry,
            device,
            numeric_profile(entry, device),
            loras=Loras(
                pipe, pipe.transformer.dtype, lora_source.reader(loras or {}, settings), _LOADING
            ),
        )
        with step("warmup", report):
            engine.warm_up()
        return engine


def check_layers(transformer: Any, entry: ModelEntry) -> None:
    """Raise ModelError for a layer to skip that is not there: diffusers leaves it out in silence."""
    layers = transformer.config.num_layers
    if wrong := [layer for layer in entry.skip_layers if not 0 <= layer < layers]:
        raise ModelError(
            f"skip_layers of {entry.id} names layer {wrong[0]}, and it has 0 to {layers - 1}"
        )
