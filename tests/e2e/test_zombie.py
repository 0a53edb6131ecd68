"""A worker that was frozen for longer than its lease, and wakes up."""

from __future__ import annotations

import hashlib
from typing import Any

import psutil

from tests.e2e.farm import LONG, RunningFarm
from tests.waiting import wait_until


def test_a_zombie_that_wakes_up_changes_nothing(farm: RunningFarm) -> None:
    job = farm.submit(**LONG, seed=7000)
    wait_until(lambda: farm.job(job["id"])["images"][0]["progress"]["step"] > 2)
    frozen = _worker_and_keeper(farm, told(farm, job, "claimed")[0]["worker"])

    for process in frozen:
        process.suspend()
    wait_until(lambda: farm.job(job["id"])["images"][0]["attempt"] == 2)
    done = farm.wait(job["id"])
    for process in frozen:
        process.resume()

    wait_until(lambda: told(farm, job, "lost"))
    after, sha256 = farm.job(job["id"]), done["images"][0]["sha256"]
    assert (after["status"], after["images"][0]["sha256"]) == ("succeeded", sha256)
    pictures = [path.read_bytes() for path in farm.stored(done)]
    assert [hashlib.sha256(each).hexdigest() for each in pictures] == [sha256]


def told(farm: RunningFarm, job: dict[str, Any], action: str) -> list[dict[str, Any]]:
    """What workers logged of this job."""
    lines = farm.logs("worker")
    return [line for line in lines if (line.get("action"), line.get("job")) == (action, job["id"])]


def _worker_and_keeper(farm: RunningFarm, name: str) -> list[psutil.Process]:
    for process in farm.family():
        if "worker" in process.cmdline() and process.environ().get("FARM_WORKER_NAME") == name:
            return [process, *process.children(recursive=True)]
    raise AssertionError(name)
