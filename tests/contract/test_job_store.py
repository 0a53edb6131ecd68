"""One contract over every job store: the Lua scripts on two real servers, and the memory store."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from shared.errors import IdempotencyConflict, JobFinished, JobNotFound, QueueFull
from shared.jobs import Failure, JobStatus, RenderState
from shared.store.address import connect
from shared.store.memory import MemoryJobStore
from shared.store.port import JobStore
from shared.store.redis_store import RedisJobStore
from shared.store.scripts import StoreConfig
from shared.store.values import (
    Cause,
    Claim,
    Delayed,
    LoadingStep,
    WorkerStatus,
)
from shared.tickets import ticket_template
from tests.orders import POOL, stored, submission
from tests.waiting import wait_until

MAX_LOSSES, MAX_QUEUE = 3, 50
MAX_RETRIES, RETRY_PAUSE_S = 2, 0.4
PASSING = Failure(code="out_of_memory", message="the device is full", retryable=True)
FINAL = Failure(code="render_error", message="no")
LEASE_S = 30.0


@pytest.fixture(params=["memory", "valkey", "redis"])
def store(request: pytest.FixtureRequest) -> Iterator[JobStore]:
    if request.param == "memory":
        yield MemoryJobStore(
            max_losses=MAX_LOSSES, max_queue=MAX_QUEUE,
            max_retries=MAX_RETRIES, retry_pause_s=RETRY_PAUSE_S,
        )  # fmt: skip
        return
    client = connect(request.getfixturevalue("redis_of")(request.param), patience_s=2)
    config = StoreConfig(
        ticket_template(), max_losses=MAX_LOSSES, max_queue=MAX_QUEUE,
        max_retries=MAX_RETRIES, retry_pause_s=RETRY_PAUSE_S,
    )  # fmt: skip
    yield RedisJobStore(client, config)
    client.close()


def claim(
    store: JobStore, token: str = "t1", slot: str = "slot", lease_s: float = LEASE_S
) -> Claim:
    taken = store.claim(POOL, token, slot, "worker", lease_s)
    assert taken is not None
    return taken


def finish(store: JobStore, taken: Claim) -> None:
    assert store.close(taken.render_id, taken.token, stored(taken.fingerprint, taken.token))


# --------------------------------------------------------------------------- the road of one job


def test_a_job_goes_from_queued_to_succeeded(store: JobStore) -> None:
    order = submission(seed=7)

    job = store.submit(order).job

    assert (job.status, job.images[0].position) == (JobStatus.queued, 0)
    taken = claim(store)
    assert taken.spec == order.orders[0].spec
    assert taken.jobs == (order.job.id,)
    assert store.get(job.id).status is JobStatus.running
    assert store.storing(taken.render_id, taken.token, 4)
    assert store.get(job.id).images[0].status is RenderState.storing
    finish(store, taken)
    done = store.get(job.id)
    assert (done.status, done.done, done.images[0].cached) == (JobStatus.succeeded, True, False)
    assert done.images[0].render.result == stored(taken.fingerprint, taken.token)
    assert done.images[0].render.step == 4
    assert store.stats().leases == 0


def test_the_record_comes_back_as_it_was_given(store: JobStore) -> None:
    order = submission(owner="bob", priority="high", cache="bypass")

    job = store.submit(order).job

    given = order.job
    assert (job.owner, job.priority, job.cache, job.input) == (
        given.owner, given.priority, given.cache, given.input,
    )  # fmt: skip
    assert job.created_at != given.created_at


def test_an_unknown_job_is_not_found(store: JobStore) -> None:
    with pytest.raises(JobNotFound):
        store.get("job_nothing")
    with pytest.raises(JobNotFound):
        store.cancel("job_nothing")


def test_nothing_waits_in_another_pool(store: JobStore) -> None:
    store.submit(submission())

    assert store.claim("other.123", "t", "slot", "worker", LEASE_S) is None


def test_one_failed_image_fails_the_job_and_leaves_the_others(store: JobStore) -> None:
    job = store.submit(submission(n=2)).job
    first, second = claim(store, "t1"), claim(store, "t2")

    assert store.close(first.render_id, "t1", Failure(code="render_error", message="no"))
    assert not store.get(job.id).done
    finish(store, second)

    done = store.get(job.id)
    assert done.status is JobStatus.failed
    assert {image.status for image in done.images} == {RenderState.failed, RenderState.succeeded}


# --------------------------------------------------------------------- cache and single-flight


def test_a_stored_picture_answers_the_next_order_at_once(store: JobStore) -> None:
    store.submit(submission(seed=5))
    finish(store, claim(store))

    second = store.submit(submission(seed=5, owner="bob"))

    assert (second.hits, second.made) == (1, 0)
    assert (second.job.status, second.job.images[0].cached) == (JobStatus.succeeded, True)
    assert store.claim(POOL, "t2", "slot", "worker", LEASE_S) is None


def test_image_k_of_a_batch_answers_its_own_seed(store: JobStore) -> None:
    store.submit(submission(seed=7, n=3))
    for k in range(3):
        finish(store, claim(store, f"t{k}"))

    assert store.submit(submission(seed=8)).job.images[0].cached
    assert not store.submit(submission(seed=10)).job.images[0].cached


def test_two_jobs_at_once_share_one_render(store: JobStore) -> None:
    one = store.submit(submission(seed=5)).job
    two = store.submit(submission(seed=5, owner="bob"))

    assert (two.attached, two.made) == (1, 0)
    taken = claim(store)
    assert set(taken.jobs) == {one.id, two.job.id}
    finish(store, taken)

    jobs = store.get(one.id), store.get(two.job.id)
    assert [job.status for job in jobs] == [JobStatus.succeeded] * 2
    assert not jobs[1].images[0].cached
    assert store.claim(POOL, "t2", "slot", "worker", LEASE_S) is None


def test_bypass_renders_again_and_joins_nobody(store: JobStore) -> None:
    store.submit(submission(seed=5))
    bypass = store.submit(submission(seed=5, cache="bypass"))

    assert bypass.made == 1
    ordinary, fresh = claim(store, "t1"), claim(store, "t2")
    assert (ordinary.fresh, fresh.fresh) == (False, True)
    finish(store, ordinary)
    finish(store, fresh)
    result = store.submit(submission(seed=5)).job.images[0].render.result
    assert result is not None
    assert result.token == "t1"


def test_a_bypass_that_finds_no_picture_fills_the_cache(store: JobStore) -> None:
    store.submit(submission(seed=5, cache="bypass"))
    finish(store, claim(store))

    assert store.submit(submission(seed=5)).hits == 1


def test_a_failed_render_answers_nobody(store: JobStore) -> None:
    first = store.submit(submission(seed=5)).job
    taken = claim(store)
    store.close(taken.render_id, taken.token, Failure(code="render_error", message="no"))

    again = store.submit(submission(seed=5))

    assert again.made == 1
    finish(store, claim(store, "t2"))
    assert store.get(again.job.id).status is JobStatus.succeeded
    assert store.get(first.id).status is JobStatus.failed


def test_a_forgotten_picture_is_rendered_again(store: JobStore) -> None:
    job = store.submit(submission(seed=5)).job
    finish(store, claim(store))
    render = job.images[0].render

    store.forget(render.fingerprint, render.id)

    assert store.submit(submission(seed=5)).made == 1


def test_a_picture_found_in_the_result_store_counts_as_cached(store: JobStore) -> None:
    job = store.submit(submission()).job
    taken = claim(store)

    store.close(taken.render_id, taken.token, stored(taken.fingerprint, "older"), found=True)

    image = store.get(job.id).images[0]
    assert image.cached
    assert image.render.result is not None
    assert image.render.result.token == "older"
    assert store.stats().totals["found"] == 1


# ------------------------------------------------------------------------ repeated submissions


def test_a_repeated_submission_makes_one_job(store: JobStore) -> None:
    order = submission(n=2)

    store.submit(order)
    store.submit(order)

    assert store.stats().pools[0].pending == 2


def test_an_idempotency_key_replays_the_job(store: JobStore) -> None:
    first = store.submit(submission(seed=1, idempotency=("key", "body"))).job
    second = store.submit(submission(seed=2, idempotency=("key", "body")))

    assert (second.replayed, second.job.id) == (True, first.id)
    assert store.stats().pools[0].pending == 1


def test_an_idempotency_key_refuses_another_body(store: JobStore) -> None:
    store.submit(submission(idempotency=("key", "body")))

    with pytest.raises(IdempotencyConflict):
        store.submit(submission(idempotency=("key", "other")))


def test_owners_do_not_share_idempotency_keys(store: JobStore) -> None:
    store.submit(submission(seed=1, owner="alice", idempotency=("key", "body")))

    other = store.submit(submission(seed=2, owner="bob", idempotency=("key", "other")))

    assert not other.replayed


def test_a_full_queue_takes_nothing(store: JobStore) -> None:
    store.submit(submission(n=MAX_QUEUE - 1))

    with pytest.raises(QueueFull):
        store.submit(submission(seed=1000, n=2))

    assert store.stats().pools[0].pending == MAX_QUEUE - 1
    assert store.submit(submission(seed=2000)).made == 1


def test_a_full_queue_of_one_model_leaves_the_others_open(store: JobStore) -> None:
    store.submit(submission(n=MAX_QUEUE))

    assert store.submit(submission(model_digest="0" * 64)).made == 1


# --------------------------------------------------------------------------- claims and fences


def test_a_repeated_claim_gets_the_same_render(store: JobStore) -> None:
    store.submit(submission(n=2))

    first, again = claim(store, "t1"), claim(store, "t1")

    assert (first.render_id, first.attempt) == (again.render_id, again.attempt)
    assert store.stats().leases == 1


def test_a_claim_whose_render_was_lost_gets_nothing(store: JobStore) -> None:
    store.submit(submission())
    taken = claim(store, "t1")
    store.release(taken.render_id, "t1", lost=True)

    assert store.claim(POOL, "t1", "slot", "worker", LEASE_S) is None


def test_a_lost_render_comes_back_with_the_next_attempt(store: JobStore) -> None:
    job = store.submit(submission()).job
    first = claim(store, "t1")

    assert store.release(first.render_id, "t1", lost=True)

    image = store.get(job.id).images[0]
    assert (image.status, image.render.attempt) == (RenderState.queued, 1)
    second = claim(store, "t2")
    assert (second.render_id, second.attempt) == (first.render_id, 2)


def test_a_zombie_changes_nothing(store: JobStore) -> None:
    job = store.submit(submission()).job
    old = claim(store, "t1")
    store.release(old.render_id, "t1", lost=True)
    new = claim(store, "t2")

    assert store.renew({"t1": (old.render_id, 3)}, LEASE_S) == {"t1": "lost"}
    assert not store.storing(old.render_id, "t1", 4)
    assert not store.close(old.render_id, "t1", stored(old.fingerprint, "t1"))
    assert not store.close(old.render_id, "t1", Failure(code="render_error", message="no"))
    assert not store.release(old.render_id, "t1", lost=True)
    finish(store, new)
    assert not store.close(old.render_id, "t1", stored(old.fingerprint, "t1"))
    result = store.get(job.id).images[0].render.result
    assert result is not None
    assert result.token == "t2"


def test_a_repeated_close_keeps_the_first_word(store: JobStore) -> None:
    job = store.submit(submission()).job
    taken = claim(store)
    finish(store, taken)

    assert store.close(taken.render_id, taken.token, Failure(code="render_error", message="no"))

    assert store.get(job.id).status is JobStatus.succeeded
    assert store.stats().totals["succeeded"] == 1


def test_the_last_allowed_loss_fails_the_render(store: JobStore) -> None:
    job = store.submit(submission()).job
    for attempt in range(MAX_LOSSES):
        taken = claim(store, f"t{attempt}")
        store.release(taken.render_id, taken.token, lost=True)

    done = store.get(job.id)

    assert done.status is JobStatus.failed
    assert done.images[0].render.error is not None
    assert done.images[0].render.error.code == "worker_lost"
    assert store.claim(POOL, "t9", "slot", "worker", LEASE_S) is None


def test_a_render_given_back_in_order_is_no_loss(store: JobStore) -> None:
    job = store.submit(submission()).job
    for attempt in range(MAX_LOSSES + 2):
        taken = claim(store, f"t{attempt}")
        store.release(taken.render_id, taken.token, lost=False)

    assert store.get(job.id).status is JobStatus.queued
    assert store.get(job.id).images[0].render.losses == 0


def test_a_render_given_back_takes_its_old_place(store: JobStore) -> None:
    first = store.submit(submission(seed=1)).job
    store.submit(submission(seed=2))
    taken = claim(store, "t1")
    store.release(taken.render_id, "t1", lost=True)

    assert store.get(first.id).images[0].position == 0


def test_a_slot_gives_back_what_its_dead_process_held(store: JobStore) -> None:
    store.submit(submission(n=3))
    mine = [claim(store, "t1", "slot-a"), claim(store, "t2", "slot-a")]
    store.storing(mine[0].render_id, "t1", 4)
    other = claim(store, "t3", "slot-b")

    moved = store.adopt("slot-a")

    assert set(moved.requeued) == {taken.render_id for taken in mine}
    assert store.adopt("slot-a").requeued == ()
    assert store.renew({"t3": (other.render_id, 1)}, LEASE_S) == {"t3": "held"}


def test_a_slot_does_not_take_back_what_went_to_another(store: JobStore) -> None:
    store.submit(submission())
    taken = claim(store, "t1", "slot-a")
    store.release(taken.render_id, "t1", lost=True)
    claim(store, "t2", "slot-b")

    assert store.adopt("slot-a").requeued == ()


def test_the_reaper_takes_only_what_was_not_renewed(store: JobStore) -> None:
    store.submit(submission(n=2))
    silent, alive = claim(store, "t1", lease_s=0.05), claim(store, "t2", lease_s=0.05)
    store.renew({"t2": (alive.render_id, 1)}, LEASE_S)

    seen: list[str] = []
    wait_until(lambda: bool(seen.extend(store.reap().requeued) or seen))

    assert seen == [silent.render_id]


def test_progress_never_goes_back(store: JobStore) -> None:
    job = store.submit(submission()).job
    taken = claim(store)

    store.renew({"t1": (taken.render_id, 3)}, LEASE_S)
    store.renew({"t1": (taken.render_id, 2)}, LEASE_S)

    assert store.get(job.id).images[0].render.step == 3


def test_many_claims_at_once_never_share_a_render(store: JobStore) -> None:
    store.submit(submission(n=40))
    taken: list[str] = []

    def take(worker: int) -> None:
        for turn in range(10):
            if one := store.claim(POOL, f"w{worker}-{turn}", f"s{worker}", "w", LEASE_S):
                taken.append(one.render_id)

    threads = [threading.Thread(target=take, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(taken) == len(set(taken)) == 40


# ------------------------------------------------------------------------------------ retries


def claim_later(store: JobStore, token: str) -> Claim:
    """The next claim that gets a render, as soon as its pause is over."""
    taken: list[Claim] = []

    def take() -> bool:
        one = store.claim(POOL, f"{token}.{time.monotonic()}", "slot", "worker", LEASE_S)
        taken.extend([one] if one else [])
        return bool(taken)

    wait_until(take)
    return taken[0]


def delay(store: JobStore, taken: Claim, failure: Failure = PASSING) -> Delayed:
    retry = store.close(taken.render_id, taken.token, failure)
    assert isinstance(retry, Delayed), retry
    return retry


def test_a_fault_that_may_pass_delays_the_render(store: JobStore) -> None:
    job = store.submit(submission()).job
    taken = claim(store)
    started = time.monotonic()

    retry = delay(store, taken)

    assert retry.number == 1
    assert RETRY_PAUSE_S / 2 <= retry.pause_s <= RETRY_PAUSE_S
    image = store.get(job.id).images[0]
    assert (image.status, image.position) == (RenderState.queued, None)
    assert (image.render.retries, image.render.losses, image.render.attempt) == (1, 0, 1)
    assert image.render.error == PASSING
    stats = store.stats()
    assert (stats.leases, stats.pools[0].pending, stats.pools[0].delayed) == (0, 0, 1)
    assert stats.totals["retried"] == 1
    again = claim_later(store, "t2")
    assert time.monotonic() - started >= retry.pause_s - 0.01
    assert (again.render_id, again.attempt) == (taken.render_id, 2)
    assert store.stats().pools[0].delayed == 0
    finish(store, again)
    assert store.get(job.id).status is JobStatus.succeeded


def test_each_pause_is_longer_and_the_last_fault_is_the_end(store: JobStore) -> None:
    job = store.submit(submission()).job
    delay(store, claim(store))
    second = delay(store, claim_later(store, "t2"))
    last = claim_later(store, "t3")

    assert second.number == MAX_RETRIES
    assert RETRY_PAUSE_S * 2 <= second.pause_s <= RETRY_PAUSE_S * 4
    assert store.close(last.render_id, last.token, PASSING) is True
    done = store.get(job.id)
    assert (done.status, done.images[0].render.error) == (JobStatus.failed, PASSING)
    assert store.stats().pools[0].delayed == 0


def test_a_permanent_fault_fails_at_once(store: JobStore) -> None:
    job = store.submit(submission()).job
    taken = claim(store)

    assert store.close(taken.render_id, taken.token, FINAL) is True

    assert store.get(job.id).status is JobStatus.failed


def test_a_repeated_close_of_a_delayed_render_answers_alike(store: JobStore) -> None:
    job = store.submit(submission()).job
    taken = claim(store)
    delay(store, taken)

    again = delay(store, taken)

    assert again.number == 1
    assert store.get(job.id).images[0].render.retries == 1
    later = claim_later(store, "t2")
    assert store.close(taken.render_id, taken.token, PASSING) is False
    finish(store, later)


def test_a_delayed_render_takes_its_old_place(store: JobStore) -> None:
    first = store.submit(submission(seed=1)).job
    store.submit(submission(seed=2, n=3))
    delay(store, claim(store))

    def back() -> bool:
        store.reconcile()
        return store.get(first.id).images[0].position == 0

    wait_until(back)
    assert claim(store, "t2").spec.seed == 1


def test_a_delayed_render_that_nobody_wants_ends_at_once(store: JobStore) -> None:
    job = store.submit(submission()).job
    delay(store, claim(store))

    assert store.cancel(job.id).status is JobStatus.canceled

    assert store.stats().pools[0].delayed == 0
    assert store.submit(submission()).made == 1


def test_a_fault_of_a_render_that_nobody_wants_is_its_end(store: JobStore) -> None:
    job = store.submit(submission()).job
    taken = claim(store)
    store.cancel(job.id)

    assert store.close(taken.render_id, taken.token, PASSING) is True

    assert store.get(job.id).status is JobStatus.canceled
    assert store.stats().pools[0].delayed == 0


def test_a_delayed_render_has_started_for_its_deadline(store: JobStore) -> None:
    job = store.submit(submission(deadline_s=0.05)).job
    delay(store, claim(store))

    wait_until(lambda: time.time() > (store.get(job.id).deadline_at or 0))

    assert store.expire().expired == ()
    assert store.get(job.id).status is JobStatus.queued
    finish(store, claim_later(store, "t2"))


def test_a_second_buyer_joins_a_delayed_render_and_does_not_hurry_it(store: JobStore) -> None:
    for seed in range(5):
        store.submit(submission(seed=seed))
    for k in range(4):
        finish(store, claim(store, f"t{k}"))
    taken = claim(store, "last")
    store.submit(submission(seed=50))
    delay(store, taken)

    joined = store.submit(submission(seed=4, owner="bob"))

    assert (joined.attached, joined.job.images[0].position) == (1, None)
    assert claim(store, "t9").spec.seed == 50
    finish(store, claim_later(store, "t10"))
    assert store.get(joined.job.id).status is JobStatus.succeeded


def test_an_audit_leaves_a_delayed_render_alone(store: JobStore) -> None:
    store.submit(submission())
    delay(store, claim(store))

    assert store.audit().requeued == ()

    assert store.stats().pools[0].delayed == 1


# ------------------------------------------------------------------------------------- poison


def take_down(store: JobStore, turn: str = "") -> str:
    """Lose the next render's worker until it fails; its id."""
    for attempt in range(MAX_LOSSES):
        taken = claim(store, f"t{turn}{attempt}")
        store.release(taken.render_id, taken.token, lost=True)
    return taken.render_id


