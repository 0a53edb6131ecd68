"""What a page of jobs, an order, a look and a deletion cost with few jobs remembered and with many.

    python -m benchmarks.index [--jobs 100000] [--rounds 300] [--fsync always]

Starts a Redis server of its own in a temporary folder. Prints microseconds and the ratio. All jobs
are queued, of 7 owners, so a look reckons an ETA behind a queue of that length.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks.store import median_us, submission
from deploy.embedded import EmbeddedRedis
from shared.jobs import JobStatus
from shared.store.address import connect
from shared.store.queries import JobQuery
from shared.store.redis_store import RedisJobStore
from shared.store.scripts import StoreConfig
from shared.tickets import ticket_template

OWNER = "owner-0"
FEW = 700


class Bench:
    """A store that fills up; `ids` are its jobs, the oldest first."""

    def __init__(self, store: RedisJobStore, rounds: int) -> None:
        self._store = store
        self._rounds = rounds
        self.ids: list[str] = []

    def fill(self, jobs: int) -> None:
        while len(self.ids) < jobs:
            self._submit()

    def _submit(self, _: int = 0) -> None:
        self.ids.append(self._store.submit(submission(len(self.ids))).job.id)

    def measure(self) -> dict[str, float]:
        """Microseconds by what was done; as many jobs are left as were there."""
        mine, everybodys = JobQuery(OWNER), JobQuery(None)
        middle = self.ids[len(self.ids) // 2]
        found = {
            "my first page of 20": self._time(lambda _: self._store.jobs(mine)),
            "everybody's, from the middle": self._time(
                lambda _: self._store.jobs(replace(everybodys, after=middle))
            ),
            "a page that finds nothing": self._time(
                lambda _: self._store.jobs(replace(mine, statuses=frozenset({JobStatus.failed})))
            ),
            "look at the last": self._time(lambda _: self._store.get(self.ids[-1])),
            "what an order would meet": self._time(
                lambda k: self._store.foresee(submission(10**9 + k))
            ),
        }
        found["submit"] = self._time(self._submit)
        fresh = [self.ids.pop() for _ in range(self._rounds)]
        found["cancel"] = self._time(lambda k: self._store.cancel(fresh[k]))
        found["delete"] = self._time(lambda k: self._store.delete(fresh[k]))
        return found

    def _time(self, turn: Callable[[int], object]) -> float:
        return median_us(self._rounds, turn)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=100_000, help="jobs that are remembered")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--fsync", choices=["always", "everysec"], default="everysec")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedRedis(Path(folder), appendfsync=options.fsync) as server,
    ):
        client = connect(server.url, patience_s=10)
        config = StoreConfig(ticket_template(), max_queue=10 * options.jobs)
        bench = Bench(RedisJobStore(client, config), options.rounds)
        bench.fill(FEW)
        few = bench.measure()
        bench.fill(options.jobs)
        many = bench.measure()
        client.close()
    print(f"{'':30}{FEW:>10}{options.jobs:>10}{'ratio':>8}   (median of {options.rounds}, us)")
    for what, us in many.items():
        print(f"{what:30}{few[what]:10.0f}{us:10.0f}{us / few[what]:8.2f}")


if __name__ == "__main__":
    main()
