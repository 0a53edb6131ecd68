"""Redis away, silent, full or behind a bad line: orders are refused politely, none is lost."""

from __future__ import annotations

import itertools
import time

import pytest

from shared.keys import KEYS
from tests.chaos.farm import ChaosFarm, freeze, thaw
from tests.waiting import wait_until

pytestmark = (
    pytest.mark.slow
)  # each named fault: `make slow`; all at once, for a minute: `make test`

LONG = {"steps": 100, "size": "512x512"}  # seconds
seeds = itertools.count(3000, 10)  # room for the images of one job


def started(farm: ChaosFarm, images: int = 4) -> str:
    """A job that runs now."""
    job = farm.submit(seed=next(seeds), **LONG, n=images)
    farm.holder()
    return str(job["id"])


def consumers(farm: ChaosFarm) -> int:
    """Connections on which a worker waits for tickets."""
    return sum(client["cmd"] == "brpop" for client in farm.redis().client_list())


def test_a_server_frozen_for_longer_than_a_lease_costs_time_only(farm: ChaosFarm) -> None:
    job = started(farm)
    freeze(farm.redis_process)
    try:
        answer = farm.call("POST", "/jobs", json={"prompt": "refused"})
        assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
    finally:
        thaw(farm.redis_process)

    assert farm.finished(job)["status"] == "succeeded"


def test_a_server_killed_and_started_again_goes_on_where_it_was(farm: ChaosFarm) -> None:
    job = started(farm)

    farm.redis_process.kill()
    farm.revive_redis()

    assert farm.finished(job)["status"] == "succeeded"


def test_workers_come_back_within_seconds_of_a_server_that_was_away_for_long(
    farm: ChaosFarm,
) -> None:
    away_until = time.monotonic() + 7.0
    farm.redis_process.kill()
    # Celery by itself would try after 2 s, 6 s and 12 s, and in the end every 30 s.
    wait_until(lambda: time.monotonic() > away_until, 20.0)
    farm.revive_redis()
    started_at = time.monotonic()

    farm.finished(farm.submit(seed=next(seeds))["id"])

    assert time.monotonic() - started_at < 3.0


def test_a_full_server_refuses_orders_and_finishes_what_it_has(farm: ChaosFarm) -> None:
    job = started(farm)
    client = farm.redis()
    client.config_set("maxmemory", 1)
    try:
        answer = farm.call("POST", "/jobs", json={"prompt": "refused"})
        assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
        assert farm.job(job)["id"] == job
    finally:
        client.config_set("maxmemory", 0)

    assert farm.finished(job)["status"] == "succeeded"


def test_every_connection_reset_at_once_again_and_again_costs_no_attempt(farm: ChaosFarm) -> None:
    wait_until(lambda: consumers(farm) == len(farm.names("worker")))
    job = started(farm)

    for _ in range(5):  # each time while workers render and keepers renew again
        renewed, links = farm.wire.seen["renew"], set(farm.wire.links)
        farm.wire.cut()
        assert links
        wait_until(lambda old=links: not old & farm.wire.links)
        wait_until(lambda n=renewed: farm.wire.seen["renew"] > n)

    assert {image["attempt"] for image in farm.finished(job)["images"]} == {1}
    wait_until(lambda: consumers(farm) == len(farm.names("worker")))


def test_clients_killed_by_the_server_come_back_and_consume(farm: ChaosFarm) -> None:
    for _ in range(3):
        farm.redis().client_kill_filter(_type="normal", skipme=True)

    jobs = [farm.submit(seed=next(seeds))["id"] for _ in range(6)]

    assert {farm.finished(job)["status"] for job in jobs} == {"succeeded"}


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "in mid render"])
def test_workers_behind_half_open_connections_notice_and_consume_again(
    farm: ChaosFarm, busy: bool
) -> None:
    """With kombu's own options a worker is deaf for 26 to 51 s here, before kombu 5.7 for good."""
    wait_until(lambda: consumers(farm) == len(farm.names("worker")))
    job = started(farm) if busy else None
    deaf_at = time.monotonic()

    farm.wire.go_deaf()

    if job:
        assert farm.finished(job)["status"] == "succeeded"
    later = [farm.submit(seed=next(seeds))["id"] for _ in range(6)]
    assert {farm.finished(each)["status"] for each in later} == {"succeeded"}
    assert time.monotonic() - deaf_at < 25.0


def test_tickets_that_vanish_are_made_again(farm: ChaosFarm) -> None:
    """A worker is killed with the ticket in hand: Celery pops a message before it notes it."""
    workers = [farm.part(name) for name in farm.names("worker")]
    freeze(*workers)  # Redis hands tickets to their connections, and nobody reads them
    jobs = [farm.submit(seed=next(seeds))["id"] for _ in range(4)]
    client = farm.redis()
    client.delete(*client.scan_iter(KEYS["queue"] + "*"))

    for worker in workers:
        worker.kill()

    assert {farm.finished(job)["status"] for job in jobs} == {"succeeded"}
