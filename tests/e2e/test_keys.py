"""A running farm gets keys, keeps its owners' pictures apart, and loses a key again."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.e2e.farm import RunningFarm
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def farm(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    folder = tmp_path_factory.mktemp("keys")
    with RunningFarm(folder, models, FARM_CACHE_SCOPE="owner") as running:
        yield running


def renderfarm(farm: RunningFarm, *args: str) -> str:
    """What a command on the farm's data folder prints."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("FARM_")}
    told = subprocess.run(
        [sys.executable, "-m", "cli.main", *args],
        env={**env, "FARM_DATA_DIR": str(farm.folder)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    return told.stdout.strip()


def test_keys_close_a_running_farm_and_their_owners_share_nothing(farm: RunningFarm) -> None:
    assert farm.get("/models").status_code == 200
    alice, bob = (renderfarm(farm, "keys", "add", owner) for owner in ("alice", "bob"))
    wait_until(lambda: farm.get("/models").status_code == 401, what="for the farm to close")

    jobs = [farm.wait(farm.submit(key, seed=5)["id"], key) for key in (alice, bob, alice)]

    assert [job["cached"] for job in jobs] == [False, False, True]
    prints = {job["images"][0]["fingerprint"] for job in jobs}
    assert len(prints) == 1
    with Image.open(io.BytesIO(farm.picture(jobs[1]))) as picture:
        assert json.loads(picture.info["renderfarm"])["fingerprint"] in prints
    assert farm.get(f"/jobs/{jobs[0]['id']}", bob).status_code == 404
    kept = {folder.name.partition("-") for folder in (farm.folder / "results/renders").iterdir()}
    assert {name[0] for name in kept} == prints
    assert len(kept) == 2

    key_id = json.loads(renderfarm(farm, "keys", "list", "--json"))[0]["id"]
    renderfarm(farm, "keys", "revoke", key_id)
    wait_until(lambda: farm.get("/models", alice).status_code == 401, what="for the key to end")
    assert farm.get("/models", bob).status_code == 200
    logs = "".join(path.read_text() for path in farm.folder.rglob("*.log"))
    assert [key for key in (alice, bob) if key in logs] == []
