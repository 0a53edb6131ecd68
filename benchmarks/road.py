"""How fast the road of one job is, on a farm of its own with the tiny model on the CPU.

    python -m benchmarks.road [--rounds 200]

Three figures, each beside something to compare it with in the same run: an answer from the cache
next to `GET /healthz`; the worker's pause between two renders next to the render; a killed worker's
render back in the queue next to the lease that would have run out.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx2

from deploy.ports import free_port
from tests.e2e.farm import ENDLESS, QUICK, RunningFarm
from tests.waiting import wait_until

LEASE_S = 6.0
GAPS = 200


def median_ms(rounds: int, call: Callable[[], object]) -> float:
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e3


def cached(farm: RunningFarm, rounds: int) -> None:
    order = {**QUICK, "seed": 1}
    job = farm.wait(farm.submit(seed=1)["id"])["id"]
    with httpx2.Client(base_url=farm.url) as client:
        bare = median_ms(rounds, lambda: client.get("/healthz"))
        answer = median_ms(rounds, lambda: client.post("/jobs", json=order))
        look = median_ms(rounds, lambda: client.get(f"/jobs/{job}"))
    print(f"GET /healthz                       {bare:8.2f} ms")
    print(f"POST /jobs answered from the cache {answer:8.2f} ms   x {answer / bare:.1f}")
    print(f"GET /jobs/ID                       {look:8.2f} ms   x {look / bare:.1f}")


def gap(farm: RunningFarm, metrics_port: int) -> None:
    job = farm.submit(n=10, seed=1000)["id"]
    jobs = [farm.submit(n=10, seed=1000 + 10 * k)["id"] for k in range(1, GAPS // 10)]
    for one in (job, *jobs):
        farm.wait(one)
    text = httpx2.get(f"http://127.0.0.1:{metrics_port}/metrics").text
    buckets: list[tuple[float, float]] = []
    for line in text.splitlines():
        if line.startswith("renderfarm_worker_idle_seconds_bucket"):
            bound = line.split('le="')[1].split('"')[0]
            buckets.append((float(bound.replace("+Inf", "inf")), float(line.rsplit(" ", 1)[1])))
    total = buckets[-1][1]
    for bound, count in buckets[:4]:
        print(f"pause between two renders <= {bound * 1e3:3.0f} ms: {count / total:6.1%}")


def recovery(farm: RunningFarm, rounds: int) -> None:
    times = []
    for seed in range(rounds):
        job = farm.submit(**ENDLESS, seed=seed)["id"]
        wait_until(lambda job=job: farm.job(job)["images"][0]["status"] == "running", 30)
        started = time.perf_counter()
        farm.part("cli.main", "worker").kill()
        wait_until(lambda job=job: farm.job(job)["images"][0]["status"] == "queued", 30)
        times.append(time.perf_counter() - started)
        farm.cancel(job)
        wait_until(lambda: farm.get("/readyz?model=tiny").status_code == 200, 60)
    median = statistics.median(times)
    print(f"killed worker's render is queued again after {median:.2f} s (median of {rounds},")
    print(
        f"  polled over HTTP; the lease would have taken {LEASE_S:.0f} s: x {median / LEASE_S:.3f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--kills", type=int, default=5)
    options = parser.parse_args()
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with RunningFarm(
            root / "farm", root / "models",
            FARM_WORKER_METRICS_PORT=str(port), FARM_LEASE_S=str(LEASE_S),
        ) as farm:  # fmt: skip
            cached(farm, options.rounds)
            gap(farm, port)
            recovery(farm, options.kills)


if __name__ == "__main__":
    main()
