"""Many jobs at once, and their end: one contract over every job store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from ulid import ULID

from shared.errors import JobNotFinished, JobNotFound
from shared.jobs import Failure, Job, JobStatus, StoredResult
from shared.store.address import connect
from shared.store.memory import MemoryJobStore
from shared.store.port import JobStore
from shared.store.queries import LOOK_MOST, JobQuery
from shared.store.redis_store import RedisJobStore
from shared.store.scripts import StoreConfig
from shared.store.values import Claim
from shared.tickets import ticket_template
from tests.orders import POOL, stored, submission

ALL = JobQuery(owner=None)
ALICE = JobQuery(owner="alice")


@pytest.fixture(params=["memory", "valkey", "redis"])
def store(request: pytest.FixtureRequest) -> Iterator[JobStore]:
    if request.param == "memory":
        yield MemoryJobStore()
        return
    client = connect(request.getfixturevalue("redis_of")(request.param), patience_s=2)
    yield RedisJobStore(client, StoreConfig(ticket_template()))
    client.close()


def order(store: JobStore, seed: int, **fields: Any) -> Job:
    metadata = fields.pop("metadata", {})
    made = submission(seed=seed, **fields)
    job = made.job.model_copy(update={"metadata": metadata})
    return store.submit(replace(made, job=job)).job


def run(store: JobStore) -> Claim:
    taken = store.claim(POOL, str(ULID()), "slot", "worker", 30.0)
    assert taken is not None
    return taken


def finish(store: JobStore, found: StoredResult | None = None) -> StoredResult:
    """One render succeeds; with `found` its picture was stored before."""
    taken = run(store)
    result = found or stored(taken.fingerprint, taken.token)
    assert store.close(taken.render_id, taken.token, result, found=found is not None)
    return result


def ids(store: JobStore, query: JobQuery) -> list[str]:
    return [job.id for job in store.jobs(query).jobs]


# ------------------------------------------------------------------------------------- the list


def test_jobs_are_listed_in_the_order_in_which_they_came(store: JobStore) -> None:
    jobs = [order(store, seed).id for seed in range(4)]

    assert ids(store, ALICE) == jobs[::-1]
    assert ids(store, replace(ALICE, newest_first=False)) == jobs


def test_an_owner_sees_only_his_own_jobs(store: JobStore) -> None:
    hers, his = order(store, 1).id, order(store, 2, owner="bob").id

    assert ids(store, ALICE) == [hers]
    assert ids(store, replace(ALICE, owner="bob")) == [his]
    assert ids(store, replace(ALICE, owner="carol")) == []
    assert ids(store, ALL) == [his, hers]


@pytest.mark.parametrize("owner", ["alice", None])
@pytest.mark.parametrize("newest_first", [True, False])
def test_pages_meet_every_job_once(store: JobStore, owner: str | None, newest_first: bool) -> None:
    jobs = [order(store, seed).id for seed in range(7)]
    query = JobQuery(owner, limit=3, newest_first=newest_first)

    seen, sizes, more = [], [], True
    while more:
        page = store.jobs(query)
        seen += [job.id for job in page.jobs]
        sizes.append(len(page.jobs))
        more, query = page.has_more, replace(query, after=page.last)

    assert seen == (jobs[::-1] if newest_first else jobs)
    assert sizes == [3, 3, 1]


def test_a_page_that_ends_with_the_index_has_no_more(store: JobStore) -> None:
    for seed in range(3):
        order(store, seed)

    assert not store.jobs(replace(ALICE, limit=3)).has_more
    assert store.jobs(replace(ALICE, limit=2)).has_more
    assert store.jobs(replace(ALICE, owner="carol")).last is None


def test_a_cursor_whose_job_is_gone_still_says_where_to_go_on(store: JobStore) -> None:
    jobs = [order(store, seed).id for seed in range(2)]
    ahead = f"job_{ULID.from_timestamp(4e9)}"  # an id of a later time, which no record has

    assert ids(store, replace(ALICE, after=ahead)) == jobs[::-1]
    assert ids(store, replace(ALICE, after=ahead, newest_first=False)) == []
    assert ids(store, replace(ALL, after=f"job_{ULID.from_timestamp(1)}")) == []


def test_a_page_lies_between_two_times(store: JobStore) -> None:
    jobs = [order(store, seed) for seed in range(4)]
    since, until = jobs[1].created_at, jobs[3].created_at

    assert ids(store, replace(ALICE, since=since, until=until)) == [jobs[2].id, jobs[1].id]
    assert ids(store, replace(ALICE, since=since, newest_first=False, limit=1)) == [jobs[1].id]
    assert ids(store, replace(ALICE, until=since)) == [jobs[0].id]


def test_a_page_holds_what_was_asked_for(store: JobStore) -> None:
    red = order(store, 1, metadata={"colour": "red", "size": "s"}).id
    blue = order(store, 2, metadata={"colour": "blue"}).id
    finish(store)

    assert ids(store, replace(ALICE, metadata={"colour": "red"})) == [red]
    assert ids(store, replace(ALICE, metadata={"colour": "red", "size": "l"})) == []
    assert ids(store, replace(ALICE, statuses=frozenset({JobStatus.queued}))) == [blue]
    done = frozenset({JobStatus.succeeded, JobStatus.failed})
    assert ids(store, replace(ALICE, statuses=done)) == [red]
    assert ids(store, replace(ALICE, model="another")) == []


def test_a_search_for_a_rare_job_looks_at_so_many_and_goes_on_from_there(store: JobStore) -> None:
    rare = order(store, 0, metadata={"rare": "1"}).id
    for seed in range(1, LOOK_MOST + 5):
        order(store, seed)
    query = replace(ALICE, metadata={"rare": "1"})

    first = store.jobs(query)
    second = store.jobs(replace(query, after=first.last))

    assert (first.jobs, first.has_more) == ((), True)
    assert ([job.id for job in second.jobs], second.has_more) == ([rare], False)


# ----------------------------------------------------------------------------------- the end of one


def test_a_deleted_job_is_gone(store: JobStore) -> None:
    job = order(store, 1, n=2, idempotency=("key", "body"))
    finish(store), finish(store)

    store.delete(job.id)
    store.delete(job.id)  # this very call, repeated

    with pytest.raises(JobNotFound):
        store.get(job.id)
    with pytest.raises(JobNotFound):
        store.disown(job.id)
    assert store.jobs(ALL).jobs == store.jobs(ALICE).jobs == ()
    assert store.results_in_use() == set()
    again = submission(seed=9, idempotency=("key", "another body"))
    assert not store.submit(again).replayed, "its idempotency key is free"


@pytest.mark.parametrize("running", [False, True])
def test_an_unfinished_job_is_not_deleted(store: JobStore, running: bool) -> None:
    job = order(store, 1)
    if running:
        run(store)
        store.cancel(job.id)  # asked, but the worker has not stopped yet

    for end in (store.delete, store.disown):
        with pytest.raises(JobNotFinished):
            end(job.id)
    assert store.get(job.id).id == job.id


def test_a_deletion_takes_what_was_told_of_the_job_along(store: JobStore) -> None:
    job = order(store, 1)
    finish(store)
    assert store.events(job.id, None)

    store.delete(job.id)

    assert store.events(job.id, None) == []


def test_after_a_deletion_the_same_order_is_a_new_render(store: JobStore) -> None:
    job = order(store, 1)
    finish(store)
    store.delete(job.id)

    assert store.submit(submission(seed=1)).made == 1


def test_a_picture_that_answered_a_later_job_stays_with_it(store: JobStore) -> None:
    first = order(store, 1)
    result = finish(store)
    second = order(store, 1, owner="bob")

    assert store.disown(first.id) == ()
    store.delete(first.id)

    assert store.get(second.id).images[0].render.result == result
    assert order(store, 1).images[0].cached
    assert store.results_in_use() == {result.token}


def test_the_last_of_its_jobs_takes_a_picture_along(store: JobStore) -> None:
    jobs = [order(store, 1), order(store, 1, owner="bob")]
    result = finish(store)
    jobs.append(order(store, 1, owner="carol"))

    for job in (jobs[1], jobs[0]):
        assert store.disown(job.id) == ()
        store.delete(job.id)
    [owned] = store.disown(jobs[2].id)
    store.delete(jobs[2].id)

    assert (owned.result, owned.found) == (result, False)
    assert store.results_in_use() == set()


def test_a_canceled_job_leaves_the_render_that_another_waits_for(store: JobStore) -> None:
    first, second = order(store, 1), order(store, 1, owner="bob")
    store.cancel(first.id)

    store.delete(first.id)

    finish(store)
    assert store.get(second.id).status is JobStatus.succeeded


def test_a_disowned_picture_answers_nobody_and_is_still_there(store: JobStore) -> None:
    job = order(store, 1)
    result = finish(store)

    assert [owned.result for owned in store.disown(job.id)] == [result]
    assert [owned.result for owned in store.disown(job.id)] == [result]

    assert store.submit(submission(seed=1)).made == 1
    assert store.get(job.id).images[0].render.result == result


def test_a_job_whose_purge_stopped_half_way_keeps_its_picture_from_other_deletions(
    store: JobStore,
) -> None:
    jobs = [order(store, 1)]
    result = finish(store)
    jobs += [order(store, 1, owner="bob"), order(store, 1, owner="carol")]
    store.delete(jobs[0].id)

    assert store.disown(jobs[2].id) == ()  # and then its storage, or its API, was gone
    store.delete(jobs[1].id)

    assert store.get(jobs[2].id).images[0].render.result == result


def test_a_picture_that_was_found_may_be_anothers_too(store: JobStore) -> None:
    first = order(store, 1)
    result = finish(store)
    render = first.images[0].render
    store.forget(render.fingerprint, render.id)
    second = order(store, 1)
    finish(store, found=result)

    [owned] = store.disown(second.id)

    assert (owned.result, owned.found) == (result, True)
    assert store.results_in_use(but=[owned.render_id]) == {result.token}
    store.delete(first.id)
    assert store.results_in_use(but=[owned.render_id]) == set()


def test_a_deleted_job_leaves_the_list_of_poison_to_the_others(store: JobStore) -> None:
    jobs = [order(store, 1), order(store, 1, owner="bob")]
    for _ in range(3):
        taken = run(store)
        store.release(taken.render_id, taken.token, lost=True)

    store.delete(jobs[0].id)
    [poison] = store.poison()
    assert poison.owners == ("bob",)
    store.delete(jobs[1].id)

    assert store.poison() == []


def test_a_repeated_claim_of_a_deleted_render_finds_nothing(store: JobStore) -> None:
    job = order(store, 1)
    taken = run(store)
    store.close(taken.render_id, taken.token, Failure(code="render_error", message="no"))
    store.delete(job.id)

    assert store.claim(POOL, taken.token, "slot", "worker", 30.0) is None
    assert store.close(taken.render_id, taken.token, None) is False
