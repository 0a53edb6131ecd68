"""From a model entry to an engine that is ready to render."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from shared.loras import LoraEntry
from shared.models import ModelEntry
from shared.settings import Settings
from worker.engines.port import Renderer
from worker.loading.devices import card_of, pick_device, set_threads
from worker.loading.diffusers_load import load_diffusers
from worker.loading.onnx_load import load_onnx
from worker.loading.quiet import quiet_libraries
from worker.loading.refuse import refuse_impossible
from worker.loading.steps import Report, untold

# Two loads at once leave meta tensors and a changed default dtype behind, for good.
_LOADING = threading.Lock()


def load(
    entry: ModelEntry,
    settings: Settings,
    device: str,
    report: Report = untold,
    placed: Callable[[str], None] = lambda _placement: None,
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
            placed(entry.placement)
            return load_onnx(entry, settings, device, report)
        return load_diffusers(entry, settings, device, card, report, placed, loras or {}, _LOADING)
