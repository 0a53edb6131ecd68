"""The diffusers engine: one SD3.5 pipeline on one device, one image at a time.

The same pipeline draws from noise, from an input picture and under a mask: what differs is where it
starts (start.py) and what is put back after each step.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from shared.errors import DeviceFault, FarmError, ModelError, RenderFailed
from shared.jobs import RenderSpec
from shared.models import ModelEntry
from shared.store.values import Gpu
from shared.traces import step
from worker.engines.decode import decoded
from worker.engines.faults import is_device_fault, is_out_of_memory
from worker.engines.ladder import Ladder, empty_cache, ladder_of
from worker.engines.meter import Meter
from worker.engines.port import Inputs, OnStep, Picture, Previews
from worker.engines.previews import Glance, Shower, fitted
from worker.engines.start import Start, composed, start_of
from worker.engines.text import Embeddings, Prompts

if TYPE_CHECKING:
    from diffusers import StableDiffusion3Pipeline

WARM_UP_SIDE_PX = 64


@dataclass(slots=True, frozen=True)
class Task:
    """What one call of `render` was asked for."""

    spec: RenderSpec
    on_step: OnStep
    inputs: Callable[[], Inputs] | None = None
    previews: Previews | None = None


class DiffusersSD3:
    """A Renderer. It owns the pipeline: nothing else may call it."""

    def __init__(
        self,
        pipe: StableDiffusion3Pipeline,
        entry: ModelEntry,
        device: str,
        profile: dict[str, str],
        ladder: Ladder | None = None,
    ) -> None:
        self._pipe = pipe
        self._entry = entry
        self._device = torch.device(device)
        self._profile = profile
        self._ladder = ladder or ladder_of(pipe, entry, self._device)
        self._schedule = pipe.scheduler.config
        self._prompts = Prompts(pipe, self._device, entry.max_sequence_length, self._ladder)
        self._meter = Meter(pipe.transformer.config, entry, self._device)
        self._glance: Glance | None = None

    def warm_up(self) -> None:
        self._meter.measure_ceiling()
        self._prompts.clear()  # the encoders are tried out too
        side = max(WARM_UP_SIDE_PX, self._entry.min_side_px)
        self._try_out(side, side)
        if self._entry.compile != "off":  # else the first order of this size pays for compiling
            self._try_out(self._entry.width, self._entry.height)
        self._glance = self._fitted()

    def _try_out(self, width: int, height: int) -> None:
        spec = RenderSpec(
            model=self._entry.id,
            model_digest=self._entry.digest,
            prompt="a lighthouse on a cliff",
            width=width,
            height=height,
            steps=1,
            guidance_scale=self._entry.guidance_scale,
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
        if spec.loras:
            raise RenderFailed("render_error", "this engine takes no LoRAs")
        if bool(spec.inputs) != bool(inputs):
            raise RenderFailed("render_error", "the order and its input pictures do not fit")
        task = Task(spec, on_step, inputs, previews)
        self._ladder.begin()
        while (picture := self._attempt(task)) is None:
            self._free()
            if not self._ladder.step_down():
                message = f"the device has too little memory for {spec.width} x {spec.height}"
                raise RenderFailed("out_of_memory", message, retryable=True)
        return picture

    def memory(self) -> Gpu | None:
        if self._device.type != "cuda":
            return None
        return Gpu(
            name=torch.cuda.get_device_name(self._device),
            utilization=_utilization(self._device),
            memory_used_mb=torch.cuda.memory_allocated(self._device) // 2**20,
            memory_peak_mb=self._meter.most_bytes() // 2**20,
            memory_total_mb=torch.cuda.mem_get_info(self._device)[1] // 2**20,
        )

    def _attempt(self, task: Task) -> Picture | None:
        """None: the device ran out of memory.

        Nothing of the attempt is held then: its tensors went with the exception that held them.
        """
        try:
            try:
                # Not inference_mode: a quantized weight that moved inside it could not move again.
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
        gc.collect()
        empty_cache(self._device)

    def _draw(self, task: Task) -> Picture:
        self._meter.begin(self._prompts.counts)
        spec, started = task.spec, self._now()
        with step("text"):
            prompt = self._prompts.embed(spec.prompt)
            guided = spec.guidance_scale > 1
            negative = self._prompts.embed(spec.negative_prompt) if guided else (None, None)
            encoded = self._now()
        given = task.inputs() if task.inputs else None
        ready = self._now()
        with step("denoise"):
            latents = self._denoise(task, given, prompt, negative)
            denoised = self._now()
        with step("decode"):
            rgb = self._decode(latents)
            rgb = composed(rgb, given) if given else rgb
            decoded_at = self._now()
        timings = {
            "text": encoded - started,
            "denoise": denoised - ready,
            "decode": decoded_at - denoised,
        }
        rung = self._ladder.rung
        profile = self._profile | ({"memory": rung.value} if rung else {})
        exact = self._ladder.is_exact(latents)
        effort = self._meter.effort(
            spec, prompt[0].shape[1], timings["denoise"], self._prompts.counts
        )
        return Picture(
            rgb, spec.width, spec.height, timings, profile, exact, effort, self._meter.steps_s
        )

    def _denoise(
        self,
        task: Task,
        given: Inputs | None,
        prompt: Embeddings,
        negative: Embeddings | tuple[None, None],
    ) -> torch.Tensor:
        """Latents (1, 16, H/8, W/8) in the model's dtype."""
        spec = task.spec
        # Fresh: a scheduler keeps its step index, and `set_shift` would keep the old sigma_min.
        self._pipe.scheduler = FlowMatchEulerDiscreteScheduler.from_config(
            self._schedule, shift=spec.shift
        )
        start = start_of(self._pipe, spec, given, self._device)
        self._meter.stamp()
        latents: torch.Tensor = self._pipe(
            prompt_embeds=prompt[0],
            pooled_prompt_embeds=prompt[1],
            negative_prompt_embeds=negative[0],
            negative_pooled_prompt_embeds=negative[1],
            latents=start.latents,
            width=spec.width,
            height=spec.height,
            num_inference_steps=spec.steps,
            sigmas=start.sigmas,
            guidance_scale=spec.guidance_scale,
            callback_on_step_end=self._after_step(task, start),
            callback_on_step_end_tensor_inputs=["latents"],
            output_type="latent",
            return_dict=False,
        )[0]
        return latents

    def _after_step(self, task: Task, start: Start) -> Callable[..., dict[str, Any]]:
        steps, shower = task.spec.steps_to_run, None
        if task.previews and task.previews.count and self._glance:
            shower = Shower(self._glance, task.previews, steps)
            shower.begin(start.latents)

        def after_step(pipe: Any, step: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            self._wait()  # else the host runs ahead: progress would lie and cancel come late
            self._meter.stamp()
            task.on_step(step + 1, steps)
            sigmas = pipe.scheduler.sigmas
            if shower:
                shower.after(step + 1, tensors["latents"], sigmas, start.repaint)
            if start.repaint:
                tensors["latents"] = start.repaint.keep(tensors["latents"], sigmas[step + 1])
            if shower:
                shower.kept(tensors["latents"])
            return tensors

        return after_step

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
