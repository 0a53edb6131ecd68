"""Clients as their users install them: each in a folder of its own under `.clients`, by `make clients`."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".clients"
SCRIPTS = Path(__file__).parent / "scripts"
LIMIT_S = 240


def run_python(venv: str, script: str, env: dict[str, str], stdin: str = "") -> dict[str, Any]:
    """What the script's cases returned or raised."""
    return _run([_need(FOLDER / venv / "bin" / "python"), str(SCRIPTS / script)], env, stdin)


def run_node(script: str, env: dict[str, str]) -> dict[str, Any]:
    node = _need(FOLDER / "node" / "bin" / "node")
    project = FOLDER / "node" / "project"
    return _run([node, str(SCRIPTS / script)], {**env, "NODE_PROJECT": str(project)}, "")


def _need(program: Path) -> str:
    if not program.exists():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("run `make clients`")
    return str(program)


def _run(command: list[str], env: dict[str, str], stdin: str) -> dict[str, Any]:
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=LIMIT_S, check=False,
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **env},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
