"""The API image's own steps, done in a folder: what it holds serves and does chores."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.ports import free_port
from tests.dockerfile import ROOT, Replay, read
from tests.waiting import wait_until

# It installs what the API needs, from the package index.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
STAGES = read(ROOT / "deploy/docker/api.Dockerfile")
HEALTHY = ROOT / "deploy/docker/healthy"
START_S = 60.0


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Replay:
    replay = Replay(tmp_path_factory.mktemp("image"))
    replay.do(STAGES["build"])
    return replay


@pytest.fixture
def env(image: Replay, redis_of: Callable[[str], str], tmp_path: Path) -> dict[str, str]:
    """What a container of it sees, beside a Redis."""
    env = image.environment([i for i in STAGES["image"] if i.word == "ENV"])
    return env | {
        "FARM_REDIS_URL": redis_of("valkey"), "FARM_DATA_DIR": str(tmp_path / "data"),
        "FARM_DURABILITY": "off", "FARM_HOST": "127.0.0.1", "FARM_API_DRAIN_S": "0",
        "FARM_PORT": str(free_port("127.0.0.1")),
    }  # fmt: skip


@contextmanager
def running(env: dict[str, str], part: str, cwd: Path) -> Iterator[None]:
    program = Path(env["PATH"].split(":")[0]) / "renderfarm"
    with subprocess.Popen([program, part], env=env, cwd=cwd, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()
            assert process.wait(START_S) == 0


def well(env: dict[str, str]) -> bool:
    return subprocess.run([HEALTHY], env=env, capture_output=True).returncode == 0


def files(image: Replay) -> set[str]:
    return {os.path.relpath(p, image.folder) for p in (image.folder / "opt").rglob("*")}


def pins(requirements: str) -> set[str]:
    """Each `name==version`, as package indexes compare names."""
    return {word.lower().replace("_", "-") for word in requirements.split() if "==" in word}


def test_it_holds_no_torch_no_tests_and_a_list_of_what_it_holds(image: Replay) -> None:
    names = {Path(name).name for name in files(image)}
    listed = (image.folder / "opt/venv/requirements.txt").read_text()

    assert {"fastapi", "redis", "chores.py"} <= names
    assert not {"torch", "diffusers", "numpy", "engines", "loading", "deploy"} & names
    assert not (image.folder / "opt/farm/tests").exists()
    assert "fastapi==" in listed
    assert pins(listed) <= pins((ROOT / "constraints.txt").read_text())


def test_it_serves_and_writes_nothing_beside_its_data(
    image: Replay, env: dict[str, str], tmp_path: Path
) -> None:
    before = files(image)

    with running(env, "api", tmp_path):
        wait_until(lambda: well(env), START_S)

    assert files(image) == before


def test_it_does_the_chores(image: Replay, env: dict[str, str], tmp_path: Path) -> None:
    env = env | {"FARM_LIVENESS_FILE": str(tmp_path / "alive")}

    with running(env, "chores", tmp_path):
        wait_until(lambda: well(env), START_S)
