"""How much waits and runs, on Redis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shared.store.faults import translated
from shared.store.queries import Backlog, LaneLoad, OwnerLoad, PoolLoad
from shared.store.redis_scripts import RedisScripts
from shared.store.values import WEIGHTS


class RedisQueue(RedisScripts):
    """Part of RedisJobStore; see shared/store/port.py."""

    @translated
    def backlog(self, pools: Sequence[str], owner: str | None = None) -> Backlog:
        owners, *loads = self._run("queue", owner or "", *pools)
        return Backlog(
            tuple(_pool(pool, load) for pool, load in zip(pools, loads, strict=True)),
            tuple(OwnerLoad(*load) for load in sorted(owners)),
        )


def _pool(name: str, load: list[Any]) -> PoolLoad:
    pending, delayed, running, storing, oldest, work_s, rate, lanes = load
    return PoolLoad(
        name, pending, delayed, running, storing, float(oldest) if oldest else None, float(work_s),
        float(rate) if rate else None,
        tuple(
            LaneLoad(priority, queued, ms / 1000, running, storing)
            for priority, (queued, ms, running, storing) in zip(WEIGHTS, lanes, strict=True)
        ),
    )  # fmt: skip
