"""The clock of the store's host is set: what was to happen at a time happens all the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest

from deploy.embedded import EmbeddedRedis
from shared.jobs import Failure, JobStatus, RenderState
from shared.keys import KEYS
from shared.store.address import connect
from shared.store.clock import SLEW_S, FarmClock
from shared.store.memory import MemoryJobStore
from shared.store.port import JobStore
from shared.store.redis_store import RedisJobStore
from shared.store.scripts import StoreConfig
from shared.store.values import Attendance, Claim
from shared.tickets import ticket_template
from tests.hooks import hooked
from tests.orders import POOL, submission
from tests.servers.clocks import HOUR_S, Clock
from tests.servers.engines import ENGINES, engine_binary
from tests.waiting import wait_until

SHORT_S = 0.3
PAUSE_S = 0.5


@dataclass
class Scene:
    """A store, and what sets the clock that it goes by."""

    store: JobStore
    jump: Callable[[int], None]

    def claim(self, lease_s: float = 600.0) -> Claim | None:
        return self.store.claim(POOL, f"token {time.monotonic()}", "slot", "worker", lease_s)


class Server:
    """A server that goes by a clock of its own."""

    def __init__(self, folder: Path, engine: str, stack: ExitStack) -> None:
        self._clock = Clock(folder)
        binary = self._clock.program(engine_binary(engine))
        url = stack.enter_context(EmbeddedRedis(folder, binary=binary)).url
        self.client = stack.enter_context(connect(url, patience_s=2))

    def store(self) -> RedisJobStore:
        """Emptied."""
        self.client.flushall()
        return RedisJobStore(self.client, StoreConfig(ticket_template(), retry_pause_s=PAUSE_S))

    def jump(self, seconds: int) -> None:
        """Returns when the server has looked at its clock again: Valkey does so every 10 ms."""
        self._clock.jump(seconds)
        wait_until(self._has_looked)

    def _has_looked(self) -> bool:
        now = self.client.register_script("return redis.call('TIME')")()
        return abs(int(now[0]) - time.time() - self._clock.ahead_s) < 1.9


@pytest.fixture(scope="module")
def server_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Server]]:
    with ExitStack() as stack:
        yield cache(lambda engine: Server(tmp_path_factory.mktemp(engine), engine, stack))


@pytest.fixture(params=["memory", *ENGINES])
def scene(request: pytest.FixtureRequest, server_of: Callable[[str], Server]) -> Scene:
    if request.param != "memory":
        server = server_of(request.param)
        return Scene(server.store(), server.jump)
    ahead = [0.0]
    memory = MemoryJobStore(lambda: time.time() + ahead[0], retry_pause_s=PAUSE_S)
    return Scene(memory, lambda seconds: ahead.append(ahead.pop() + seconds))


def set_back(scene: Scene) -> None:
    scene.store.reap()
    scene.jump(-HOUR_S)
    scene.store.reap()


def test_a_dead_machines_lease_ends_in_time_although_the_clock_was_set_back(scene: Scene) -> None:
    job = scene.store.submit(submission()).job
    assert scene.claim(SHORT_S)

    set_back(scene)

    wait_until(lambda: scene.store.reap().requeued)
    assert scene.store.get(job.id).images[0].render.losses == 1


def renewed(scene: Scene, jump_s: int, for_s: float) -> None:
    """A lease of half a second that is renewed all the time is never taken away."""
    scene.store.submit(submission())
    taken = scene.claim(0.5)
    assert taken is not None
    scene.store.reap()

    scene.jump(jump_s)

    ends_at = time.monotonic() + for_s
    while time.monotonic() < ends_at:
        assert scene.store.reap().requeued == ()
        held = scene.store.renew({taken.token: (taken.render_id, 1)}, 0.5)
        assert held == {taken.token: "held"}
        time.sleep(0.05)


def test_a_lease_that_is_renewed_outlives_a_clock_that_is_set_back(scene: Scene) -> None:
    renewed(scene, -HOUR_S, 1.0)


@pytest.mark.parametrize("engine", ENGINES)  # a store in one process knows no respite
def test_a_lease_that_is_renewed_outlives_a_clock_that_is_set_on(
    engine: str, server_of: Callable[[str], Server]
) -> None:
    server = server_of(engine)
    renewed(Scene(server.store(), server.jump), HOUR_S, 2.5)  # longer than the respite


def test_a_pause_ends_in_time_although_the_clock_was_set_back(scene: Scene) -> None:
    scene.store.submit(submission())
    taken = scene.claim()
    assert taken is not None
    failure = Failure(code="out_of_memory", message="full", retryable=True)
    assert scene.store.close(taken.render_id, taken.token, failure)

    set_back(scene)

    wait_until(scene.claim)


def test_a_deadline_comes_in_time_although_the_clock_was_set_back(scene: Scene) -> None:
    job = scene.store.submit(submission(deadline_s=SHORT_S)).job

    set_back(scene)

    wait_until(lambda: scene.store.reap() and scene.store.expire().expired)
    assert scene.store.get(job.id).status is JobStatus.expired


def test_a_client_that_is_gone_is_missed_in_time_although_the_clock_was_set_back(
    scene: Scene,
) -> None:
    order = replace(submission(), attendance=Attendance("c1", SHORT_S, "body", False))
    job = scene.store.submit(order).job

    set_back(scene)

    wait_until(lambda: scene.store.reap() and scene.store.unattended().abandoned)
    assert scene.store.get(job.id).images[0].status is RenderState.canceled


def test_a_late_webhook_is_seen_to_be_late_although_the_clock_was_set_back(scene: Scene) -> None:
    scene.store.reap()
    scene.jump(-HOUR_S)
    scene.store.reap()

    scene.store.cancel(scene.store.submit(hooked()).job.id)

    wait_until(lambda: scene.store.outbox_stats().late_s > 0, 3.0)


def test_what_is_ordered_between_a_jump_back_and_its_repair_is_kept_as_long_as_it_should(
    scene: Scene,
) -> None:
    scene.store.reap()
    scene.jump(-HOUR_S)

    scene.store.submit(submission(deadline_s=60.0))
    taken = scene.claim(60.0)

    scene.store.reap()
    assert taken is not None
    assert (scene.store.reap().requeued, scene.store.expire().expired) == ((), ())
    assert scene.store.renew({taken.token: (taken.render_id, 1)}, 60.0) == {taken.token: "held"}


def test_the_farms_clock_never_goes_back_and_finds_its_way_to_the_wall_again() -> None:
    wall = [1000.0]
    clock = FarmClock(lambda: wall[0])
    clock.turn()
    wall[0] -= 10.0
    seen = [clock()]

    turns = round(10.0 / SLEW_S) + 1
    for _ in range(turns):
        clock.turn()
        seen.append(clock())
        wall[0] += 1.0

    assert seen == sorted(seen)
    assert seen[0] == seen[1] == 1000.0
    assert clock() == wall[0]


@pytest.mark.parametrize("engine", ENGINES)
def test_what_the_farm_is_ahead_of_redis_goes_in_small_steps(
    engine: str, server_of: Callable[[str], Server]
) -> None:
    server = server_of(engine)
    store = server.store()

    def ahead_s() -> float:
        return float(server.client.get(KEYS["ahead"]) or 0)

    store.reap()
    server.jump(-4)
    store.reap()
    before = ahead_s()

    wait_until(lambda: not store.reap().requeued and ahead_s() < before - 0.1)

    assert 3.0 < before <= 4.0
    assert ahead_s() > before - 0.3
