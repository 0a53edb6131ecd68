"""What KEDA and the HPA make of a ScaledObject: their arithmetic, so that a rule is tried before it is applied.

KEDA itself decides between none and one: it wakes the first worker when the metric is active, and
takes all away when it was not for `cooldown_s`. From one up the HPA decides: metric / threshold,
rounded up, unless within a tenth of what is there; then the lowest such answer of the window for
growth, the highest of the window for shrinking; then at most so many in so long.

Source: kubernetes/pkg/controller/podautoscaler (horizontal.go, replica_calculator.go),
keda/pkg/scaling/executor/scale_scaledobjects.go. Written after them, and never run beside them.

Of several triggers each proposes a number, and the largest counts; one that is active is enough.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

SYNC_S = 15.0  # --horizontal-pod-autoscaler-sync-period, by default
TOLERANCE = 0.1  # --horizontal-pod-autoscaler-tolerance, by default


@dataclass(slots=True, frozen=True)
class Trigger:
    """One query. `backlog`: device seconds that wait; `busy`: workers that rendered, over `window_s`.

    `threshold` is the value for each worker; above `activation` there is at least one.
    """

    sees: Literal["backlog", "busy"]
    threshold: float
    activation: float
    window_s: float = 0.0

    @classmethod
    def of(cls, trigger: Mapping[str, Any]) -> Trigger:
        """From one of the manifest's. Raises ValueError for any other query."""
        if (trigger["type"], trigger["metricType"]) != ("prometheus", "AverageValue"):
            raise ValueError("only a Prometheus query shared by all workers is understood")
        told = trigger["metadata"]
        values = float(told["threshold"]), float(told.get("activationThreshold", 0))
        for sees, shape in _QUERIES.items():
            if found := shape.fullmatch(told["query"]):
                return cls(sees, *values, window_s=60.0 * int(found.groupdict().get("minutes", 0)))
        raise ValueError(f"this query is not understood: {told['query']}")


_QUERIES: dict[Literal["backlog", "busy"], re.Pattern[str]] = {
    "backlog": re.compile(r"max\(renderfarm_backlog_gpu_seconds\{[^}]*\}\)"),
    "busy": re.compile(
        r"max\(rate\(renderfarm_gpu_seconds_total\{[^}]*\}\[(?P<minutes>\d+)m\]\)\)"
    ),
}


@dataclass(slots=True, frozen=True)
class Pace:
    """How fast one direction goes: after `window_s` of agreement, `pods` at most in `period_s`."""

    window_s: float
    pods: int
    period_s: float

    def faster(self, times: float) -> Pace:
        return Pace(self.window_s / times, self.pods, self.period_s / times)


@dataclass(slots=True, frozen=True)
class Rule:
    """A ScaledObject."""

    triggers: tuple[Trigger, ...]
    least: int
    most: int
    polling_s: float
    cooldown_s: float
    up: Pace
    down: Pace
    sync_s: float = SYNC_S

    @classmethod
    def of(cls, scaled_object: Mapping[str, Any]) -> Rule:
        """From the parsed manifest. Raises ValueError where it says more than is understood here."""
        spec = scaled_object["spec"]
        behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        return cls(
            triggers=tuple(Trigger.of(each) for each in spec["triggers"]),
            least=spec.get("minReplicaCount", 0),
            most=spec["maxReplicaCount"],
            polling_s=spec["pollingInterval"],
            cooldown_s=spec["cooldownPeriod"],
            up=_pace(behavior["scaleUp"]),
            down=_pace(behavior["scaleDown"]),
        )

    def faster(self, times: float) -> Rule:
        """The same rule where everything takes a fraction of the time: backlog, windows, periods."""
        return replace(
            self,
            triggers=tuple(
                replace(
                    each,
                    threshold=each.threshold / (times if each.sees == "backlog" else 1),
                    window_s=each.window_s / times,
                )
                for each in self.triggers
            ),
            up=self.up.faster(times),
            down=self.down.faster(times),
            polling_s=self.polling_s / times,
            cooldown_s=self.cooldown_s / times,
            sync_s=self.sync_s / times,
        )


def _pace(behavior: Mapping[str, Any]) -> Pace:
    (policy,) = behavior["policies"]
    if policy["type"] != "Pods":
        raise ValueError("only policies that count pods are understood")
    return Pace(behavior["stabilizationWindowSeconds"], policy["value"], policy["periodSeconds"])


class Autoscaler:
    """One rule at work. `poll` is KEDA's turn, `sync` the HPA's; both answer how many there should be.

    `values` are what the triggers see, in their order.
    """

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._active_at: float | None = None
        self._wanted: deque[tuple[float, int]] = deque()
        self._changes: deque[tuple[float, int]] = deque()

    def poll(self, now: float, values: Sequence[float], replicas: int) -> int:
        """Every `polling_s`."""
        rule = self._rule
        if any(value > each.activation for value, each in zip(values, rule.triggers, strict=True)):
            self._active_at = now
            return replicas or max(1, rule.least)
        cooled = self._active_at is None or self._active_at + rule.cooldown_s < now
        return 0 if cooled and rule.least == 0 else max(replicas, rule.least)

    def sync(self, now: float, values: Sequence[float], replicas: int) -> int:
        """Every `sync_s`. None stay none: only KEDA wakes the first."""
        if not replicas:
            return 0
        if not self._wanted:
            self._wanted.append((now, replicas))
        steady = self._steadied(now, self._desired(values, replicas), replicas)
        allowed = self._paced(now, steady, replicas)
        if allowed != replicas:
            self._changes.append((now, allowed - replicas))
        return allowed

    def _desired(self, values: Sequence[float], replicas: int) -> int:
        shares = [v / each.threshold for v, each in zip(values, self._rule.triggers, strict=True)]
        return max(
            replicas if abs(1 - needed / replicas) <= TOLERANCE else math.ceil(needed)
            for needed in shares
        )

    def _steadied(self, now: float, desired: int, replicas: int) -> int:
        """Grow to the lowest answer of the one window, shrink to the highest of the other."""
        up, down = self._rule.up, self._rule.down
        lowest = min([desired, *(n for at, n in self._wanted if at > now - up.window_s)])
        highest = max([desired, *(n for at, n in self._wanted if at > now - down.window_s)])
        self._wanted.append((now, desired))
        while self._wanted[0][0] < now - max(up.window_s, down.window_s):
            self._wanted.popleft()
        return min(max(replicas, lowest), highest)

    def _paced(self, now: float, steady: int, replicas: int) -> int:
        rule = self._rule
        if steady > replicas:
            ceiling = replicas - self._changed(now, rule.up) + rule.up.pods
            return max(replicas, min(steady, ceiling, rule.most))
        floor = replicas - self._changed(now, rule.down) - rule.down.pods
        return min(replicas, max(steady, floor, rule.least, 1))

    def _changed(self, now: float, pace: Pace) -> int:
        """Workers more, or fewer, since the period began."""
        return sum(count for at, count in self._changes if at > now - pace.period_s)
