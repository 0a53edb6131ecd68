"""A render that takes down every worker, on a whole farm."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import httpx2
import psutil

from tests.e2e.farm import LONG, RunningFarm
from tests.waiting import wait_until


def test_a_render_that_takes_down_its_workers_takes_nobody_else_down(
    models: Path, tmp_path: Path
) -> None:
    with RunningFarm(tmp_path / "farm", models, workers=2, FARM_MAX_LOSSES="2") as farm:
        poison = farm.submit(**LONG, seed=666)["id"]
        others = [farm.submit(seed=seed)["id"] for seed in range(6)]

        for attempt in (1, 2):
            worker(farm, claimant(farm, poison, attempt)).kill()

        assert {farm.wait(job)["status"] for job in others} == {"succeeded"}
        failed = farm.wait(poison)
        assert (failed["status"], failed["error"]["code"]) == ("failed", "worker_lost")
        assert failed["images"][0]["attempt"] == 2
        [listed] = farm.get("/poison").json()["data"]
        assert (listed["jobs"], listed["losses"]) == ([poison], 2)
        last = farm.wait(farm.submit(seed=99)["id"])
        assert last["status"] == "succeeded"

        answer = httpx2.post(f"{farm.url}/poison/{listed['render']}/retry", timeout=30)

        [again] = answer.json()["data"]
        assert again["retries"] == poison
        assert farm.wait(again["id"])["status"] == "succeeded"
        assert farm.get("/poison").json()["data"] == []
        assert farm.metric("renderfarm_leases") == 0


def claimant(farm: RunningFarm, job: str, attempt: int) -> str:
    """The name of the worker that has just claimed the job's render for the n-th time."""
    found: list[str] = []

    def claimed() -> bool:
        found[:] = [
            line["worker"]
            for line in farm.logs("worker")
            if (line["action"], line.get("job"), line.get("attempt")) == ("claimed", job, attempt)
        ]
        return bool(found)

    wait_until(claimed, 60.0, f"for attempt {attempt}")
    return found[0]


def worker(farm: RunningFarm, name: str) -> psutil.Process:
    for process in farm.family():
        with suppress(
            psutil.NoSuchProcess
        ):  # one that died is still its parent's child for a moment
            if process.environ().get("FARM_WORKER_NAME") == name and "worker" in process.cmdline():
                return process
    raise AssertionError(name)
