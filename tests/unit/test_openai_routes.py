"""OpenAI's Images API over HTTP, on a store in memory and a worker in a thread."""

from __future__ import annotations

import base64
import io
import json
import re
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from shared.results.inputs import Inputs
from shared.settings import Settings
from tests.api_kit import LARGE, Farm, worker
from tests.painting import painting, ready

FOX = {"prompt": "a red fox", "seed": 42, "steps": 4, "size": "64x64"}
GENERATIONS = "/v1/images/generations"


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


def size_of(data: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(data)).size


def has_null(value: Any) -> bool:
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return any(has_null(each) for each in inner)
    return value is None


# ---------------------------------------------------------------------------------- the answer


def test_an_answer_has_exactly_what_its_clients_read(farm: Farm, client: TestClient) -> None:
    with painting(farm):
        response = client.post(GENERATIONS, json=FOX | {"n": 2, "model": "gpt-image-1"})

    answer = response.json()
    assert response.status_code == 200
    assert set(answer) == {
        "created", "data", "background", "output_format", "quality", "size", "usage",
    }  # fmt: skip
    assert isinstance(answer["created"], int)
    assert (answer["background"], answer["output_format"]) == ("opaque", "png")
    assert (answer["quality"], answer["size"]) == ("medium", "64x64")
    assert answer["usage"] == {
        "input_tokens": 3, "output_tokens": 32, "total_tokens": 35,
        "input_tokens_details": {"text_tokens": 3, "image_tokens": 0},
    }  # fmt: skip
    assert [set(item) for item in answer["data"]] == [{"b64_json", "revised_prompt", "seed"}] * 2
    assert [item["seed"] for item in answer["data"]] == [42, 43]
    assert {item["revised_prompt"] for item in answer["data"]} == {"a red fox"}
    assert size_of(base64.b64decode(answer["data"][0]["b64_json"])) == (64, 64)
    assert not has_null(answer)
    assert response.headers["x-model"] == "tiny"
    assert re.fullmatch(r"job_[0-9A-Z]{26}", response.headers["x-job-id"])
    assert "x-ignored-params" not in response.headers


@pytest.mark.parametrize("asked", [{"response_format": "url"}, {"model": "dall-e-3"}])
def test_a_url_is_ours_has_an_extension_and_opens_without_a_key(
    asked: dict[str, str],
) -> None:
    farm = Farm(Settings(api_keys="alice:k1"))
    with painting(farm):
        response = farm.client("k1").post(GENERATIONS, json=FOX | asked | {"output_format": "webp"})

    (item,) = response.json()["data"]
    assert set(item) == {"url", "revised_prompt", "seed"}
    assert re.fullmatch(r"http://farm\.test/v1/files/job_\w+/0\.webp\?exp=\d+&sig=\w+", item["url"])
    picture = farm.client().get(item["url"])
    assert (picture.status_code, picture.headers["content-type"]) == (200, "image/webp")


def test_the_formats_of_pictures(farm: Farm, client: TestClient) -> None:
    with painting(farm):
        answer = client.post(GENERATIONS, json=FOX | {"output_format": "jpeg"}).json()

    assert base64.b64decode(answer["data"][0]["b64_json"]).startswith(b"\xff\xd8")
    assert answer["output_format"] == "jpeg"


@pytest.mark.parametrize(
    ("path", "model"),
    [
        (GENERATIONS, "tiny"),
        ("/images/generations", "tiny"),
        ("/openai/deployments/lab/tiny/images/generations?api-version=2025-04-01", "tiny"),
        ("/openai/deployments/anything/images/generations", "tiny"),
    ],
)
def test_every_spelling_of_the_route(farm: Farm, client: TestClient, path: str, model: str) -> None:
    with painting(farm):
        response = client.post(path, json=FOX)

    assert (response.status_code, response.headers["x-model"]) == (200, model)


def test_options_needs_no_key() -> None:
    client = Farm(Settings(api_keys="alice:k1")).client()

    for path in (GENERATIONS, "/images/generations"):
        response = client.options(path)
        assert (response.status_code, response.content) == (204, b"")


def test_what_is_ignored_is_named(farm: Farm, client: TestClient) -> None:
    with painting(farm):
        response = client.post(GENERATIONS, json=FOX | {"style": "vivid", "huh": 1, "user": "u"})

    assert response.headers["x-ignored-params"] == "style, huh"
    job = client.get(f"/jobs/{response.headers['x-job-id']}").json()
    assert job["metadata"] == {"user": "u"}


# ------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"size": "wide"}, "invalid_size", "size"),
        ({"model": "invalid-model"}, "model_not_found", "model"),
        ({"quality": "best"}, "invalid_value", "quality"),
        ({"prompt": " "}, "invalid_value", "prompt"),
        ({"prompt": None}, "missing_field", "prompt"),
        ({"n": 11}, "invalid_value", "n"),
        ({"strength": 0.5}, "invalid_value", "strength"),
    ],
)
def test_bad_input_is_named_in_openais_words(
    quiet: TestClient, body: dict[str, Any], code: str, param: str
) -> None:
    response = quiet.post(GENERATIONS, json=FOX | body)

    error = response.json()["error"]
    assert response.status_code == 400
    assert (error["code"], error["param"]) == (code, param)
    assert error["type"] == "invalid_request_error"
    assert error["message"]


def test_a_body_that_is_no_order(quiet: TestClient) -> None:
    assert quiet.post(GENERATIONS, content=b"[]").status_code == 400
    assert quiet.post(GENERATIONS, data={"prompt": "x"}).status_code == 415


def test_a_key_is_needed() -> None:
    response = Farm(Settings(api_keys="alice:k1")).client().post(GENERATIONS, json=FOX)

    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["error"]["type"] == "authentication_error"


# ------------------------------------------------------------------------------- not ready, failed


def test_without_a_ready_worker_it_answers_at_once_and_says_why(
    farm: Farm, client: TestClient
) -> None:
    farm.store.heartbeat(worker("loading"), 60.0)

    response = client.post(GENERATIONS, json=FOX)

    assert response.status_code == 503
    assert response.json()["error"]["code"] == "model_not_ready"
    assert "loading (load)" in response.json()["detail"]
    assert 1 <= int(response.headers["retry-after"]) <= 60
    assert farm.pending == 0


def test_a_worker_of_another_model_does_not_help(farm: Farm, client: TestClient) -> None:
    farm.store.heartbeat(worker("ready", LARGE), 60.0)

    response = client.post(GENERATIONS, json=FOX)

    assert response.status_code == 503
    assert "no worker is running" in response.json()["detail"]


def test_what_is_stored_needs_no_worker(farm: Farm, client: TestClient) -> None:
    with painting(farm):
        client.post(GENERATIONS, json=FOX)
    farm.store.leave("worker-0")

    assert client.post(GENERATIONS, json=FOX).status_code == 200
    assert client.post(GENERATIONS, json=FOX | {"n": 2}).status_code == 503


@pytest.mark.parametrize(
    ("code", "shown"), [("render_error", "render_error"), ("from_the_future", "internal_error")]
)
def test_a_failed_image_fails_the_call_and_is_not_tried_again(
    farm: Farm, client: TestClient, code: str, shown: str
) -> None:
    with painting(farm, fail=code):
        response = client.post(GENERATIONS, json=FOX)

    assert response.status_code == 500
    assert response.json()["error"] == {
        "message": "the engine failed", "type": "server_error", "param": None, "code": shown,
    }  # fmt: skip
    assert response.headers["x-should-retry"] == "false"
    assert response.json()["job_id"] == response.headers["x-job-id"]


# -------------------------------------------------------------------------------------- streams


def events_of(text: str) -> list[dict[str, Any]]:
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if line[:1] != ":")
        if lines:
            data = json.loads(lines["data"])
            assert lines["event"] == data["type"]
            found.append(data)
    return found


def test_a_stream_tells_each_picture_as_it_is_done(farm: Farm, client: TestClient) -> None:
    with painting(farm):
        response = client.post(GENERATIONS, json=FOX | {"n": 2, "stream": True, "huh": 1})

    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-model"] == "tiny"
    assert response.headers["x-ignored-params"] == "huh"
    events = events_of(response.text)
    assert [event["type"] for event in events] == ["image_generation.completed"] * 2
    assert {event["seed"] for event in events} == {42, 43}
    assert set(events[0]) == {
        "type", "b64_json", "created_at", "size", "quality", "background", "output_format",
        "seed", "usage",
    }  # fmt: skip
    assert events[0]["usage"]["output_tokens"] == 16
    assert size_of(base64.b64decode(events[0]["b64_json"])) == (64, 64)
    assert "[DONE]" not in response.text


def test_a_stream_of_what_is_stored(farm: Farm, client: TestClient) -> None:
    with painting(farm):
        client.post(GENERATIONS, json=FOX)

        response = client.post(GENERATIONS, json=FOX | {"stream": True})

    assert [e["type"] for e in events_of(response.text)] == ["image_generation.completed"]


def test_a_late_failure_is_an_event(farm: Farm, client: TestClient) -> None:
    with painting(farm, fail="render_error"):
        response = client.post(GENERATIONS, json=FOX | {"stream": True})

    (event,) = events_of(response.text)
    assert response.status_code == 200
    assert (event["type"], event["error"]["code"]) == ("error", "render_error")
    assert event["error"]["message"] == "the engine failed"


def test_an_early_refusal_of_a_stream_is_a_status(farm: Farm, quiet: TestClient) -> None:
    assert quiet.post(GENERATIONS, json=FOX | {"stream": True}).status_code == 503


# ------------------------------------------------------------------------- edits and variations


def png(width: int = 64, height: int = 64, mode: str = "RGB", colour: Any = "red") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, height), colour).save(file, "PNG")
    return file.getvalue()


