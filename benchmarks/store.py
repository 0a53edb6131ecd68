"""What submit and claim cost on an empty queue and on a long one, side by side on one server.

    python -m benchmarks.store [--queued 300000] [--rounds 400] [--fsync always]

Starts a Redis server of its own in a temporary folder. Prints microseconds and the ratio.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import redis
from ulid import ULID

from deploy.embedded import EmbeddedRedis
from shared.fingerprint import fingerprint
from shared.jobs import Job, RenderSpec, StoredResult
from shared.store.address import connect
from shared.store.redis_store import RedisJobStore
from shared.store.scripts import StoreConfig
from shared.store.values import (
    Order,
    Submission,
)
from shared.tickets import ticket_template


def submission(seed: int, n: int = 1, model: str = "bench") -> Submission:
    job = Job(id=f"job_{ULID()}", owner=f"owner-{seed % 7}", input={"seed": seed}, created_at=0)
    digest = hashlib.sha256(model.encode()).hexdigest()  # else one model's renders answer another's
    specs = [
        RenderSpec(
            model=model, model_digest=digest, prompt="a lighthouse at dusk", width=1024,
            height=1024, steps=28, guidance_scale=4.5, shift=3.0, seed=seed + k,
        )
        for k in range(n)
    ]  # fmt: skip
    return Submission(job, [Order(str(ULID()), fingerprint(s), s, 1.0) for s in specs])


def median_us(rounds: int, turn: Callable[[int], object]) -> float:
    times = []
    for number in range(rounds):
        started = time.perf_counter()
        turn(number)
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e6


def measure(store: RedisJobStore, model: str, rounds: int, first_seed: int) -> tuple[float, float]:
    """(submit, claim) in microseconds; leaves the queue as long as it was."""
    pool = submission(0, model=model).orders[0].spec.pool
    submit = median_us(rounds, lambda k: store.submit(submission(first_seed + k, model=model)))
    claim = median_us(rounds, lambda k: store.claim(pool, str(ULID()), "slot", "worker", 600.0))
    return submit, claim


def memory(client: redis.Redis, work: Callable[[], None], units: int) -> float:
    """Bytes that the work leaves in the server, for each of its units."""
    before = client.info("memory")["used_memory"]
    work()
    return (client.info("memory")["used_memory"] - before) / units


def fill(store: RedisJobStore, renders: int, model: str, n: int = 100) -> None:
    for seed in range(0, renders, n):
        store.submit(submission(seed, n, model))


def finish(store: RedisJobStore, renders: int) -> None:
    """Every render of the pool `single` succeeds."""
    pool = submission(0, model="single").orders[0].spec.pool
    for _ in range(renders):
        taken = store.claim(pool, token := str(ULID()), "slot", "worker", 600.0)
        assert taken is not None
        store.close(taken.render_id, token, picture(taken.fingerprint, token))


def picture(fingerprint: str, token: str) -> StoredResult:
    phases = ("text", "denoise", "decode", "encode")
    return StoredResult(
        fingerprint=fingerprint, token=token, size_bytes=1_500_000, sha256="0" * 64, width=1024,
        height=1024, timings_s=dict.fromkeys(phases, 0.123456), stored_at=time.time(),
        profile={"device": "NVIDIA H200", "dtype": "bfloat16", "attention": "sdpa"},
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queued", type=int, default=300_000, help="renders in the long queue")
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--fsync", choices=["always", "everysec"], default="everysec")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedRedis(Path(folder), appendfsync=options.fsync) as server,
    ):
        config = StoreConfig(ticket_template(), max_queue=10 * options.queued)
        client = connect(server.url, patience_s=10)
        store = RedisJobStore(client, config)
        measure(store, "warm", options.rounds, 0)
        queued = memory(client, lambda: fill(store, options.queued, "long"), options.queued)
        few = min(options.queued, 20_000)
        single = memory(client, lambda: fill(store, few, "single", n=1), few)
        remembered = memory(client, lambda: finish(store, few), few) + single
        rows = {
            "empty": measure(store, "short", options.rounds, 0),
            "long": measure(store, "long", options.rounds, options.queued),
        }
        client.close()
    print(f"{'':8}{'submit':>12}{'claim':>12}   (median of {options.rounds}, us)")
    for name, (submit, claim) in rows.items():
        print(f"{name:8}{submit:12.0f}{claim:12.0f}")
    ratios = [rows["long"][k] / rows["empty"][k] for k in (0, 1)]
    print(f"{'ratio':8}{ratios[0]:12.2f}{ratios[1]:12.2f}   with {options.queued} queued")
    print(
        f"one queued render of a job of 100 takes {queued:.0f} bytes; of a job of its own, with it,"
    )
    print(f"{single:.0f}; such a job when it is finished {remembered:.0f}")


if __name__ == "__main__":
    main()
