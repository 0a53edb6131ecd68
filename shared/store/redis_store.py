"""The job store on Redis: one Lua script per transition, all in `lua/`."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any, cast

import redis

from shared.errors import JobFinished, JobNotFound
from shared.jobs import Failure, Job, RenderSpec
from shared.keys import KEYS, queue_name
from shared.store import codec
from shared.store.address import connect as connect
from shared.store.checks import faults_of
from shared.store.durable import Durable
from shared.store.faults import translated as _translated
from shared.store.redis_attendance import RedisAttendance
from shared.store.redis_claims import RedisClaims
from shared.store.redis_events import RedisEvents
from shared.store.redis_index import RedisIndex
from shared.store.redis_outbox import RedisOutbox
from shared.store.redis_queue import RedisQueue
from shared.store.scripts import StoreConfig
from shared.store.server import look
from shared.store.values import (
    WEIGHTS,
    Cause,
    Claim,
    Delayed,
    Hold,
    Moved,
    Outcome,
    Owed,
    Poison,
    PoolStats,
    Spent,
    Standing,
    Stats,
    StoreFault,
    Submission,
    Submitted,
    WorkerStatus,
)

FORGET_WORKER_S = 3_600
CONDEMNED_S = 86_400
BATCH = 200


class RedisJobStore(RedisAttendance, RedisClaims, RedisEvents, RedisIndex, RedisOutbox, RedisQueue):
    """See shared/store/port.py. Thread-safe."""

    def __init__(self, client: redis.Redis, config: StoreConfig) -> None:
        super().__init__(client, config)
        self._durable = Durable(client, config.durability, config.durable_replicas)

    @_translated
    def submit(self, submission: Submission) -> Submitted:
        job = submission.job
        weight = WEIGHTS[job.priority] * submission.weight
        fields = codec.encode_submission(submission, weight, self._config.max_queue)
        answer = self._durable.run(self._scripts["submit"], json.dumps(fields))
        return codec.decode_submitted(submission, answer)

    @_translated
    def get(self, job_id: str) -> Job:
        seen = self._run("get", job_id)
        if seen is None:
            raise JobNotFound
        return codec.decode_job(seen)

    @_translated
    def cancel(self, job_id: str) -> Job:
        how, *seen = self._run("cancel", job_id)
        if how == "missing":
            raise JobNotFound
        if how == "finished":
            raise JobFinished
        return codec.decode_job(seen[0])

    @_translated
    def forget(self, fingerprint: str, render_id: str) -> None:
        self._run("forget", fingerprint, render_id)

    @_translated
    def claim(self, pool: str, token: str, slot: str, worker: str, lease_s: float) -> Claim | None:
        answer = self._run("claim", pool, token, slot, worker, lease_s)
        return codec.decode_claim(answer) if answer else None

    @_translated
    def renew(self, steps: Mapping[str, tuple[str, int]], lease_s: float) -> dict[str, Hold]:
        if not steps:
            return {}
        flat = [part for token, (render, step) in steps.items() for part in (token, render, step)]
        return dict(zip(steps, self._run("renew", lease_s, *flat), strict=True))

    @_translated
    def storing(self, render_id: str, token: str, step: int) -> bool:
        return bool(self._run("storing", render_id, token, step))

    @_translated
    def close(
        self,
        render_id: str,
        token: str,
        outcome: Outcome,
        *,
        found: bool = False,
        device_s: float = 0.0,
    ) -> bool | Delayed:
        state, field, value = codec.encode_outcome(outcome)
        retryable = isinstance(outcome, Failure) and outcome.retryable
        what = (state, field, value, int(found), device_s, int(retryable))
        return codec.decode_closed(self._run("close", render_id, token, *what))

    @_translated
    def release(
        self,
        render_id: str,
        token: str,
        *,
        lost: bool,
        cause: Cause = "worker_lost",
        detail: str = "",
    ) -> bool:
        return bool(self._run("release", render_id, token, int(lost), cause, detail))

    @_translated
    def adopt(self, slot: str) -> Moved:
        return codec.decode_moved(self._run("adopt", slot))

    @_translated
    def died(self, slot: str, cause: Cause) -> None:
        self._run("died", slot, cause)

    @_translated
    def unwell(self, slot: str, token: str) -> None:
        self._run("unwell", slot, token)

    @_translated
    def heartbeat(self, status: WorkerStatus, ttl_s: float) -> Standing:
        told = status.model_dump_json(exclude={"last_seen_at", "holding", "last_death"})
        order, unwell = self._run("heartbeat", status.name, ttl_s, told)
        return Standing(order == "drain", unwell)

    @_translated
    def leave(self, name: str) -> None:
        self._redis.hdel(KEYS["workers"], name)

    @_translated
    def reap(self) -> Moved:
        return codec.decode_moved(self._run("reap", BATCH))

    @_translated
    def expire(self) -> Moved:
        return Moved(expired=tuple(self._run("expire", BATCH)))

    @_translated
    def reconcile(self) -> int:
        return int(self._run("reconcile", FORGET_WORKER_S))

    @_translated
    def audit(self) -> Moved:
        repaired: list[str] = []
        for batch in self._renders():
            repaired += self._run("audit", *batch)
        return Moved(requeued=tuple(repaired))

    @_translated
    def poison(self) -> list[Poison]:
        return [codec.decode_poison(entry) for entry in self._run("poison")]

    @_translated
    def drop_poison(self, render_id: str) -> bool:
        return bool(self._redis.zrem(KEYS["poison"], render_id))

    @_translated
    def condemn(self, fingerprint: str, token: str) -> bool:
        return bool(self._run("condemn", fingerprint, token, CONDEMNED_S))

    @_translated
    def results_in_use(self, but: Collection[str] = ()) -> set[str]:
        return {result["token"] for result in self._each("result", but)}

    @_translated
    def inputs_in_use(self) -> set[str]:
        named = (spec.get(f) for spec in self._each("spec") for f in RenderSpec.INPUTS)
        return {sha256 for sha256 in named if sha256}

    def _each(self, field: str, but: Collection[str] = ()) -> Iterator[dict[str, Any]]:
        """This field of all renders that have it."""
        for batch in self._renders():
            pipe = self._redis.pipeline(transaction=False)
            for render in batch:
                if render not in but:
                    pipe.hget(KEYS["render"] + render, field)
            yield from (json.loads(value) for value in pipe.execute() if value)

    def _renders(self) -> Iterator[list[str]]:
        """The ids of all renders, in batches; one that is there all the time is never missed."""
        batch: list[str] = []
        for key in self._redis.scan_iter(KEYS["render"] + "*", count=BATCH):
            batch.append(str(key).removeprefix(KEYS["render"]))
            if len(batch) == BATCH:
                yield batch
                batch = []
        if batch:
            yield batch

    @_translated
    def drain(self, name: str) -> None:
        self._redis.hset(KEYS["orders"], name, "drain")

    @_translated
    def lift(self, name: str) -> bool:
        pipe = self._redis.pipeline(transaction=True)
        pipe.hdel(KEYS["orders"], name)
        pipe.delete(KEYS["unwell"] + name)
        return any(pipe.execute())

    @_translated
    def workers(self) -> list[WorkerStatus]:
        now, *seen = self._run("workers")
        return sorted((codec.decode_worker(one, float(now)) for one in seen), key=_by_name)

    @_translated
    def stats(self) -> Stats:
        pools = sorted(cast("set[str]", self._redis.smembers(KEYS["pools"])))
        pipe = self._redis.pipeline(transaction=False)
        pipe.zcard(KEYS["leases"])
        pipe.hgetall(KEYS["totals"])
        pipe.hgetall(KEYS["deaths"])
        pipe.hgetall(KEYS["worked_ms"])
        pipe.zcard(KEYS["poison"])
        pipe.get(KEYS["reaped"])
        pipe.info("memory")
        for pool in pools:
            pipe.zcard(KEYS["pending"] + pool)
            pipe.zcard(KEYS["delayed"] + pool)
            pipe.llen(queue_name(pool))
            pipe.get(KEYS["rate"] + pool)
        leases, totals, deaths, worked_ms, poisoned, reaped_at, memory, *sizes = pipe.execute()
        rows = zip(pools, sizes[::4], sizes[1::4], sizes[2::4], sizes[3::4], strict=True)
        return Stats(
            pools=tuple(
                PoolStats(pool=pool, pending=pending, delayed=delayed, tickets=tickets, rate=rate)
                for pool, pending, delayed, tickets, rate in rows
            ),
            leases=leases,
            totals={outcome: int(count) for outcome, count in totals.items()},
            deaths={cause: int(count) for cause, count in deaths.items()},
            worked_s={pool: int(ms) / 1000 for pool, ms in worked_ms.items()},
            poisoned=poisoned,
            reaped_at=float(reaped_at or 0),
            used_bytes=memory["used_memory"],
            max_bytes=memory.get("maxmemory", 0),
        )

    @_translated
    def spent(self, top: int) -> Spent:
        all_ms, *owners = self._run("spent", top)
        named = zip(owners[::2], owners[1::2], strict=True)
        return Spent(float(all_ms) / 1000, {owner: float(ms) / 1000 for owner, ms in named})

    @_translated
    def owed(self) -> dict[str, Owed]:
        pipe = self._redis.pipeline(transaction=True)
        pipe.hgetall(KEYS["owed"])
        pipe.hgetall(KEYS["owed_ms"])
        renders, ms = pipe.execute()
        return {o: Owed(int(renders[o]), int(ms.get(o, 0)) / 1000) for o in sorted(renders)}

    @_translated
    def secret(self, name: str, proposal: str) -> str:
        key = KEYS["secret"] + name
        self._redis.set(key, proposal, nx=True)
        return str(self._redis.get(key))

    @_translated
    def faults(self) -> tuple[StoreFault, ...]:
        return faults_of(look(self._redis), self._config.durability)

    @_translated
    def ping(self) -> None:
        self._redis.ping()


def _by_name(status: WorkerStatus) -> str:
    return status.name
