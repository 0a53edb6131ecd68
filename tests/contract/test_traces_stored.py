"""A job's place in its client's trace comes through every job store, to whoever claims its render."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from shared.jobs import TraceContext
from shared.store.address import connect
from shared.store.memory import MemoryJobStore
from shared.store.port import JobStore
from shared.store.redis_store import RedisJobStore
from shared.store.scripts import StoreConfig
from shared.store.values import Claim, Submission
from shared.tickets import ticket_template
from tests.orders import POOL, submission

ONE = TraceContext(parent=f"00-{'1' * 32}-{'a' * 16}-01", state="vendor=one,other=2")
TWO = TraceContext(parent=f"00-{'2' * 32}-{'b' * 16}-00")


@pytest.fixture(params=["memory", "valkey", "redis"])
def store(request: pytest.FixtureRequest) -> Iterator[JobStore]:
    if request.param == "memory":
        yield MemoryJobStore()
        return
    client = connect(request.getfixturevalue("redis_of")(request.param), patience_s=2)
    yield RedisJobStore(client, StoreConfig(ticket_template()))
    client.close()


def traced(trace: TraceContext | None, job_id: str, n: int = 1) -> Submission:
    order = submission(n=n)
    return replace(order, job=order.job.model_copy(update={"trace": trace, "id": job_id}))


def claim(store: JobStore, token: str = "t1") -> Claim:
    claimed = store.claim(POOL, token, "slot", "worker", 600.0)
    assert claimed is not None
    return claimed


def test_a_job_keeps_its_place_in_a_trace(store: JobStore) -> None:
    job = store.submit(traced(ONE, "job_1")).job

    assert job.trace == store.get(job.id).trace == ONE
    assert claim(store).traces == (ONE,)


def test_a_shared_render_knows_the_traces_of_its_jobs_the_oldest_first(store: JobStore) -> None:
    store.submit(traced(ONE, "job_1"))
    store.submit(traced(None, "job_2"))
    store.submit(traced(TWO, "job_3"))

    first = claim(store)
    store.release(first.render_id, first.token, lost=True)

    assert first.traces == claim(store, "t2").traces == (ONE, TWO)
    assert first.jobs == ("job_1", "job_2", "job_3")


def test_a_job_that_waits_twice_for_one_render_is_there_once(store: JobStore) -> None:
    store.submit(traced(ONE, "job_1"))
    order = traced(TWO, "job_2", n=2)
    same = [order.orders[0], replace(order.orders[1], fingerprint=order.orders[0].fingerprint)]
    store.submit(replace(order, orders=same))

    assert claim(store).traces == (ONE, TWO)


def test_a_job_without_a_trace_has_none(store: JobStore) -> None:
    job = store.submit(submission()).job

    assert store.get(job.id).trace is None
    assert claim(store).traces == ()