def test_a_render_that_took_down_its_workers_is_listed_with_its_jobs(store: JobStore) -> None:
    jobs = [store.submit(submission(seed=7, owner=name)).job for name in ("bob", "alice")]
    started = store.get(jobs[0].id).created_at

    render = take_down(store)

    [poison] = store.poison()
    assert (poison.render_id, poison.spec.seed) == (render, 7)
    assert poison.fingerprint == jobs[0].images[0].render.fingerprint
    assert poison.jobs == tuple(sorted(job.id for job in jobs))
    assert poison.owners == ("alice", "bob")
    assert (poison.attempts, poison.losses) == (MAX_LOSSES, MAX_LOSSES)
    assert (poison.error.code, poison.failed_at >= started) == ("worker_lost", True)


def test_poison_is_listed_oldest_first_until_it_is_dropped(store: JobStore) -> None:
    renders = []
    for seed in range(2):
        store.submit(submission(seed=seed))
        renders.append(take_down(store, str(seed)))
    assert [poison.render_id for poison in store.poison()] == renders

    assert store.drop_poison(renders[0])

    assert [poison.render_id for poison in store.poison()] == renders[1:]
    assert not store.drop_poison(renders[0])


def test_other_failures_are_no_poison(store: JobStore) -> None:
    store.submit(submission())
    taken = claim(store)
    store.close(taken.render_id, taken.token, FINAL)

    assert store.poison() == []


