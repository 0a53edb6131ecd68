"""Processes change one by one under load: nothing is lost, and nobody sees a fault."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from ulid import ULID

from deploy.embedded import EmbeddedRedis
from tests.e2e.parts import Part, Parts
from tests.waiting import wait_until

ORDER = {"size": "64x64", "steps": 4, "prompt": "a lighthouse at dusk"}


class FakeBalancer:
    """A client before several API processes: it retries what a client may, on the next process.

    `statuses` holds every answer; an answer of 5xx other than 503 with Retry-After is a fault.
    """

    def __init__(self) -> None:
        self.urls: tuple[str, ...] = ()
        self.accepted: list[str] = []
        self.statuses: list[int] = []
        self.faults: list[str] = []
        self._turn = itertools.count()

    def send(self, method: str, path: str, **given: Any) -> httpx2.Response:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            urls = self.urls
            url = urls[next(self._turn) % len(urls)]
            try:
                answer = httpx2.request(method, url + path, timeout=30, **given)
            except httpx2.ConnectError:
                continue  # that process is gone; what never connected was not sent
            self.statuses.append(answer.status_code)
            if answer.status_code < 500:
                return answer
            if answer.status_code != 503 or "retry-after" not in answer.headers:
                self.faults.append(answer.text)
        raise AssertionError("nobody took it for a minute")

    def order(self, seed: int) -> None:
        headers = {"Idempotency-Key": str(ULID())}
        answer = self.send("POST", "/jobs", json={**ORDER, "seed": seed}, headers=headers)
        assert answer.status_code in (200, 202), answer.text
        self.accepted.append(answer.json()["id"])

    def done(self, job: str) -> str | None:
        body = self.send("GET", f"/jobs/{job}").json()
        return str(body["status"]) if body["done"] else None


@pytest.fixture
def redis_server_of_its_own(tmp_path: Path) -> Iterator[str]:
    with EmbeddedRedis(tmp_path / "data") as server:
        yield server.url


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_rolling_change_of_workers_and_api_under_load_loses_nothing(
    models: Path, tmp_path: Path, redis_server_of_its_own: str
) -> None:
    settings = {"FARM_API_DRAIN_S": "1", "FARM_DRAIN_S": "10"}
    with Parts(tmp_path / "farm", models, redis_server_of_its_own, **settings) as parts:
        parts.start("chores")
        workers = {name: parts.worker(name) for name in ("w0", "w1")}
        apis = [parts.api(), parts.api()]
        balancer = FakeBalancer()
        balancer.urls = tuple(url for _, url in apis)
        stop = threading.Event()
        threads = [threading.Thread(target=_load, args=(balancer, k, stop)) for k in range(2)]
        for thread in threads:
            thread.start()

        for name, worker in list(workers.items()):  # workers first, as docs/upgrade.md says
            _leave(worker)
            workers[name] = parts.worker(name)
        for k in range(2):
            old, url = apis[k]
            seen = len(balancer.accepted)
            old.terminate()
            new, address = parts.api()
            balancer.urls = (*(u for u in balancer.urls if u != url), address)
            assert old.wait() == 0
            apis[k] = (new, address)
            wait_until(lambda seen=seen: len(balancer.accepted) > seen)
        stop.set()
        for thread in threads:
            thread.join(90)

        assert len(balancer.accepted) > 20
        wait_until(lambda: all(map(balancer.done, balancer.accepted)), 120, "for every job")
        assert {balancer.done(job) for job in balancer.accepted} == {"succeeded"}
        assert balancer.faults == []
        assert 503 in balancer.statuses  # the drain was met, and its answer was good enough


def test_a_leaving_api_process_answers_polls_and_ends_with_0(
    models: Path, tmp_path: Path, redis_server_of_its_own: str
) -> None:
    with Parts(
        tmp_path / "farm", models, redis_server_of_its_own, FARM_API_DRAIN_S="3"
    ) as parts:  # fmt: skip
        api, url = parts.api()
        job = httpx2.post(f"{url}/jobs", json=ORDER).json()["id"]
        api.terminate()
        wait_until(lambda: httpx2.get(f"{url}/readyz").status_code == 503)

        refused = httpx2.post(f"{url}/jobs", json=ORDER)

        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert httpx2.get(f"{url}/jobs/{job}").status_code == 200
        assert api.wait(20) == 0


def test_a_second_sigterm_hurries_the_api(
    models: Path, tmp_path: Path, redis_server_of_its_own: str
) -> None:
    with Parts(
        tmp_path / "farm", models, redis_server_of_its_own, FARM_API_DRAIN_S="300"
    ) as parts:  # fmt: skip
        api, url = parts.api()
        api.terminate()
        wait_until(lambda: httpx2.get(f"{url}/readyz").status_code == 503)

        api.terminate()

        assert api.wait(20) == 0


def _load(balancer: FakeBalancer, part: int, stop: threading.Event) -> None:
    for number in itertools.count():
        if stop.wait(0.1):
            return
        balancer.order(seed=part * 100_000 + number)


def _leave(part: Part) -> None:
    part.terminate()
    assert part.wait() == 0
