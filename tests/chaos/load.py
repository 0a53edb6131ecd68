"""Clients of the farm: they order by plan, cancel, and look at every job until it is final.

What they were told is written down: it is the only evidence of what the farm owes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx2

from tests.chaos.farm import ChaosFarm
from tests.chaos.plan import PlannedOrder

ATTEMPT_S = 60.0  # how long a client with an Idempotency-Key insists
Image = tuple[str, int, str | None]  # status, attempt, sha256


@dataclass(slots=True)
class Accepted:
    """A job that was answered 202 or 200, and everything that was seen of it."""

    job_id: str
    order: PlannedOrder
    cancel_asked: bool = False
    statuses: list[str] = field(default_factory=list)
    images: list[tuple[Image, ...]] = field(default_factory=list)
    final: dict[str, Any] | None = None

    def see(self, job: dict[str, Any]) -> None:
        images = tuple((i["status"], i["attempt"], i["sha256"]) for i in job["images"])
        if not self.images or self.images[-1] != images or self.statuses[-1] != job["status"]:
            self.statuses.append(job["status"])
            self.images.append(images)
        self.final = job if job["done"] else None


class Load:
    """`run` returns when every order of the plan was sent; `settle` when all jobs are final."""

    def __init__(self, farm: ChaosFarm, **always: Any) -> None:
        """`always`: what every order says besides."""
        self._farm = farm
        self._always = always
        self._lock = threading.Lock()
        self._sent = threading.Event()
        self._stopped = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="watcher")
        self.accepted: dict[str, Accepted] = {}
        self.refused = 0  # not taken, and the client was told so or gave up
        self.replayed = 0
        self.double_ids: list[tuple[int, str]] = []  # an Idempotency-Key with a second job
        self.odd: list[str] = []  # answers that no client should ever get

    def run(self, orders: tuple[PlannedOrder, ...]) -> None:
        self._watcher.start()
        started = time.monotonic()
        with ThreadPoolExecutor(8, thread_name_prefix="client") as clients:
            for order in orders:
                self._stopped.wait(max(0.0, started + order.at_s - time.monotonic()))
                clients.submit(self._guarded, order)

    def settle(self, limit_s: float) -> list[Accepted]:
        """The jobs that are not final at the limit. The last look at each is a second one."""
        end = time.monotonic() + limit_s
        while self._open() and time.monotonic() < end:
            self._stopped.wait(0.1)
        self._stopped.set()
        self._watcher.join()
        for job in self.accepted.values():
            self._look(job)
        return self._open()

    def _open(self) -> list[Accepted]:
        with self._lock:
            return [job for job in self.accepted.values() if job.final is None]

    def _guarded(self, order: PlannedOrder) -> None:
        try:
            self._send(order)
        except Exception as error:
            self.odd.append(f"client of order {order.number}: {error!r}")

    def _send(self, order: PlannedOrder) -> None:
        headers = {"Idempotency-Key": f"order-{order.number}"} if order.retried else {}
        body = order.body | self._always
        answer = self._call(
            lambda api: self._farm.call(
                "POST", "/jobs", api=api, owner=order.owner, json=body, headers=headers
            ),
            ATTEMPT_S if order.retried else 0.0,
            first_api=order.number,
        )
        if answer is None:
            self.refused += 1
            return
        if answer.status_code not in (200, 202):
            self.odd.append(f"POST {answer.status_code}: {answer.text[:200]}")
            return
        self.replayed += "idempotent-replayed" in answer.headers
        job = Accepted(answer.json()["id"], order)
        job.see(answer.json())
        with self._lock:
            self.accepted[job.job_id] = job
        if order.cancel_after_s is not None:
            self._stopped.wait(order.cancel_after_s)
            self._cancel(job)

    def _cancel(self, job: Accepted) -> None:
        path = f"/jobs/{job.job_id}/cancel"
        job.cancel_asked = True
        self._call(lambda api: self._farm.call("POST", path, api=api, owner=job.order.owner), 30.0)

    def _call(
        self, ask: Callable[[int], httpx2.Response], patience_s: float, first_api: int = 0
    ) -> httpx2.Response | None:
        """The first answer that is not `try again`, from one API after the other."""
        end = time.monotonic() + patience_s
        api = first_api
        while True:
            try:
                answer = ask(api % 2)
                if answer.status_code != 503:
                    if answer.status_code >= 500:
                        self.odd.append(f"{answer.status_code}: {answer.text[:200]}")
                    return answer
                if "retry-after" not in answer.headers:
                    self.odd.append("a 503 without Retry-After")
            except httpx2.TransportError:
                pass
            if time.monotonic() > end:
                return None
            api += 1
            self._stopped.wait(0.1)

    def _watch(self) -> None:
        while not self._stopped.is_set():
            for job in self._open():
                if self._stopped.is_set():
                    break
                self._look(job, patience_s=0.0)
            self._stopped.wait(0.05)

    def _look(self, job: Accepted, patience_s: float = 30.0) -> None:
        path = f"/jobs/{job.job_id}"
        answer = self._call(
            lambda api: self._farm.call("GET", path, api=api, owner=job.order.owner), patience_s
        )
        if answer is None:
            return
        if answer.status_code != 200:
            self.odd.append(f"GET {path}: {answer.status_code} {answer.text[:200]}")
            return
        with self._lock:
            job.see(answer.json())