# ------------------------------------------------------------------------- pictures taken away


def test_a_picture_that_answers_orders_cannot_be_condemned(store: JobStore) -> None:
    store.submit(submission())
    taken = claim(store)
    finish(store, taken)

    assert not store.condemn(taken.fingerprint, taken.token)
    assert store.condemn(taken.fingerprint, "loser")
    assert store.results_in_use() == {taken.token}


def test_nothing_is_condemned_while_somebody_may_find_it(store: JobStore) -> None:
    order = submission()
    store.submit(order)

    assert not store.condemn(order.orders[0].fingerprint, "older")

    taken = claim(store)
    assert not store.condemn(taken.fingerprint, "older")
    store.close(taken.render_id, taken.token, FINAL)
    assert store.condemn(taken.fingerprint, "older")


def test_a_condemned_picture_is_never_published(store: JobStore) -> None:
    order = submission()
    assert store.condemn(order.orders[0].fingerprint, "older")
    job = store.submit(order).job
    taken = claim(store)
    older = stored(taken.fingerprint, "older")

    assert store.close(taken.render_id, taken.token, older, found=True) is False

    again = claim(store, "t2")
    assert (again.render_id, again.fresh) == (taken.render_id, True)
    finish(store, again)
    assert store.get(job.id).status is JobStatus.succeeded
    assert store.results_in_use() == {"t2"}


