"""The Renderer port: a settings record in, plain pixels out. Tensors never leave an engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from shared.jobs import Effort, RenderSpec
from shared.store.values import Gpu


@dataclass(slots=True, frozen=True)
class Picture:
    """One rendered image.

    `rgb` is uint8, (height, width, 3), row by row. `timings_s` has `text`, `denoise`, `decode`.
    `profile` names what moves rounding: dtype, device, library versions. Not `exact`: memory was
    short and a saving moved pixels. `steps_s`: seconds of each denoising step.
    """

    rgb: bytes
    width: int
    height: int
    timings_s: dict[str, float]
    profile: dict[str, str]
    exact: bool = True
    effort: Effort | None = None
    steps_s: tuple[float, ...] = ()


@dataclass(slots=True, frozen=True)
class Inputs:
    """What a render starts from, at the size of its picture.

    `rgb` is uint8, (height, width, 3); `mask` uint8, (height, width): 0 is kept exactly, 255 is
    repainted, and between them the two are mixed.
    """

    rgb: bytes
    mask: bytes | None = None


@dataclass(slots=True, frozen=True)
class Previews:
    """How many are wanted, and who gets them: (number from 0, rgb, width, height), rgb as above.

    `show` is called from the thread of the render and returns at once.
    """

    count: int
    show: Callable[[int, bytes, int, int], None]


OnStep = Callable[[int, int], None]  # (steps done, steps in all); may raise RenderStopped


class Renderer(Protocol):
    """One device, one loaded model: one render at a time, others wait. Best always of one thread.

    `DiffusersSD3` and `OnnxSD3` are its adapters. What an order asks and an engine cannot do, it
    refuses; it never leaves it out.
    """

    def warm_up(self) -> None:
        """Render a small image and check that it is one; also later, as a self-test.

        Raises ModelError, DeviceFault.
        """

    def render(
        self,
        spec: RenderSpec,
        on_step: OnStep,
        inputs: Callable[[], Inputs] | None = None,
        previews: Previews | None = None,
    ) -> Picture:
        """`inputs` is asked when the prompt is encoded, and again if memory was short.

        Raises RenderFailed, or whatever `on_step` or `inputs` raised; the engine stays usable after
        both. Raises DeviceFault, after which it is not. Cannot interrupt a step in progress.
        """

    def memory(self) -> Gpu | None:
        """What torch takes on the device now, not what another runtime does; None on a CPU."""
