"""`POST /jobs` and `GET /jobs/{id}` next to endpoints that do one SET and one GET, in one run.

    python -m benchmarks.api [--requests 2000] [--clients 1 16]

One Redis with `appendfsync always`; the farm's API and the bare one are a process each, loaded in
turn, round by round, so that a busy machine hurts both alike. Prints answers a second, ms at p50 and
p99, and the ratio to the bare endpoint.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import redis
import uvicorn
from fastapi import FastAPI, Response

from benchmarks.submit import ORDER, ready, serving
from deploy.embedded import EmbeddedRedis

ROUNDS = 4


def bare(url: str) -> FastAPI:
    """The least that any API on Redis does: write a body, read it back."""
    app, client = FastAPI(), redis.Redis.from_url(url)

    @app.post("/jobs", status_code=202)
    def submit(order: dict[str, object]) -> dict[str, str]:
        key = os.urandom(8).hex()
        client.set(key, json.dumps(order))
        return {"id": key}

    @app.get("/jobs/{key}")
    def look(key: str) -> Response:
        return Response(client.get(key), media_type="application/json")

    return app


def post() -> bytes:
    body = json.dumps(ORDER).encode()
    head = f"POST /jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def get(job: str) -> bytes:
    return f"GET /jobs/{job} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


async def load(port: int, request: bytes, clients: int, requests: int) -> list[float]:
    """Seconds of each of so many answers; a client asks again when it has its answer."""

    async def client() -> list[float]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        took = []
        for _ in range(requests // clients):
            begun = time.perf_counter()
            await exchange(reader, writer, request)
            took.append(time.perf_counter() - begun)
        writer.close()
        return took

    return [t for each in await asyncio.gather(*(client() for _ in range(clients))) for t in each]


async def exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> bytes:
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    assert head.startswith((b"http/1.1 200", b"http/1.1 202")), head
    return await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))


async def one_job(port: int) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    job = str(json.loads(await exchange(reader, writer, post()))["id"])
    writer.close()
    return job


def measure(what: str, asked: dict[str, tuple[int, bytes]], clients: int, requests: int) -> None:
    took: dict[str, list[float]] = {name: [] for name in asked}
    spent = dict.fromkeys(asked, 0.0)
    for _ in range(ROUNDS):
        for name, (port, request) in asked.items():
            begun = time.perf_counter()
            took[name] += asyncio.run(load(port, request, clients, requests // ROUNDS))
            spent[name] += time.perf_counter() - begun
    bare_p50 = quantile(took["bare"], 0.5)
    bare_rate = len(took["bare"]) / spent["bare"]
    for name in asked:
        rate, p50 = len(took[name]) / spent[name], quantile(took[name], 0.5)
        p99 = quantile(took[name], 0.99)
        print(
            f"{what:15} {name:5} {clients:3} clients {rate:7.0f}/s (x {rate / bare_rate:.2f})"
            f"  p50 {p50 * 1e3:6.2f} ms (x {p50 / bare_p50:.2f})  p99 {p99 * 1e3:6.2f} ms",
            flush=True,
        )


def quantile(values: list[float], q: float) -> float:
    return sorted(values)[int(len(values) * q)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--requests", type=int, default=2000, help="of each kind, to each server")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16])
    options = parser.parse_args()
    if options.bare:
        app = bare(os.environ["FARM_REDIS_URL"])
        uvicorn.run(app, port=int(os.environ["FARM_PORT"]), log_level="error", access_log=False)
        return
    with tempfile.TemporaryDirectory() as top, ExitStack() as stack:
        server = stack.enter_context(EmbeddedRedis(Path(top) / "redis", appendfsync="always"))
        ports = {
            name: stack.enter_context(serving(server.url, durability, Path(top), "benchmarks.api"))
            for name, durability in (("bare", None), ("farm", "always"))
        }
        for port in ports.values():
            asyncio.run(ready(port))
        for clients in options.clients:
            asked = {name: (port, post()) for name, port in ports.items()}
            measure("POST /jobs", asked, clients, options.requests)
            asked = {n: (port, get(asyncio.run(one_job(port)))) for n, port in ports.items()}
            measure("GET /jobs/{id}", asked, clients, options.requests)


if __name__ == "__main__":
    main()
