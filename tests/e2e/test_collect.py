"""Pictures that are collected while a whole farm runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.e2e.farm import RunningFarm


def test_gc_deletes_what_nobody_needs_while_the_farm_runs(farm: RunningFarm) -> None:
    job = farm.wait(farm.submit(seed=8000)["id"])
    gc(farm, "--older-than", "0s", "--yes")  # what other tests left
    [published] = farm.stored(job)
    stranger = published.parents[1] / ("a1" * 32)
    stranger.mkdir()
    for name in ("old.png", "old.json"):
        (stranger / name).write_bytes(b"{}")

    shown = gc(farm, "--older-than", "0s")
    assert "would go: 1 expired" in shown.stdout
    assert (stranger / "old.png").exists()
    done = gc(farm, "--older-than", "0s", "--yes")

    assert "deleted: 1 expired" in done.stdout
    assert not stranger.exists()
    assert published.exists()
    assert farm.submit(seed=8000)["cached"]
    assert farm.picture(farm.job(job["id"]))


def test_gc_refuses_a_redis_that_knows_no_farm(redis_server: str, tmp_path: Path) -> None:
    env = {"FARM_REDIS_URL": redis_server, "FARM_DATA_DIR": str(tmp_path)}

    refused = subprocess.run(
        [sys.executable, "-m", "cli.main", "gc", "--yes"], env=env, capture_output=True, text=True
    )

    assert (refused.returncode, "has never had a job" in refused.stderr) == (2, True)


def gc(farm: RunningFarm, *options: str) -> subprocess.CompletedProcess[str]:
    """As an operator of `renderfarm up` runs it: the data folder says where Redis is."""
    return subprocess.run(
        [sys.executable, "-m", "cli.main", "gc", *options],
        env={"FARM_DATA_DIR": str(farm.folder)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
