"""What Redis keeps of a job, and for how long: on both engines."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shared.errors import JobNotFound
from shared.jobs import Failure, JobStatus
from shared.store.address import connect
from shared.store.redis_store import RedisJobStore
from shared.store.scripts import StoreConfig
from shared.store.values import (
    Claim,
    Submission,
)
from shared.tickets import ticket_template
from tests.orders import POOL, stored, submission
from tests.waiting import wait_until

RETENTION_S = 1
NO_JOB = Failure(code="render_error", message="no")
# What the farm knows of itself; everything else belongs to jobs and must end with them.
OF_THE_FARM = (
    "farm:totals", "farm:serial", "farm:pools", "farm:vtime:", "farm:flows:", "farm:pace:", "render.",
    "farm:worked_ms", "farm:deaths",
)  # fmt: skip

LISTS = ("farm:poison", "farm:jobs")  # the chores take out what has expired


class Farm:
    def __init__(self, url: str, retention_s: int) -> None:
        self.redis = connect(url, patience_s=2)
        self.store = RedisJobStore(
            self.redis, StoreConfig(ticket_template(), retention_s, retry_pause_s=0.01)
        )
        self._tokens = 0

    def claim(self) -> Claim:
        self._tokens += 1
        taken = self.store.claim(POOL, f"t{self._tokens}", "slot", "worker", 30.0)
        assert taken is not None
        return taken

    def finish(self) -> None:
        taken = self.claim()
        self.store.storing(taken.render_id, taken.token, 4)
        self.store.close(taken.render_id, taken.token, stored(taken.fingerprint, taken.token))

    def gone(self, job_id: str) -> bool:
        try:
            self.store.get(job_id)
        except JobNotFound:
            return True
        return False

    def ttls(self) -> dict[str, int]:
        """Seconds left of every key that belongs to jobs; -1: for ever."""
        keys = [str(key) for key in self.redis.scan_iter() if not str(key).startswith(OF_THE_FARM)]
        return {key: int(self.redis.ttl(key)) for key in keys}


@pytest.fixture
def farm(redis_server: str) -> Iterator[Farm]:
    farm = Farm(redis_server, RETENTION_S)
    yield farm
    farm.redis.close()


def succeed(farm: Farm, order: Submission) -> None:
    for _ in order.orders:
        farm.finish()


def fail(farm: Farm, order: Submission) -> None:
    for _ in order.orders:
        taken = farm.claim()
        farm.store.close(taken.render_id, taken.token, NO_JOB)


def cancel_queued(farm: Farm, order: Submission) -> None:
    farm.store.cancel(order.job.id)


def cancel_running(farm: Farm, order: Submission) -> None:
    held = [farm.claim() for _ in order.orders]
    farm.store.cancel(order.job.id)
    for taken in held:
        farm.store.close(taken.render_id, taken.token, None)


def expire(farm: Farm, order: Submission) -> None:
    wait_until(lambda: farm.store.expire().expired)


def poison(farm: Farm, order: Submission) -> None:
    for _ in range(3 * len(order.orders)):
        taken = farm.claim()
        farm.store.release(taken.render_id, taken.token, lost=True)


def cancel_delayed(farm: Farm, order: Submission) -> None:
    for _ in order.orders:
        taken = farm.claim()
        passing = Failure(code="out_of_memory", message="full", retryable=True)
        farm.store.close(taken.render_id, taken.token, passing)
    farm.store.cancel(order.job.id)


ENDS = [succeed, fail, cancel_queued, cancel_running, expire, poison, cancel_delayed]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
def test_nothing_of_a_job_stays_for_ever(farm: Farm, end) -> None:
    deadline_s = 0.01 if end is expire else 3600.0
    order = submission(n=2, deadline_s=deadline_s, idempotency=("key", "body"))
    farm.store.submit(order)

    end(farm, order)

    assert farm.store.get(order.job.id).done
    kept = {key: left_s for key, left_s in farm.ttls().items() if not key.startswith(LISTS)}
    assert f"farm:job:{order.job.id}" in kept
    assert [key for key, left_s in kept.items() if left_s < 0] == []
    wait_until(lambda: farm.gone(order.job.id), 5.0)
    farm.store.reconcile()
    left = {key.rpartition(":")[0] for key in farm.ttls() if key != "farm:poison"}
    # An hour, a day or two, then gone; a death belongs to its slot, what was spent to its day.
    assert left <= {"farm:render", "farm:token", "farm:idem:alice", "farm:death", "farm:spent"}
    assert farm.store.stats().pools[0].pending == 0


def test_a_finished_job_takes_no_open_render_of_another_job_with_it(farm: Farm) -> None:
    first = farm.store.submit(submission(seed=1)).job
    second = farm.store.submit(submission(seed=1, owner="bob")).job

    farm.store.cancel(first.id)

    assert farm.store.get(first.id).status is JobStatus.canceled
    of_both = [key for key in farm.ttls() if key.startswith(("farm:render:", "farm:current:"))]
    assert [farm.redis.ttl(key) for key in of_both] == [-1, -1]
    wait_until(lambda: farm.gone(first.id), 5.0)
    farm.finish()
    assert farm.store.get(second.id).status is JobStatus.succeeded


def test_a_picture_that_a_later_job_was_answered_with_lasts_as_long_as_that_job(
    redis_server: str,
) -> None:
    farm = Farm(redis_server, retention_s=100)
    farm.store.submit(submission(seed=1))
    farm.finish()
    later = farm.store.submit(submission(seed=1, n=2)).job

    of_the_first = [k for k in farm.ttls() if later.images[0].render.id in k]
    assert [farm.redis.ttl(key) for key in of_the_first if "render" in key] == [-1]
    farm.finish()

    assert farm.store.get(later.id).done
    lasting = [key for key, left_s in farm.ttls().items() if left_s < 0]
    assert all(key.startswith(LISTS) for key in lasting)
    farm.redis.close()


def test_poison_is_forgotten_with_its_record(farm: Farm) -> None:
    order = submission()
    farm.store.submit(order)
    poison(farm, order)
    [listed] = farm.store.poison()
    farm.store.reconcile()
    assert farm.redis.zcard("farm:poison") == 1

    wait_until(lambda: farm.gone(order.job.id), 5.0)
    farm.redis.delete(f"farm:render:{listed.render_id}")  # it expires an hour later

    assert farm.store.poison() == []
    farm.store.reconcile()
    assert farm.redis.exists("farm:poison") == 0


def test_an_old_job_that_is_still_open_does_not_keep_the_chores_from_later_ones(
    farm: Farm,
) -> None:
    old = [farm.store.submit(submission(owner=f"o{k}", seed=k)).job for k in range(120)]
    short = old[110:]
    for job in short:
        farm.store.cancel(job.id)
    wait_until(lambda: all(farm.gone(job.id) for job in short), 5.0)

    farm.store.reconcile()
    assert farm.redis.zcard("farm:jobs") == 120
    farm.store.reconcile()

    assert farm.redis.zcard("farm:jobs") == 110
    assert farm.redis.zcard("farm:jobs:o0") == 1
    assert not farm.redis.exists("farm:jobs:o119")
    assert not farm.redis.exists("farm:trimmed")


def test_an_idempotency_key_of_an_expired_job_makes_a_new_one(farm: Farm) -> None:
    order = submission(seed=1, idempotency=("key", "body"))
    farm.store.submit(order)
    farm.finish()
    wait_until(lambda: farm.gone(order.job.id), 5.0)

    again = farm.store.submit(submission(seed=2, idempotency=("key", "body")))

    assert not again.replayed


def test_a_render_beside_the_cache_leaves_no_name_for_ever(redis_server: str) -> None:
    farm = Farm(redis_server, retention_s=100)
    farm.store.submit(submission(seed=1, cache="bypass"))

    farm.finish()

    [current] = [key for key in farm.ttls() if key.startswith("farm:current:")]
    assert 0 < farm.redis.ttl(current) <= 100
    assert farm.store.submit(submission(seed=1)).hits == 1
    farm.redis.close()


def test_the_end_of_a_job_leaves_the_name_of_a_later_render_alone(farm: Farm) -> None:
    first = farm.store.submit(submission(seed=1, n=2)).job
    taken = farm.claim()
    assert taken.fingerprint == first.images[0].render.fingerprint
    farm.store.close(taken.render_id, taken.token, NO_JOB)
    farm.store.submit(submission(seed=1, owner="bob"))

    farm.store.cancel(first.id)

    assert farm.redis.ttl(f"farm:current:{taken.fingerprint}") == -1


def test_a_picture_that_is_ordered_again_and_again_does_not_remember_every_job(
    redis_server: str,
) -> None:
    farm = Farm(redis_server, retention_s=100)
    farm.store.submit(submission(seed=1))
    farm.finish()
    jobs = [farm.store.submit(submission(seed=1)).job for _ in range(5)]
    for job in jobs:
        farm.redis.delete(f"farm:job:{job.id}")  # it expires

    later = [farm.store.submit(submission(seed=1)).job.id for _ in range(5)]

    users = f"farm:users:{jobs[0].images[0].render.id}"
    assert farm.redis.zrange(users, 0, -1) == later
    farm.redis.close()
