"""A farm from its parts, as on several hosts: each a process of its own, on a Redis of the test's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx2

from deploy.ports import free_port
from deploy.tether import tethered
from tests.waiting import wait_until

READY_S = 90.0


class Part:
    """One process of the farm; its log is JSON lines."""

    def __init__(self, log: Path, command: list[str], env: dict[str, str]) -> None:
        self.log = log
        with log.open("ab") as out:
            full = [sys.executable, "-m", "cli.main", *command]
            self._process = subprocess.Popen(tethered(full), env=env, stdout=out, stderr=out)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def terminate(self) -> None:
        self._process.terminate()

    def wait(self, limit_s: float = 60.0) -> int:
        return self._process.wait(limit_s)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def lines(self, action: str) -> list[dict[str, Any]]:
        read = [json.loads(line) for line in self.log.read_text().splitlines() if line[:1] == "{"]
        return [line for line in read if line.get("action") == action]


class Parts:
    """Starts parts and ends whatever is left of them."""

    def __init__(self, folder: Path, models: Path, redis_url: str, **env: str) -> None:
        self._folder = folder
        self._env = {
            **{k: v for k, v in os.environ.items() if not k.startswith("FARM_")},
            "OMP_NUM_THREADS": "1",
            "FARM_REDIS_URL": redis_url,
            "FARM_DATA_DIR": str(folder),
            "FARM_MODEL_CACHE_DIR": str(models),
            "FARM_DEFAULT_MODEL": "tiny",
            **env,
        }
        self._stack = ExitStack()
        self._count = 0
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Parts:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def start(self, *command: str, **env: str) -> Part:
        self._count += 1
        log = self._folder / f"{command[0]}-{self._count}.log"
        part = Part(log, list(command), {**self._env, **env})
        self._stack.callback(part.kill)
        return part

    def api(self) -> tuple[Part, str]:
        """A process of the API that answers, and its URL."""
        port = free_port()
        part, url = self.start("api", FARM_PORT=str(port)), f"http://127.0.0.1:{port}"

        def answers() -> bool:
            assert part.alive, part.log.read_text()
            try:
                return httpx2.get(f"{url}/healthz", timeout=5).status_code == 200
            except httpx2.TransportError:
                return False

        wait_until(answers, READY_S, f"for {part.log}")
        return part, url

    def worker(self, name: str) -> Part:
        """A worker that has loaded the model."""
        part = self.start("worker", "--name", name)

        def ready() -> bool:
            assert part.alive, part.log.read_text()
            return bool(part.lines("ready"))

        wait_until(ready, READY_S, f"for {part.log}")
        return part
