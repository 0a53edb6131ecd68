"""What a durable 202 costs: the served API on one Redis, under three promises, side by side.

    python -m benchmarks.submit [--seconds 3] [--rounds 3] [--clients 1 16 64] [--dir FOLDER]

Each row is a promise, `bare` an endpoint in the same thread pool that does one SET. All servers run
at once and are loaded in turn, round by round, so that a busy machine hurts all alike. Prints
answers a second (median of the rounds), the ratio to `bare`, and milliseconds at p50 and p99.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import redis
import uvicorn
from fastapi import FastAPI

from deploy.embedded import EmbeddedRedis
from deploy.ports import free_port
from shared.settings import PREFIX

# name -> (appendfsync, FARM_DURABILITY; None: the bare endpoint)
ROWS = {
    "bare everysec": ("everysec", None),
    "off, everysec": ("everysec", "off"),
    "waitaof, everysec": ("everysec", "waitaof"),
    "bare always": ("always", None),
    "always": ("always", "always"),
}
ORDER = {"prompt": "a lighthouse at dusk", "steps": 4, "size": "64x64"}


def bare(url: str) -> FastAPI:
    """The least that any API on Redis does: read a body, write it, answer 202."""
    app, client = FastAPI(), redis.Redis.from_url(url)

    @app.post("/jobs", status_code=202)
    def submit(order: dict[str, object]) -> dict[str, str]:
        key = os.urandom(8).hex()
        client.set(key, json.dumps(order))
        return {"id": key}

    return app


@contextmanager
def serving(
    url: str, durability: str | None, folder: Path, bare: str = "benchmarks.submit"
) -> Iterator[int]:
    """A server process of its own, the farm's API or the module `bare`; its port."""
    port = free_port()
    env = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)}
    env |= {
        "FARM_REDIS_URL": url, "FARM_PORT": str(port), "FARM_DATA_DIR": str(folder),
        "FARM_LOG_LEVEL": "ERROR", "FARM_API_DRAIN_S": "0", "FARM_MAX_QUEUE": "100000000",
        "FARM_DURABILITY": durability or "off", "FARM_DEFAULT_MODEL": "tiny",
    }  # fmt: skip
    command = ["-m", "cli.main", "api"] if durability else ["-m", bare, "--bare"]
    process = subprocess.Popen([sys.executable, *command], env=env)
    try:
        yield port
    finally:
        process.terminate()
        process.wait()


async def ready(port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        except OSError:
            await asyncio.sleep(0.05)


async def load(port: int, clients: int, seconds: float) -> list[float]:
    """Seconds of every answer; each client sends its next order when it has its answer."""
    body = json.dumps(ORDER).encode()
    head = "POST /jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    end = time.perf_counter() + seconds

    async def client() -> list[float]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        took = []
        while (begun := time.perf_counter()) < end:
            writer.write(request)
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
            assert answer.startswith(b"http/1.1 202"), answer
            length = int(answer.split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            took.append(time.perf_counter() - begun)
        writer.close()
        return took

    return [t for each in await asyncio.gather(*(client() for _ in range(clients))) for t in each]


def measure(ports: dict[str, int], clients: int, seconds: float, rounds: int) -> None:
    rates: dict[str, list[float]] = {name: [] for name in ports}
    times: dict[str, list[float]] = {name: [] for name in ports}
    for _ in range(rounds):
        for name, port in ports.items():
            took = asyncio.run(load(port, clients, seconds))
            rates[name].append(len(took) / seconds)
            times[name] += took
    base = {name.split()[-1]: statistics.median(rates[name]) for name in ports if "bare" in name}
    for name in ports:
        rate, took = statistics.median(rates[name]), sorted(times[name])
        p50, p99 = (took[int(len(took) * q)] * 1e3 for q in (0.5, 0.99))
        ratio = rate / base[ROWS[name][0]]
        print(f"{clients:7} {name:20}{rate:9.0f}/s{ratio:8.2f}{p50:9.1f}{p99:9.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--dir", help="where Redis writes; its disk decides the figures")
    options = parser.parse_args()
    if options.bare:
        app = bare(os.environ["FARM_REDIS_URL"])
        uvicorn.run(app, port=int(os.environ["FARM_PORT"]), log_level="error", access_log=False)
        return
    with tempfile.TemporaryDirectory(dir=options.dir) as top, ExitStack() as stack:
        ports = {}
        for name, (fsync, durability) in ROWS.items():
            folder = Path(top) / name.replace(" ", "-")
            server = stack.enter_context(EmbeddedRedis(folder, appendfsync=fsync))
            ports[name] = stack.enter_context(serving(server.url, durability, folder))
        for port in ports.values():
            asyncio.run(ready(port))
        print(f"clients {'promise':20}{'rate':>11}{'ratio':>8}{'p50 ms':>9}{'p99 ms':>9}")
        for clients in options.clients:
            measure(ports, clients, options.seconds, options.rounds)


if __name__ == "__main__":
    main()
