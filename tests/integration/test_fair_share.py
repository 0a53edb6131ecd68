"""Start-time fair queueing on the real Lua, against the ideal share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.store.address import connect
from shared.store.redis_store import RedisJobStore
from shared.store.scripts import StoreConfig
from shared.store.values import WEIGHTS
from shared.tickets import ticket_template
from tests.orders import POOL, stored, submission

OWNERS = ("alice", "bob", "carol")


@pytest.fixture(scope="module")
def client(redis_of: Callable[[str], str]) -> Iterator[redis.Redis]:
    client = connect(redis_of("valkey"), patience_s=2)
    yield client
    client.close()


flows = st.tuples(st.sampled_from(OWNERS), st.sampled_from(sorted(WEIGHTS)))
renders = st.lists(st.tuples(flows, st.floats(0.1, 20.0)), min_size=2, max_size=40)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(backlog=renders, late=renders)
def test_backlogged_flows_get_service_by_their_weights(
    client: redis.Redis,
    backlog: list[tuple[tuple[str, str], float]],
    late: list[tuple[tuple[str, str], float]],
) -> None:
    """The fairness theorem of SFQ: while two flows are backlogged, what each was served since, over
    its weight, differs by at most one render of each (Goyal, Vin and Cheng 1996, theorem 1)."""
    client.flushall()
    store = RedisJobStore(client, StoreConfig(ticket_template()))
    waiting: dict[tuple[str, str], list[float]] = defaultdict(list)
    largest: dict[tuple[str, str], float] = defaultdict(float)
    seeds: dict[int, tuple[tuple[str, str], float]] = {}

    def submit(orders: list[tuple[tuple[str, str], float]]) -> None:
        for flow, cost in orders:
            owner, priority = flow
            seed = len(seeds)
            seeds[seed] = (flow, cost)
            waiting[flow].append(cost)
            largest[flow] = max(largest[flow], cost / WEIGHTS[priority])
            store.submit(submission(owner=owner, priority=priority, seed=seed, cost_s=cost))

    submit(backlog)
    served: dict[tuple[tuple[str, str], tuple[str, str]], float] = {}
    total = len(backlog) + len(late)
    for turn in range(total):
        if turn == len(backlog) // 2:
            submit(late)
        busy = [flow for flow in waiting if waiting[flow]]
        claim = store.claim(POOL, f"t{turn}", "slot", "worker", 30.0)
        assert claim is not None
        flow, cost = seeds[claim.spec.seed]
        waiting[flow].remove(cost)
        store.close(claim.render_id, claim.token, stored(claim.fingerprint, claim.token))
        # For each pair that was backlogged: how far the first is ahead since both have waited.
        pairs = {(a, b) for a in busy for b in busy if a < b}
        served = {pair: served.get(pair, 0.0) for pair in pairs}
        for a, b in pairs:
            if flow in (a, b):
                share = cost / WEIGHTS[flow[1]]
                served[a, b] += share if flow == a else -share
            assert abs(served[a, b]) <= largest[a] + largest[b] + 1e-6

    assert store.claim(POOL, "last", "slot", "worker", 30.0) is None
