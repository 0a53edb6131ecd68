"""Noise to latents: one pass of the pipeline's loop, with all that makes it cheaper around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from shared.jobs import RenderSpec
from shared.models import ModelEntry
from shared.presets import recipe_of
from worker.engines.attention import Attention
from worker.engines.meter import Meter
from worker.engines.modulation import Modulation
from worker.engines.pace import Pace
from worker.engines.port import Inputs, OnStep, Previews
from worker.engines.presets import cached_steps, end_guidance
from worker.engines.previews import Look, Shower
from worker.engines.start import Start, start_of
from worker.engines.text import Embeddings

# The places where the transformer's layers stay: elsewhere they come in the order in which blocks
# call them, and under CUDA graphs nothing may be exchanged.
RESIDENT = ("gpu", "text-offload", "model-offload")


@dataclass(slots=True, frozen=True)
class Task:
    """What one call of `render` was asked for."""

    spec: RenderSpec
    on_step: OnStep
    inputs: Callable[[], Inputs] | None = None
    previews: Previews | None = None


@dataclass(slots=True, frozen=True)
class Words:
    """The prompt, and what to keep away from; that is not read without guidance."""

    prompt: Embeddings
    negative: Embeddings | tuple[None, None] = (None, None)


class Schedule(FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
    """Begins at its beginning: diffusers' own has the first step ask the device where that is."""

    @wraps(FlowMatchEulerDiscreteScheduler.set_timesteps)  # the pipeline reads its signature
    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        super().set_timesteps(*args, **kwargs)
        self.set_begin_index(0)


class Denoiser:
    """The transformer of one pipeline. `look` shows how a picture comes along, if it is set."""

    def __init__(
        self,
        pipe: Any,
        entry: ModelEntry,
        device: torch.device,
        attention: Attention,
        meter: Meter,
    ) -> None:
        self._pipe = pipe
        self._entry = entry
        self._device = device
        self._attention = attention
        self._meter = meter
        self._schedule = pipe.scheduler.config
        tables = (
            entry.engine == "diffusers" and entry.placement in RESIDENT and entry.compile != "full"
        )
        self._modulation = Modulation(pipe) if tables else None
        self.look: Look | None = None

    def latents(self, task: Task, given: Inputs | None, words: Words) -> torch.Tensor:
        """(1, 16, H/8, W/8) in the model's dtype, when the device has made them."""
        spec = task.spec
        # Fresh: a scheduler keeps its step index, and `set_shift` would keep the old sigma_min.
        self._pipe.scheduler = Schedule.from_config(self._schedule, shift=spec.shift)
        start = start_of(self._pipe, spec, given, self._device)
        pace = Pace(self._device, task.on_step, spec.steps_to_run)
        with self._shortened(spec):
            latents: torch.Tensor = self._pipe(
                prompt_embeds=words.prompt[0],
                pooled_prompt_embeds=words.prompt[1],
                negative_prompt_embeds=words.negative[0],
                negative_pooled_prompt_embeds=words.negative[1],
                latents=start.latents,
                width=spec.width,
                height=spec.height,
                num_inference_steps=spec.steps,
                sigmas=start.sigmas,
                guidance_scale=spec.guidance_scale,
                **self._skipping(spec),
                callback_on_step_end=self._after_step(task, start, pace),
                callback_on_step_end_tensor_inputs=[
                    "latents", "prompt_embeds", "pooled_prompt_embeds",
                ],
                output_type="latent",
                return_dict=False,
            )[0]  # fmt: skip
            pace.finish()
        self._meter.steps_s = pace.steps_s
        return latents

    def _skipping(self, spec: RenderSpec) -> dict[str, Any]:
        """Skip-layer guidance, where it is wanted; the pipeline adds it to guidance only."""
        if not spec.skip_layer_guidance:
            return {}
        return {
            "skip_guidance_layers": list(self._entry.skip_layers),
            "skip_layer_guidance_scale": spec.skip_layer_guidance,
            "skip_layer_guidance_start": self._entry.skip_layer_start,
            "skip_layer_guidance_stop": self._entry.skip_layer_stop,
        }

    @contextmanager
    def _shortened(self, spec: RenderSpec) -> Iterator[None]:
        """Inside, the transformer does no more than this order needs; after it, all is as before."""
        with ExitStack() as stack:
            if self._modulation:
                stack.enter_context(self._modulation.tabled())
            stack.enter_context(cached_steps(self._pipe.transformer, recipe_of(spec.preset)))
            stack.enter_context(self._attention.chosen())
            yield

    def _after_step(self, task: Task, start: Start, pace: Pace) -> Callable[..., dict[str, Any]]:
        steps, shower = task.spec.steps_to_run, None
        if task.previews and task.previews.count and self.look:
            shower = Shower(self.look, task.previews, steps)
            shower.begin(start.latents)
        recipe = recipe_of(task.spec.preset)
        guided = recipe.guided_steps(steps) if recipe else steps

        def after_step(pipe: Any, step: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            sigmas, show = pipe.scheduler.sigmas, None
            if shower:
                show = shower.after(step + 1, tensors["latents"], sigmas, start.repaint)
            if start.repaint:
                tensors["latents"] = start.repaint.keep(tensors["latents"], sigmas[step + 1])
            if shower:
                shower.kept(tensors["latents"])
            pace.queued(show)
            if self._modulation:
                self._modulation.step = step + 1
            if step + 1 == guided and pipe.do_classifier_free_guidance:
                end_guidance(pipe, tensors)
            return tensors

        return after_step
