"""The API as a process of its own, and a client that reads its event streams over a socket."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from shared.settings import Settings, environment
from tests.waiting import wait_until

STARTED = re.compile(r"http://127\.0\.0\.1:(\d+)")
CODE = "from api.main import serve; from shared.settings import load_settings as l; serve(l())"


@dataclass
class Served:
    url: str
    process: subprocess.Popen[bytes]
    log: Path


@contextmanager
def served(settings: Settings, log: Path) -> Iterator[Served]:
    """Killed at the end, if it lives."""
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", CODE], env=os.environ | environment(settings), stderr=stderr
        )
    try:
        wait_until(lambda: STARTED.search(log.read_text()) or process.poll() is not None, 20)
        match = STARTED.search(log.read_text())
        assert match, log.read_text()
        yield Served(f"http://127.0.0.1:{match[1]}", process, log)
    finally:
        process.kill()
        process.wait()


@dataclass
class Told:
    type: str
    id: str | None
    data: Any


def told(response: httpx2.Response) -> Iterator[Told]:
    """Events as they come; ends when the stream is closed in order, raises when it is cut."""
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        name, _, value = line.partition(": ")
        if line:
            fields[name] = value
        elif "event" in fields:
            yield Told(fields["event"], fields.get("id"), json.loads(fields["data"]))
            fields = {}
        else:
            fields = {}
