"""A real farm whose workers come and go by a scaling rule, as KEDA and the HPA would do it in a cluster."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx2

from deploy.scaling import Autoscaler, Rule, Trigger
from tests.e2e.parts import Part, Parts

SERIES = {"backlog": "renderfarm_backlog_gpu_seconds", "busy": "renderfarm_gpu_seconds_total"}
ORDER = {"prompt": "a lighthouse at dusk", "size": "64x64", "steps": 8}


@dataclass(slots=True, frozen=True)
class Sample:
    """What the rule saw, and how many workers it then wanted; `alive` are there, draining ones too."""

    at_s: float
    backlog_s: float
    busy: float
    workers: int
    alive: int


class ScaledFarm:
    """Reads the API's own metrics page, asks the rule, starts and terminates worker processes.

    `http` is closed by whoever opened it.
    """

    def __init__(self, parts: Parts, rule: Rule, http: httpx2.Client) -> None:
        self._parts, self._rule, self._scaler = parts, rule, Autoscaler(rule)
        self._rendered: deque[tuple[float, float]] = deque()
        self._begun = time.monotonic()
        self.staying: list[Part] = []
        self.started: list[Part] = []
        self.samples: list[Sample] = []
        _, url = parts.api()
        self._http = http
        http.base_url = url
        parts.start("chores")

    def order(self, seed: int) -> str:
        answer = self._http.post("/jobs", json={**ORDER, "seed": seed})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        return dict(self._http.get(f"/jobs/{job_id}").json())

    def run(self, until: Callable[[], bool], limit_s: float) -> None:
        """One turn of KEDA and of the HPA every `sync_s`, until the condition holds."""
        end = time.monotonic() + limit_s
        while not until():
            assert time.monotonic() < end, f"in vain; the last of it: {self.samples[-20:]}"
            time.sleep(self._rule.sync_s)  # an autoscaler has no other clock
            self._turn(time.monotonic())

    def table(self, every: int) -> str:
        rows = ["seconds  backlog s  busy  workers"]
        rows += [
            f"{s.at_s:7.1f}  {s.backlog_s:9.1f}  {s.busy:4.1f}  {'#' * s.workers}{'-' * (s.alive - s.workers)}"
            for s in self.samples[::every]
        ]
        return "\n".join(rows)

    def metric(self, name: str, labels: str) -> float:
        return _metric(self._http.get("/metrics").text, name, labels)

    def _turn(self, now: float) -> None:
        page = self._http.get("/metrics").text
        values = [self._value(page, each, now) for each in self._rule.triggers]
        for turn in (self._scaler.poll, self._scaler.sync):
            self._set(turn(now, values, len(self.staying)))
        seen = dict(zip((each.sees for each in self._rule.triggers), values, strict=True))
        alive = sum(part.alive for part in self.started)
        self.samples.append(
            Sample(now - self._begun, seen["backlog"], seen["busy"], len(self.staying), alive)
        )

    def _value(self, page: str, trigger: Trigger, now: float) -> float:
        value = _metric(page, SERIES[trigger.sees], 'model="tiny"')
        return value if trigger.sees == "backlog" else self._rate(value, now, trigger.window_s)

    def _rate(self, total: float, now: float, window_s: float) -> float:
        """As PromQL's rate: the growth over the window, a second."""
        self._rendered.append((now, total))
        while self._rendered[0][0] < now - window_s:
            self._rendered.popleft()
        return (total - self._rendered[0][1]) / window_s

    def _set(self, wanted: int) -> None:
        for _ in range(wanted - len(self.staying)):
            part = self._parts.start("worker", "--name", f"scaled-{len(self.started)}")
            self.staying.append(part)
            self.started.append(part)
        for part in self.staying[wanted:]:
            part.terminate()
        del self.staying[wanted:]


def _metric(page: str, name: str, labels: str) -> float:
    found = re.search(rf"^{name}{{{labels}}} (\S+)$", page, re.MULTILINE)
    assert found, f"no {name} in {page}"
    return float(found[1])