def test_a_picture_of_a_bypassing_job_is_in_use(store: JobStore) -> None:
    store.submit(submission())
    finish(store, claim(store, "t1"))
    store.submit(submission(cache="bypass"))
    finish(store, claim(store, "t2"))

    assert store.results_in_use() == {"t1", "t2"}


# ------------------------------------------------------------------------------------- cancel


def test_a_queued_job_is_canceled_at_once(store: JobStore) -> None:
    job = store.submit(submission(n=2)).job

    canceled = store.cancel(job.id)

    assert (canceled.status, canceled.done) == (JobStatus.canceled, True)
    assert store.claim(POOL, "t1", "slot", "worker", LEASE_S) is None
    assert store.cancel(job.id).status is JobStatus.canceled


def test_a_running_job_is_canceled_when_its_worker_stops(store: JobStore) -> None:
    job = store.submit(submission()).job
    taken = claim(store)

    asked = store.cancel(job.id)

    assert (asked.status, asked.cancel_requested_at is None) == (JobStatus.running, False)
    assert store.renew({"t1": (taken.render_id, 1)}, LEASE_S) == {"t1": "cancel"}
    assert store.close(taken.render_id, "t1", None)
    assert store.get(job.id).status is JobStatus.canceled


def test_a_render_that_another_job_wants_goes_on(store: JobStore) -> None:
    one, two = store.submit(submission()).job, store.submit(submission(owner="bob")).job
    taken = claim(store)

    assert store.cancel(one.id).status is JobStatus.canceled

    assert store.renew({"t1": (taken.render_id, 1)}, LEASE_S) == {"t1": "held"}
    finish(store, taken)
    assert store.get(two.id).status is JobStatus.succeeded
    assert store.get(one.id).status is JobStatus.canceled


