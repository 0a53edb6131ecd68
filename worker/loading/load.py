"""From a model entry to an engine that is ready to render."""

from __future__ import annotations

import threading

import torch

from shared.models import ModelEntry
from shared.settings import Settings
from worker.engines.attention import attention_of
from worker.engines.diffusers_sd3 import DiffusersSD3
from worker.engines.port import Renderer
from worker.loading import compiling
from worker.loading.devices import numeric_profile, pick_device, set_threads
from worker.loading.kernels import kernels_of
from worker.loading.locate import locate
from worker.loading.place import check_placement, place
from worker.loading.quiet import quiet_libraries
from worker.loading.read import read
from worker.loading.sketching import sketch_of
from worker.loading.steps import Report, step, untold

# Two loads at once leave meta tensors and a changed default dtype behind, for good.
_LOADING = threading.Lock()


def load(entry: ModelEntry, settings: Settings, device: str, report: Report = untold) -> Renderer:
    """Find, read, place and warm up the model; `device` as in `pick_device`.

    Render in the thread that loaded. Raises ModelError.
    """
    quiet_libraries()
    with _LOADING:
        device = pick_device(device)
        check_placement(entry, device)
        set_threads(settings.torch_threads, device)
        folder = locate(entry, settings, report)
        with step("load", report):
            pipe = read(folder, entry)
        report("quantize", "skipped")  # no precision of today's asks for it
        with step("place", report):
            place(pipe, entry, device)
        kernels = kernels_of(entry, settings.cache_dir / "kernels", device)
        if entry.compile != "off":
            kernels.load()
        compiling.mark(pipe, entry, device, settings.compile_threads, report)
        attention = attention_of(entry, pipe.transformer, torch.device(device))
        profile = numeric_profile(entry, device) | {"attention": attention.kernel}
        sketch = sketch_of(entry, device, pipe.vae.dtype)
        engine = DiffusersSD3(pipe, entry, device, profile, None, attention, sketch)
        with step("warmup", report):
            engine.warm_up()
        if entry.compile != "off":
            kernels.save()
        return engine
