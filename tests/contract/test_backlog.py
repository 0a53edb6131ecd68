"""How much waits and runs, and on whose account: one contract over every job store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ulid import ULID

from shared.jobs import Failure
from shared.store.address import connect
from shared.store.memory import MemoryJobStore
from shared.store.port import JobStore
from shared.store.queries import OwnerLoad
from shared.store.redis_store import RedisJobStore
from shared.store.scripts import StoreConfig
from shared.store.values import Claim
from shared.tickets import ticket_template
from tests.orders import POOL, stored, submission

PASSING = Failure(code="out_of_memory", message="the device is full", retryable=True)


@pytest.fixture(params=["memory", "valkey", "redis"])
def store(request: pytest.FixtureRequest) -> Iterator[JobStore]:
    if request.param == "memory":
        yield MemoryJobStore(retry_pause_s=60.0)
        return
    client = connect(request.getfixturevalue("redis_of")(request.param), patience_s=2)
    yield RedisJobStore(client, StoreConfig(ticket_template(), retry_pause_s=60.0))
    client.close()


def run(store: JobStore) -> Claim:
    taken = store.claim(POOL, str(ULID()), "slot", "worker", 30.0)
    assert taken is not None
    return taken


def finish(store: JobStore, taken: Claim, device_s: float = 0.0) -> None:
    result = stored(taken.fingerprint, taken.token)
    assert store.close(taken.render_id, taken.token, result, device_s=device_s)


def test_every_render_is_counted_where_it_is(store: JobStore) -> None:
    store.submit(submission(seed=1, n=6, cost_s=2.0))
    finish(store, run(store), device_s=3.0)
    run(store)
    kept, passing = run(store), run(store)
    store.storing(kept.render_id, kept.token, 4)
    store.close(passing.render_id, passing.token, PASSING)

    [load] = store.backlog([POOL]).pools

    assert (load.pending, load.delayed, load.running, load.storing) == (2, 1, 1, 1)
    assert (load.work_s, load.rate) == (4.0, 1.5)


def test_an_empty_pool_has_nothing(store: JobStore) -> None:
    store.submit(submission())

    [empty, load] = store.backlog(["other.123", POOL]).pools

    assert (empty.pending, empty.oldest_at, empty.work_s, empty.rate) == (0, None, 0.0, None)
    assert load.pending == 1


def test_the_longest_waiting_is_the_oldest_of_all_owners(store: JobStore) -> None:
    first = store.submit(submission(seed=1, owner="alice", priority="low", cost_s=9.0)).job
    store.submit(submission(seed=2, owner="alice", priority="low", cost_s=9.0))
    for seed in range(10, 14):
        store.submit(submission(seed=seed, owner="bob", priority="high"))

    assert store.backlog([POOL]).pools[0].oldest_at == first.images[0].render.queued_at
    while run(store).jobs != (first.id,):  # equal tags go by the renders' ids, which are drawn
        pass
    later = store.backlog([POOL]).pools[0].oldest_at
    assert later is not None
    assert later > first.images[0].render.queued_at


def test_the_renders_of_each_owner_are_on_his_account(store: JobStore) -> None:
    store.submit(submission(seed=1, n=3, owner="alice"))
    store.submit(submission(seed=10, n=2, owner="bob"))
    run(store)

    backlog = store.backlog([POOL])

    assert backlog.owners == (OwnerLoad("alice", 2, 1), OwnerLoad("bob", 2, 0))
    assert store.backlog([POOL], "bob").owners == (OwnerLoad("bob", 2, 0),)
    assert store.backlog([POOL], "carol").owners == (OwnerLoad("carol", 0, 0),)


def test_what_has_ended_is_on_nobodys_account(store: JobStore) -> None:
    canceled = store.submit(submission(seed=1, n=2)).job
    store.submit(submission(seed=10, owner="bob"))
    store.cancel(canceled.id)
    finish(store, run(store))

    assert store.backlog([POOL]).owners == ()
