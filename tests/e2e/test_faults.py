"""What a user sees when parts of the farm die: seconds are lost, never a job."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil
import pytest
import redis

from tests.e2e.farm import LONG, QUICK, RunningFarm
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def own(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    """A farm of one worker that tests may hurt: what they kill comes back by itself."""
    folder = tmp_path_factory.mktemp("hurt")
    with RunningFarm(folder, models, FARM_LEASE_S="4") as running:
        yield running


def test_a_worker_killed_in_mid_render_costs_seconds_and_no_job(own: RunningFarm) -> None:
    job = own.submit(**LONG, seed=1000)
    wait_until(lambda: own.job(job["id"])["images"][0]["progress"]["step"] > 5)

    own.part("cli.main", "worker").kill()
    wait_until(lambda: own.job(job["id"])["images"][0]["status"] == "queued", 10.0)

    done = own.wait(job["id"])
    assert (done["status"], done["images"][0]["attempt"]) == ("succeeded", 2)
    assert len(own.stored(done)) == 1


def test_everything_killed_at_once_and_started_again_finishes_every_job(own: RunningFarm) -> None:
    running = own.submit(**LONG, seed=2000)
    queued = [own.submit(seed=seed)["id"] for seed in range(2010, 2020)]
    wait_until(lambda: own.job(running["id"])["images"][0]["progress"]["step"] > 2)

    own.kill_everything()
    own.start()

    done = [own.wait(job_id) for job_id in (running["id"], *queued)]
    assert {job["status"] for job in done} == {"succeeded"}
    assert own.metric("renderfarm_leases") == 0


def test_redis_killed_under_load_loses_nothing_that_was_answered_202(own: RunningFarm) -> None:
    accepted: list[str] = []
    for seed in range(60):
        if seed in (15, 40):
            own.redis().kill()
        try:
            answer = own.post({**QUICK, "seed": 3000 + seed})
        except httpx2.TransportError:
            continue
        if answer.status_code == 202:
            accepted.append(answer.json()["id"])
        else:
            assert answer.status_code in (200, 503), answer.text
            assert answer.status_code == 200 or answer.headers["retry-after"]

    assert len(accepted) > 40
    assert {own.wait(job_id)["status"] for job_id in accepted} == {"succeeded"}


def test_after_an_emptied_redis_the_stored_picture_answers(own: RunningFarm) -> None:
    job = own.wait(own.submit(seed=4000)["id"])
    before = own.picture(job)
    conf = (own.folder / "redis" / "redis.conf").read_text()
    kept = dict(line.split(" ", 1) for line in conf.splitlines())
    with redis.Redis(port=int(kept["port"]), password=kept["requirepass"]) as client:
        client.flushall()

    again = own.wait(own.submit(seed=4000)["id"])

    assert (again["cached"], again["status"]) == (True, "succeeded")
    assert own.picture(again) == before
    assert (own.total("found"), own.metric("renderfarm_store_total")) >= (1, 1)
    assert len(own.stored(again)) == 1


def test_a_terminated_worker_finishes_its_render_and_leaves_in_order(own: RunningFarm) -> None:
    job = own.submit(**{**LONG, "steps": 30}, seed=5000)
    wait_until(lambda: own.job(job["id"])["images"][0]["progress"]["step"] > 2)
    worker, before = own.part("cli.main", "worker"), len(exit_codes(own))

    worker.terminate()

    done = own.wait(job["id"])
    assert (done["status"], done["images"][0]["attempt"]) == ("succeeded", 1)
    wait_until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)
    assert exit_codes(own)[before:] == [0]


def exit_codes(farm: RunningFarm) -> list[int]:
    return [line["exit_code"] for line in farm.logs("worker") if line.get("action") == "stopped"]


@pytest.mark.slow  # a drain that is out of grace, in tests/integration, goes the same way
def test_a_worker_out_of_grace_gives_its_render_back_uncounted(
    models: Path, tmp_path: Path
) -> None:
    with RunningFarm(tmp_path / "farm", models, FARM_DRAIN_S="0.2") as farm:
        job = farm.submit(**LONG, seed=6000)
        wait_until(lambda: farm.job(job["id"])["images"][0]["progress"]["step"] > 2)

        farm.part("cli.main", "worker").terminate()

        done = farm.wait(job["id"])
        assert (done["status"], done["images"][0]["attempt"]) == ("succeeded", 2)
        assert any(line["action"] == "given_back" for line in farm.logs("worker"))
        assert farm.total("lost") == 0
