"""Redis servers in any role: with TLS, as primary, replica or sentinel. On loopback, free ports."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path

import redis

from deploy.ports import free_port
from deploy.tether import tethered
from tests.servers.engines import engine_binary
from tests.waiting import wait_until


class Node:
    """One server of Debian's redis-server. `lines` are its configuration."""

    def __init__(self, folder: Path, *lines: str, sentinel: bool = False) -> None:
        self.folder = folder
        self.port = free_port()
        folder.mkdir(parents=True)
        ours = ("bind 127.0.0.1", "dir .", *lines)
        first = () if any(line.startswith("port ") for line in lines) else (f"port {self.port}",)
        (folder / "node.conf").write_text("\n".join((*first, *ours)) + "\n")
        self._mode = ["--sentinel"] if sentinel else []
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, decode_responses=True)

    def start(self) -> Node:
        command = [str(engine_binary("redis")), "node.conf", *self._mode]
        with (self.folder / "node.log").open("ab") as log:
            self._process = subprocess.Popen(
                tethered(command), cwd=self.folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        return self

    def wait(self) -> Node:
        """Until it answers a plain connection."""

        def answers() -> bool:
            with suppress(redis.RedisError), self.client() as client:
                return bool(client.ping())
            return False

        wait_until(answers, what=(self.folder / "node.log").read_text())
        return self

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
        self._process = None

    def __enter__(self) -> Node:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()
