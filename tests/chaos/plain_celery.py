"""`python -m tests.chaos.plain_celery`: the same load and faults against plain Celery tasks.

What the farm promises is counted here as well: of the tasks that the broker accepted, how many ran
once, twice, or never. A message that Celery still holds as unacknowledged comes again after the
visibility timeout (an hour by default): late, not lost.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil
import redis

from deploy.children import Child, Program, stop_all
from deploy.embedded import EmbeddedRedis
from tests.chaos.farm import ROOT, freeze, thaw
from tests.chaos.plan import COMMON, Fault, Plan, PlannedOrder, draw
from tests.chaos.redis_wire import RedisWire
from tests.chaos.tender import TICK_S

QUIET_S = 30.0  # without any task ended, while Redis and workers live: nothing more will come
LEASE_S = 2.0  # what the farm's zombies oversleep
FREEZE_S = 3.0


class PlainFarm:
    """Redis, three solo workers and a wire; call `tend` often from the thread that made it."""

    def __init__(self, folder: Path, workers: int, pool: str) -> None:
        self.done = folder / "done"
        self.done.touch()
        self.engine = EmbeddedRedis(folder)
        self.engine.start()
        port = int(self.engine.url.rpartition(":")[2].split("/")[0])
        self.wire = RedisWire(port)
        self.broker = self.engine.url.replace(f":{port}/", f":{self.wire.port}/")
        argv = (
            sys.executable, "-P", "-m", "celery", "-A", "tests.chaos.plain_tasks", "worker",
            "-c", "1", "--pool", pool, "-l", "WARNING",
        )  # fmt: skip
        env = {
            **os.environ, "PYTHONPATH": str(ROOT), "PLAIN_BROKER": self.broker,
            "PLAIN_DONE": str(self.done),
        }  # fmt: skip
        self._programs = [
            Program(f"w{k}", (*argv, "-n", f"w{k}"), env, folder / f"w{k}.log")
            for k in range(workers)
        ]
        self.workers: list[Child] = []

    def tend(self) -> None:
        """Start what is gone, as any supervisor would."""
        if not self.engine.alive:
            self.engine.start()
        self.workers = self.workers or [Child(each, lambda _: None) for each in self._programs]
        for index, child in enumerate(self.workers):
            if not child.alive:
                self.workers[index] = Child(child.program, lambda _: None)
                self.workers[index].start()

    def worker(self, draw: float) -> psutil.Process:
        return psutil.Process(self.workers[int(draw * len(self.workers))].pid)

    def ends(self) -> Counter[str]:
        return Counter(self.done.read_text().split())

    def kept(self) -> tuple[int, int]:
        """(messages still in the queue, messages held until the visibility timeout)."""
        with redis.Redis.from_url(self.engine.url) as client:
            return int(client.llen("celery")), int(client.hlen("unacked"))

    def stop(self) -> None:
        stop_all(self.workers, 10.0, lambda: False)
        self.wire.close()
        self.engine.stop()


def hurt(farm: PlainFarm, fault: Fault) -> None:
    """What tests/chaos/faults.py does to the farm; one of plan.COMMON."""
    if fault.kind == "redis killed":
        psutil.Process(farm.engine.pid).kill()
    elif fault.kind == "cut all":
        farm.wire.cut()
    elif fault.kind == "half open":
        farm.wire.go_deaf()
    elif fault.kind == "client kill":
        with redis.Redis.from_url(farm.engine.url) as client:
            client.client_kill_filter(_type="normal", skipme=True)
    elif fault.kind == "redis frozen":
        _hold(psutil.Process(farm.engine.pid), FREEZE_S)
    elif fault.kind in ("zombie", "freeze worker"):
        _hold(farm.worker(fault.draw), LEASE_S * 1.5 + 1.0)
    elif fault.kind == "terminate worker":
        farm.worker(fault.draw).terminate()
    else:
        process = farm.worker(fault.draw)
        for each in (process, *process.children(recursive=True)):
            each.kill()


def _hold(process: psutil.Process, seconds: float) -> None:
    freeze(process)
    timer = threading.Timer(seconds, thaw, (process,))
    timer.start()


def tasks_of(order: PlannedOrder) -> list[tuple[str, float]]:
    """(number, seconds) for each image; as long as the farm's tiny model takes."""
    seconds = 0.5 if order.body.get("steps") == 100 else 0.01 * order.body["steps"]
    return [(f"{order.number}.{k}", seconds) for k in range(order.body.get("n", 1))]


def submit(farm: PlainFarm, plan: Plan, accepted: list[str]) -> None:
    """Every order at its moment; what Celery's producer took without an error is accepted.

    The producer is spared the wire: with stock options a half-open connection holds it for good.
    """
    os.environ["PLAIN_BROKER"] = farm.engine.url
    from tests.chaos.plain_tasks import app, render

    started = time.monotonic()
    for order in plan.orders:
        time.sleep(max(0.0, started + order.at_s - time.monotonic()))
        for number, seconds in tasks_of(order):
            with suppress(Exception):
                render.apply_async((number, seconds), retry=True)
                accepted.append(number)
    app.close()


def play(farm: PlainFarm, plan: Plan) -> list[str]:
    accepted: list[str] = []
    client = threading.Thread(target=submit, args=(farm, plan, accepted), daemon=True)
    client.start()
    started = time.monotonic()
    for fault in plan.faults:
        while time.monotonic() < started + fault.at_s:
            farm.tend()
            time.sleep(TICK_S)
        with suppress(psutil.Error, redis.RedisError):
            hurt(farm, fault)
    moved_at, ends = time.monotonic(), farm.ends()
    while client.is_alive() or time.monotonic() - moved_at < QUIET_S:
        farm.tend()
        time.sleep(TICK_S)
        if farm.ends() != ends:
            moved_at, ends = time.monotonic(), farm.ends()
    return accepted


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.chaos.plain_celery", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--pool", choices=("solo", "prefork", "threads"), default="solo")
    given = parser.parse_args()
    plan = draw(given.seed, given.minutes * 60, COMMON)
    folder = Path(tempfile.mkdtemp(prefix=f"plain-{secrets.token_hex(2)}-"))
    farm = PlainFarm(folder, given.workers, given.pool)
    try:
        accepted = play(farm, plan)
        ends, (waiting, late) = farm.ends(), farm.kept()
    finally:
        farm.stop()
    never = sum(ends[number] == 0 for number in accepted)
    twice = sum(ends[number] > 1 for number in accepted)
    gone = max(0, never - waiting - late)
    print(
        f"plain Celery, {given.pool} pool, acks late: seed {given.seed}, {len(plan.faults)} faults, "
        f"{len(accepted)} tasks accepted\n"
        f"lost {gone}, run twice {twice}, held until the visibility timeout {late}, "
        f"waiting while every worker lives and none takes them {waiting}"
    )
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
