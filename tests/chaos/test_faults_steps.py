"""A process killed, or cut off, between any two steps of its work: seconds are lost, never a job.

`before`: Redis never saw the request. `after`: Redis executed it, and the process never knew.
"""

from __future__ import annotations

import itertools
import time
from typing import Any

import psutil
import pytest

from shared.keys import KEYS
from tests.chaos.farm import ChaosFarm, freeze, thaw
from tests.chaos.redis_wire import Strike, When
from tests.waiting import wait_until

pytestmark = (
    pytest.mark.slow
)  # each named fault: `make slow`; all at once, for a minute: `make test`

LONG = {"steps": 100, "size": "512x512"}  # seconds
EVERY_WAY = [(when, deed) for when in ("before", "after") for deed in ("kill", "cut")]
seeds = itertools.count(1000, 10)  # room for the images of one job


def kill(process: psutil.Process) -> None:
    process.kill()


def armed(farm: ChaosFarm, script: str, when: When, deed: str) -> Strike:
    return farm.wire.arm(Strike(script, when, kill if deed == "kill" else None))


def succeeded(farm: ChaosFarm, job: dict[str, Any]) -> dict[str, Any]:
    done = farm.finished(job["id"])
    assert (done["status"], done["error"]) == ("succeeded", None)
    return done


@pytest.mark.parametrize(("when", "deed"), EVERY_WAY)
def test_an_api_struck_while_it_submits_takes_the_order_once(
    farm: ChaosFarm, when: When, deed: str
) -> None:
    strike = armed(farm, "submit", when, deed)

    job = farm.submit(seed=next(seeds), metadata={"order": f"{when} {deed}"}, n=2)

    assert strike.struck.is_set()
    succeeded(farm, job)  # that it is the only one of this order is told by the books


@pytest.mark.parametrize(("when", "deed"), EVERY_WAY)
def test_an_api_struck_while_it_cancels_cancels_once(
    farm: ChaosFarm, when: When, deed: str
) -> None:
    strike = armed(farm, "cancel", when, deed)
    freeze(*(workers := [farm.part(name) for name in farm.names("worker")]))
    try:  # nothing runs: the first cancel that is executed finishes the job
        job = farm.submit(seed=next(seeds), n=4)
        told = farm.insist("POST", f"/jobs/{job['id']}/cancel")
    finally:
        thaw(*workers)

    assert strike.struck.is_set()
    assert told["status"] == "canceled"


@pytest.mark.parametrize("script", ["claim", "storing", "close"])
@pytest.mark.parametrize(("when", "deed"), EVERY_WAY)
def test_a_worker_struck_at_a_step_of_its_render_finishes_or_loses_it_to_another(
    farm: ChaosFarm, script: str, when: When, deed: str
) -> None:
    strike = armed(farm, script, when, deed)

    job = farm.submit(seed=next(seeds))

    assert strike.struck.wait(30)
    done = succeeded(farm, job)
    if deed == "cut":  # the same step is asked again, and has its effect once
        assert done["images"][0]["attempt"] == 1


def test_a_claim_that_its_worker_never_heard_of_is_given_back_within_a_second(
    farm: ChaosFarm,
) -> None:
    client = farm.redis()
    lost = int(client.hget(KEYS["totals"], "lost") or 0)
    strike = armed(farm, "claim", "after", "kill")
    job = farm.submit(seed=next(seeds))
    assert strike.struck.wait(30)
    struck_at = time.monotonic()

    wait_until(lambda: int(client.hget(KEYS["totals"], "lost") or 0) > lost)

    assert time.monotonic() - struck_at < 1.0  # and the lease is of two
    assert succeeded(farm, job)["images"][0]["attempt"] == 2


@pytest.mark.parametrize(("when", "deed"), EVERY_WAY)
def test_a_keeper_struck_while_it_renews_costs_its_worker_nothing(
    farm: ChaosFarm, when: When, deed: str
) -> None:
    job = farm.submit(seed=next(seeds), **LONG, n=4)

    strike = armed(farm, "renew", when, deed)

    assert strike.struck.wait(30)
    assert {image["attempt"] for image in succeeded(farm, job)["images"]} == {1}


@pytest.mark.parametrize(("when", "deed"), EVERY_WAY)
def test_a_keeper_struck_while_it_gives_back_leaves_the_render_to_the_lease(
    farm: ChaosFarm, when: When, deed: str
) -> None:
    strike = armed(farm, "release", when, deed)
    job = farm.submit(seed=next(seeds), **LONG)

    farm.holder().kill()

    assert strike.struck.wait(30)
    assert succeeded(farm, job)["images"][0]["attempt"] == 2


@pytest.mark.parametrize(("when", "deed"), EVERY_WAY)
def test_a_worker_struck_while_it_adopts_its_slot_starts_again(
    farm: ChaosFarm, when: When, deed: str
) -> None:
    strike = armed(farm, "adopt", when, deed)
    job = farm.submit(seed=next(seeds), **LONG)

    worker = farm.holder()
    farm.keeper(farm.name_of(worker)).kill()
    worker.kill()

    assert strike.struck.wait(60)
    assert succeeded(farm, job)["images"][0]["attempt"] == 2


@pytest.mark.parametrize("script", ["reap", "expire", "reconcile"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_chores_killed_at_their_work_are_no_loss(farm: ChaosFarm, script: str, when: When) -> None:
    strike = armed(farm, script, when, "kill")
    assert strike.struck.wait(30)

    job = farm.submit(seed=next(seeds))

    succeeded(farm, job)