def test_nobody_joins_a_render_that_is_being_canceled(store: JobStore) -> None:
    job = store.submit(submission()).job
    claim(store)
    store.cancel(job.id)

    assert store.submit(submission()).made == 1


def test_a_canceled_render_that_lost_its_worker_ends(store: JobStore) -> None:
    job = store.submit(submission()).job
    taken = claim(store)
    store.cancel(job.id)

    store.release(taken.render_id, taken.token, lost=True)

    assert store.get(job.id).status is JobStatus.canceled
    assert store.claim(POOL, "t2", "slot", "worker", LEASE_S) is None


def test_what_finished_before_the_cancel_stays(store: JobStore) -> None:
    job = store.submit(submission(n=2)).job
    finish(store, claim(store))

    canceled = store.cancel(job.id)

    assert canceled.status is JobStatus.canceled
    assert [image.status for image in canceled.images].count(RenderState.succeeded) == 1


def test_what_others_make_of_a_render_is_not_told_of_a_job_that_left_it(store: JobStore) -> None:
    early, late = store.submit(submission()).job, store.submit(submission()).job
    first = claim(store, "t1")
    store.renew({"t1": (first.render_id, 2)}, LEASE_S)
    left = store.cancel(early.id)
    (image,) = left.images
    assert (image.status, image.render.attempt, image.render.step) == (RenderState.canceled, 1, 2)

    store.release(first.render_id, "t1", lost=True)
    assert store.get(early.id).images[0].position is None
    finish(store, claim(store, "t2"))

    assert store.get(late.id).status is JobStatus.succeeded
    (now,) = store.get(early.id).images
    assert not now.cached
    assert (now.render.attempt, now.render.step, now.render.started_at, now.render.result) == (
        1, 2, image.render.started_at, None,
    )  # fmt: skip


