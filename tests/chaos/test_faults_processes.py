"""A part of the farm is killed, stopped or hung: what is given back, and how soon."""

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
seeds = itertools.count(2000, 10)  # room for the images of one job


def attempt(farm: ChaosFarm, job_id: str) -> int:
    return int(farm.job(job_id)["images"][0]["attempt"])


def test_a_killed_workers_render_is_given_back_within_a_second(farm: ChaosFarm) -> None:
    farm.submit(seed=next(seeds), **LONG)
    held = KEYS["slot"] + farm.name_of(farm.holder())
    client = farm.redis()

    farm.holder().kill()
    started = time.monotonic()
    wait_until(lambda: not client.exists(held), 10.0)

    assert time.monotonic() - started < 1.0


def test_the_render_of_a_host_that_is_gone_is_given_back_when_its_lease_ends(
    farm: ChaosFarm,
) -> None:
    job = farm.submit(seed=next(seeds), **LONG)
    worker = farm.holder()
    both = (worker, farm.keeper(farm.name_of(worker)))
    freeze(*both)
    try:
        started = time.monotonic()
        wait_until(lambda: attempt(farm, job["id"]) == 2, 15.0)
        took_s = time.monotonic() - started
        assert farm.finished(job["id"])["status"] == "succeeded"  # before the zombie wakes up
    finally:
        thaw(*both)

    assert took_s < 2.0 + 3.0  # the lease, and a turn of the chores with room


def test_a_worker_that_hangs_keeps_its_render_while_its_keeper_lives(farm: ChaosFarm) -> None:
    job = farm.submit(seed=next(seeds), **LONG)
    worker = farm.holder()
    renewed = farm.wire.seen["renew"]
    freeze(worker)
    try:  # ten beats of the keeper are two leases and a half
        wait_until(lambda: farm.wire.seen["renew"] >= renewed + 10, 30.0)
    finally:
        thaw(worker)

    assert farm.finished(job["id"])["images"][0]["attempt"] == 1


def test_jobs_wait_for_chores_no_longer_than_it_takes_to_start_them(farm: ChaosFarm) -> None:
    for name in farm.names("chores"):
        farm.part(name).kill()

    job = farm.submit(seed=next(seeds), deadline_s=1, **LONG, n=10)

    assert farm.finished(job["id"])["status"] in ("expired", "succeeded")


def test_every_api_killed_at_once_is_back_with_every_job(farm: ChaosFarm) -> None:
    jobs = [farm.submit(seed=next(seeds))["id"] for _ in range(5)]

    for name in farm.names("api"):
        farm.part(name).kill()

    assert {farm.finished(job)["status"] for job in jobs} == {"succeeded"}


def test_a_rolling_change_of_every_part_under_load_loses_nothing(farm: ChaosFarm) -> None:
    jobs = []
    for name in (*farm.names("worker"), *farm.names("api"), *farm.names("chores")):
        jobs += [farm.submit(seed=next(seeds))["id"] for _ in range(3)]
        old = farm.part(name)
        old.terminate()
        wait_until(lambda n=name, p=old: farm.part(n) != p, 30.0, name)
    wait_until(farm.ready, 60.0)

    done = [farm.finished(job) for job in jobs]
    assert {job["status"] for job in done} == {"succeeded"}
    assert {image["attempt"] for job in done for image in job["images"]} == {1}
