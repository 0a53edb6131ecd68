"""`renderfarm up`, whole: real Redis, API, chores and a worker that serves the tiny model."""

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
LIMIT_S = 90.0
RENDERFARM = [sys.executable, "-m", "cli.main"]
ENV = {k: v for k, v in os.environ.items() if not k.startswith(("FARM_", "RENDERFARM_"))}

until = partial(wait_until, limit_s=LIMIT_S)
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("farm") / "data"


@contextmanager
def farm(data_dir):
    """A farm that is ready: (its process, its URL, where its words go)."""
    words = data_dir.with_name("words")
    with words.open("w") as out:
        process = subprocess.Popen(
            [*RENDERFARM, "up", "--port", "0", "--gpus", "none", "--data-dir", str(data_dir)],
            cwd=ROOT, env=ENV, stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    try:
        until(lambda: "ready: model tiny" in words.read_text() or process.poll() is not None)
        yield process, re.search(r"page  (\S+)/", words.read_text())[1], words
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(LIMIT_S)


def render(url, out, *options):
    return subprocess.run(
        [*RENDERFARM, "render", "a lighthouse", "--seed", "7", "--url", url, "-o", str(out), *options],
        cwd=ROOT, env=ENV, capture_output=True, text=True, check=True,
    )  # fmt: skip


@dataclass
class Ended:
    """What is known of the first farm, after Ctrl-C."""

    code: int
    family: list[psutil.Process]
    files: list[Path]
    words: str
    job: str


@pytest.fixture(scope="module")
def ended(data_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("pictures")
    with farm(data_dir) as (process, url, words):
        made = render(url, out, "-n", "2", "--steps", "4")
        family = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
        code = process.wait(LIMIT_S)
    job = re.search(r"job_[0-9A-Z]+", made.stdout)[0]
    return Ended(code, family, sorted(out.iterdir()), words.read_text(), job)


@pytest.fixture(scope="module")
def second(data_dir, ended):
    """The next farm on the same folder."""
    with farm(data_dir) as running:
        yield running


def test_a_farm_renders_and_ends_without_a_trace(ended):
    assert ended.code == 0
    assert len(ended.family) >= 5
    assert not any(member.is_running() for member in ended.family)
    assert [path.suffix for path in ended.files] == [".png", ".png"]
    assert "redis" not in ended.words  # no address with its password, no early death


def test_the_next_farm_remembers(ended, second, tmp_path):
    _, url, _ = second

    remembered = httpx2.get(f"{url}/jobs/{ended.job}").json()
    again = render(url, tmp_path, "--steps", "4")

    assert remembered["status"] == "succeeded"
    assert httpx2.get(remembered["images"][0]["url"]).content == ended.files[0].read_bytes()
    assert again.stdout.endswith("\tseed 7\tcached\n")


def test_another_farm_on_the_same_folder_is_refused_and_the_first_goes_on(data_dir, second):
    first, url, _ = second
    another = subprocess.run(
        [*RENDERFARM, "up", "--port", "0", "--data-dir", str(data_dir)],
        cwd=ROOT, env=ENV, capture_output=True, text=True,
    )  # fmt: skip

    assert another.returncode == 2
    assert f"in use by another process (pid {first.pid})" in another.stderr
    assert httpx2.get(f"{url}/readyz").status_code == 200


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a child to its parent")
def test_a_killed_farm_leaves_no_process(second):
    first, _, _ = second
    family = psutil.Process(first.pid).children(recursive=True)

    first.kill()

    # Half a minute, since a keeper that waited for Redis would do so for a whole one.
    wait_until(lambda: not any(alive(member) for member in family), 30.0)


@pytest.mark.slow  # each kill by itself is in tests/e2e/test_faults.py
def test_a_killed_worker_and_a_killed_redis_come_back_and_finish_the_job(tmp_path):
    data_dir = tmp_path / "data"
    with farm(data_dir) as (first, url, words):
        children = psutil.Process(first.pid).children()
        worker = next(child for child in children if "worker" in child.cmdline())
        redis = next(child for child in children if "cli.main" not in child.cmdline())
        worker.kill()
        redis.kill()
        until(lambda: "was ended by SIGKILL" in words.read_text())
        render(url, tmp_path, "--steps", "6")

    assert "redis died; starting it again" in words.read_text()


def alive(process):
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
