"""What a user sees when parts of the farm die: seconds are lost, never a job."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil
import pytest
import redis

from tests.e2e.farm import LONG, QUICK, RunningFarm
from tests.waiting import wait_until


@pytest.fixture
def own(models: Path, tmp_path: Path) -> Iterator[RunningFarm]:
    """A farm that the test may hurt."""
    with RunningFarm(tmp_path / "farm", models, FARM_LEASE_S="4") as running:
        yield running


def test_a_worker_killed_in_mid_render_costs_seconds_and_no_job(own: RunningFarm) -> None:
    job = own.submit(**LONG, seed=1)
    wait_until(lambda: own.job(job["id"])["images"][0]["progress"]["step"] > 5)

    own.part("cli.main", "worker").kill()
    wait_until(lambda: own.job(job["id"])["images"][0]["status"] == "queued", 3.0)

    done = own.wait(job["id"])
    assert (done["status"], done["images"][0]["attempt"]) == ("succeeded", 2)
    assert len(list((own.folder / "results").rglob("*.png"))) == 1


def test_everything_killed_at_once_and_started_again_finishes_every_job(own: RunningFarm) -> None:
    running = own.submit(**LONG, seed=1)
    queued = [own.submit(seed=seed)["id"] for seed in range(10, 20)]
    wait_until(lambda: own.job(running["id"])["images"][0]["progress"]["step"] > 2)

    own.kill_everything()
    own.start()

    done = [own.wait(job_id) for job_id in (running["id"], *queued)]
    assert {job["status"] for job in done} == {"succeeded"}
    assert own.metric("renderfarm_leases") == 0


def test_a_second_start_finds_earlier_jobs_and_pictures(own: RunningFarm) -> None:
    job = own.wait(own.submit(seed=1)["id"])
    picture = own.picture(job)

    assert own.stop() == 0
    own.start()

    again = own.job(job["id"])
    assert again["status"] == "succeeded"
    assert own.picture(again) == picture


def test_redis_killed_under_load_loses_nothing_that_was_answered_202(own: RunningFarm) -> None:
    accepted: list[str] = []
    for seed in range(60):
        if seed in (15, 40):
            own.redis().kill()
        try:
            answer = own.post({**QUICK, "seed": seed})
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
    job = own.wait(own.submit(seed=1)["id"])
    before = own.picture(job)
    conf = (own.folder / "redis" / "redis.conf").read_text()
    kept = dict(line.split(" ", 1) for line in conf.splitlines())
    with redis.Redis(port=int(kept["port"]), password=kept["requirepass"]) as client:
        client.flushall()

    again = own.wait(own.submit(seed=1)["id"])

    assert (again["cached"], again["status"]) == (True, "succeeded")
    assert own.picture(again) == before
    assert (own.total("found"), own.metric("renderfarm_store_total")) >= (1, 1)
    assert len(list((own.folder / "results").rglob("*.png"))) == 1


def test_a_terminated_worker_finishes_its_render_and_leaves_in_order(own: RunningFarm) -> None:
    job = own.submit(**{**LONG, "steps": 30}, seed=1)
    wait_until(lambda: own.job(job["id"])["images"][0]["progress"]["step"] > 2)
    worker = own.part("cli.main", "worker")

    worker.terminate()

    done = own.wait(job["id"])
    assert (done["status"], done["images"][0]["attempt"]) == ("succeeded", 1)
    wait_until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)
    lines = own.logs("worker")
    assert [line["exit_code"] for line in lines if line["action"] == "stopped"] == [0]


def test_a_worker_out_of_grace_gives_its_render_back_uncounted(
    models: Path, tmp_path: Path
) -> None:
    with RunningFarm(tmp_path / "farm", models, FARM_DRAIN_S="0.2") as farm:
        job = farm.submit(**LONG, seed=1)
        wait_until(lambda: farm.job(job["id"])["images"][0]["progress"]["step"] > 2)

        farm.part("cli.main", "worker").terminate()

        done = farm.wait(job["id"])
        assert (done["status"], done["images"][0]["attempt"]) == ("succeeded", 2)
        assert any(line["action"] == "given_back" for line in farm.logs("worker"))
        assert farm.total("lost") == 0


def test_a_zombie_that_wakes_up_changes_nothing(models: Path, tmp_path: Path) -> None:
    with RunningFarm(tmp_path / "farm", models, workers=2, FARM_LEASE_S="1") as farm:
        job = farm.submit(**LONG, seed=1)
        wait_until(lambda: farm.job(job["id"])["images"][0]["progress"]["step"] > 2)
        holder = next(line for line in farm.logs("worker") if line["action"] == "claimed")
        frozen = _worker_and_keeper(farm, holder["worker"])

        for process in frozen:
            process.suspend()
        wait_until(lambda: farm.job(job["id"])["images"][0]["attempt"] == 2, 10.0)
        done = farm.wait(job["id"])
        for process in frozen:
            process.resume()

        wait_until(lambda: any(line["action"] == "lost" for line in farm.logs("worker")))
        after = farm.job(job["id"])
        assert (after["status"], after["images"][0]["sha256"]) == (
            "succeeded",
            done["images"][0]["sha256"],
        )
        stored = list((farm.folder / "results").rglob("*.png"))
        assert [hashlib.sha256(p.read_bytes()).hexdigest() for p in stored] == [
            done["images"][0]["sha256"]
        ]


def _worker_and_keeper(farm: RunningFarm, name: str) -> list[psutil.Process]:
    for process in farm.family():
        if "worker" in process.cmdline() and process.environ().get("FARM_WORKER_NAME") == name:
            return [process, *process.children(recursive=True)]
    raise AssertionError(name)


def test_ctrl_c_leaves_no_process(models: Path, tmp_path: Path) -> None:
    with RunningFarm(tmp_path / "farm", models) as farm:
        farm.submit(seed=1)
        family = farm.family()
        started = time.monotonic()

        assert farm.stop() == 0

        assert time.monotonic() - started < 30
        assert len(family) >= 5
        assert not [process for process in family if process.is_running()]
