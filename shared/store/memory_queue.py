"""How much waits and runs, in the memory store."""

from __future__ import annotations

from collections.abc import Sequence
from threading import RLock

from shared.jobs import LEASED, OPEN, RenderState
from shared.store.ledger import Entry, Ledger
from shared.store.queries import Backlog, LaneLoad, OwnerLoad, PoolLoad
from shared.store.values import WEIGHTS, Spent


class MemoryQueue:
    """Part of MemoryJobStore; see shared/store/port.py."""

    _lock: RLock
    _ledger: Ledger

    def backlog(self, pools: Sequence[str], owner: str | None = None) -> Backlog:
        with self._lock:
            open_ = [e for e in self._ledger.renders.values() if e.render.state in OPEN]
            names = {_payer(entry) for entry in open_} if owner is None else {owner}
            return Backlog(
                tuple(self._pool(pool, open_) for pool in pools),
                tuple(_load(name, open_) for name in sorted(names)),
            )

    def _pool(self, name: str, open_: Sequence[Entry]) -> PoolLoad:
        mine = [entry for entry in open_ if entry.render.pool == name]
        states = [entry.render.state for entry in mine]
        pending = [entry for entry in mine if self._ledger.waits(entry)]
        queued = [entry for entry in mine if entry.render.state is RenderState.queued]
        return PoolLoad(
            pool=name,
            pending=len(pending),
            delayed=len(queued) - len(pending),
            running=states.count(RenderState.running),
            storing=states.count(RenderState.storing),
            oldest_at=min((entry.render.queued_at for entry in queued), default=None),
            work_s=sum(entry.cost for entry in pending),
            rate=self._ledger.rates.get(name),
            lanes=tuple(_lane(priority, mine) for priority in WEIGHTS),
        )

    def spent(self, top: int) -> Spent:
        with self._lock:
            today = self._ledger.spent.get(int(self._ledger.now()) // 86_400, {})
            largest = sorted(today.items(), key=lambda entry: entry[1], reverse=True)
            return Spent(sum(today.values()), dict(largest[:top]))


def _lane(priority: str, open_: Sequence[Entry]) -> LaneLoad:
    mine = [entry for entry in open_ if entry.flow.rpartition(":")[2] == priority]
    states = [entry.render.state for entry in mine]
    queued = [entry for entry in mine if entry.render.state is RenderState.queued]
    return LaneLoad(
        priority,
        len(queued),
        sum(entry.cost for entry in queued),
        states.count(RenderState.running),
        states.count(RenderState.storing),
    )


def _payer(entry: Entry) -> str:
    return entry.flow.rpartition(":")[0]


def _load(owner: str, open_: Sequence[Entry]) -> OwnerLoad:
    states = [entry.render.state for entry in open_ if _payer(entry) == owner]
    return OwnerLoad(
        owner, states.count(RenderState.queued), sum(state in LEASED for state in states)
    )
