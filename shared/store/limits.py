"""An owner's limits, as both stores refuse by them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from shared.errors import FarmError, InvalidOrder, QuotaExceeded, RateExceeded
from shared.store.values import PACE_S, WINDOW_S, OwnerLimits, Rate


def too_often(wait_s: float, rate: Rate | None) -> RateExceeded:
    return RateExceeded(retry_after_s=wait_s, rate=rate)


def too_much(
    limits: OwnerLimits,
    what: Literal["renders", "gpu_s"],
    needed: float,
    wait_s: float | None,
    rate: Rate | None,
) -> FarmError:
    """QuotaExceeded; InvalidOrder where the order alone is more than the limit."""
    if what == "renders":
        most, unit = float(limits.max_queued), "renders"
    else:
        most, unit = limits.max_queued_gpu_s, "predicted GPU-seconds"
    if needed > most:
        told = f"this order is {needed:g} {unit}, and your key allows {most:g} in the queue"
        return InvalidOrder("invalid_value", told, "n")
    told = f"your key allows {most:g} {unit} in the queue; some must start first"
    return QuotaExceeded(told, retry_after_s=wait_s, rate=rate)


@dataclass(slots=True)
class Tempo:
    """How fast orders come in and renders leave: what `submit.lua` and `lib/queue.lua` keep in Redis.

    `now` gives unix seconds.
    """

    now: Callable[[], float]
    whole_at: dict[str, float] = field(default_factory=dict)  # by owner: his bucket is full then
    paces: dict[str, tuple[float, float]] = field(default_factory=dict)  # (renders/s, when)

    def rate(self, owner: str, limits: OwnerLimits) -> Rate | None:
        """What is left of the owner's orders; None without a limit."""
        per_min = limits.submits_per_min
        if not per_min:
            return None
        missing_s = max(self.whole_at.get(owner, 0.0) - self.now(), 0.0)
        left = math.floor((WINDOW_S - missing_s) * per_min / WINDOW_S + 1e-9)
        return Rate(per_min, max(left, 0), missing_s)

    def next_whole_at(self, owner: str, limits: OwnerLimits) -> float:
        """When it would be whole again after one more order. Raises RateExceeded."""
        now = self.now()
        each_s = WINDOW_S / limits.submits_per_min if limits.submits_per_min else 0.0
        whole_at = max(self.whole_at.get(owner, 0.0), now) + each_s
        if limits.submits_per_min and whole_at > now + WINDOW_S:
            raise too_often(whole_at - now - WINDOW_S, self.rate(owner, limits))
        return whole_at

    def drained_in_s(self, name: str, renders: float) -> float | None:
        """Until so many renders have left that queue; None: nothing leaves it."""
        pace = self._pace(name)
        return renders / pace if pace else None

    def quicken(self, name: str) -> None:
        self.paces[name] = self._pace(name) + 1 / PACE_S, self.now()

    def _pace(self, name: str) -> float:
        rate, at = self.paces.get(name, (0.0, 0.0))
        return rate * math.exp((at - self.now()) / PACE_S)
