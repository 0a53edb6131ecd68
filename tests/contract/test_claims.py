"""A claim that is revoked because its worker died before it knew of it, on every job store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shared.jobs import RenderState
from shared.store.address import connect
from shared.store.memory import MemoryJobStore
from shared.store.port import JobStore
from shared.store.redis_store import RedisJobStore
from shared.store.scripts import StoreConfig
from shared.store.values import Claim
from shared.tickets import ticket_template
from tests.orders import POOL, stored, submission


@pytest.fixture(params=["memory", "valkey", "redis"])
def store(request: pytest.FixtureRequest) -> Iterator[JobStore]:
    if request.param == "memory":
        yield MemoryJobStore()
        return
    client = connect(request.getfixturevalue("redis_of")(request.param), patience_s=2)
    yield RedisJobStore(client, StoreConfig(ticket_template()))
    client.close()


def claim(store: JobStore, token: str) -> Claim | None:
    return store.claim(POOL, token, "slot", "worker", 600.0)


def test_what_a_claim_got_is_given_back_once(store: JobStore) -> None:
    job = store.submit(submission()).job
    taken = claim(store, "t1")
    assert taken is not None

    revoked = [store.revoke("t1", cause="container_memory") for _ in range(2)]

    assert revoked == [taken.render_id, None]
    render = store.get(job.id).images[0].render
    assert (render.state, render.losses, render.last_loss) == (
        RenderState.queued, 1, "container_memory",
    )  # fmt: skip
    assert claim(store, "t1") is None  # the same claim, sent again
    again = claim(store, "t2")
    assert again is not None
    assert again.attempt == 2


def test_a_claim_that_comes_after_it_was_revoked_gets_nothing(store: JobStore) -> None:
    store.submit(submission())

    assert store.revoke("t1") is None

    assert claim(store, "t1") is None
    assert claim(store, "t2") is not None


def test_what_another_has_now_stays_where_it_is(store: JobStore) -> None:
    job = store.submit(submission()).job
    taken = claim(store, "t1")
    assert taken is not None
    store.release(taken.render_id, "t1", lost=False)
    claim(store, "t2")

    assert store.revoke("t1") is None

    assert store.get(job.id).images[0].status is RenderState.running


def test_what_has_ended_stays_ended(store: JobStore) -> None:
    job = store.submit(submission()).job
    taken = claim(store, "t1")
    assert taken is not None
    store.close(taken.render_id, "t1", stored(taken.fingerprint, "t1"))

    assert store.revoke("t1") is None

    assert store.get(job.id).done
