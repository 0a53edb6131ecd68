"""One variant of one subject, measured in this process and told as a row."""

from __future__ import annotations

import json
import math
import time
from statistics import median
from typing import Any

import torch

from shared.errors import ModelError
from shared.flops import CLIP_TOKENS, TERA, Mmdit, SkipLayers, denoise_flop
from shared.jobs import RenderSpec
from shared.models import ModelEntry
from shared.settings import Settings
from worker.bench import made
from worker.bench.drawers import Drawer, Drawn, Engine, Naive
from worker.bench.plan import NAIVE, Run
from worker.bench.watch import now
from worker.compare import psnr_db
from worker.engines.ceiling import matrix_rate
from worker.engines.dtypes import DTYPES
from worker.loading.devices import numeric_profile, pick_device, set_threads
from worker.loading.load import load
from worker.loading.locate import locate
from worker.loading.quiet import quiet_libraries

WARM_UPS = 2


def make_weights(run: Run) -> None:
    """Save the subject's shape with random weights. Raises ModelError."""
    quiet_libraries()
    place = pick_device(run.device)
    if place == "cpu" and not run.tiny:
        raise ModelError("a model of full size needs a GPU: add --tiny, or name one with --model")
    size = made.DIMENSIONS[run.subject.shape]
    dtype = DTYPES[ModelEntry.model_validate(run.entry).compute_precision]
    made.save(run.weights, made.shrunk(size) if run.tiny else size, place, dtype)


def row_of(run: Run) -> dict[str, Any]:
    """Seconds, rates, memory, drift. Raises ModelError, and whatever a kernel that is missing does."""
    quiet_libraries()
    place = pick_device(run.device)
    device, entry = torch.device(place), ModelEntry.model_validate(run.entry)
    settings = Settings.model_validate(run.settings)
    set_threads(settings.torch_threads, place)
    ceiling = matrix_rate(device, entry.compute_precision)  # while the memory is free
    folder = locate(entry, settings)
    loading = Loading()
    if run.variant == NAIVE:
        drawer: Drawer = Naive(folder, entry, device)
    else:
        drawer = Engine(load(entry, settings, place, loading.report), device)
    ready: dict[str, Any] = {
        "ready_s": time.perf_counter() - loading.began,
        "loading_s": loading.seconds,
    }
    row = ready | _speeds(run, drawer, entry, device) | _drift(run, drawer, entry)
    profile = _profile(run, entry, place) | row.pop("profile")
    config = json.loads((folder / "transformer" / "config.json").read_text("utf-8"))
    return (
        row | _rates(Mmdit.of(config), run, entry, row["denoise_s"], ceiling) | {"profile": profile}
    )


def _profile(run: Run, entry: ModelEntry, place: str) -> dict[str, str]:
    if run.variant == NAIVE:  # of all that the entry asks for it has the precision only
        entry = ModelEntry(id=entry.id, source=entry.source, precision=entry.compute_precision)
    driver = {"driver": told} if (told := driver_of(place)) else {}
    return numeric_profile(entry, place) | driver


def driver_of(place: str) -> str | None:
    """The version of NVIDIA's driver; None where it does not tell."""
    if place == "cpu":
        return None
    import pynvml

    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return None


class Loading:
    """Seconds of each step of loading."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.seconds: dict[str, float] = {}
        self._since: dict[str, float] = {}

    def report(self, step: str, state: str) -> None:
        if state == "running":
            self._since[step] = time.perf_counter()
        elif step in self._since:
            self.seconds[step] = time.perf_counter() - self._since[step]


def spec_of(run: Run, entry: ModelEntry, number: int) -> RenderSpec:
    """A prompt of its own for each picture: else only the first would be encoded."""
    return RenderSpec(
        model=entry.id,
        model_digest=entry.digest,
        prompt=f"a lighthouse on a cliff, picture {number}",
        width=run.px,
        height=run.px,
        steps=run.subject.steps,
        guidance_scale=run.subject.guidance_scale,
        shift=entry.shift,
        seed=number,
        preset=entry.preset,
    )


def _speeds(run: Run, drawer: Drawer, entry: ModelEntry, device: torch.device) -> dict[str, Any]:
    first_s, first, _ = _timed(drawer, spec_of(run, entry, 0), device)
    for number in range(1, 1 + WARM_UPS):
        drawer.draw(spec_of(run, entry, number))
    numbers = range(1 + WARM_UPS, 1 + WARM_UPS + run.repeats)
    drawn = [_timed(drawer, spec_of(run, entry, number), device) for number in numbers]
    times = sorted(seconds for seconds, _, _ in drawn)
    phases = {
        f"{name}_s": median(each.phases_s[name] for _, each, _ in drawn) for name in first.phases_s
    }
    peak = max((peak for _, _, peak in drawn if peak), default=None)
    return {
        "s_p50": median(times),
        "s_p95": times[math.ceil(0.95 * len(times)) - 1],
        "images_per_s": 1 / median(times),
        "ms_per_step": 1e3 * phases["denoise_s"] / run.subject.steps,
        "first_call_s": first_s,
        "peak_gb": peak / 1e9 if peak else None,
        "profile": first.profile,
        **phases,
    }


def _timed(
    drawer: Drawer, spec: RenderSpec, device: torch.device
) -> tuple[float, Drawn, int | None]:
    """Seconds, what was drawn, and the most bytes that tensors took."""
    card = device.type == "cuda"
    if card:
        torch.cuda.reset_peak_memory_stats(device)
    started = now(device)
    drawn = drawer.draw(spec)
    seconds = now(device) - started
    return seconds, drawn, torch.cuda.max_memory_allocated(device) if card else None


def _rates(
    mmdit: Mmdit, run: Run, entry: ModelEntry, denoise_s: float, ceiling: float | None
) -> dict[str, Any]:
    skip = SkipLayers(frozenset(entry.skip_layers), entry.skip_layer_start, entry.skip_layer_stop)
    tokens = CLIP_TOKENS + entry.max_sequence_length
    flop = denoise_flop(mmdit, spec_of(run, entry, 0), tokens, skip)
    rate = flop / denoise_s if flop else None
    return {
        "tflop": flop / TERA if flop else None,
        "tflop_per_s": rate / TERA if rate else None,
        "ceiling_tflop_per_s": ceiling / TERA if ceiling else None,
        "ceiling_share": rate / ceiling if rate and ceiling else None,
    }


def _drift(run: Run, drawer: Drawer, entry: ModelEntry) -> dict[str, Any]:
    """How far this variant's picture is from that of `naive`, from the same noise."""
    latents, rgb = drawer.compared(spec_of(run, entry, 0))
    if run.variant == NAIVE:
        torch.save({"latents": latents, "rgb": rgb}, run.reference)
        return {}
    if not run.reference.exists():  # naive was not asked for, or could not draw it
        return {}
    known = torch.load(run.reference, weights_only=True, map_location="cpu")
    return {
        "latent_cosine": _cosine(latents, known["latents"]),
        "psnr_db": psnr_db(rgb, known["rgb"]),
    }


def _cosine(here: torch.Tensor | None, there: torch.Tensor) -> float | None:
    if here is None:
        return None
    pair = (here.double().cpu().flatten(), there.double().flatten())
    return float(torch.nn.functional.cosine_similarity(*pair, dim=0))
