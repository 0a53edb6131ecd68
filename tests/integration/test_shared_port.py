"""Several API processes behind one port: each page of metrics tells of all of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil
import pytest

from deploy.tether import tethered
from shared.metrics.page import forget_the_dead
from shared.settings import Settings, environment
from tests.waiting import wait_until

STARTED = re.compile(r"http://127\.0\.0\.1:(\d+)")
SERVING = "Application startup complete"


@pytest.fixture
def served(redis_of, tmp_path: Path) -> Iterator[tuple[str, psutil.Process]]:
    counts, log = tmp_path / "counts", tmp_path / "api.log"
    counts.mkdir()
    settings = Settings(redis_url=redis_of("valkey"), data_dir=tmp_path)
    env = os.environ | environment(settings) | {"PROMETHEUS_MULTIPROC_DIR": str(counts)}
    uvicorn = [sys.executable, "-m", "uvicorn", "api.main:app", "--port", "0", "--workers", "2"]
    with log.open("w") as stderr:
        process = subprocess.Popen(tethered(uvicorn), env=env, stdout=stderr, stderr=stderr)
    family = psutil.Process(process.pid)
    try:
        wait_until(lambda: log.read_text().count(SERVING) == 2, 60, str(log))
        yield f"http://127.0.0.1:{STARTED.search(log.read_text())[1]}", family  # type: ignore[index]
    finally:
        left = [*family.children(recursive=True), family]
        for one in left:
            one.kill()
        process.wait()


def total(url: str, name: str) -> float:
    with httpx2.Client() as client:  # a connection of its own: whichever process takes it
        lines = client.get(f"{url}/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def test_counts_are_of_all_processes_and_stay_when_one_dies(served) -> None:
    url, family = served
    for _ in range(20):
        httpx2.get(f"{url}/healthz")
    healthz = 'renderfarm_http_requests_total{method="GET",route="/healthz"'

    assert {total(url, healthz) for _ in range(6)} == {20}
    assert total(url, "renderfarm_store_up") == 1, "read once, not added up"

    alive = [child for child in family.children() if "spawn_main" in " ".join(child.cmdline())]
    alive[0].kill()
    wait_until(lambda: not alive[0].is_running() or alive[0].status() == "zombie")

    def answers() -> bool:
        try:
            return total(url, healthz) == 20
        except httpx2.HTTPError:
            return False

    wait_until(answers, 20)


def test_what_a_dead_process_had_open_is_forgotten(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for pid in (gone.pid, os.getpid()):
        (tmp_path / f"gauge_livesum_{pid}.db").touch()
        (tmp_path / f"counter_{pid}.db").touch()

    forget_the_dead(tmp_path)

    left = {file.name for file in tmp_path.iterdir()}
    assert left == {f"counter_{gone.pid}.db", f"counter_{os.getpid()}.db", f"gauge_livesum_{os.getpid()}.db"}  # fmt: skip