def test_a_finished_job_cannot_be_canceled(store: JobStore) -> None:
    job = store.submit(submission()).job
    finish(store, claim(store))

    with pytest.raises(JobFinished):
        store.cancel(job.id)


# ----------------------------------------------------------------------------------- deadlines


def test_a_job_that_has_not_started_by_its_deadline_expires(store: JobStore) -> None:
    job = store.submit(submission(deadline_s=0.05)).job

    wait_until(lambda: bool(store.expire().expired) or store.get(job.id).done)

    assert store.get(job.id).status is JobStatus.expired
    assert store.claim(POOL, "t1", "slot", "worker", LEASE_S) is None


def test_no_worker_starts_a_render_past_its_deadline(store: JobStore) -> None:
    store.submit(submission(deadline_s=0.001))
    time.sleep(0.005)

    assert store.claim(POOL, "t1", "slot", "worker", LEASE_S) is None


def test_what_started_before_the_deadline_finishes(store: JobStore) -> None:
    job = store.submit(submission(n=2, deadline_s=0.1)).job
    taken = claim(store)

    wait_until(lambda: bool(store.expire().expired))

    assert not store.get(job.id).done
    finish(store, taken)
    assert store.get(job.id).status is JobStatus.expired


# -------------------------------------------------------------------------------------- order