def mask(width: int = 64, height: int = 64) -> bytes:
    """The left half is to be drawn anew."""
    picture = Image.new("RGBA", (width, height), (0, 0, 0, 255))
    picture.paste((0, 0, 0, 0), (0, 0, width // 2, height))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


FORM = {"prompt": "a red fox", "seed": "42", "n": "1", "size": "64x64", "model": "gpt-image-1"}


@pytest.mark.parametrize("path", ["/v1/images/edits", "/openai/deployments/x/images/edits"])
@pytest.mark.parametrize("name", ["image", "image[]"])
def test_an_edit_starts_from_the_picture(
    farm: Farm, client: TestClient, path: str, name: str
) -> None:
    files = [(name, ("a.png", png(), "image/png")), (name, ("b.png", png(), "image/png"))]
    with painting(farm) as claims:
        response = client.post(path, data=FORM, files=files)

    assert response.status_code == 200, response.text
    assert response.headers["x-ignored-params"] == "image[1]"
    assert claims[0].spec.init_image_sha256
    assert (claims[0].spec.strength, claims[0].spec.mask_image_sha256) == (0.8, None)
    usage = response.json()["usage"]
    assert usage["input_tokens_details"] == {"text_tokens": 3, "image_tokens": 16}
    assert usage["input_tokens"] == 19


def test_what_is_transparent_in_the_mask_is_drawn_anew(farm: Farm, client: TestClient) -> None:
    files = {"image": ("a.png", png()), "mask": ("m.png", mask())}
    with painting(farm) as claims:
        response = client.post("/v1/images/edits", data=FORM | {"strength": "0.5"}, files=files)

    assert response.status_code == 200, response.text
    spec = claims[0].spec
    assert spec.strength == 0.5
    assert spec.mask_image_sha256
    kept = Inputs(farm.results).renew("anonymous", spec.mask_image_sha256)
    stored = Image.open(io.BytesIO(kept)).convert("L")
    assert (stored.getpixel((0, 0)), stored.getpixel((63, 0))) == (255, 0)


@pytest.mark.parametrize(
    ("files", "code", "param"),
    [
        ({}, "missing_field", "image"),
        ({"image": ("a.png", b"not a picture")}, "invalid_image", "image"),
        ({"image": ("a.png", png()), "mask": ("m.png", mask(32))}, "invalid_image", "mask"),
        ({"image": ("a.png", png()), "mask": ("m.png", png())}, "invalid_image", "mask"),
    ],
)
def test_a_bad_picture_is_named(
    farm: Farm, client: TestClient, files: dict[str, Any], code: str, param: str
) -> None:
    ready(farm)
    sent = files or {"other": ("o.txt", b"x")}

    response = client.post("/v1/images/edits", data=FORM, files=sent)

    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, code, param)


def test_an_edit_is_a_form(quiet: TestClient) -> None:
    assert quiet.post("/v1/images/edits", json=FOX).status_code == 415
    broken = {"content-type": "multipart/form-data; boundary=x"}
    response = quiet.post("/v1/images/edits", content=b"--y\r\n", headers=broken)
    assert response.status_code == 400
    assert quiet.post("/v1/images/edits", data={"a" * 5: "1"}, files={"f": b""}).status_code == 400


def test_an_edit_can_be_streamed(farm: Farm, client: TestClient) -> None:
    with painting(farm):
        response = client.post(
            "/v1/images/edits", data=FORM | {"stream": "true"}, files={"image": ("a", png())}
        )

    assert [e["type"] for e in events_of(response.text)] == ["image_edit.completed"]


def test_a_variation_needs_no_prompt(farm: Farm, client: TestClient) -> None:
    with painting(farm) as claims:
        response = client.post(
            "/v1/images/variations", data={"n": "2", "size": "64x64"}, files={"image": ("a", png())}
        )

    assert response.status_code == 200, response.text
    assert len(response.json()["data"]) == 2
    assert (claims[0].spec.prompt, claims[0].spec.strength) == ("", 0.7)
    assert not has_null(response.json())


def test_a_variation_names_what_it_has_no_use_for(farm: Farm, client: TestClient) -> None:
    files = {"image": ("a", png()), "mask": ("b", png())}
    with painting(farm) as claims:
        response = client.post("/v1/images/variations", data={"prompt": "a cat"}, files=files)

    assert claims[0].spec.prompt == ""
    assert response.headers["x-ignored-params"] == "prompt, mask"


# ---------------------------------------------------------------------------------------- limits


def test_its_orders_count_against_the_keys_limits() -> None:
    farm = Farm()
    client = farm.client(farm.key(owner="alice", submits_per_min=2))
    with painting(farm):
        answers = [client.post(GENERATIONS, json=FOX | {"seed": k}) for k in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[1].headers["ratelimit"].startswith('"submit";r=0;')
    assert answers[2].json()["error"]["type"] == "rate_limit_error"
    assert 1 <= int(answers[2].headers["retry-after"]) <= 60
