"""What a scrape of the API's metrics costs with a large farm behind it: bytes, and CPU of API and Redis.

    python -m benchmarks.metrics [--workers 100] [--owners 1000] [--scrapes 50]

Starts a Redis server of its own in a temporary folder. Each owner has a finished and a queued render.
Prints what one core spends on a scrape each 15 s.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import psutil
from prometheus_client import CollectorRegistry
from ulid import ULID

from benchmarks.store import submission
from deploy.embedded import EmbeddedRedis
from shared.metrics import ApiMetrics, CallMetrics, StoreCollector, counted, page
from shared.store.address import connect
from shared.store.port import JobStore
from shared.store.redis_store import RedisJobStore
from shared.store.scripts import StoreConfig
from shared.store.values import WorkerStatus
from shared.tickets import ticket_template
from tests.orders import POOL, stored

INTERVAL_S = 15.0
ROUTES, STATUSES = 60, ("200", "202", "400", "404")


def fill(store: JobStore, workers: int, owners: int) -> None:
    for number in range(workers):
        name = f"gpu-node-{number:04}-gpu0"
        store.heartbeat(WorkerStatus(name=name, pool=POOL, model="m", state="busy"), 3600)
    for number in range(2 * owners):
        order = submission(number)
        job = order.job.model_copy(update={"owner": f"customer-{number % owners:06}"})
        store.submit(type(order)(job, order.orders))
        if number < owners:
            token = str(ULID())
            claim = store.claim(order.orders[0].spec.pool, token, "slot", "w", 60.0)
            assert claim is not None
            store.close(claim.render_id, token, stored(claim.fingerprint, token), device_s=1.0)


def busy_pages(metrics: ApiMetrics) -> None:
    """As if every route had been asked."""
    for number in range(ROUTES):
        for status in STATUSES:
            metrics.requests.labels(f"/v1/route/{number}/{{job_id}}", "GET", status).inc()
        metrics.request_seconds.labels(f"/v1/route/{number}/{{job_id}}", "GET").observe(0.01)


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def measure(server: psutil.Process, store: JobStore, scrapes: int) -> None:
    own, farm_wide = CollectorRegistry(), CollectorRegistry()
    metrics, calls = ApiMetrics(own), CallMetrics(own)
    busy_pages(metrics)
    farm_wide.register(StoreCollector(counted(store, "jobs", calls), [POOL]))
    size = len(page(own, farm_wide))
    mine, began, before = psutil.Process(), time.perf_counter(), cpu_s(server)
    begun_s = cpu_s(mine)
    for _ in range(scrapes):
        page(own, farm_wide)
    took_s = (time.perf_counter() - began) / scrapes
    api_s, redis_s = (cpu_s(mine) - begun_s) / scrapes, (cpu_s(server) - before) / scrapes
    print(f"page {size / 1024:.0f} KiB; a scrape takes {1000 * took_s:.1f} ms")
    print(f"CPU: API {1000 * api_s:.1f} ms, Redis {1000 * redis_s:.1f} ms")
    print(f"at {INTERVAL_S:g} s: {(api_s + redis_s) / INTERVAL_S:.2%} of one core")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    options.add_argument("--workers", type=int, default=100)
    options.add_argument("--owners", type=int, default=1000)
    options.add_argument("--scrapes", type=int, default=50)
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        redis = EmbeddedRedis(Path(folder), appendfsync="everysec")
        redis.start()
        try:
            client = connect(redis.url, patience_s=5)
            server = psutil.Process(client.info("server")["process_id"])
            store = RedisJobStore(client, StoreConfig(ticket_template()))
            fill(store, given.workers, given.owners)
            measure(server, store, given.scrapes)
            client.close()
        finally:
            redis.stop()


if __name__ == "__main__":
    main()