def test_owners_take_turns(store: JobStore) -> None:
    for seed in range(4):
        store.submit(submission(owner="alice", seed=seed))
    for seed in range(100, 104):
        store.submit(submission(owner="bob", seed=seed))

    seeds = [claim(store, f"t{k}").spec.seed for k in range(8)]

    owners = ["alice" if seed < 100 else "bob" for seed in seeds]
    assert all(sorted(owners[k : k + 2]) == ["alice", "bob"] for k in range(0, 8, 2))
    assert [s for s in seeds if s < 100] == [0, 1, 2, 3]


def test_a_newcomer_is_not_owed_the_past(store: JobStore) -> None:
    for seed in range(20):
        store.submit(submission(owner="alice", seed=seed))
    for k in range(10):
        finish(store, claim(store, f"a{k}"))
    for seed in range(100, 110):
        store.submit(submission(owner="bob", seed=seed))

    seeds = [claim(store, f"b{k}").spec.seed for k in range(6)]

    assert sum(seed >= 100 for seed in seeds) == 3


def test_a_flow_gets_its_share_in_device_seconds(store: JobStore) -> None:
    for seed in range(4):
        store.submit(submission(owner="heavy", seed=seed, cost_s=3.0))
    for seed in range(100, 112):
        store.submit(submission(owner="light", seed=seed, cost_s=1.0))

    first = [claim(store, f"t{k}").spec.seed for k in range(8)]

    assert sum(seed >= 100 for seed in first) == 6


def test_high_priority_goes_first_and_low_does_not_starve(store: JobStore) -> None:
    for seed in range(8):
        store.submit(submission(seed=seed, priority="low"))
    for seed in range(100, 132):
        store.submit(submission(seed=seed, priority="high"))

    seeds = [claim(store, f"t{k}").spec.seed for k in range(20)]

    assert sum(seed >= 100 for seed in seeds[:17]) == 16
    assert sum(seed < 100 for seed in seeds) == 2


def test_cancelled_work_is_not_charged(store: JobStore) -> None:
    job = store.submit(submission(owner="alice", n=20)).job
    store.cancel(job.id)

    store.submit(submission(owner="alice", seed=500))
    store.submit(submission(owner="bob", seed=600))
    store.submit(submission(owner="bob", seed=601))

    assert 500 in [claim(store, f"t{k}").spec.seed for k in range(2)]


def test_a_second_buyer_brings_a_render_forward(store: JobStore) -> None:
    for seed in range(10):
        store.submit(submission(owner="alice", seed=seed))

    bob = store.submit(submission(owner="bob", seed=9)).job

    assert bob.images[0].position is not None
    assert bob.images[0].position <= 1


def test_measured_seconds_correct_the_prediction(store: JobStore) -> None:
    for seed in range(30):
        store.submit(submission(seed=seed, owner=f"o{seed}"))
    for k in range(30):
        taken = claim(store, f"t{k}")
        store.close(
            taken.render_id, taken.token, stored(taken.fingerprint, taken.token), device_s=4
        )

    assert store.stats().pools[0].rate == pytest.approx(4.0)


# ------------------------------------------------------------------------------------ the rest


def test_workers_are_listed_until_they_leave_and_shown_as_lost_when_silent(store: JobStore) -> None:
    steps = (LoadingStep(name="load", status="done", seconds=1.5),)
    status = WorkerStatus(name="w1", pool=POOL, model="tiny", state="ready", steps=steps)
    store.heartbeat(status, ttl_s=30)
    store.heartbeat(status.model_copy(update={"name": "w2", "error": "no 'weights' here"}), 0.001)

    wait_until(lambda: store.workers()[1].state == "lost")

    one, two = store.workers()
    assert (one.state, one.steps, two.error) == ("ready", steps, "no 'weights' here")
    assert one.last_seen_at > 0
    store.leave("w1")
    assert [worker.name for worker in store.workers()] == ["w2"]


def status(name: str = "slot") -> WorkerStatus:
    return WorkerStatus(name=name, pool=POOL, model="tiny", state="ready")


def test_an_order_to_drain_is_heard_with_every_heartbeat_until_it_is_lifted(
    store: JobStore,
) -> None:
    assert not store.heartbeat(status(), 30).drain

    store.drain("slot")
    store.drain("slot")

    assert store.heartbeat(status(), 30).drain
    assert not store.heartbeat(status("other"), 30).drain
    store.leave("slot")
    assert store.heartbeat(status(), 30).drain  # the order outlives the process
    assert store.lift("slot")
    assert not store.heartbeat(status(), 30).drain
    assert not store.lift("slot")


