"""A hundred jobs of three owners on two workers: all succeed, once each, in fair order."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from tests.e2e.farm import ENDLESS, RunningFarm
from tests.waiting import wait_until

KEYS = {owner: f"key-of-{owner}" for owner in ("alice", "bob", "carol", "dave")}
JOBS = {"alice": 60, "bob": 20, "carol": 20}
SHARED = 6  # of bob's and carol's last orders ask for the same pictures


@pytest.fixture(scope="module")
def farm(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    keys = " ".join(f"{owner}:{key}" for owner, key in KEYS.items())
    folder = tmp_path_factory.mktemp("owners")
    free = {"FARM_SUBMITS_PER_MIN": "0", "FARM_MAX_QUEUED": "0"}
    with RunningFarm(folder, models, workers=2, FARM_API_KEYS=keys, **free) as running:
        yield running


def test_all_succeed_once_each_and_nobody_waits_behind_anothers_backlog(farm: RunningFarm) -> None:
    # Dave keeps both workers busy until everybody has ordered.
    blockers = [farm.submit(KEYS["dave"], **ENDLESS, seed=k)["id"] for k in range(2)]
    wait_until(lambda: farm.metric("renderfarm_leases") == 2)
    owner_of: dict[str, str] = {}
    for owner, count in JOBS.items():  # alice's whole backlog stands before bob's first order
        for k in range(count):
            shared = owner != "alice" and k >= count - SHARED
            seed = k if shared else k + 1000 * (list(JOBS).index(owner) + 1)
            owner_of[farm.submit(KEYS[owner], seed=seed)["id"]] = owner
    for job_id in blockers:
        assert farm.cancel(job_id, KEYS["dave"]).status_code == 200

    def finish(job_id: str) -> dict[str, object]:
        return farm.wait(job_id, KEYS[owner_of[job_id]], 120.0)

    with ThreadPoolExecutor(2) as threads:
        done = list(threads.map(finish, owner_of))

    assert {job["status"] for job in done} == {"succeeded"}
    prints = {job["images"][0]["fingerprint"] for job in done}  # type: ignore[index]
    assert len(prints) == sum(JOBS.values()) - SHARED
    assert farm.total("succeeded") == len(prints)
    assert farm.total("claimed") == len(prints) + len(blockers)
    assert farm.metric("renderfarm_leases") == farm.metric("renderfarm_renders_pending") == 0
    for job in done[::10]:
        with Image.open(io.BytesIO(farm.picture(job))) as picture:
            picture.load()

    claims = [line for line in farm.logs("worker") if line["action"] == "claimed"]
    claims.sort(key=lambda line: line["time"])
    order = [owner_of[line["job"].split(",")[0]] for line in claims if line["job"] not in blockers]
    assert len(order) == len(prints)
    # While all three wait for pictures of their own, each gets a third; two workers log their
    # claims by their own clocks, which blurs it by a few.
    for served in (12, 24, 36):
        counts = Counter(order[:served])
        assert max(counts.values()) - min(counts[owner] for owner in JOBS) <= 4, counts


def test_another_owners_job_does_not_exist(farm: RunningFarm) -> None:
    job = farm.submit(KEYS["alice"], seed=1)

    answer = farm.get(f"/jobs/{job['id']}", KEYS["bob"])

    assert answer.status_code == 404
    assert farm.get(f"/jobs/{job['id']}").status_code == 401


def test_keys_never_reach_a_log(farm: RunningFarm) -> None:
    farm.wait(farm.submit(KEYS["carol"], seed=77)["id"], KEYS["carol"])

    logs = [path.read_text() for path in farm.folder.rglob("*.log")]

    assert logs
    assert not any(key in text for text in logs for key in KEYS.values())
