"""The diffusers engine: one SD3.5 pipeline on one device, one image at a time.

The same pipeline draws from noise, from an input picture and under a mask: what differs is where it
starts (start.py) and what is put back after each step (denoise.py).
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from contextlib import nullcontext
from threading import Lock, get_ident
from typing import TYPE_CHECKING

import torch

from shared.errors import DeviceFault, FarmError, ModelError, RenderFailed
from shared.jobs import RenderSpec
from shared.models import ModelEntry
from shared.store.values import Gpu
from shared.traces import step
from worker.engines.attention import TORCHS_CHOICE, Attention
from worker.engines.decode import decoded
from worker.engines.denoise import Denoiser, Task, Words
from worker.engines.faults import is_device_fault, is_out_of_memory
from worker.engines.ladder import Ladder, empty_cache, ladder_of
from worker.engines.loras import Loras, none_known
from worker.engines.meter import Meter
from worker.engines.port import Inputs, OnStep, Picture, Previews
from worker.engines.previews import Glance, Sketch, fitted
from worker.engines.start import composed
from worker.engines.text import Prompts

if TYPE_CHECKING:
    from diffusers import StableDiffusion3Pipeline

WARM_UP_SIDE_PX = 64


class DiffusersSD3:
    """A Renderer. It owns the pipeline: nothing else may call it."""

    def __init__(
        self,
        pipe: StableDiffusion3Pipeline,
        entry: ModelEntry,
        device: str,
        profile: dict[str, str],
        ladder: Ladder | None = None,
        loras: Loras | None = None,
        attention: Attention = TORCHS_CHOICE,
        sketch: Sketch | None = None,
    ) -> None:
        self._pipe = pipe
        self._entry = entry
        self._device = torch.device(device)
        self._profile = profile
        self._ladder = ladder or ladder_of(pipe, entry, self._device)
        self._prompts = Prompts(pipe, self._device, entry.max_sequence_length, self._ladder)
        self._loras = loras or Loras(pipe, torch.float32, none_known, nullcontext())
        self._meter = Meter(pipe.transformer.config, entry, self._device)
        self._denoiser = Denoiser(pipe, entry, self._device, attention, self._meter)
        self._sketch = sketch
        self._thread: int | None = None  # that CUDA graphs belong to
        # A pipeline keeps the state of its call on itself: two at once draw each other's pictures.
        self._one_at_a_time = Lock()

    def warm_up(self) -> None:
        self._meter.measure_ceiling()
        self._prompts.clear()  # the encoders are tried out too
        side = max(WARM_UP_SIDE_PX, self._entry.min_side_px)
        self._try_out(side, side, self._entry.guidance_scale)
        if self._entry.compile != "off":
            self._compile()
        self._denoiser.look = self._sketch or self._fitted()

    def _compile(self) -> None:
        """Draw every size to come, with and without guidance, or their first orders would wait."""
        self._thread = get_ident()
        guided = {self._entry.guidance_scale, 0.0}  # a batch of two, and of one
        for width, height in self._entry.sizes_to_warm:
            for guidance_scale in sorted(guided, reverse=True):
                self._try_out(width, height, guidance_scale)

    def _try_out(self, width: int, height: int, guidance_scale: float) -> None:
        spec = RenderSpec(
            model=self._entry.id,
            model_digest=self._entry.digest,
            prompt="a lighthouse on a cliff",
            width=width,
            height=height,
            steps=1,
            guidance_scale=guidance_scale,
            shift=self._entry.shift,
            seed=0,
        )
        try:
            rgb = self.render(spec, lambda done, total: None).rgb
        except RenderFailed as error:
            raise ModelError(f"{self._entry.id} cannot render: {error}") from error
        if rgb == rgb[:3] * (width * height):
            raise ModelError(f"{self._entry.id} draws one flat colour: are its weights damaged?")

    def _fitted(self) -> Glance | None:
        try:
            return fitted(self._pipe.vae, self._device)
        except torch.OutOfMemoryError:  # then it draws without previews
            return None
        finally:
            self._pipe.maybe_free_model_hooks()

    def render(
        self,
        spec: RenderSpec,
        on_step: OnStep,
        inputs: Callable[[], Inputs] | None = None,
        previews: Previews | None = None,
    ) -> Picture:
        if spec.skip_layer_guidance and not self._entry.skip_layers:
            raise RenderFailed("render_error", "this model has no layers to skip")
        if bool(spec.inputs) != bool(inputs):
            raise RenderFailed("render_error", "the order and its input pictures do not fit")
        if self._entry.compile == "full" and self._thread not in (None, get_ident()):
            raise RenderFailed("render_error", "CUDA graphs belong to the thread that loaded them")
        task = Task(spec, on_step, inputs, previews)
        with self._one_at_a_time:
            return self._drawn(task)

    def memory(self) -> Gpu | None:
        if self._device.type != "cuda":
            return None
        return Gpu(
            name=torch.cuda.get_device_name(self._device),
            utilization=_utilization(self._device),
            memory_used_mb=torch.cuda.memory_allocated(self._device) // 2**20,
            memory_peak_mb=self._meter.most_bytes() // 2**20,
            memory_total_mb=torch.cuda.mem_get_info(self._device)[1] // 2**20,
            memory_reserved_mb=torch.cuda.memory_reserved(self._device) // 2**20,
        )

    def _drawn(self, task: Task) -> Picture:
        spec = task.spec
        self._ladder.begin()
        while (picture := self._attempt(task)) is None:
            self._free()
            if not self._ladder.step_down():
                message = f"the device has too little memory for {spec.width} x {spec.height}"
                raise RenderFailed("out_of_memory", message, retryable=True)
        return picture

    def _attempt(self, task: Task) -> Picture | None:
        """None: the device ran out of memory.

        Nothing of the attempt is held then: its tensors went with the exception that held them.
        """
        try:
            try:
                # Inference mode would save a little. But weights that move inside it cannot move
                # again if they are quantized, nor wear a LoRA; and when memory is short, all move.
                with torch.no_grad():
                    return self._draw(task)
            finally:
                self._pipe.maybe_free_model_hooks()  # under offload: nothing stays on the card
        except FarmError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                return None
            if is_device_fault(error):
                raise DeviceFault(f"the device failed: {error}".splitlines()[0]) from error
            message = f"the engine failed: {type(error).__name__}"
            raise RenderFailed("render_error", message) from error

    def _free(self) -> None:
        self._prompts.clear()
        self._loras.clear()
        gc.collect()
        empty_cache(self._device)

    def _draw(self, task: Task) -> Picture:
        self._meter.begin(self._prompts.counts)
        spec, started = task.spec, self._now()
        with step("text"):
            words = self._words(spec)
            encoded = self._now()
        given = task.inputs() if task.inputs else None
        with self._loras.worn(spec.loras), step("denoise"):
            ready = self._now()
            latents = self._denoiser.latents(task, given, words)
            denoised = self._now()
        with step("decode"):
            rgb = self._decode(latents)
            rgb = composed(rgb, given) if given else rgb
            painted = self._now()
        timings = {
            "text": encoded - started,
            "denoise": denoised - ready,
            "decode": painted - denoised,
        }
        rung = self._ladder.rung
        profile = self._profile | ({"memory": rung.value} if rung else {})
        exact = self._ladder.is_exact(latents)
        effort = self._meter.effort(
            spec, words.prompt[0].shape[1], timings["denoise"], self._prompts.counts
        )
        return Picture(
            rgb, spec.width, spec.height, timings, profile, exact, effort, self._meter.steps_s
        )

    def _words(self, spec: RenderSpec) -> Words:
        prompt = self._prompts.embed(spec.prompt)
        if not spec.guidance_scale > 1:
            return Words(prompt)
        return Words(prompt, self._prompts.embed(spec.negative_prompt))

    def _decode(self, latents: torch.Tensor) -> bytes:
        return decoded(self._pipe.vae, latents)

    def _now(self) -> float:
        self._wait()
        return time.perf_counter()

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _utilization(device: torch.device) -> int | None:
    try:
        return torch.cuda.utilization(device)
    except Exception:  # its driver's library is missing or does not tell: no reason to stop
        return None