def test_unwell_exits_are_counted_once_each_until_they_are_lifted(store: JobStore) -> None:
    for token in ("a", "b", "b"):
        store.unwell("slot", token)

    assert store.heartbeat(status(), 30).unwell == 2
    assert store.heartbeat(status("other"), 30).unwell == 0
    assert store.lift("slot")
    assert store.heartbeat(status(), 30).unwell == 0


def test_a_worker_shows_what_it_holds_until_that_is_stored(store: JobStore) -> None:
    store.submit(submission(n=2))
    store.heartbeat(status(), 30)
    first, second = claim(store, "t1"), claim(store, "t2")
    store.storing(first.render_id, "t1", 4)

    assert store.workers()[0].holding == 2
    finish(store, first)
    store.release(second.render_id, "t2", lost=False)
    assert store.workers()[0].holding == 0


def test_a_worker_shows_what_its_slot_died_of_last(store: JobStore) -> None:
    store.heartbeat(status(), 30)
    assert store.workers()[0].last_death is None

    store.died("slot", "deaf")
    store.died("slot", "container_memory")

    death = store.workers()[0].last_death
    assert death is not None
    assert (death.cause, abs(death.at - store.workers()[0].last_seen_at) < 60) == (
        "container_memory",
        True,
    )


@pytest.mark.parametrize("how", ["release", "adopt", "reap"])
def test_every_lost_render_tells_of_a_death(store: JobStore, how: str) -> None:
    job = store.submit(submission()).job
    store.heartbeat(status(), 30)
    taken = claim(store, lease_s=0.01)

    if how == "release":
        store.release(taken.render_id, taken.token, lost=True)
    elif how == "adopt":
        store.adopt("slot")
    else:
        wait_until(lambda: store.reap().requeued)

    death = store.workers()[0].last_death
    assert death is not None
    assert death.cause == store.get(job.id).images[0].render.last_loss == "worker_lost"


def test_a_render_given_back_in_order_tells_of_no_death(store: JobStore) -> None:
    store.submit(submission())
    store.heartbeat(status(), 30)
    taken = claim(store)

    store.release(taken.render_id, taken.token, lost=False)

    assert store.workers()[0].last_death is None


@pytest.mark.parametrize(
    ("cause", "code"), [("container_memory", "container_memory"), ("device_fault", "worker_lost")]
)
def test_the_last_loss_says_in_words_what_killed_the_worker(
    store: JobStore, cause: Cause, code: str
) -> None:
    job = store.submit(submission()).job
    for attempt in range(MAX_LOSSES):
        taken = claim(store, f"t{attempt}")
        store.release(taken.render_id, taken.token, lost=True, cause=cause, detail="it was so")

    render = store.get(job.id).images[0].render
    assert render.error is not None
    assert (render.last_loss, render.error.code, render.error.retryable) == (cause, code, False)
    assert render.error.message == "the render took down its worker 3 times: it was so"


def test_an_inexact_picture_ends_its_jobs_and_answers_no_later_order(store: JobStore) -> None:
    one, two = store.submit(submission(seed=5)).job, store.submit(submission(seed=5)).job
    taken = claim(store)
    inexact = stored(taken.fingerprint, "t1").model_copy(update={"exact": False})

    assert store.close(taken.render_id, "t1", inexact)

    assert {store.get(job.id).status for job in (one, two)} == {JobStatus.succeeded}
    assert store.get(one.id).images[0].render.result == inexact
    again = store.submit(submission(seed=5))
    assert (again.hits, again.made) == (0, 1)


def test_an_inexact_picture_leaves_an_exact_one_in_its_place(store: JobStore) -> None:
    store.submit(submission(seed=5))
    finish(store, claim(store, "t1"))
    store.submit(submission(seed=5, cache="bypass"))
    fresh = claim(store, "t2")

    inexact = stored(fresh.fingerprint, "t2").model_copy(update={"exact": False})
    store.close(fresh.render_id, "t2", inexact)

    result = store.submit(submission(seed=5)).job.images[0].render.result
    assert result is not None
    assert result.token == "t1"


def test_a_secret_is_made_once(store: JobStore) -> None:
    assert store.secret("signing", "one") == "one"
    assert store.secret("signing", "two") == "one"


def test_the_totals_add_up(store: JobStore) -> None:
    store.submit(submission(n=3))
    finish(store, claim(store, "t1"))
    lost = claim(store, "t2")
    store.release(lost.render_id, "t2", lost=True)

    stats = store.stats()

    assert stats.pools[0].pending == 2
    assert (stats.leases, stats.totals["succeeded"], stats.totals["lost"]) == (0, 1, 1)
    assert store.claim("other.1", "t9", "s", "w", LEASE_S) is None
    assert store.stats().totals["idle"] == 1
    store.ping()
