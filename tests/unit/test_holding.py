"""Clients that wait for the picture itself: time-outs, cut connections, repeated requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from anyio import to_thread
from starlette.datastructures import Headers
from starlette.requests import Request

from api.holding import budget_s
from shared.jobs import JobStatus, RenderState
from shared.settings import Settings
from tests.api_kit import Farm
from tests.painting import Call, painting, ready, until

FOX = {"prompt": "a red fox", "steps": 4, "size": "64x64"}
PATH = "/v1/images/generations"
REPEAT = {"x_stainless_retry_count": "1"}


def play(settings: Settings, scene: Callable[[Farm], Awaitable[None]]) -> Farm:
    farm = Farm(settings)
    ready(farm)
    asyncio.run(scene(farm))
    return farm


def drawn(farm: Farm) -> int:
    return int(farm.store.stats().totals.get("claimed", 0))


def queued(farm: Farm, n: int = 1) -> Callable[[], bool]:
    return lambda: farm.pending == n


def order(farm: Farm, **headers: str) -> Call:
    return Call(farm.app, PATH, FOX, **headers)


# --------------------------------------------------------------------------------------- budget


def asked(**headers: str) -> Request:
    raw = Headers({name.replace("_", "-"): value for name, value in headers.items()}).raw
    return Request({"type": "http", "headers": raw})


@pytest.mark.parametrize(
    ("given", "kept_s"),
    [(None, 230), ("600", 230), ("60", 55), ("6", 3), ("nan", 230), ("-1", 230), ("x", 230)],
)
def test_a_client_is_kept_waiting_for_less_than_it_would_wait(
    given: str | None, kept_s: float
) -> None:
    headers = {"x_stainless_read_timeout": given} if given else {}
    assert budget_s(asked(**headers), Settings()) == kept_s


def test_after_the_budget_the_job_is_named_and_what_is_queued_is_canceled() -> None:
    async def scene(farm: Farm) -> None:
        call = Call(farm.app, PATH, FOX | {"n": 2})
        await until(queued(farm, 2))
        claimed = farm.claim()
        assert claimed is not None
        problem = await call.answer()

        assert call.status == 504
        assert call.headers["x-should-retry"] == "false"
        assert problem["error"]["code"] == "sync_timeout"
        job = farm.store.get(problem["job_id"])
        assert problem["job_id"] in problem["error"]["message"]
        states = [image.status for image in job.images]
        assert states == [RenderState.running, RenderState.canceled]
        farm.finish(claimed)
        assert farm.store.get(job.id).images[0].status is RenderState.succeeded

    play(Settings(sync_wait_s=0.3), scene)


def test_a_job_that_missed_its_budget_frees_its_idempotency_key() -> None:
    async def scene(farm: Farm) -> None:
        first = order(farm, idempotency_key="k")
        old = (await first.answer())["job_id"]
        second = order(farm, idempotency_key="k")

        assert (await second.answer())["job_id"] != old

    play(Settings(sync_wait_s=0.05), scene)


# -------------------------------------------------------------------------------- a cut connection


def test_a_client_that_leaves_takes_its_queued_images_with_it() -> None:
    async def scene(farm: Farm) -> None:
        call = order(farm)
        await until(queued(farm))
        await call.leave()

        await until(lambda: farm.store.unattended().abandoned)
        assert farm.pending == 0

    play(Settings(client_gone_s=0.1), scene)


@pytest.mark.parametrize("body", [{}, {"stream": True}])
def test_while_a_client_is_there_its_job_stays(body: dict[str, Any]) -> None:
    async def scene(farm: Farm) -> None:
        call = Call(farm.app, PATH, FOX | body)
        await until(queued(farm))
        await asyncio.sleep(0.5)  # five times as long as its word holds

        assert farm.store.unattended().abandoned == ()
        assert farm.pending == 1
        await call.leave()

    play(Settings(client_gone_s=0.1), scene)


def test_a_stream_that_is_cut_leaves_no_orphan() -> None:
    async def scene(farm: Farm) -> None:
        call = Call(farm.app, PATH, FOX | {"stream": True})
        await until(queued(farm))
        await call.leave()

        await until(lambda: farm.store.unattended().abandoned)
        assert farm.app.state.farm.watch.watchers == 0

    play(Settings(client_gone_s=0.1), scene)


def test_a_hundred_waiting_clients_hold_no_thread() -> None:
    async def scene(farm: Farm) -> None:
        calls = [Call(farm.app, PATH, FOX | {"stream": k % 2 == 0}) for k in range(100)]
        await until(queued(farm, 100))

        threads = to_thread.current_default_thread_limiter()
        await until(lambda: farm.app.state.farm.watch.watchers == 100)
        await until(lambda: threads.borrowed_tokens == 0)
        for call in calls:
            await call.leave()
        assert farm.app.state.farm.watch.watchers == 0

    play(Settings(), scene)


# ------------------------------------------------------------------------------ a repeated request


def test_a_client_that_times_out_and_asks_again_causes_one_render() -> None:
    async def scene(farm: Farm) -> None:
        first = order(farm)
        await until(queued(farm))
        await first.leave()
        second = order(farm, **REPEAT)
        await until(lambda: len(second.headers) == 0)
        third = order(farm, x_stainless_retry_count="2")
        with painting(farm):
            answers = [await second.answer(), await third.answer()]

        assert [second.status, third.status] == [200, 200]
        assert second.headers["x-job-id"] == third.headers["x-job-id"]
        assert second.headers["idempotent-replayed"] == "true"
        assert answers[0]["data"] == answers[1]["data"]
        assert drawn(farm) == 1

    play(Settings(), scene)


def test_an_answer_that_was_lost_is_given_again() -> None:
    async def scene(farm: Farm) -> None:
        with painting(farm):
            first, again = order(farm), None
            lost = await first.answer()
            again = order(farm, **REPEAT)

            assert (await again.answer())["data"] == lost["data"]
        assert drawn(farm) == 1

    play(Settings(), scene)


def test_equal_requests_of_two_clients_are_two_jobs() -> None:
    async def scene(farm: Farm) -> None:
        calls = [order(farm), order(farm, x_stainless_retry_count="0")]
        await until(queued(farm, 2))
        with painting(farm):
            answers = [await call.answer() for call in calls]

        assert len({answer["data"][0]["seed"] for answer in answers}) == 2

    play(Settings(), scene)


def test_an_equal_idempotency_key_always_attaches() -> None:
    async def scene(farm: Farm) -> None:
        calls = [order(farm, idempotency_key="k") for _ in range(3)]
        await until(queued(farm))
        with painting(farm):
            for call in calls:
                await call.answer()

        assert len({call.headers["x-job-id"] for call in calls}) == 1
        assert drawn(farm) == 1

    play(Settings(), scene)


def test_a_bad_or_reused_idempotency_key_is_refused() -> None:
    async def scene(farm: Farm) -> None:
        bad = order(farm, idempotency_key="k y")
        assert (await bad.answer())["error"]["code"] == "invalid_idempotency_key"
        order(farm, idempotency_key="k")
        await until(queued(farm))
        other = Call(farm.app, PATH, FOX | {"steps": 5}, idempotency_key="k")
        assert (await other.answer())["error"]["code"] == "idempotency_key_reused"

    play(Settings(sync_wait_s=0.3), scene)


# ----------------------------------------------------------------------------------- heartbeat


def test_spaces_keep_a_silent_connection_open() -> None:
    async def scene(farm: Farm) -> None:
        call = order(farm)
        await until(lambda: call.body.startswith(b"  "))
        with painting(farm):
            answer = await call.answer()

        assert call.status == 200
        assert call.headers["content-type"] == "application/json"
        assert call.headers["x-model"] == "tiny"
        assert answer["data"][0]["b64_json"]

    play(Settings(sync_heartbeat_s=0.02), scene)


def test_after_the_first_space_a_fault_is_a_body() -> None:
    async def scene(farm: Farm) -> None:
        call = order(farm)
        problem = await call.answer()

        assert call.status == 200
        assert call.body.startswith(b" ")
        assert problem["error"]["code"] == "sync_timeout"

    play(Settings(sync_heartbeat_s=0.02, sync_wait_s=0.2), scene)


def test_a_fast_answer_has_its_own_status() -> None:
    async def scene(farm: Farm) -> None:
        call = Call(farm.app, PATH, FOX | {"size": "x"})
        assert (await call.answer())["error"]["code"] == "invalid_size"
        assert call.status == 400

    play(Settings(sync_heartbeat_s=5), scene)


def test_pictures_have_no_spaces_before_them() -> None:
    async def scene(farm: Farm) -> None:
        call = Call(farm.app, "/v1/txt2img", FOX, accept="image/png")
        await until(queued(farm))
        await asyncio.sleep(0.1)
        assert call.status == 0
        with painting(farm):
            await asyncio.wait_for(call.task, 10)
        assert call.body.startswith(b"\x89PNG")

    play(Settings(sync_heartbeat_s=0.02), scene)


# -------------------------------------------------------------------------- how a job can end


def test_a_canceled_job_is_gone() -> None:
    async def scene(farm: Farm) -> None:
        call = order(farm)
        await until(queued(farm))
        (job_id,) = farm.store._ledger.jobs
        farm.store.cancel(job_id)
        problem = await call.answer()

        assert (call.status, problem["error"]["code"]) == (410, "job_canceled")
        assert farm.store.get(job_id).status is JobStatus.canceled

    play(Settings(), scene)


def test_an_expired_job_is_gone() -> None:
    async def scene(farm: Farm) -> None:
        call = Call(farm.app, "/txt2img", FOX | {"deadline_s": 1})
        await until(queued(farm))
        await until(lambda: farm.store.expire().expired)

        assert (await call.answer())["error"]["code"] == "job_expired"
        assert call.status == 410
        assert json.loads(call.body)["error"]["message"] == call.headers["x-error-message"]

    play(Settings(), scene)
