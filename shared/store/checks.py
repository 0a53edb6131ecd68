"""What makes the connected Redis lose jobs that were answered 202, and what to do about it."""

from __future__ import annotations

import logging

from shared.errors import StoreUnavailable
from shared.logs import event
from shared.store.durable import Wanted, choose
from shared.store.port import JobStore
from shared.store.server import Server
from shared.store.values import StoreFault

OLDEST = (6, 2)
NEARLY_FULL = 0.9


def faults_of(server: Server, wanted: Wanted) -> tuple[StoreFault, ...]:
    """The worst first; empty for a server that keeps every promise."""
    found = (
        _fault(
            "cluster",
            server.is_cluster,
            "Redis Cluster spreads keys over servers, and the farm's scripts need them on one",
            "use one server, or a primary and replicas behind Sentinel",
        ),
        _fault(
            "too_old",
            server.version < OLDEST,
            f"{server.described} is older than 6.2",
            "upgrade Redis, or use Valkey",
        ),
        _fault(
            "replica",
            not server.is_primary,
            "this Redis is a replica and takes no writes",
            "set FARM_REDIS_URL to the primary, or to its sentinels",
        ),
        _fault(
            "no_aof",
            not server.has_aof,
            "Redis has no append-only file: every job since its last snapshot is lost when it ends",
            "set appendonly yes and appendfsync always",
        ),
        _fault(
            "write_failed",
            server.write_failed,
            "the last write of Redis to its append-only file failed",
            "see its log, free its disk",
        ),
        _fault(
            "evicts",
            server.eviction != "noeviction",
            f"Redis throws keys away when it is full (maxmemory-policy {server.eviction})",
            "set maxmemory-policy noeviction",
        ),
        _fault(
            "nearly_full",
            server.max_bytes > 0 and server.used_bytes > NEARLY_FULL * server.max_bytes,
            f"Redis uses over {NEARLY_FULL:.0%} of its maxmemory; when it is full, orders get 503",
            "raise maxmemory, or lower FARM_JOB_RETENTION_S",
        ),
        _promise_fault(server, wanted),
    )
    return tuple(fault for fault in found if fault)


def report(store: JobStore, log: logging.Logger) -> tuple[StoreFault, ...]:
    """Log each fault as a warning. A store that does not answer is one line of its own."""
    try:
        faults = store.faults()
    except StoreUnavailable as error:
        event(log, "not_checked", logging.WARNING, reason=str(error))
        return ()
    for fault in faults:
        event(
            log, "not_durable", logging.WARNING,
            code=fault.code, reason=fault.reason, advice=fault.advice,
        )  # fmt: skip
    return faults


def _promise_fault(server: Server, wanted: Wanted) -> StoreFault | None:
    if not server.has_aof and wanted in ("auto", "off"):
        return None  # `no_aof` says it all
    try:
        promise = choose(wanted, server)
    except StoreUnavailable as error:
        return StoreFault(code="no_promise", reason=f"{error}; every order gets 503", advice=_FIX)
    careless = not server.syncs_always and (promise == "off" or not server.waitaof_is_true)
    reason = f"{server.described}: a power cut loses the jobs of the last second or more"
    return _fault("no_promise", careless, reason, _FIX)


def _fault(code: str, holds: bool, reason: str, advice: str) -> StoreFault | None:
    if not holds:
        return None
    return StoreFault.model_validate({"code": code, "reason": reason, "advice": advice})


_FIX = "set appendfsync always; it costs less than a millisecond an order"
