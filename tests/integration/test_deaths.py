"""What the farm knows of a worker's death: real processes, a real Redis, a real memory limit."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from shared.jobs import RenderState
from shared.store.address import connect
from shared.store.port import JobStore
from shared.store.redis_store import RedisJobStore
from shared.store.scripts import StoreConfig
from shared.store.values import (
    Death,
    WorkerStatus,
)
from shared.tickets import ticket_template
from tests.orders import POOL, submission
from tests.servers import absent
from tests.waiting import wait_until

LIMIT_MIB = 512  # well above what a keeper takes: the kernel ends the largest
# Holds a render, or nothing, and does what it is told on stdin.
WORKER = """
import json, os, sys
from worker.leases import Leases
from shared.store.values import Claim
leases = Leases(json.loads(sys.argv[1]))
if sys.argv[2]:
    lease = leases.hold(Claim(sys.argv[2], "token", "", None, 1, False, (), "", 0, 0))
    lease.progress(1)
print("up", flush=True)
match sys.stdin.readline().strip():
    case "eat":
        food = []
        while True:
            food.append(bytearray(os.urandom(4096)) * 1024)
    case "deaf":
        leases.say_goodbye("deaf")
        os._exit(3)
    case "leave":
        leases.close()
"""


@pytest.fixture
def url(redis_of: Callable[[str], str]) -> str:
    return redis_of("valkey")


@pytest.fixture
def store(url: str) -> Iterator[JobStore]:
    client = connect(url, patience_s=2)
    store = RedisJobStore(client, StoreConfig(ticket_template(), max_losses=1))
    store.heartbeat(WorkerStatus(name="slot", pool=POOL, model="tiny", state="busy"), 600)
    yield store
    client.close()


@pytest.fixture
def limited() -> Iterator[Path]:
    """A memory cgroup with a small limit, inside our own."""
    own = _own_group()
    group = own / f"renderfarm-test-{secrets.token_hex(4)}"
    try:
        group.mkdir()
        limit = "memory.limit_in_bytes" if _is_v1(own) else "memory.max"
        (group / limit).write_text(str(LIMIT_MIB * 2**20))
    except OSError as error:
        with suppress(OSError):
            group.rmdir()
        absent(f"no memory cgroup can be made here: {error}")
    yield group

    def removed() -> bool:  # the last process needs a moment to be gone
        with suppress(OSError):
            group.rmdir()
        return not group.exists()

    wait_until(removed)


def _own_group() -> Path:
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    groups = {kind: path for _, kind, path in (line.split(":", 2) for line in lines)}
    if "memory" in groups:
        return Path("/sys/fs/cgroup/memory") / groups["memory"].lstrip("/")
    return Path("/sys/fs/cgroup") / groups.get("", "").lstrip("/")


def _is_v1(group: Path) -> bool:
    return (group / "memory.limit_in_bytes").exists()


class Worker:
    """One process, perhaps in a cgroup of its own, that does one thing."""

    def __init__(self, url: str, render: str = "", group: Path | None = None) -> None:
        config = {
            "redis_url": url, "slot": "slot", "lease_s": 600.0, "max_render_s": 600.0,
            "log": ["INFO", "json"],
            "store": StoreConfig(ticket_template(), max_losses=1).as_dict(),
        }  # fmt: skip
        enter = f"open({str(group / 'cgroup.procs')!r}, 'w').write('0')\n" if group else ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", enter + WORKER, json.dumps(config), render],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "up\n"

    def told(self, word: str) -> int:
        """Its exit code."""
        self.process.communicate(word + "\n", timeout=60)
        return self.process.returncode


def claimed(store: JobStore) -> tuple[str, str]:
    """A job, and its render, leased by the slot for ten minutes."""
    job = store.submit(submission()).job
    taken = store.claim(POOL, "token", "slot", "slot", 600.0)
    assert taken is not None
    return job.id, taken.render_id


def death(store: JobStore) -> Death | None:
    return store.workers()[0].last_death


def test_a_worker_killed_by_the_memory_limit_fails_its_render_in_words(
    store: JobStore, url: str, limited: Path
) -> None:
    job, render = claimed(store)

    eater = Worker(url, render, limited)
    wait_until(lambda: store.get(job).images[0].render.step == 1, 30.0)  # its keeper is up

    assert eater.told("eat") == -9

    wait_until(lambda: store.get(job).done, 30.0)
    error = store.get(job).images[0].render.error
    assert error is not None
    assert error.code == "container_memory"
    assert error.message == (
        "the render took down its worker 1 times: the container's memory limit (0.5 GiB) "
        "killed the worker; raise the limit or use a smaller placement"
    )
    last = death(store)
    assert last is not None
    assert last.cause == "container_memory"


def test_the_memory_limit_is_told_of_a_worker_that_was_still_loading(
    store: JobStore, url: str, limited: Path
) -> None:
    assert Worker(url, group=limited).told("eat") == -9

    wait_until(lambda: death(store) is not None, 30.0)
    last = death(store)
    assert last is not None
    assert last.cause == "container_memory"


def test_the_supervisor_tells_the_memory_limit_too(tmp_path: Path, limited: Path) -> None:
    """Supervisor and child share a group, as in a container: a process of its own runs both."""
    code = f"""
import sys
open({str(limited / "cgroup.procs")!r}, "w").write("0")
from pathlib import Path
from deploy.children import Child, Program
from shared.cgroup import OomWatch
eat = "food = []\\nwhile True: food.append(bytearray(b'x' * 4096) * 1024)"
reports = []
program = Program("worker", (sys.executable, "-c", eat), {{}}, Path({str(tmp_path)!r}) / "log",
                  killed=OomWatch().words)
child = Child(program, reports.append)
child.start()
while not reports:
    child.tick()
print(reports[0])
"""
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )

    assert "was ended by SIGKILL (the container's memory limit (0.5 GiB) killed" in shown.stdout


def test_a_worker_that_is_just_killed_was_not_short_of_memory(store: JobStore, url: str) -> None:
    job, render = claimed(store)
    worker = Worker(url, render)

    worker.process.kill()
    worker.process.communicate()

    wait_until(lambda: store.get(job).done)
    error = store.get(job).images[0].render.error
    assert error is not None
    assert (error.code, error.message) == (
        "worker_lost",
        "the render took down its worker 1 times",
    )


def test_a_worker_that_says_why_it_ends_is_believed(store: JobStore, url: str) -> None:
    job, render = claimed(store)

    assert Worker(url, render).told("deaf") == 3

    wait_until(lambda: store.get(job).images[0].status is RenderState.failed)
    last = death(store)
    assert last is not None
    assert last.cause == "deaf"


def test_a_worker_that_leaves_in_order_has_not_died(store: JobStore, url: str) -> None:
    assert Worker(url).told("leave") == 0

    assert death(store) is None
