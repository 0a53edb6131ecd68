"""From a model entry to an engine that is ready to render."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from shared.errors import DeviceFault, FarmError, ModelError
from shared.logs import redact
from shared.loras import LoraEntry
from shared.models import ModelEntry
from shared.settings import Settings
from worker.engines.faults import is_device_fault
from worker.engines.port import Renderer
from worker.loading.devices import card_of, pick_device, set_threads
from worker.loading.diffusers_load import load_diffusers
from worker.loading.onnx_load import load_onnx
from worker.loading.quiet import quiet_libraries
from worker.loading.refuse import refuse_impossible
from worker.loading.steps import Report, untold

log = logging.getLogger("farm.worker")
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
    each is loaded when an order first wants it. Render in the thread that loaded. Raises ModelError,
    and DeviceFault where the device broke.
    """
    quiet_libraries()
    with _LOADING, _in_words(entry):
        device = pick_device(device)
        card = card_of(device)
        refuse_impossible(entry, card)
        set_threads(settings.torch_threads, device)
        if entry.engine == "onnx":
            placed(entry.placement)
            return load_onnx(entry, settings, device, report)
        return load_diffusers(entry, settings, device, card, report, placed, loras or {}, _LOADING)


@contextmanager
def _in_words(entry: ModelEntry) -> Iterator[None]:
    """What nobody foresaw is told as any other reason: a worker that only dies is no use in /status."""
    try:
        yield
    except FarmError:
        raise
    except Exception as error:
        log.debug("not_loaded", exc_info=True)
        why = redact(f"{type(error).__name__}: {error}".splitlines()[0])
        if is_device_fault(error):
            raise DeviceFault(f"the device failed: {why}") from error
        raise ModelError(f"{entry.id} cannot be loaded: {why}") from error
