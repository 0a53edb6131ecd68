"""What KEDA and the HPA make of a ScaledObject: their arithmetic, so that a rule is tried before it is applied.

KEDA itself decides between none and one: it wakes the first worker when the metric is active, and
takes all away when it was not for `cooldown_s`. From one up the HPA decides: metric / threshold,
rounded up, unless within a tenth of what is there; then the lowest such answer of the window for
growth, the highest of the window for shrinking; then at most so many in so long.

Source: kubernetes/pkg/controller/podautoscaler (horizontal.go, replica_calculator.go),
keda/pkg/scaling/executor/scale_scaledobjects.go. Written after them, and never run beside them.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

SYNC_S = 15.0  # --horizontal-pod-autoscaler-sync-period, by default
TOLERANCE = 0.1  # --horizontal-pod-autoscaler-tolerance, by default


@dataclass(slots=True, frozen=True)
class Pace:
    """How fast one direction goes: after `window_s` of agreement, `pods` at most in `period_s`."""

    window_s: float
    pods: int
    period_s: float


@dataclass(slots=True, frozen=True)
class Rule:
    """A ScaledObject with one trigger. `threshold_s`: backlog for each worker, device seconds."""

    threshold_s: float
    activation_s: float
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
        (trigger,) = spec["triggers"]
        if (trigger["type"], trigger["metricType"]) != ("prometheus", "AverageValue"):
            raise ValueError("only a Prometheus query shared by all workers is understood")
        behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        return cls(
            threshold_s=float(trigger["metadata"]["threshold"]),
            activation_s=float(trigger["metadata"].get("activationThreshold", 0)),
            least=spec.get("minReplicaCount", 0),
            most=spec["maxReplicaCount"],
            polling_s=spec["pollingInterval"],
            cooldown_s=spec["cooldownPeriod"],
            up=_pace(behavior["scaleUp"]),
            down=_pace(behavior["scaleDown"]),
        )

    def faster(self, times: float) -> Rule:
        """The same rule where everything takes a fraction of the time: backlog, windows, periods."""
        seconds = [each.name for each in fields(self) if each.name.endswith("_s")]
        return replace(
            self,
            up=Pace(self.up.window_s / times, self.up.pods, self.up.period_s / times),
            down=Pace(self.down.window_s / times, self.down.pods, self.down.period_s / times),
            **{name: getattr(self, name) / times for name in seconds},
        )


def _pace(behavior: Mapping[str, Any]) -> Pace:
    (policy,) = behavior["policies"]
    if policy["type"] != "Pods":
        raise ValueError("only policies that count pods are understood")
    return Pace(behavior["stabilizationWindowSeconds"], policy["value"], policy["periodSeconds"])


class Autoscaler:
    """One rule at work. `poll` is KEDA's turn, `sync` the HPA's; both answer how many there should be."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._active_at: float | None = None
        self._wanted: deque[tuple[float, int]] = deque()
        self._changes: deque[tuple[float, int]] = deque()

    def poll(self, now: float, backlog_s: float, replicas: int) -> int:
        """Every `polling_s`."""
        rule = self._rule
        if backlog_s > rule.activation_s:
            self._active_at = now
            return replicas or max(1, rule.least)
        cooled = self._active_at is None or self._active_at + rule.cooldown_s < now
        return 0 if cooled and rule.least == 0 else max(replicas, rule.least)

    def sync(self, now: float, backlog_s: float, replicas: int) -> int:
        """Every `sync_s`. None stay none: only KEDA wakes the first."""
        if not replicas:
            return 0
        if not self._wanted:
            self._wanted.append((now, replicas))
        steady = self._steadied(now, self._desired(backlog_s, replicas), replicas)
        allowed = self._paced(now, steady, replicas)
        if allowed != replicas:
            self._changes.append((now, allowed - replicas))
        return allowed

    def _desired(self, backlog_s: float, replicas: int) -> int:
        needed = backlog_s / self._rule.threshold_s
        return replicas if abs(1 - needed / replicas) <= TOLERANCE else math.ceil(needed)

    def _steadied(self, now: float, desired: int, replicas: int) -> int:
        """Grow to the lowest answer of the one window, shrink to the highest of the other."""
        up, down = self._rule.up, self._rule.down
        lowest = min([desired, *(n for at, n in self._wanted if at > now - up.window_s)])
        highest = max([desired, *(n for at, n in self._wanted if at > now - down.window_s)])
        self._wanted.append((now, desired))
        while self._wanted[0][0] <= now - max(up.window_s, down.window_s):
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
