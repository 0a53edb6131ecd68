"""The farm as a whole, read from the job store at scrape time: the same from any API process."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shared.errors import StoreUnavailable
from shared.store.outbox import OUTCOMES, OutboxStats
from shared.store.port import JobStore
from shared.store.queries import Backlog, PoolLoad
from shared.store.values import Cause, Spent, Stats, StoreFault, WorkerStatus

TOP_OWNERS = 20
OTHERS = "other"  # all further owners, as one
STATES = get_args(WorkerStatus.model_fields["state"].annotation)
FAULTS = get_args(StoreFault.model_fields["code"].annotation)
ENDS = (  # shown before the first of each, so that a rate sees it come
    "attached", "canceled", "claimed", "failed", "found", "hit", "idle", "lost", "retried", "succeeded",
)  # fmt: skip
Row = tuple[Sequence[str], float]


class StoreCollector(Collector):
    """`pools` are shown even when nothing was ever ordered of them; of others only what is there."""

    def __init__(
        self,
        store: JobStore,
        pools: Sequence[str] = (),
        faults: Callable[[], Sequence[StoreFault]] | None = None,
    ) -> None:
        """`faults`: what the store has been found to lack lately; asked of it, unless given."""
        self._store = store
        self._pools = frozenset(pools)
        self._faults = faults or store.faults

    def describe(self) -> list[Metric]:
        return []  # nothing is read when the registry is built

    def collect(self) -> Iterator[Metric]:
        try:
            stats, workers = self._store.stats(), self._store.workers()
            pools = sorted(self._pools | _in_use(stats, workers))
            backlog = self._store.backlog(pools)
            spent, outbox = self._store.spent(TOP_OWNERS), self._store.outbox_stats()
            faults = {fault.code for fault in self._faults()}
        except StoreUnavailable:
            yield _gauge("store_up", _UP, [], [([], 0)])
            return
        yield _gauge("store_up", _UP, [], [([], 1)])
        yield from _queue(stats, backlog.pools)
        yield from _workers(pools, workers, stats.deaths)
        yield from _owners(backlog, spent)
        yield from _webhooks(outbox)
        yield from _store(stats, faults)


_UP = "1 if the job store answers"


def model_of(pool: str) -> str:
    """A pool's name is its model's and a digest of what decides pixels."""
    return pool.rpartition(".")[0] or pool


def _in_use(stats: Stats, workers: Iterable[WorkerStatus]) -> set[str]:
    """The store remembers every pool that ever was, as models change."""
    waits = {p.pool for p in stats.pools if p.pending or p.delayed or p.tickets}
    return waits | {worker.pool for worker in workers}


def _queue(stats: Stats, loads: Sequence[PoolLoad]) -> Iterator[Metric]:
    tickets = {pool.pool: pool.tickets for pool in stats.pools}
    for name, text, of in (
        ("renders_pending", "Queued renders", lambda load: load.pending),
        ("renders_delayed", "Renders in the pause before a retry", lambda load: load.delayed),
        ("tickets", "Tickets in the broker", lambda load: tickets.get(load.pool, 0)),
        ("queue_oldest_wait_seconds", "How long the longest waiting has waited", _oldest_s),
        ("cost_rate", "Measured by predicted device seconds of late", lambda load: load.rate or 1),
    ):  # fmt: skip
        rows = [([model_of(load.pool), load.pool], of(load)) for load in loads]
        yield _gauge(name, text, ["model", "pool"], rows)
    yield _gauge(
        "queue_renders", "Renders that have not ended", ["model", "pool", "priority", "state"],
        [([model_of(load.pool), load.pool, lane.priority, state], count)
         for load in loads for lane in load.lanes
         for state, count in (("queued", lane.queued), ("running", lane.running), ("storing", lane.storing))],
    )  # fmt: skip
    work_s = dict.fromkeys((model_of(load.pool) for load in loads), 0.0)
    for load in loads:
        work_s[model_of(load.pool)] += load.backlog_s
    yield _gauge(
        "backlog_gpu_seconds", "Predicted device seconds of all that is queued", ["model"],
        [([model], seconds) for model, seconds in sorted(work_s.items())],
    )  # fmt: skip
    yield _gauge("leases", "Renders that a worker holds", [], [([], stats.leases)])
    yield _counter(
        "store", "Renders by outcome, farm-wide", ["outcome"],
        [([outcome], stats.totals.get(outcome, 0)) for outcome in sorted({*ENDS, *stats.totals})],
    )  # fmt: skip
    worked_s = dict.fromkeys(work_s, 0.0)
    for pool, seconds in stats.worked_s.items():
        worked_s[model_of(pool)] = worked_s.get(model_of(pool), 0.0) + seconds
    yield _counter(
        "gpu_seconds", "Device seconds that went into pictures", ["model"],
        [([model], seconds) for model, seconds in sorted(worked_s.items())],
    )  # fmt: skip
    yield _gauge(
        "poisoned_renders", "Renders that took down workers, and wait for an operator", [],
        [([], stats.poisoned)],
    )  # fmt: skip


def _oldest_s(load: PoolLoad) -> float:
    return 0.0 if load.oldest_at is None else max(0.0, time.time() - load.oldest_at)


def _workers(
    pools: Sequence[str], workers: Sequence[WorkerStatus], deaths: Mapping[str, int]
) -> Iterator[Metric]:
    counted = Counter((worker.pool, worker.state) for worker in workers)
    yield _gauge(
        "workers", "Workers by state", ["model", "pool", "state"],
        [([model_of(pool), pool, state], counted[pool, state]) for pool in pools for state in STATES],
    )  # fmt: skip
    yield _gauge(
        "worker_state", "1 for the state that a worker is in", ["worker", "model", "state"],
        [([worker.name, worker.model, worker.state], 1) for worker in workers],
    )  # fmt: skip
    yield _gauge(
        "worker_start_timestamp_seconds", "When a worker's process started", ["worker", "model"],
        [([worker.name, worker.model], worker.started_at) for worker in workers],
    )  # fmt: skip
    yield _counter(
        "worker_deaths", "Workers that died, by cause", ["cause"],
        [([cause], deaths.get(cause, 0)) for cause in get_args(Cause)],
    )  # fmt: skip


def _owners(backlog: Backlog, spent: Spent) -> Iterator[Metric]:
    """Bounded: the largest by name, the rest as one. So they are gauges: an owner comes and goes."""
    rest_s = max(0.0, spent.all_s - sum(spent.top_s.values()))
    today_s = {**spent.top_s, OTHERS: spent.top_s.get(OTHERS, 0.0) + rest_s}
    yield _gauge(
        "owner_gpu_seconds_today", "Device seconds that went into an owner's pictures since 0:00 UTC",
        ["owner"], [([owner], seconds) for owner, seconds in today_s.items()],
    )  # fmt: skip
    renders = Counter({(OTHERS, "queued"): 0, (OTHERS, "running"): 0})
    loads = sorted(backlog.owners, key=lambda load: load.queued + load.running, reverse=True)
    for place, load in enumerate(loads):
        owner = load.owner if place < TOP_OWNERS else OTHERS
        renders[owner, "queued"] += load.queued
        renders[owner, "running"] += load.running
    yield _gauge(
        "owner_renders", "Renders on an owner's account now", ["owner", "state"], renders.items()
    )


def _webhooks(outbox: OutboxStats) -> Iterator[Metric]:
    yield _gauge("webhooks_waiting", "Webhooks not yet delivered", [], [([], outbox.waiting)])
    yield _gauge(
        "webhooks_late_seconds", "How long the oldest webhook should have been tried already",
        [], [([], outbox.late_s)],
    )  # fmt: skip
    yield _counter(
        "webhook_attempts", "Attempts to deliver a webhook", ["outcome"],
        [([outcome], outbox.totals.get(outcome, 0)) for outcome in OUTCOMES],
    )  # fmt: skip


def _store(stats: Stats, faults: Collection[str]) -> Iterator[Metric]:
    yield _gauge(
        "store_faults", "1 for each reason why Redis may lose, or not take, what it is given",
        ["code"], [([code], int(code in faults)) for code in FAULTS],
    )  # fmt: skip
    yield _gauge(
        "redis_memory_bytes", "Memory of Redis: used, and the limit where there is one", ["kind"],
        [([kind], size) for kind, size in (("used", stats.used_bytes), ("limit", stats.max_bytes)) if size],
    )  # fmt: skip
    yield _gauge(
        "reaper_last_run_timestamp_seconds", "When the reaper came last, in any process of chores",
        [], [([], stats.reaped_at)],
    )  # fmt: skip


def _gauge(name: str, text: str, labels: Sequence[str], rows: Iterable[Row]) -> Metric:
    family = GaugeMetricFamily(f"renderfarm_{name}", text, labels=labels)
    for values, number in rows:
        family.add_metric(values, number)
    return family


def _counter(name: str, text: str, labels: Sequence[str], rows: Iterable[Row]) -> Metric:
    family = CounterMetricFamily(f"renderfarm_{name}", text, labels=labels)
    for values, number in rows:
        family.add_metric(values, number)
    return family
