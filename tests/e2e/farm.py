"""A whole farm as a user starts it: `renderfarm up` in a process of its own, spoken to over HTTP."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import psutil

from deploy.tether import tethered
from tests.waiting import wait_until

READY_S = 90.0
QUICK = {"size": "64x64", "steps": 2, "prompt": "a lighthouse at dusk"}
LONG = {"size": "256x256", "steps": 100, "prompt": "a lighthouse at dusk"}  # seconds
ENDLESS = {**LONG, "size": "1024x1024"}  # minutes: cancel it


class RunningFarm:
    """Start it, speak to it, kill parts of it. Ends every process that it started."""

    def __init__(self, folder: Path, models: Path, *, workers: int = 1, **env: str) -> None:
        self.folder = folder
        self._workers = workers
        self._env = {
            **{k: v for k, v in os.environ.items() if not k.startswith("FARM_")},
            "OMP_NUM_THREADS": "1",
            "FARM_MODEL_CACHE_DIR": str(models),
            **env,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._http = httpx2.Client(timeout=30)
        self.url = ""

    def __enter__(self) -> RunningFarm:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            self._http.close()

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / "up.log"
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                tethered(  # a killed test run leaves no farm behind
                    [sys.executable, "-m", "cli.main", "up", "--port", "0", "--gpus", "none",
                     "--data-dir", str(self.folder), "--workers", str(self._workers)]
                ),
                env=self._env, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        wait_until(lambda: self._ready(log), READY_S, f"for the farm: {log}")
        self.url = re.search(r"page\s+(http://\S+?)/\s", log.read_text())[1]  # type: ignore[index]

    def _ready(self, log: Path) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, log.read_text()
        return "ready: model" in log.read_text() and "Ctrl-C" in log.read_text()

    def stop(self) -> int:
        """As Ctrl-C does; the exit code. Nothing is left."""
        assert self._process is not None
        family = self.family()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        code = self._process.wait(60)
        _, alive = psutil.wait_procs(family, 10)
        for process in alive:
            process.kill()
        assert not alive, f"left behind: {alive}"
        return code

    def kill_everything(self) -> None:
        """SIGKILL to every process at once, as a power cut would (but for the disk)."""
        family = self.family()
        for process in family:
            process.kill()
        psutil.wait_procs(family, 10)
        assert self._process is not None
        self._process.wait(10)

    def family(self) -> list[psutil.Process]:
        assert self._process is not None
        try:
            root = psutil.Process(self._process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def part(self, *words: str) -> psutil.Process:
        """The process whose command line has all the words, such as `cli.main`, `worker`."""
        found = [p for p in self.family() if set(words) <= set(_command(p))]
        assert len(found) == 1, (words, [_command(p) for p in self.family()])
        return found[0]

    def redis(self) -> psutil.Process:
        """The server; after a kill, the next one as soon as it is there."""
        found: list[psutil.Process] = []

        def one() -> bool:
            # It gives itself a title, so its command line does not tell.
            found[:] = [p for p in self.family() if "python" not in _exe(p)]
            return len(found) == 1

        wait_until(one, what="for Redis")
        return found[0]

    # ------------------------------------------------------------------------------- HTTP

    def post(self, order: dict[str, Any], key: str = "", **headers: str) -> httpx2.Response:
        return self._http.post(f"{self.url}/jobs", json=order, headers=_auth(key, headers))

    def get(self, path: str, key: str = "") -> httpx2.Response:
        return self._http.get(f"{self.url}{path}", headers=_auth(key, {}))

    def cancel(self, job_id: str, key: str = "") -> httpx2.Response:
        return self._http.post(f"{self.url}/jobs/{job_id}/cancel", headers=_auth(key, {}))

    def submit(self, key: str = "", **order: Any) -> dict[str, Any]:
        answer = self.post({**QUICK, **order}, key)
        assert answer.status_code in (200, 202), answer.text
        return dict(answer.json())

    def job(self, job_id: str, key: str = "") -> dict[str, Any]:
        answer = self.get(f"/jobs/{job_id}", key)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def wait(self, job_id: str, key: str = "", limit_s: float = 120.0) -> dict[str, Any]:
        wait_until(lambda: self.job(job_id, key)["done"], limit_s, f"for {job_id}")
        return self.job(job_id, key)

    def wait_for(self, job_id: str, status: str) -> None:
        wait_until(lambda: self.job(job_id)["images"][0]["status"] == status, 30.0, status)

    def picture(self, job: dict[str, Any], index: int = 0) -> bytes:
        answer = self._http.get(job["images"][index]["url"])
        assert answer.status_code == 200, answer.text
        return answer.content

    def stored(self, job: dict[str, Any]) -> list[Path]:
        """The pictures that lie under the fingerprint of this job's first image."""
        folder = self.folder / "results" / "renders" / job["images"][0]["fingerprint"]
        return list(folder.glob("*.png"))

    def metric(self, name: str) -> float:
        """Sum over all labels that the line starts with, such as `renderfarm_leases`."""
        lines = self.get("/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    def total(self, outcome: str) -> float:
        return self.metric(f'renderfarm_store_total{{outcome="{outcome}"}}')

    def logs(self, part: str) -> list[dict[str, Any]]:
        """What a part logged, line by line."""
        lines = [p.read_text() for p in (self.folder / "logs").glob(f"{part}*.log")]
        found = "".join(lines).splitlines()
        return [json.loads(line) for line in found if line.startswith("{")]


def _auth(key: str, headers: dict[str, str]) -> dict[str, str]:
    return {**headers, **({"Authorization": f"Bearer {key}"} if key else {})}


def _exe(process: psutil.Process) -> str:
    try:
        return Path(process.exe()).name
    except psutil.Error:
        return "python"


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []
