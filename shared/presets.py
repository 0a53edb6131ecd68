"""What a preset saves, and who may order one: pixels traded for time, by name.

A recipe's id stands in the fingerprint, so a recipe is never changed: a better one gets a new id.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.errors import InvalidOrder

if TYPE_CHECKING:
    from shared.models import ModelEntry


@dataclass(slots=True, frozen=True)
class Recipe:
    """How a render is made cheaper.

    Step cache: where the first block changes its tokens by less than `threshold` of what it did at
    the last whole step, the other blocks are taken from that step, at most `most_reused` times in a
    row. Guidance ends after `guided_part` of the steps: early steps lay out, late ones refine.
    """

    id: str
    threshold: float
    most_reused: int
    guided_part: float

    def guided_steps(self, steps: int) -> int:
        """At least one."""
        return max(1, round(self.guided_part * steps))


RECIPES = {
    "balanced": Recipe("balanced-v1", threshold=0.08, most_reused=2, guided_part=0.8),
    "draft": Recipe("draft-v1", threshold=0.2, most_reused=4, guided_part=0.5),
}


def recipe_of(preset: str) -> Recipe | None:
    """None for `exact`, which leaves nothing out."""
    return RECIPES.get(preset)


def unfit(preset: str, entry: ModelEntry, *, skip_layer_guidance: float) -> str | None:
    """Why the preset would not be what it says; None: it would."""
    if preset == "exact":
        return None
    if entry.distilled:
        return f"{entry.id} draws in few steps, of which none can be left out"
    if entry.engine != "diffusers":
        return f"{entry.id} runs in the engine {entry.engine}, which always does whole steps"
    if skip_layer_guidance:
        return "skip-layer guidance asks for more work, and a preset for less"
    return None


def check(preset: str, entry: ModelEntry, *, skip_layer_guidance: float) -> None:
    """Raises InvalidOrder for a preset that is unfit."""
    if reason := unfit(preset, entry, skip_layer_guidance=skip_layer_guidance):
        message = f"preset {preset} is not to be had here, order exact: {reason}"
        raise InvalidOrder("unsupported_for_model", message, "preset")


def share_of_passes(preset: str, *, steps: int, guided: bool) -> float:
    """Passes through the transformer, as a share of `exact`'s; steps reused come on top."""
    recipe = recipe_of(preset)
    if recipe is None or not guided:
        return 1.0
    return (steps + recipe.guided_steps(steps)) / (2 * steps)
