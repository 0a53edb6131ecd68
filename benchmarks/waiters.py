"""What thousands of waiting clients cost one process of the API, next to one without any.

    python -m benchmarks.waiters [--waiters 2000] [--orders 600]

Half of the waiters follow an event stream, half wait with `Prefer: wait`, two to a job, on real
connections. Both processes serve the same Redis; orders are sent to one and the other in turn, one at a
time. Prints memory for each waiter, threads, milliseconds of `POST /jobs` with and without them and
the ratio, and how soon after a cancel both waiters of a job have its end. Ends within two minutes.

The server is uvicorn with its own HTTP parser; uvloop and httptools, where they are installed, need
less. Each waiter is a file in both processes: this program raises its own limit, and the API inherits it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from deploy.embedded import EmbeddedRedis, free_port
from shared.settings import PREFIX, Settings
from shared.store import open_store
from shared.store.port import JobStore

LIMIT_S = 120.0
ORDER = {"prompt": "a lighthouse at dusk", "steps": 4, "size": "64x64"}
CANCELS = 100


@dataclass
class Api:
    port: int
    process: psutil.Process

    @property
    def rss_bytes(self) -> int:
        return int(self.process.memory_info().rss)


@contextmanager
def serving(url: str, folder: Path) -> Iterator[Api]:
    port = free_port()
    env = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    env |= {
        "FARM_REDIS_URL": url, "FARM_PORT": str(port), "FARM_DATA_DIR": str(folder),
        "FARM_LOG_LEVEL": "ERROR", "FARM_API_DRAIN_S": "0", "FARM_MAX_WAIT_S": "600",
        "FARM_DEFAULT_MODEL": "tiny",
    }  # fmt: skip
    process = subprocess.Popen([sys.executable, "-m", "cli.main", "api"], env=env)
    try:
        yield Api(port, psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait()


async def ask(port: int, line: str, headers: str = "", body: bytes = b"") -> tuple[Any, Any]:
    """A connection with the request sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    length = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
    writer.write(f"{line} HTTP/1.1\r\nHost: x\r\n{headers}{length}\r\n".encode() + body)
    return reader, writer


async def order(port: int, seed: int) -> str:
    body = json.dumps(ORDER | {"seed": seed}).encode()
    reader, writer = await ask(port, "POST /jobs", "Connection: close\r\n", body)
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 202"), answer[:300]
    return str(json.loads(answer.partition(b"\r\n\r\n")[2])["id"])


async def follow(port: int, job: str, opened: asyncio.Semaphore) -> float:
    """When the stream told the end of the job."""
    reader, writer = await ask(port, f"GET /jobs/{job}/events")
    await reader.readuntil(b"event: job.snapshot")
    opened.release()
    await reader.readuntil(b"event: job.canceled")
    writer.close()
    return time.perf_counter()


async def wait(port: int, job: str, opened: asyncio.Semaphore) -> float:
    """When the answer began."""
    reader, writer = await ask(port, f"GET /jobs/{job}", "Prefer: wait=600\r\n")
    opened.release()
    await reader.readuntil(b"HTTP/1.1 200")
    writer.close()
    return time.perf_counter()


async def until_ready(port: int) -> None:
    while True:
        try:
            await order(port, 0)
            return
        except OSError:
            await asyncio.sleep(0.05)


async def time_orders(apis: dict[str, Api], count: int) -> dict[str, list[float]]:
    """Milliseconds of each order, to one process and the other in turn."""
    took: dict[str, list[float]] = {name: [] for name in apis}
    for seed in range(count):
        for place, (name, api) in enumerate(apis.items(), 1):
            begun = time.perf_counter()
            await order(api.port, place * 1_000_000 + seed)
            took[name].append((time.perf_counter() - begun) * 1e3)
    return took


async def told_after(store: JobStore, pairs: dict[str, list[asyncio.Task[float]]]) -> list[float]:
    """Milliseconds from a cancel until both waiters of the job have heard."""
    took = []
    for job, pair in list(pairs.items())[:CANCELS]:
        begun = time.perf_counter()
        await asyncio.to_thread(store.cancel, job)
        took.append((max(await asyncio.gather(*pair)) - begun) * 1e3)
    return took


def row(name: str, took: list[float]) -> None:
    took = sorted(took)
    p50, p99 = (took[int(len(took) * q)] for q in (0.5, 0.99))
    print(f"{name:34}{p50:9.2f}{p99:9.2f}   ms p50, p99", flush=True)


async def run(apis: dict[str, Api], store: JobStore, options: argparse.Namespace) -> None:
    for api in apis.values():
        await until_ready(api.port)
    with_them = apis["with"]
    jobs = [await order(with_them.port, seed) for seed in range(1, options.waiters // 2 + 1)]
    for api in apis.values():  # until every thread of the pool is there
        await asyncio.gather(*(order(api.port, 3_000_000 + seed) for seed in range(100)))
    before, threads = with_them.rss_bytes, with_them.process.num_threads()
    opened = asyncio.Semaphore(0)
    pairs = {
        job: [asyncio.create_task(each(with_them.port, job, opened)) for each in (follow, wait)]
        for job in jobs
    }
    for _ in range(2 * len(jobs)):
        await opened.acquire()
    await asyncio.sleep(3)  # every subscription stands, and a look at all jobs has been made
    grown = with_them.rss_bytes - before
    print(f"{2 * len(jobs)} waiters: {grown / len(jobs) / 2 / 1024:.1f} KiB each;", end=" ")
    print(f"threads {threads} before, {with_them.process.num_threads()} with them")
    busy = await asyncio.to_thread(with_them.process.cpu_percent, 3.0)
    print(f"the process that holds them uses {busy:.0f} % of a core while nothing happens")
    took = await time_orders(apis, options.orders)
    for name in apis:
        row(f"POST /jobs, {name} waiters", took[name])
    ratio = statistics.median(took["with"]) / statistics.median(took["without"])
    print(f"ratio at p50: {ratio:.2f}")
    row("cancel -> both waiters know", await told_after(store, pairs))
    rest = [task for pair in pairs.values() for task in pair]
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--waiters", type=int, default=2000)
    parser.add_argument("--orders", type=int, default=600, help="to each process")
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 2 * options.waiters + 1000), most))
    with tempfile.TemporaryDirectory() as top, ExitStack() as stack:
        server = stack.enter_context(EmbeddedRedis(Path(top), appendfsync="everysec"))
        apis = {
            name: stack.enter_context(serving(server.url, Path(top) / name))
            for name in ("without", "with")
        }
        store = open_store(Settings(redis_url=server.url))  # type: ignore[arg-type]
        asyncio.run(asyncio.wait_for(run(apis, store, options), LIMIT_S))


if __name__ == "__main__":
    main()
