"""What submit and claim cost on an empty queue and on a long one, side by side on one server.

    python -m benchmarks.store [--queued 300000] [--rounds 400] [--fsync always]

Starts a Redis server of its own in a temporary folder. Prints microseconds and the ratio.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ulid import ULID

from deploy.embedded import EmbeddedRedis
from shared.fingerprint import fingerprint
from shared.jobs import Job, RenderSpec
from shared.store.address import connect
from shared.store.port import Order, Submission
from shared.store.redis_store import RedisJobStore, StoreConfig
from shared.tickets import ticket_template

DIGEST = "0" * 64


def submission(seed: int, n: int = 1, model: str = "bench") -> Submission:
    job = Job(id=f"job_{ULID()}", owner=f"owner-{seed % 7}", input={"seed": seed}, created_at=0)
    specs = [
        RenderSpec(
            model=model, model_digest=DIGEST, prompt="a lighthouse at dusk", width=1024,
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
        before = client.info("memory")["used_memory"]
        for seed in range(0, options.queued, 100):
            store.submit(submission(seed, 100, "long"))
        grown = client.info("memory")["used_memory"] - before
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
    print(f"one queued render takes {grown / options.queued / 1024:.2f} KiB")


if __name__ == "__main__":
    main()
