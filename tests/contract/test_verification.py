"""A render that compares instead of storing: one contract over every job store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from shared.jobs import JobStatus, RenderState, StoredResult, Verdict
from shared.store.address import connect
from shared.store.memory import MemoryJobStore
from shared.store.port import JobStore
from shared.store.redis_store import RedisJobStore
from shared.store.scripts import StoreConfig
from shared.store.values import Claim, Submission
from shared.tickets import ticket_template
from tests.orders import POOL, stored, submission

VERDICT = Verdict(identical=False, max_abs_diff=7, sha256="f" * 64, timings_s={"denoise": 2.0})


@pytest.fixture(params=["memory", "valkey", "redis"])
def store(request: pytest.FixtureRequest) -> Iterator[JobStore]:
    if request.param == "memory":
        yield MemoryJobStore()
        return
    client = connect(request.getfixturevalue("redis_of")(request.param), patience_s=2)
    yield RedisJobStore(client, StoreConfig(ticket_template()))
    client.close()


def run(store: JobStore, token: str) -> Claim:
    taken = store.claim(POOL, token, "slot", "worker", 30.0)
    assert taken is not None
    return taken


def rendered(store: JobStore) -> StoredResult:
    store.submit(submission(seed=1))
    taken = run(store, "t1")
    result = stored(taken.fingerprint, "t1")
    assert store.close(taken.render_id, "t1", result)
    return result


def verification(result: StoredResult) -> Submission:
    order = submission(seed=1, cache="bypass")
    job = order.job.model_copy(update={"verifies": "job_old"})
    return replace(order, job=job, orders=[replace(order.orders[0], against=result)])


def test_the_worker_is_told_what_to_compare_with_and_its_verdict_is_kept(store: JobStore) -> None:
    result = rendered(store)

    job = store.submit(verification(result)).job
    taken = run(store, "t2")

    assert (taken.against, taken.fresh) == (result, True)
    assert store.close(taken.render_id, "t2", VERDICT, device_s=2.0)
    assert store.close(taken.render_id, "t2", VERDICT, device_s=2.0), "this very call, repeated"
    done = store.get(job.id)
    assert (done.status, done.verifies) == (JobStatus.succeeded, "job_old")
    assert (done.images[0].render.verdict, done.images[0].render.result) == (VERDICT, None)
    assert store.stats().leases == 0


def test_an_ordinary_render_compares_with_nothing(store: JobStore) -> None:
    store.submit(submission(seed=1))

    assert run(store, "t1").against is None


def test_a_verification_answers_nobody(store: JobStore) -> None:
    result = rendered(store)
    first = store.submit(submission(seed=1)).job
    store.forget(result.fingerprint, first.images[0].render.id)
    store.submit(verification(result))

    assert store.submit(submission(seed=1)).made == 1, "nobody waits with it"
    taken = run(store, "t2")
    assert store.close(taken.render_id, "t2", VERDICT)

    assert taken.against == result
    assert store.results_in_use() == {"t1"}
    answered = store.submit(submission(seed=1)).job.images[0]
    assert (answered.status, answered.render.verdict) == (RenderState.queued, None)


def test_a_verification_that_lost_its_lease_says_nothing(store: JobStore) -> None:
    job = store.submit(verification(rendered(store))).job
    taken = run(store, "t2")
    store.release(taken.render_id, "t2", lost=True)

    assert store.close(taken.render_id, "t2", VERDICT) is False
    assert store.get(job.id).images[0].render.verdict is None
    assert run(store, "t3").against is not None


def test_a_deleted_verification_leaves_the_picture(store: JobStore) -> None:
    result = rendered(store)
    job = store.submit(verification(result)).job
    store.close(run(store, "t2").render_id, "t2", VERDICT)

    assert store.disown(job.id) == ()
    store.delete(job.id)

    assert store.submit(submission(seed=1)).job.images[0].render.result == result
