"""The client library against the real API, and against servers that hurt it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

import renderfarm_client
from renderfarm_client import Client, JobEnded, Refused, StillRunning, Unreachable
from shared.settings import Settings
from tests.api_kit import Farm
from tests.loopback import serving
from tests.waiting import wait_until

ORDER = {"prompt": "a red fox", "size": "64x64", "steps": 4, "seed": 42}


@pytest.fixture
def farm() -> Farm:
    return Farm()


@contextmanager
def speaking(app: FastAPI, **options: Any) -> Iterator[Client]:
    with serving(app) as url, Client(url, **options) as client:
        yield client


@pytest.fixture
def client(farm: Farm) -> Iterator[Client]:
    with speaking(farm.app, patience_s=2.0) as client:
        yield client


# ------------------------------------------------------------------------ against the real API


def test_an_order_is_rendered_waited_for_and_saved(
    farm: Farm, client: Client, tmp_path: Path
) -> None:
    job = client.submit(ORDER, n=2)
    assert (job.status, job.done, job.input["n"], job.queue_position) == ("queued", False, 2, 0)
    pictures = [farm.render(), farm.render()]

    done = client.wait(job, timeout_s=5)

    assert (done.status, done.progress.fraction if done.progress else None) == ("succeeded", 1.0)
    paths = client.save(done, tmp_path / "out")
    assert [path.name for path in paths] == [f"{job.id}-0-42.png", f"{job.id}-1-43.png"]
    assert [path.read_bytes() for path in paths] == pictures
    assert client.result(job, 1) == pictures[1]
    assert client.result(job.id, 0, "webp")[8:12] == b"WEBP"
    assert done.images[0].size_bytes == len(pictures[0])


def test_the_same_key_is_the_same_job_and_an_own_key_is_drawn_for_each_order(
    farm: Farm, client: Client
) -> None:
    order = {**ORDER, "seed": None}

    twice = {client.submit(order, idempotency_key="mine").id for _ in range(2)}
    apart = {client.submit(order).id for _ in range(2)}

    assert (len(twice), len(apart)) == (1, 2)


def test_a_refusal_carries_everything_that_the_farm_said(client: Client) -> None:
    with pytest.raises(Refused) as caught:
        client.submit(prompt="a fox", size="17x64")

    error = caught.value
    assert (error.status, error.code, error.field) == (400, "invalid_size", "size")
    assert error.request_id is not None
    assert error.request_id.startswith("req_")
    assert "multiple of 16" in error.detail
    assert error.request_id in str(error)


def test_a_wrong_key_is_refused_and_never_shown() -> None:
    farm = Farm(Settings(api_keys="alice:alice-key"))
    with speaking(farm.app, key="looking-glass") as client, pytest.raises(Refused) as caught:
        client.get("job_01JD8QZ4M3N5P7R9S1T3V5W7X9")

    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")
    assert "looking-glass" not in str(caught.value)


def test_a_job_that_takes_too_long_is_still_running(farm: Farm, client: Client) -> None:
    job = client.submit(ORDER)

    with pytest.raises(StillRunning) as caught:
        client.wait(job, timeout_s=0.05)
    with pytest.raises(StillRunning):
        client.result(job)

    assert caught.value.job.id == job.id


def test_render_raises_where_an_image_failed(farm: Farm, client: Client) -> None:
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(client.render, ORDER, timeout_s=10)
        wait_until(lambda: farm.pending)
        farm.fail(message="the engine failed")
        with pytest.raises(JobEnded, match=r"failed: the engine failed \(render_error\)") as caught:
            call.result(10)

    assert caught.value.job.status == "failed"
    again = client.retry(caught.value.job)
    assert again.retries == caught.value.job.id


def test_a_job_is_canceled_and_one_that_is_done_is_not(farm: Farm, client: Client) -> None:
    job = client.submit(ORDER)
    assert client.cancel(job).status == "canceled"
    done = client.submit(ORDER)
    farm.render()

    with pytest.raises(Refused) as caught:
        client.cancel(done)

    assert (caught.value.status, caught.value.code) == (409, "job_already_finished")


def test_follow_ends_with_the_job_that_is_done(farm: Farm, client: Client) -> None:
    looks = []
    for job in client.follow(client.submit(ORDER)):
        looks.append(job.status)
        if len(looks) == 2:
            farm.render()

    assert (looks[0], looks[-1]) == ("queued", "succeeded")


def test_the_events_of_a_job_tell_its_story_and_end_with_it(farm: Farm, client: Client) -> None:
    job = client.submit(ORDER)
    seen = []
    for event in client.events(job):
        seen.append(event)
        if len(seen) == 1:
            farm.render()

    assert (seen[0].type, seen[-1].type) == ("job.snapshot", "job.succeeded")
    assert seen[0].job is not None
    assert seen[0].job.id == job.id
    again = [event.id for event in client.events(job, after=seen[0].id)]
    assert again == [event.id for event in seen[1:] if event.id is not None]


def test_jobs_are_listed_page_by_page_and_deleted(
    farm: Farm, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("renderfarm_client.client.PAGE", 2)
    ids = [client.submit(ORDER, seed=seed, metadata={"k": "v"}).id for seed in range(5)]
    other = client.submit(ORDER, seed=9)
    farm.render()

    assert [job.id for job in client.list(metadata={"k": "v"})] == ids[::-1]
    assert [job.id for job in client.list(status="succeeded")] == [ids[0]]
    assert [job.id for job in client.list(order="asc", limit=3)] == ids[:3]
    client.delete(ids[0])
    client.delete(ids[0])  # gone is gone
    assert ids[0] not in [job.id for job in client.list()]
    with pytest.raises(Refused) as caught:
        client.delete(other)
    assert caught.value.code == "job_not_finished"


def test_an_estimate_and_the_queue_tell_what_is_before_an_order(farm: Farm, client: Client) -> None:
    client.submit(ORDER, n=3, seed=100)

    estimate = client.dry_run(ORDER, n=2)
    tiny = next(model for model in client.queue().models if model.model == "tiny")

    assert (len(estimate.images), estimate.images[0].seed, estimate.queue_position) == (2, 42, 3)
    assert tiny.queued == farm.pending == 3


def test_a_picture_from_a_file_is_sent_in_base64(tmp_path: Path) -> None:
    (tmp_path / "fox.png").write_bytes(b"\x89PNG")
    seen = Recorder(JSONResponse(JOB, 202))
    with speaking(seen.app) as client:
        client.submit(prompt="a fox", init_image=tmp_path / "fox.png", mask_image=b"\x00")

    assert seen.bodies == [{"prompt": "a fox", "init_image": "iVBORw==", "mask_image": "AA=="}]


def test_models_and_status_are_told(client: Client) -> None:
    assert [model.id for model in client.models()] == ["tiny", "large"]
    assert client.model("lab/tiny").id == "tiny"
    assert client.status().model("tiny").ready is False


# ---------------------------------------------------------------- against servers that hurt it

JOB = {
    "id": "job_01JD8QZ4M3N5P7R9S1T3V5W7X9", "object": "job", "status": "queued", "done": False,
    "cached": False, "input": {"model": "tiny"}, "images": [],
}  # fmt: skip
DONE = {**JOB, "status": "succeeded", "done": True}


class Recorder:
    """Answers every request with the next of the answers, the last one for ever."""

    def __init__(self, *answers: Response) -> None:
        self.answers = list(answers)
        self.requests: list[Request] = []
        self.bodies: list[object] = []
        self.app = FastAPI()
        self.app.api_route("/{path:path}", methods=["GET", "POST", "DELETE"])(self.answer)

    async def answer(self, request: Request) -> Response:
        self.requests.append(request)
        body = await request.body()
        self.bodies.append(json.loads(body) if body else None)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def headers(self, name: str) -> list[str | None]:
        return [request.headers.get(name) for request in self.requests]


def later(seconds: int, status: int = 503) -> Response:
    return JSONResponse({"detail": "later"}, status, {"Retry-After": str(seconds)})


def test_every_try_of_an_order_has_the_same_key() -> None:
    farm = Recorder(later(1), later(1, 429), JSONResponse(JOB, 202))
    with speaking(farm.app, patience_s=5) as client:
        client.submit(prompt="a fox")

    keys = farm.headers("idempotency-key")
    assert (len(keys), len(set(keys))) == (3, 1)
    assert keys[0]


def test_what_would_take_longer_than_patience_is_not_waited_for() -> None:
    farm = Recorder(later(60))
    with speaking(farm.app, patience_s=5) as client, pytest.raises(Unreachable) as caught:
        client.submit(prompt="a fox")

    assert (caught.value.status, caught.value.retry_after_s) == (503, 60.0)
    assert len(farm.requests) == 1


@pytest.mark.parametrize("status", [400, 404, 409, 410, 413, 500, 504])
def test_what_another_try_cannot_cure_is_asked_once_unless_a_gateway_says_so(status: int) -> None:
    farm = Recorder(Response(status_code=status))
    with (
        speaking(farm.app, patience_s=0.3) as client,
        pytest.raises((Refused, Unreachable)) as caught,
    ):
        client.get("job_1")

    assert caught.value.status == status
    assert (len(farm.requests) == 1) is (status != 504)


def test_waiting_asks_the_farm_to_hold_and_polls_where_it_does_not() -> None:
    held = JSONResponse(JOB, headers={"Preference-Applied": "wait=50"})
    farm = Recorder(JSONResponse(JOB), held, JSONResponse(JOB), JSONResponse(JOB), JSONResponse(DONE))  # fmt: skip
    with speaking(farm.app) as client:
        assert client.wait("job_1").done

    assert farm.headers("prefer") == [None, "wait=50", "wait=50", None, "wait=50"]


def test_a_list_is_read_page_by_page() -> None:
    pages = [
        {"data": [{**JOB, "id": f"job_{k}"} for k in page], "last_id": f"job_{page[-1]}", "has_more": more}
        for page, more in (((5, 4), True), ((3, 2), True), ((1,), False))
    ]  # fmt: skip
    farm = Recorder(*(JSONResponse(page) for page in pages))
    with speaking(farm.app) as client:
        found = [job.id for job in client.list(status="queued", metadata={"k": "v"})]

    assert found == ["job_5", "job_4", "job_3", "job_2", "job_1"]
    asked = [dict(request.query_params) for request in farm.requests]
    assert [params.get("after") for params in asked] == [None, "job_4", "job_2"]
    assert all((p["status"], p["metadata[k]"]) == ("queued", "v") for p in asked)


def test_a_list_ends_at_its_limit() -> None:
    page = {"data": [JOB] * 3, "last_id": "job_3", "has_more": True}
    farm = Recorder(JSONResponse(page))
    with speaking(farm.app) as client:
        assert len(list(client.list(limit=3))) == 3

    assert [request.query_params["limit"] for request in farm.requests] == ["3"]


def test_a_job_that_is_gone_is_as_good_as_deleted() -> None:
    farm = Recorder(Response(status_code=404))
    with speaking(farm.app) as client:
        client.delete("job_1", purge=True)

    assert farm.requests[0].query_params["purge"] == "true"


def sse(*events: str, cut: bool = False) -> Response:
    """A stream of these; `cut`: the connection breaks in the middle of one more."""

    async def body() -> Iterator[bytes]:  # type: ignore[misc]
        yield b"retry: 10\r\n\r\n"
        for event in events:
            yield event.encode()
        if cut:
            yield b"id: lost\nevent: job.running\ndata: {"
            raise ConnectionResetError

    return StreamingResponse(body(), media_type="text/event-stream")  # type: ignore[arg-type]


def event(kind: str, data: dict[str, object], number: int | None = None) -> str:
    name = f"id: {number}\n" if number is not None else ""
    return f": ping\n\n{name}event: {kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


@pytest.mark.filterwarnings("ignore")  # the server's own words about the cut
def test_a_broken_event_stream_is_taken_up_where_it_ended() -> None:
    odd = {**JOB, "input": {"prompt": "one\u2028line\x85"}}
    farm = Recorder(
        sse(event("job.snapshot", odd, 1), event("job.running", {}, 2), event("image.progress", {"step": 1}), cut=True),
        later(1),
        sse(event("image.succeeded", {"index": 0}, 3)),
        sse(event("job.succeeded", DONE, 4)),
    )  # fmt: skip
    with speaking(farm.app, patience_s=5) as client:
        seen = list(client.events("job_1", after="0"))

    assert [(one.type, one.id) for one in seen] == [
        ("job.snapshot", "1"), ("job.running", "2"), ("image.progress", None),
        ("image.succeeded", "3"), ("job.succeeded", "4"),
    ]  # fmt: skip
    assert farm.headers("last-event-id") == ["0", "2", "2", "3"]
    assert seen[0].job is not None
    assert seen[0].job.input["prompt"] == "one\u2028line\x85"
    assert seen[-1].final


def test_a_stream_of_a_finished_job_ends_at_once() -> None:
    farm = Recorder(Response(status_code=204))
    with speaking(farm.app) as client:
        assert list(client.events("job_1", after="9")) == []


def test_threads_may_share_a_client(farm: Farm, client: Client) -> None:
    gate = threading.Barrier(4)

    def order(seed: int) -> str:
        gate.wait(5)
        return client.submit(ORDER, seed=seed).id

    with ThreadPoolExecutor(4) as threads:
        ids = set(threads.map(order, range(4)))

    assert len(ids) == 4
    assert farm.pending == 4


def test_it_needs_nothing_but_httpx2_and_pydantic() -> None:
    root = Path(renderfarm_client.__file__).parents[1]
    code = "import sys, renderfarm_client; print(*{name.split('.')[0] for name in sys.modules})"

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )

    ours = {"api", "worker", "shared", "cli", "deploy"}
    heavy = {"fastapi", "starlette", "torch", "celery", "redis", "boto3", "PIL", "rich"}
    assert not set(done.stdout.split()) & (ours | heavy)


def test_the_scripts_of_the_guide_run(
    farm: Farm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    guide = Path(renderfarm_client.__file__).parents[1] / "docs" / "client.md"
    scripts = re.findall(r"```python\n(.*?)```", guide.read_text("utf-8"), re.S)
    monkeypatch.chdir(tmp_path)
    done = threading.Event()

    def paint() -> None:
        while not done.wait(0.01):
            while claimed := farm.claim():
                farm.finish(claimed)

    with serving(farm.app) as url, ThreadPoolExecutor(1) as threads:
        threads.submit(paint)
        try:
            for script in scripts:
                here = script.replace("Client()", f'Client("{url}")')
                exec(here.replace("http://127.0.0.1:8000", url), {})
        finally:
            done.set()

    told = capsys.readouterr().out.splitlines()
    assert len(scripts) == 2
    assert len(list((tmp_path / "out").glob("job_*-42.png"))) == 1
    assert told[-1].startswith("job_")
