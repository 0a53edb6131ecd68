"""One picture as bytes, over HTTP, on a store in memory and a worker in a thread."""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest
from starlette.testclient import TestClient

from shared.settings import Settings
from tests.api_kit import Farm
from tests.painting import painting, ready

FOX = {"prompt": "a red fox", "seed": 42, "steps": 4, "width": 64, "height": 64}
PATH = "/v1/txt2img"
STARTS = {"image/png": b"\x89PNG", "image/webp": b"RIFF", "image/jpeg": b"\xff\xd8"}


@pytest.fixture
def farm() -> Farm:
    return Farm()


@pytest.fixture(scope="module")
def quiet() -> TestClient:
    """Of a farm that only refuses: the tests of refusals share it."""
    return Farm().client()


@pytest.fixture
def client(farm: Farm) -> TestClient:
    return farm.client()


def test_the_picture_is_the_answer(farm: Farm, client: TestClient) -> None:
    with painting(farm):
        first = client.post(PATH, json=FOX)
        again = client.post("/txt2img", json=FOX)

    assert (first.status_code, first.headers["content-type"]) == (200, "image/png")
    assert first.content.startswith(STARTS["image/png"])
    assert (first.headers["seed"], first.headers["finish-reason"]) == ("42", "SUCCESS")
    assert (first.headers["x-cache"], again.headers["x-cache"]) == ("miss", "hit")
    assert re.fullmatch(r'"[0-9a-f]{64}"', first.headers["etag"])
    name = f"{first.headers['x-job-id']}-0-42.png"
    assert first.headers["content-disposition"] == f'inline; filename="{name}"'
    assert again.content == first.content


@pytest.mark.parametrize("kind", STARTS)
def test_accept_says_which_format(farm: Farm, client: TestClient, kind: str) -> None:
    with painting(farm):
        response = client.post(PATH, json=FOX, headers={"Accept": kind})

    assert response.headers["content-type"] == kind
    assert response.content.startswith(STARTS[kind])


@pytest.mark.parametrize("accept", ["*/*", "image/*", "image/*, application/json;q=0.5"])
def test_whatever_is_wanted_is_what_was_ordered(
    farm: Farm, client: TestClient, accept: str
) -> None:
    with painting(farm):
        body = FOX | {"output_format": "webp"}
        response = client.post(PATH, json=body, headers={"Accept": accept})

    assert response.headers["content-type"] == "image/webp"


def test_the_picture_in_json(farm: Farm, client: TestClient) -> None:
    with painting(farm):
        response = client.post(PATH, json=FOX, headers={"Accept": "application/json"})

    answer = response.json()
    assert set(answer) == {"image", "seed", "finish_reason", "job_id"}
    assert (answer["seed"], answer["finish_reason"]) == (42, "SUCCESS")
    assert answer["job_id"] == response.headers["x-job-id"]
    assert base64.b64decode(answer["image"]).startswith(STARTS["image/png"])


def test_what_cannot_be_made_is_refused_before_it_is_drawn(farm: Farm, client: TestClient) -> None:
    ready(farm)

    response = client.post(PATH, json=FOX, headers={"Accept": "image/gif"})

    assert response.status_code == 406
    assert farm.pending == 0


def test_the_body_of_hugging_face(farm: Farm, client: TestClient) -> None:
    body = {"inputs": "a red fox", "parameters": {"seed": 42, "num_inference_steps": 4, "x": 1}}
    with painting(farm):
        response = client.post(PATH, json=body)

    assert response.status_code == 200
    assert response.headers["x-ignored-params"] == "parameters/x"
    job = client.get(f"/jobs/{response.headers['x-job-id']}").json()
    assert (job["input"]["prompt"], job["input"]["steps"]) == ("a red fox", 4)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"prompt": ""}, 400, "prompt: must not be blank"),
        ({"n": 2}, 400, "n: this route answers one image; POST /jobs takes more"),
        ({}, 503, "tiny is not ready: no worker is running"),
    ],
)
def test_a_fault_is_told_in_a_header(
    quiet: TestClient, body: dict[str, Any], status: int, message: str
) -> None:
    response = quiet.post(PATH, json=FOX | body)

    assert response.status_code == status
    assert response.headers["x-error-message"] == message
    assert response.json()["error"]["message"] == message


def test_the_header_carries_whatever_the_message_holds(quiet: TestClient) -> None:
    response = quiet.post(PATH, json=FOX | {"model": "ümlaut\n"})

    assert response.status_code == 400
    assert "\n" not in response.headers["x-error-message"]
    assert response.headers["x-error-message"].isascii()


def test_a_missing_key_is_told_there_too() -> None:
    response = Farm(Settings(api_keys="alice:k1")).client().post(PATH, json=FOX)

    assert response.status_code == 401
    assert response.headers["x-error-message"] == response.json()["detail"]


def test_other_routes_have_no_such_header(quiet: TestClient) -> None:
    assert "x-error-message" not in quiet.post("/jobs", json={}).headers


def test_a_client_may_take_the_job_instead(farm: Farm, client: TestClient) -> None:
    body = FOX | {"webhook": {"url": "https://example.org/done"}}
    response = client.post(PATH, json=body, headers={"Prefer": "respond-async, wait=5"})

    job = response.json()
    assert job["webhook"]["url"] == "https://example.org/done"
    assert (response.status_code, job["status"]) == (202, "queued")
    assert response.headers["preference-applied"] == "respond-async"
    assert response.headers["location"] == f"http://farm.test/v1/jobs/{job['id']}"
    assert farm.store.unattended().abandoned == ()
