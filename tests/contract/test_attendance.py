"""Clients that wait on an open connection: what becomes of their jobs, on every job store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from shared.errors import JobNotFound, NotStored
from shared.jobs import Failure, JobStatus, RenderState
from shared.store.address import connect
from shared.store.memory import MemoryJobStore
from shared.store.port import JobStore
from shared.store.redis_store import RedisJobStore
from shared.store.scripts import StoreConfig
from shared.store.values import Attendance, Claim, Submission, Submitted
from shared.tickets import ticket_template
from tests.orders import POOL, stored, submission
from tests.waiting import wait_until

LONG_S, SHORT_S = 60.0, 0.05


@pytest.fixture(params=["memory", "valkey", "redis"])
def store(request: pytest.FixtureRequest) -> Iterator[JobStore]:
    if request.param == "memory":
        yield MemoryJobStore()
        return
    client = connect(request.getfixturevalue("redis_of")(request.param), patience_s=2)
    yield RedisJobStore(client, StoreConfig(ticket_template()))
    client.close()


def order(
    client: str = "c1", *, gone_s: float = LONG_S, repeats: bool = False, **fields: Any
) -> Submission:
    by = Attendance(client, gone_s, "body", repeats)
    return replace(submission(**fields), attendance=by)


def run(store: JobStore, token: str = "t1") -> Claim:
    taken = store.claim(POOL, token, "slot", "worker", 30.0)
    assert taken is not None
    return taken


def finish(store: JobStore, taken: Claim) -> None:
    assert store.close(taken.render_id, taken.token, stored(taken.fingerprint, taken.token))


def states(store: JobStore, job_id: str) -> list[RenderState]:
    return [image.status for image in store.get(job_id).images]


def swept(store: JobStore) -> tuple[str, ...]:
    """What the chores abandon, once they find something."""
    found: list[str] = []

    def look() -> bool:
        found.extend(store.unattended().abandoned)
        return bool(found)

    wait_until(look, 5.0, "for the chores")
    return tuple(found)


# -------------------------------------------------------------------------- a client that leaves


def test_when_its_client_is_gone_queued_images_are_canceled_and_running_ones_finish(
    store: JobStore,
) -> None:
    job = store.submit(order(gone_s=SHORT_S, n=3)).job
    taken = run(store)

    assert swept(store) == (job.id,)

    assert states(store, job.id) == [
        RenderState.running, RenderState.canceled, RenderState.canceled,
    ]  # fmt: skip
    finish(store, taken)
    assert store.get(job.id).status is JobStatus.canceled
    assert states(store, job.id)[0] is RenderState.succeeded
    assert store.unattended().abandoned == ()


def test_a_client_that_waits_holds_its_job(store: JobStore) -> None:
    job = store.submit(order(gone_s=SHORT_S)).job

    store.attend(job.id, "c1", LONG_S)

    assert store.unattended().abandoned == ()
    assert states(store, job.id) == [RenderState.queued]


def test_a_client_that_departs_leaves_its_job_so_much_longer(store: JobStore) -> None:
    job = store.submit(order(gone_s=SHORT_S)).job

    store.depart(job.id, "c1", LONG_S)

    assert store.unattended().abandoned == ()


def test_a_job_is_held_while_one_of_its_clients_waits(store: JobStore) -> None:
    job = store.submit(order("c1", gone_s=SHORT_S)).job
    store.submit(order("c2", gone_s=LONG_S, repeats=True))

    store.depart(job.id, "c1", SHORT_S)

    assert store.unattended().abandoned == ()
    assert states(store, job.id) == [RenderState.queued]


def test_a_job_without_a_waiting_client_is_never_abandoned(store: JobStore) -> None:
    job = store.submit(submission()).job

    store.attend(job.id, "c1", 0.0)
    store.depart(job.id, "c1", 0.0)

    assert store.unattended().abandoned == ()
    assert states(store, job.id) == [RenderState.queued]


def test_an_image_that_another_job_wants_goes_on(store: JobStore) -> None:
    left = store.submit(order(gone_s=SHORT_S, seed=5)).job
    other = store.submit(submission(owner="bob", seed=5)).job

    assert swept(store) == (left.id,)

    assert store.get(left.id).status is JobStatus.canceled
    finish(store, run(store))
    assert store.get(other.id).status is JobStatus.succeeded


def test_a_job_stored_already_is_not_held(store: JobStore) -> None:
    store.submit(submission(seed=5))
    finish(store, run(store))

    job = store.submit(order(gone_s=0.0, seed=5)).job

    assert job.done
    assert store.unattended().abandoned == ()


# --------------------------------------------------------------------------------- giving up


def test_abandon_stops_what_is_queued_only_and_may_be_repeated(store: JobStore) -> None:
    job = store.submit(order(n=2)).job
    run(store)

    assert store.abandon(job.id, "c1").images[1].status is RenderState.canceled
    again = store.abandon(job.id, "c1")

    assert [image.status for image in again.images] == [RenderState.running, RenderState.canceled]


def test_abandon_of_an_unknown_job_is_not_found(store: JobStore) -> None:
    with pytest.raises(JobNotFound):
        store.abandon("job_unknown", "c1")


def test_a_client_that_gives_up_takes_nothing_from_another(store: JobStore) -> None:
    job = store.submit(order("c1")).job
    store.submit(order("c2", repeats=True))

    assert store.abandon(job.id, "c1").images[0].status is RenderState.queued
    assert store.abandon(job.id, "c2").images[0].status is RenderState.canceled


def test_a_client_cannot_give_up_a_job_that_none_like_it_ordered(store: JobStore) -> None:
    job = store.submit(submission(idempotency=("key", "body"))).job
    store.submit(order(idempotency=("key", "body")))

    assert store.abandon(job.id, "c1").images[0].status is RenderState.queued


def test_an_abandoned_job_frees_its_idempotency_key(store: JobStore) -> None:
    first = store.submit(order(idempotency=("key", "body"))).job
    store.abandon(first.id, "c1")

    again = store.submit(order(idempotency=("key", "other body")))

    assert not again.replayed
    assert again.job.id != first.id


def test_a_job_whose_images_all_run_keeps_its_idempotency_key(store: JobStore) -> None:
    first = store.submit(order(idempotency=("key", "body"))).job
    run(store)
    store.abandon(first.id, "c1")

    assert store.submit(order(idempotency=("key", "body"))).job.id == first.id


def test_whoever_asks_for_the_job_by_key_without_waiting_takes_it_over(store: JobStore) -> None:
    first = store.submit(order(gone_s=SHORT_S, idempotency=("key", "body"))).job
    later = store.submit(order("c2", gone_s=SHORT_S, seed=9)).job

    assert store.submit(submission(idempotency=("key", "body"))).replayed

    assert swept(store) == (later.id,)
    assert states(store, first.id) == [RenderState.queued]


# --------------------------------------------------------------------------- a request that repeats


def again(store: JobStore, client: str = "c9", **fields: Any) -> Submitted:
    return store.submit(order(client, repeats=True, seed=99, **fields))


def test_equal_requests_that_do_not_repeat_stay_separate(store: JobStore) -> None:
    jobs = {store.submit(order(f"c{seed}", seed=seed)).job.id for seed in range(3)}

    assert len(jobs) == 3


def test_a_repeated_request_attaches_to_the_unfinished_job(store: JobStore) -> None:
    first = store.submit(order()).job

    repeated = again(store)

    assert (repeated.job.id, repeated.replayed, repeated.made) == (first.id, True, 0)


def test_a_repeated_request_prefers_the_job_whose_client_has_left(store: JobStore) -> None:
    oldest = store.submit(order("c1", seed=1)).job
    left = store.submit(order("c2", seed=2)).job
    store.depart(left.id, "c2", LONG_S)

    assert again(store).job.id == left.id
    assert again(store, "c10").job.id == oldest.id  # now both have a client


def test_a_repeated_request_is_answered_with_what_succeeded_lately(store: JobStore) -> None:
    first = store.submit(order()).job
    finish(store, run(store))

    assert again(store).job.id == first.id


def test_success_is_late_after_two_minutes() -> None:
    now = [1000.0]
    store = MemoryJobStore(clock=lambda: now[0])
    first = store.submit(order()).job
    finish(store, run(store))

    now[0] += 119
    assert again(store).job.id == first.id
    now[0] += 2
    assert again(store, "c10").job.id != first.id


def test_a_repeated_request_never_gets_what_failed_or_was_canceled(store: JobStore) -> None:
    failed = store.submit(order("c1", seed=1)).job
    taken = run(store)
    store.close(taken.render_id, taken.token, Failure(code="render_error", message="no"))
    canceled = store.submit(order("c2", seed=2, n=2)).job
    run(store, "t2")
    store.abandon(canceled.id, "c2")  # one image still runs

    assert again(store).job.id not in {failed.id, canceled.id}


def test_a_repeated_request_of_another_owner_or_body_is_a_new_job(store: JobStore) -> None:
    first = store.submit(order()).job
    other = replace(order("c3", seed=3), attendance=Attendance("c3", LONG_S, "other", True))

    assert again(store, owner="bob").job.id != first.id
    assert store.submit(other).job.id != first.id


def test_the_same_submission_again_is_the_same_job(store: JobStore) -> None:
    call = order(repeats=True)

    first, second = store.submit(call), store.submit(call)

    assert first.job.id == second.job.id


def test_a_client_that_comes_back_saves_the_job(store: JobStore) -> None:
    first = store.submit(order(gone_s=SHORT_S)).job
    store.depart(first.id, "c1", SHORT_S)

    assert again(store).job.id == first.id

    assert store.unattended().abandoned == ()
    assert states(store, first.id) == [RenderState.queued]


def test_a_finished_job_keeps_no_list_of_those_who_asked(store: JobStore) -> None:
    job = store.submit(order(idempotency=("key", "body"))).job
    finish(store, run(store))
    store.depart(job.id, "c1", LONG_S)
    other = store.submit(order("c2", seed=2)).job
    finish(store, run(store, "t2"))
    store.depart(other.id, "c2", LONG_S)

    for number in range(3):
        store.submit(order(f"late{number}", idempotency=("key", "body")))

    assert again(store).job.id == job.id  # nobody is there: the oldest


# ------------------------------------------------------------------- pictures that are stored


def test_an_order_of_stored_pictures_only_leaves_nothing_behind_if_one_is_not(
    store: JobStore,
) -> None:
    store.submit(submission(seed=5))
    finish(store, run(store))
    wanted = replace(submission(seed=5, n=2), stored_only=True)

    with pytest.raises(NotStored):
        store.submit(wanted)

    with pytest.raises(JobNotFound):
        store.get(wanted.job.id)
    assert store.submit(replace(submission(seed=5), stored_only=True)).job.done


def test_a_picture_in_the_making_is_not_stored(store: JobStore) -> None:
    store.submit(submission(seed=5))

    with pytest.raises(NotStored):
        store.submit(replace(submission(seed=5), stored_only=True))


# ------------------------------------------------------------------------------------------ notes


def test_notes_are_kept_per_owner(store: JobStore) -> None:
    store.note("alice", "model", "tiny")
    store.note("alice", "model", "large")

    assert store.notes("alice") == {"model": "large"}
    assert store.notes("bob") == {}
