"""The ONNX engine: the diffusers engine's own loop, with graphs in place of its two networks."""

from __future__ import annotations

from collections.abc import Callable

from shared.errors import RenderFailed
from shared.jobs import RenderSpec
from shared.store.values import Gpu
from worker.engines.diffusers_sd3 import DiffusersSD3
from worker.engines.port import Inputs, OnStep, Picture, Previews


class OnnxSD3:
    """A Renderer. `drawing` has a pipeline whose transformer is an `OnnxTransformer`."""

    def __init__(self, drawing: DiffusersSD3) -> None:
        self._drawing = drawing

    def warm_up(self) -> None:
        self._drawing.warm_up()

    def render(
        self,
        spec: RenderSpec,
        on_step: OnStep,
        inputs: Callable[[], Inputs] | None = None,
        previews: Previews | None = None,
    ) -> Picture:
        if unfit := _unfit(spec):
            raise RenderFailed("render_error", f"engine onnx {unfit}")
        return self._drawing.render(spec, on_step, inputs, previews)

    def memory(self) -> Gpu | None:
        """On a card: without what ONNX Runtime holds itself, which torch does not see."""
        return self._drawing.memory()


def _unfit(spec: RenderSpec) -> str | None:
    """What a graph cannot do; it would leave it out without a word."""
    if spec.loras:
        return "takes no LoRAs"
    if spec.skip_layer_guidance:
        return "skips no layers, so it has no skip-layer guidance"
    if spec.preset != "exact":
        return f"has no preset {spec.preset}"
    return None
