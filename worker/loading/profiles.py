"""A profile as placement and compile, and the change that would make an entry fit a card.

It never chooses what decides pixels: docs/decisions/0017-profiles-never-choose-pixels.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

from shared.errors import ModelError
from shared.models import ModelEntry
from worker.loading.card import Card, gigabytes
from worker.loading.fit import PLACEMENTS, holds, least, need, sizes
from worker.loading.refuse import reasons
from worker.loading.weights import Weights

# In the order of how little they change a picture. Without T5 it is another one.
_PRECISIONS = ("fp32", "bf16", "fp16", "fp8", "int8", "nf4")
_T5 = ("on", "int8", "nf4", "off")


@dataclass(slots=True, frozen=True)
class Chosen:
    """An entry without a profile, and why it is placed so: "" where it said so itself."""

    entry: ModelEntry
    why: str = ""


def on_cpu(entry: ModelEntry) -> Chosen:
    if entry.profile is None:
        return Chosen(entry)
    return Chosen(
        _set(entry, "gpu", "off"), "a CPU has one place, and compiling gains nothing there"
    )


def choose(entry: ModelEntry, card: Card, weights: Weights) -> Chosen:
    """Expand the profile. Raises ModelError where the card is too small for the entry."""
    chosen = _expanded(entry, card, weights)
    placed = chosen.entry.placement
    if chosen.entry.profile or least(chosen.entry, weights)[placed] > card.memory_bytes:
        raise ModelError(too_large(chosen.entry, card, weights))
    return chosen


def too_large(entry: ModelEntry, card: Card, weights: Weights) -> str:
    """One sentence: what is needed, what there is, and what to change."""
    size = sizes(entry, weights)
    asked = need(entry, weights)[entry.placement]
    return (
        f"{entry.id} needs about {gigabytes(asked)} with placement {entry.placement} "
        f"({gigabytes(size.transformer)} of transformer, {gigabytes(size.encoders)} of text "
        f"encoders, {gigabytes(size.vae)} of VAE), and {card.name} has "
        f"{gigabytes(card.free_bytes)} free: {_advice(entry, card, weights)}"
    )


def _expanded(entry: ModelEntry, card: Card, weights: Weights) -> Chosen:
    if entry.profile is None:
        return Chosen(entry)
    if entry.profile == "fast":
        return Chosen(_set(entry, "gpu", "regional"), "profile fast: all stays on the card")
    if entry.profile == "eco":
        return Chosen(_set(entry, "model-offload", "off"), "profile eco: only what works is there")
    needed = need(entry, weights)
    for place in holds(needed, card.free_bytes):
        if not reasons(_set(entry, place, "off"), card):
            stays = place in ("gpu", "text-offload")
            why = f"about {gigabytes(needed[place])} of {gigabytes(card.free_bytes)} free"
            return Chosen(_set(entry, place, "regional" if stays else "off"), why)
    return Chosen(entry)  # its profile still there: nothing fits


def _advice(entry: ModelEntry, card: Card, weights: Weights) -> str:
    advice = [*_fewer_bits(entry, card, weights), *_slower(entry, card, weights)]
    return (
        f"set {', or '.join(advice)}" if advice else "it takes a larger card, or smaller pictures"
    )


def _fewer_bits(entry: ModelEntry, card: Card, weights: Weights) -> list[str]:
    """The first pair of precision and t5 that would fit in the same placement."""
    now = (entry.precision, entry.t5)
    pairs = product(_after(_PRECISIONS, now[0]), _after(_T5, now[1]))
    for pair in sorted(pairs, key=lambda pair: pair[1] == "off"):
        changed = entry.model_copy(update={"precision": pair[0], "t5": pair[1]})
        small = need(changed, weights)[entry.placement] <= card.free_bytes
        if pair != now and small and not reasons(changed, card):
            names = zip(("precision", "t5"), now, pair, strict=True)
            return [" and ".join(f"{name} to {to}" for name, old, to in names if old != to)]
    return []


def _slower(entry: ModelEntry, card: Card, weights: Weights) -> list[str]:
    slower = PLACEMENTS[PLACEMENTS.index(entry.placement) + 1 :]
    for place in holds(need(entry, weights), card.free_bytes):
        if place in slower and not reasons(_set(entry, place, "off"), card):
            return [f"placement to {place}"]
    return []


def _after(steps: tuple[str, ...], now: str) -> tuple[str, ...]:
    return steps[steps.index(now) :] if now in steps else (now,)


def _set(entry: ModelEntry, placement: str, compile_: str) -> ModelEntry:
    """A copy without a profile; made anew, so that it looks as if the entry had said so."""
    changes: dict[str, Any] = {"placement": placement, "compile": compile_, "profile": None}
    return entry.model_copy(update=changes)
