"""What an owner may queue, on both stores: orders a minute, queued renders, queued device time."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import redis

from shared.errors import (
    InvalidOrder,
    JobFinished,
    QueueFull,
    QuotaExceeded,
    RateExceeded,
)
from shared.jobs import Failure, RenderState
from shared.keys import KEYS
from shared.store.address import connect
from shared.store.memory import MemoryJobStore
from shared.store.port import JobStore
from shared.store.redis_store import RedisJobStore
from shared.store.scripts import StoreConfig
from shared.store.values import Claim, Owed, OwnerLimits, Submission
from shared.tickets import ticket_template
from tests.orders import POOL, stored, submission

MAX_QUEUE = 30


@pytest.fixture(params=["memory", "valkey", "redis"])
def store(request: pytest.FixtureRequest) -> Iterator[JobStore]:
    if request.param == "memory":
        yield MemoryJobStore(max_queue=MAX_QUEUE, max_losses=2, retry_pause_s=0.01)
        return
    client = connect(request.getfixturevalue("redis_of")(request.param), patience_s=2)
    config = StoreConfig(ticket_template(), max_queue=MAX_QUEUE, max_losses=2, retry_pause_s=0.01)
    yield RedisJobStore(client, config)
    client.close()


def limited(order: Submission, weight: float = 1.0, **limits: Any) -> Submission:
    return replace(order, limits=OwnerLimits(**limits), weight=weight)


def claim(store: JobStore, token: str = "t", lease_s: float = 60.0) -> Claim | None:
    return store.claim(POOL, token, f"slot-{token}", "worker", lease_s)


# ------------------------------------------------------------------------------ orders a minute


def test_so_many_orders_a_minute_and_no_more(store: JobStore) -> None:
    rates = [store.submit(limited(submission(seed=k), submits_per_min=3)).rate for k in range(3)]

    assert [rate.remaining for rate in rates if rate] == [2, 1, 0]
    assert rates[0]
    assert rates[0].limit == 3
    assert 19 < rates[0].reset_s <= 20  # one of three places, so a third of a minute
    with pytest.raises(RateExceeded) as refused:
        store.submit(limited(submission(seed=9), submits_per_min=3))
    assert 0 < (refused.value.retry_after_s or 0) <= 20
    assert refused.value.rate
    assert refused.value.rate.remaining == 0


def test_another_owner_has_an_allowance_of_his_own(store: JobStore) -> None:
    store.submit(limited(submission(owner="alice"), submits_per_min=1))

    rate = store.submit(limited(submission(owner="bob"), submits_per_min=1)).rate

    assert rate
    assert rate.remaining == 0


def test_a_refused_order_costs_nothing_and_leaves_nothing(store: JobStore) -> None:
    first = limited(submission(seed=1), submits_per_min=1)
    store.submit(first)
    refused = limited(submission(seed=2, idempotency=("key", "body")), submits_per_min=1)

    for _ in range(3):
        with pytest.raises(RateExceeded):
            store.submit(refused)

    assert store.owed() == {"alice": Owed(1, 1.0)}
    # The key is free: the same order goes through where the limit allows it.
    assert not store.submit(Submission(refused.job, refused.orders, refused.idempotency)).replayed


def test_a_replay_and_a_repeated_call_are_not_counted(store: JobStore) -> None:
    limits = {"submits_per_min": 2}
    first = limited(submission(seed=1, idempotency=("key", "body")), **limits)
    again = limited(submission(seed=1, idempotency=("key", "body")), **limits)

    rates = [store.submit(order).rate for order in (first, first, again, again)]

    assert [rate.remaining for rate in rates if rate] == [1, 1, 1, 1]
    assert store.submit(again).replayed


def test_without_a_limit_there_is_no_rate(store: JobStore) -> None:
    assert store.submit(submission()).rate is None


def test_the_allowance_comes_back_with_time() -> None:
    now = [1000.0]
    store = MemoryJobStore(lambda: now[0])
    for seed in range(2):
        store.submit(limited(submission(seed=seed), submits_per_min=2))

    now[0] += 29.9
    with pytest.raises(RateExceeded) as refused:
        store.submit(limited(submission(seed=3), submits_per_min=2))
    now[0] += refused.value.retry_after_s or 0.0

    store.submit(limited(submission(seed=3), submits_per_min=2))


def test_the_wait_that_redis_tells_is_the_wait_that_helps(redis_server: str) -> None:
    client = connect(redis_server, patience_s=2)
    store = RedisJobStore(client, StoreConfig(ticket_template()))
    store.submit(limited(submission(seed=1), submits_per_min=1))
    with pytest.raises(RateExceeded) as refused:
        store.submit(limited(submission(seed=2), submits_per_min=1))

    # Time passes for this owner: his bucket is whole that much sooner.
    whole_at = float(client.get(KEYS["submits"] + "alice"))
    client.set(KEYS["submits"] + "alice", whole_at - (refused.value.retry_after_s or 0) - 0.001)

    store.submit(limited(submission(seed=2), submits_per_min=1))
    assert 0 < client.ttl(KEYS["submits"] + "alice") <= 61  # it forgets by itself
    client.close()


# --------------------------------------------------------------------------------- queued work


def test_so_many_queued_renders_and_no_more(store: JobStore) -> None:
    store.submit(limited(submission(n=3), max_queued=4))

    with pytest.raises(QuotaExceeded) as refused:
        store.submit(limited(submission(seed=10, n=2), max_queued=4))

    assert refused.value.retry_after_s is None  # nothing has left the queue yet
    assert store.owed() == {"alice": Owed(3, 3.0)}
    store.submit(limited(submission(seed=10, owner="bob", n=2), max_queued=4))


def test_what_runs_does_not_count_and_what_comes_back_does(store: JobStore) -> None:
    store.submit(limited(submission(n=2), max_queued=2))
    taken = claim(store)
    assert taken
    assert store.owed() == {"alice": Owed(1, 1.0)}

    store.submit(limited(submission(seed=10), max_queued=2))
    assert store.release(taken.render_id, taken.token, lost=False)

    assert store.owed() == {"alice": Owed(3, 3.0)}
    with pytest.raises(QuotaExceeded) as refused:
        store.submit(limited(submission(seed=20), max_queued=2))
    # One render left the queue within the last minute: so is the pace.
    assert 60 < (refused.value.retry_after_s or 0) < 130


def test_stored_and_shared_pictures_are_free(store: JobStore) -> None:
    store.submit(submission(seed=1, owner="bob"))
    taken = claim(store)
    assert taken
    store.submit(submission(seed=2, owner="bob"))
    store.close(taken.render_id, taken.token, stored(taken.fingerprint, taken.token))
    full = {"max_queued": 1}
    store.submit(limited(submission(seed=3), **full))

    assert store.submit(limited(submission(seed=1), **full)).hits == 1
    assert store.submit(limited(submission(seed=2), **full)).attached == 1


def test_queued_device_time_is_limited_too(store: JobStore) -> None:
    store.submit(limited(submission(cost_s=6.0), max_queued_gpu_s=10))

    with pytest.raises(QuotaExceeded, match="10 predicted GPU-seconds"):
        store.submit(limited(submission(seed=1, cost_s=4.5), max_queued_gpu_s=10))
    store.submit(limited(submission(seed=1, cost_s=4.0), max_queued_gpu_s=10))

    assert store.owed() == {"alice": Owed(2, 10.0)}


@pytest.mark.parametrize(
    ("order", "limits"),
    [
        (submission(n=3), {"max_queued": 2}),
        (submission(n=2, cost_s=6.0), {"max_queued_gpu_s": 10}),
    ],
)
def test_what_could_never_fit_is_the_orders_own_fault(
    store: JobStore, order: Submission, limits: dict[str, float]
) -> None:
    with pytest.raises(InvalidOrder) as refused:
        store.submit(limited(order, **limits))

    assert (refused.value.code, refused.value.field) == ("invalid_value", "n")


def test_a_full_farm_says_how_long_its_queue_takes(store: JobStore) -> None:
    for seed in range(0, MAX_QUEUE, 10):
        store.submit(submission(seed=seed, n=10))
    with pytest.raises(QueueFull) as nobody_works:
        store.submit(submission(seed=99))
    for k in range(10):
        assert claim(store, f"t{k}")
    store.submit(submission(seed=100, n=10))

    with pytest.raises(QueueFull) as refused:
        store.submit(submission(seed=200, n=5))

    assert nobody_works.value.retry_after_s is None
    assert 30 <= (refused.value.retry_after_s or 0) < 35  # ten a minute left, five are too many


def test_a_weighty_owner_goes_first(store: JobStore) -> None:
    store.submit(limited(submission(owner="light", seed=0, n=4), weight=1.0))
    store.submit(limited(submission(owner="heavy", seed=10, n=4), weight=4.0))

    served = [claim(store, f"t{k}") for k in range(6)]

    owners = [store.get(taken.jobs[0]).owner for taken in served if taken]
    assert owners.count("heavy") == 4  # his four cost one of the other's


# --------------------------------------------------------------- the accounts are always right


def recount(store: JobStore) -> dict[str, Owed]:
    """What is queued, read off every record."""
    if isinstance(store, MemoryJobStore):
        return store.owed()  # it keeps no account: this is the recount
    assert isinstance(store, RedisJobStore)
    client: redis.Redis = store._redis
    accounts: dict[str, Owed] = {}
    for key in client.scan_iter(KEYS["render"] + "*"):
        render = client.hgetall(key)
        if render["state"] == RenderState.queued:
            owner = render["flow"].rpartition(":")[0]
            before = accounts.get(owner, Owed())
            gpu_s = round(before.gpu_s + int(render["gpu_ms"]) / 1000, 3)
            accounts[owner] = Owed(before.renders + 1, gpu_s)
        assert ("owed" in render) == (render["state"] == RenderState.queued)
    return accounts


class Chance:
    """Random acts upon one store, from a seed."""

    def __init__(self, store: JobStore, seed: int) -> None:
        self._store = store
        self._random = random.Random(seed)
        self._jobs: list[str] = []
        self._held: list[Claim] = []
        self.acts: list[Callable[[], object]] = [
            self.submit, self.submit, self.submit, self.cancel, self.claim, self.claim,
            self.succeed, self.fail, self.release, self.lose, self.adopt, self.expire,
            self.repeat_close,
        ]  # fmt: skip

    def act(self) -> None:
        act = self._random.choice(self.acts)
        with suppress(JobFinished, QueueFull, QuotaExceeded):
            act()

    def submit(self) -> None:
        order = submission(
            owner=self._random.choice(["alice", "bob", "carol"]),
            seed=self._random.randrange(8),
            n=self._random.randint(1, 3),
            cost_s=self._random.choice([0.0004, 1.0, 2.5]),
            cache=self._random.choice(["use", "use", "bypass"]),
            priority=self._random.choice(["high", "normal", "low"]),
            deadline_s=self._random.choice([None, None, 0.0001]),
        )
        self._jobs.append(self._store.submit(limited(order, max_queued=8)).job.id)

    def cancel(self) -> None:
        if self._jobs:
            self._store.cancel(self._random.choice(self._jobs))

    def claim(self) -> None:
        token = f"{self._random.random()}"
        lease_s = self._random.choice([60.0, 0.0])
        taken = self._store.claim(POOL, token, self._random.choice("xy"), "worker", lease_s)
        if taken:
            self._held.append(taken)

    def succeed(self) -> None:
        for taken in self._some():
            result = stored(taken.fingerprint, taken.token)
            self._store.close(taken.render_id, taken.token, result, device_s=3.0)

    def fail(self) -> None:
        for taken in self._some():
            again = self._random.random() < 0.7
            failure = Failure(code="out_of_memory", message="full", retryable=again)
            self._store.close(taken.render_id, taken.token, failure)

    def release(self) -> None:
        for taken in self._some():
            self._store.release(taken.render_id, taken.token, lost=self._random.random() < 0.5)

    def lose(self) -> None:
        self._store.reap()

    def adopt(self) -> None:
        self._store.adopt(self._random.choice("xy"))

    def expire(self) -> None:
        self._store.expire()
        self._store.reconcile()

    def repeat_close(self) -> None:
        for taken in self._some(keep=True):
            self._store.close(taken.render_id, taken.token, None)

    def _some(self, *, keep: bool = False) -> list[Claim]:
        if not self._held:
            return []
        taken = self._random.choice(self._held)
        if not keep:
            self._held.remove(taken)
        return [taken]


@pytest.mark.parametrize("seed", range(4))
def test_the_accounts_agree_with_a_recount_after_whatever_happens(
    store: JobStore, seed: int
) -> None:
    chance = Chance(store, seed)

    for turn in range(120):
        chance.act()
        assert store.owed() == recount(store), turn


def test_two_stores_that_see_the_same_keep_the_same_accounts(redis_server: str) -> None:
    """What the memory store counts anew each time is what the scripts keep."""
    client = connect(redis_server, patience_s=2)
    stores: list[JobStore] = [
        MemoryJobStore(max_losses=2),
        RedisJobStore(client, StoreConfig(ticket_template(), max_losses=2)),
    ]
    orders = [submission(owner="alice", seed=0, n=3), submission(owner="bob", seed=2, n=3),
              submission(owner="bob", seed=1, priority="high")]  # fmt: skip

    seen = []
    for store in stores:
        for order in orders:
            store.submit(order)
        taken = claim(store)
        assert taken
        store.cancel(orders[0].job.id)
        store.release(taken.render_id, taken.token, lost=True)
        seen.append(store.owed())

    assert seen[0] == seen[1] != {}
    client.close()


def test_audit_opens_the_accounts_of_an_older_farm(redis_server: str) -> None:
    """Renders that an older version queued, or started, are on no account, or still on one."""
    client = connect(redis_server, patience_s=2)
    store = RedisJobStore(client, StoreConfig(ticket_template()))
    job = store.submit(submission(n=2)).job
    queued, running = (KEYS["render"] + image.render.id for image in job.images)
    client.hdel(queued, "owed")
    client.delete(KEYS["owed"], KEYS["owed_ms"])
    client.hset(running, mapping={"state": "running", "owed": 1000})
    client.hset(KEYS["owed"], "alice", 1)
    client.hset(KEYS["owed_ms"], "alice", 1000)

    store.audit()

    assert store.owed() == {"alice": Owed(1, 1.0)}
    assert client.hget(running, "owed") is None
    client.close()


def test_an_empty_queue_clears_every_account(redis_server: str) -> None:
    client = connect(redis_server, patience_s=2)
    store = RedisJobStore(client, StoreConfig(ticket_template()))
    job = store.submit(submission()).job
    client.hset(KEYS["owed"], "ghost", 7)
    store.reconcile()
    assert store.owed()["ghost"].renders == 7  # something is queued: nobody can tell whose

    store.cancel(job.id)
    store.reconcile()

    assert store.owed() == {}
    client.close()
