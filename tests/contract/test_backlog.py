"""How much waits and runs, and on whose account: one contract over every job store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ulid import ULID

from shared.jobs import Failure
from shared.store.address import connect
from shared.store.memory import MemoryJobStore
from shared.store.port import JobStore
from shared.store.queries import LaneLoad, OwnerLoad
from shared.store.redis_store import RedisJobStore
from shared.store.scripts import StoreConfig
from shared.store.values import Claim, Spent
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


def test_each_priority_has_its_own_count_and_its_work_to_the_second(store: JobStore) -> None:
    store.submit(submission(seed=1, n=40, cost_s=2.0))
    store.submit(submission(seed=100, n=2, cost_s=3.0, priority="high"))
    run(store)
    kept = run(store)
    store.storing(kept.render_id, kept.token, 4)
    for _ in range(5):
        finish(store, run(store), device_s=1.0)

    [load] = store.backlog([POOL]).pools

    high, normal, low = load.lanes
    assert (high.running + normal.running, high.storing + normal.storing) == (1, 1)
    assert high.queued + normal.queued == load.pending == 35
    assert high.work_s + normal.work_s == 3.0 * high.queued + 2.0 * normal.queued
    assert load.rate is not None
    assert load.backlog_s == pytest.approx((high.work_s + normal.work_s) * load.rate)
    assert low == LaneLoad("low")


def test_what_was_canceled_given_back_or_delayed_is_counted_once(store: JobStore) -> None:
    gone = store.submit(submission(seed=1, n=2, cost_s=2.0)).job
    store.submit(submission(seed=10, n=2, cost_s=1.0))
    store.cancel(gone.id)
    passing, lost = run(store), run(store)
    store.close(passing.render_id, passing.token, PASSING)
    store.release(lost.render_id, lost.token, lost=True)
    store.audit()

    [load] = store.backlog([POOL]).pools

    assert load.lanes[1] == LaneLoad("normal", queued=2, work_s=2.0)


def test_what_a_second_owner_pays_for_is_in_his_lane(store: JobStore) -> None:
    store.submit(submission(seed=1, n=3, owner="alice", priority="low", cost_s=9.0))
    store.submit(submission(seed=3, owner="bob", priority="high", cost_s=9.0))

    [load] = store.backlog([POOL]).pools

    assert [lane.queued for lane in load.lanes] == [1, 0, 2]


def test_device_seconds_are_of_their_owners_and_pool(store: JobStore) -> None:
    store.submit(submission(seed=1, n=2, owner="alice"))
    store.submit(submission(seed=10, owner="bob"))
    for _ in range(3):
        finish(store, run(store), device_s=1.5)

    assert store.spent(1) == Spent(4.5, {"alice": 3.0})
    assert store.spent(5) == Spent(4.5, {"alice": 3.0, "bob": 1.5})
    assert store.stats().worked_s == {POOL: 4.5}


def test_deaths_are_counted_by_cause(store: JobStore) -> None:
    for slot, cause in (("a", "deaf"), ("b", "deaf"), ("a", "container_memory")):
        store.died(slot, cause)  # type: ignore[arg-type]

    assert store.stats().deaths == {"deaf": 2, "container_memory": 1}


def test_the_reaper_leaves_a_sign(store: JobStore) -> None:
    assert store.stats().reaped_at == 0.0

    store.reap()

    assert store.stats().reaped_at > 0.0
