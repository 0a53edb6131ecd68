"""The road of a job over HTTP: order, look, cancel, fetch."""

import base64
import io
import re

import pytest
from PIL import Image

from shared.jobs import SEEDS
from shared.settings import Settings
from shared.store.memory import MemoryJobStore
from tests.api_kit import Farm

FOX = {"prompt": "a red fox", "seed": 42, "steps": 4}


@pytest.fixture
def farm():
    return Farm()


@pytest.fixture
def client(farm):
    return farm.client()


def order(client, **fields):
    response = client.post("/jobs", json=FOX | fields)
    assert response.status_code in (200, 202), response.text
    return response.json()


def test_a_job_goes_from_order_to_picture(farm, client):
    taken = client.post("/jobs", json=FOX | {"n": 2, "metadata": {"ticket": "42"}})

    job = taken.json()
    assert taken.status_code == 202
    assert taken.headers["location"] == f"http://farm.test/jobs/{job['id']}"
    assert taken.headers["x-job-id"] == job["id"]
    assert 1 <= int(taken.headers["retry-after"]) <= 10
    assert (job["status"], job["done"], job["queue_position"]) == ("queued", False, 0)

    pngs = [farm.render(), farm.render()]
    look = client.get(taken.headers["location"])

    job = look.json()
    assert look.status_code == 200
    assert "retry-after" not in look.headers
    assert (job["status"], job["done"], job["cached"]) == ("succeeded", True, False)
    assert job["metadata"] == {"ticket": "42"}
    for image, png in zip(job["images"], pngs, strict=True):
        assert client.get(image["url"]).content == png
        assert image["bytes"] == len(png)


def test_a_job_shows_every_key_of_the_documented_shape(client):
    job = order(client)

    assert set(job) == {
        "id", "object", "status", "done", "cached", "owner", "input", "cache", "priority",
        "metadata", "webhook", "retries", "verifies", "images", "queue_position", "eta_s", "progress", "error", "metrics",
        "created_at", "started_at", "finished_at", "deadline_at", "cancel_requested_at",
        "expires_at", "urls",
    }  # fmt: skip
    assert set(job["images"][0]) == {
        "index", "seed", "status", "fingerprint", "cached", "attempt", "progress", "url",
        "content_type", "bytes", "sha256", "width", "height", "error", "verify",
    }  # fmt: skip
    assert re.fullmatch(r"job_[0-9A-Z]{26}", job["id"])
    assert re.fullmatch(r"[0-9a-f]{64}", job["images"][0]["fingerprint"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", job["created_at"])


def test_the_input_is_shown_resolved(client):
    job = order(client, num_inference_steps=4, cfg_scale=2, size="128x64")

    assert job["input"] == {
        "model": "tiny", "prompt": "a red fox", "negative_prompt": "", "width": 128, "height": 64,
        "n": 1, "seed": 42, "steps": 4, "guidance_scale": 2.0, "shift": 3.0, "loras": [],
        "skip_layer_guidance": 0.0, "preset": "exact",
        "init_image": None, "mask_image": None, "strength": None, "output_format": "png",
        "output_compression": 100, "partial_images": 0,
    }  # fmt: skip


def test_a_model_is_found_by_its_alias(client):
    assert order(client, model="lab/tiny")["input"]["model"] == "tiny"


@pytest.mark.parametrize("absent", [{}, {"seed": None}, {"seed": -1}])
def test_a_seed_is_drawn_where_none_is_given(client, absent):
    drawn = {
        client.post("/jobs", json={"prompt": "x"} | absent).json()["input"]["seed"] for _ in "ab"
    }

    assert len(drawn) == 2
    assert all(0 <= seed < SEEDS for seed in drawn)


def test_image_k_has_seed_plus_k_and_wraps(client):
    job = order(client, seed=SEEDS - 1, n=3)

    assert [image["seed"] for image in job["images"]] == [SEEDS - 1, 0, 1]


def test_the_same_order_again_is_answered_from_the_cache(farm, client):
    order(client)
    farm.render()

    again = client.post("/jobs", json=FOX)

    assert again.status_code == 200
    assert again.json()["cached"] is True
    assert again.json()["images"][0]["cached"] is True
    assert farm.pending == 0


def test_bypass_renders_again(farm, client):
    order(client)
    farm.render()

    assert client.post("/jobs", json=FOX | {"cache": "bypass"}).status_code == 202
    assert farm.pending == 1


def test_both_spellings_are_the_same_and_links_keep_the_spelling(farm, client):
    taken = client.post("/v1/jobs", json=FOX)
    farm.render()

    job = client.get(taken.headers["location"]).json()
    assert taken.headers["location"].startswith("http://farm.test/v1/jobs/")
    assert all(url.startswith("http://farm.test/v1/") for url in job["urls"].values() if url)
    assert job["images"][0]["url"].startswith("http://farm.test/v1/files/")
    assert client.get(job["images"][0]["url"]).status_code == 200
    assert client.get(f"/jobs/{job['id']}").json()["urls"]["self"] == (
        f"http://farm.test/jobs/{job['id']}"
    )


@pytest.mark.parametrize(
    ("settings", "headers", "origin"),
    [
        (Settings(), {"x-forwarded-host": "evil.example"}, "http://farm.test"),
        (Settings(trust_proxy=True), {"x-forwarded-proto": "https", "x-forwarded-host": "a.example"},
         "https://a.example"),
        (Settings(public_url="https://art.example/farm/"), {}, "https://art.example/farm"),
    ],
)  # fmt: skip
def test_links_start_where_the_client_reaches_the_farm(settings, headers, origin):
    job = Farm(settings).client().post("/jobs", json=FOX, headers=headers).json()

    assert job["urls"]["self"] == f"{origin}/jobs/{job['id']}"


def test_a_look_that_changed_nothing_is_304(client):
    job = order(client)
    first = client.get(f"/jobs/{job['id']}")

    second = client.get(f"/jobs/{job['id']}", headers={"If-None-Match": first.headers["etag"]})

    assert first.headers["etag"].startswith('W/"')
    assert first.headers["cache-control"] == "private, no-cache"
    assert (second.status_code, second.content) == (304, b"")
    assert second.headers["etag"] == first.headers["etag"]


def test_a_change_is_never_hidden_by_a_304(farm, client):
    job = order(client)
    etag = client.get(f"/jobs/{job['id']}").headers["etag"]
    farm.render()

    assert client.get(f"/jobs/{job['id']}", headers={"If-None-Match": etag}).status_code == 200


def test_head_answers_as_get_without_a_body(client):
    job = order(client)

    for path in (f"/jobs/{job['id']}", "/models", "/models/tiny", "/healthz", "/readyz", "/status",
                 "/metrics", "/errors", "/openapi.json", "/docs", "/"):  # fmt: skip
        response = client.head(path)
        assert (path, response.status_code, response.content) == (path, 200, b"")


def test_progress_and_an_honest_eta_come_from_the_steps(farm, client):
    job = order(client, n=2)
    assert job["eta_s"] is None
    claims = [farm.claim(), farm.claim()]
    farm.store.renew({claims[0].token: (claims[0].render_id, 2)}, 60.0)

    half = client.get(f"/jobs/{job['id']}").json()

    assert half["status"] == "running"
    assert half["images"][0]["progress"] == {"step": 2, "steps": 4}
    assert half["progress"] == {"images_done": 0, "images": 2, "fraction": 0.25}
    assert half["eta_s"] is None, "the second image has made no step: its pace is unknown"

    farm.store.renew({claims[1].token: (claims[1].render_id, 2)}, 60.0)
    assert client.get(f"/jobs/{job['id']}").json()["eta_s"] >= 0


def test_metrics_count_only_seconds_on_the_device(farm, client):
    job = order(client)
    farm.render()

    metrics = client.get(f"/jobs/{job['id']}").json()["metrics"]

    assert metrics["gpu_s"] == 0.8
    assert metrics["queue_s"] >= 0
    assert metrics["run_s"] >= 0


def test_a_failed_job_is_a_200_that_says_why(farm, client):
    job = order(client)
    farm.fail("out_of_memory", "the card is too small")

    look = client.get(f"/jobs/{job['id']}")

    error = {"code": "out_of_memory", "message": "the card is too small", "retryable": False}
    assert look.status_code == 200
    assert (look.json()["status"], look.json()["error"]) == ("failed", error)
    assert look.json()["images"][0]["error"] == error


def test_cancel_stops_a_queued_job_and_may_be_repeated(farm, client):
    job = order(client)

    first = client.post(f"/jobs/{job['id']}/cancel")
    second = client.post(f"/jobs/{job['id']}/cancel")

    assert (first.status_code, first.json()["status"]) == (200, "canceled")
    assert first.json()["cancel_requested_at"]
    assert second.status_code == 200
    assert farm.pending == 0


def test_cancel_after_the_end_is_a_conflict(farm, client):
    job = order(client)
    farm.render()

    response = client.post(f"/jobs/{job['id']}/cancel")

    assert (response.status_code, response.json()["error"]["code"]) == (409, "job_already_finished")
    assert response.json()["job_id"] == job["id"]


def test_the_result_route_waits_with_202_and_then_gives_bytes(farm, client):
    job = order(client)
    early = client.get(f"/jobs/{job['id']}/result")
    png = farm.render()
    late = client.get(f"/jobs/{job['id']}/result", headers={"Accept": "image/*"})

    assert (early.status_code, early.json()["id"]) == (202, job["id"])
    assert early.headers["retry-after"]
    assert (late.status_code, late.content) == (200, png)
    assert late.headers["seed"] == "42"
    assert late.headers["content-type"] == "image/png"
    assert (
        late.headers["etag"] == f'"{client.get(job["urls"]["self"]).json()["images"][0]["sha256"]}"'
    )


def test_a_finished_image_is_given_while_others_still_render(farm, client):
    job = order(client, n=2)
    png = farm.render()

    assert client.get(f"/jobs/{job['id']}/result?index=0").content == png
    assert client.get(f"/jobs/{job['id']}/result?index=1").status_code == 202


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("image/webp", "image/webp"),
        ("image/jpeg;q=0.9, image/webp;q=0.1", "image/jpeg"),
        ("*/*", "image/webp"),
        ("image/*;q=0.5, image/png", "image/png"),
        ("text/html, */*;q=0.1", "image/webp"),
    ],
)
def test_accept_chooses_the_format_of_a_picture(farm, client, accept, media_type):
    job = order(client, output_format="webp")
    farm.render()

    response = client.get(f"/jobs/{job['id']}/result", headers={"Accept": accept})

    assert response.headers["content-type"] == media_type
    assert Image.open(io.BytesIO(response.content)).get_format_mimetype() == media_type


def test_json_gives_every_picture_in_base64(farm, client):
    job = order(client, n=2)
    path, accept = f"/jobs/{job['id']}/result", {"Accept": "application/json"}
    pngs = [farm.render()]
    assert client.get(path, headers=accept).status_code == 202
    pngs.append(farm.render())

    images = client.get(path, headers=accept).json()["images"]

    assert [(i["index"], i["seed"]) for i in images] == [(0, 42), (1, 43)]
    assert [base64.b64decode(i["b64_json"]) for i in images] == pngs


def test_json_that_the_client_has_is_not_sent_again(farm, client):
    job = order(client, n=2)
    path, accept = f"/jobs/{job['id']}/result", {"Accept": "application/json"}
    farm.render(), farm.fail()
    first = client.get(path, headers=accept)

    again = client.get(path, headers=accept | {"If-None-Match": first.headers["etag"]})

    assert len(first.json()["images"]) == 1
    assert (again.status_code, again.content) == (304, b"")
    assert first.headers["vary"] == again.headers["vary"] == "Accept"


def test_a_type_that_cannot_be_made_is_406(farm, client):
    job = order(client)
    farm.render()

    for accept in ("text/html", "image/png;q=0, image/gif"):
        response = client.get(f"/jobs/{job['id']}/result", headers={"Accept": accept})
        assert (response.status_code, response.json()["error"]["code"]) == (406, "not_acceptable")


@pytest.mark.parametrize("accept", ["image/png", "application/json"])
def test_the_result_of_a_job_without_pictures_is_410(farm, client, accept):
    failed = order(client)
    farm.fail()
    canceled = order(client, seed=1)
    client.post(f"/jobs/{canceled['id']}/cancel")

    for job, code in ((failed, "job_failed"), (canceled, "job_canceled")):
        response = client.get(f"/jobs/{job['id']}/result", headers={"Accept": accept})
        assert (response.status_code, response.json()["error"]["code"]) == (410, code)


def test_a_job_past_its_deadline_says_so():
    clock = Clock()
    farm = Farm(store=MemoryJobStore(clock))
    client = farm.client()
    job = order(client, deadline_s=5)
    assert job["deadline_at"]

    clock.now = 60.0
    farm.store.expire()

    assert client.get(f"/jobs/{job['id']}").json()["status"] == "expired"
    response = client.get(f"/jobs/{job['id']}/result")
    assert (response.status_code, response.json()["error"]["code"]) == (410, "job_expired")


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_picture_that_vanished_is_410_and_the_next_order_renders_again(farm, client):
    job = order(client)
    farm.render()
    farm.results.pictures.clear()

    response = client.get(f"/jobs/{job['id']}/result")

    assert (response.status_code, response.json()["error"]["code"]) == (410, "result_gone")
    assert order(client)["cached"] is False
    assert farm.pending == 1


@pytest.mark.parametrize(
    ("index", "status"), [("1", 404), ("-1", 400), ("x", 400), ("9" * 5000, 400)]
)
def test_an_image_that_is_not_there(farm, client, index, status):
    job = order(client)
    farm.render()

    response = client.get(f"/jobs/{job['id']}/result?index={index}")

    assert response.status_code == status
    assert response.json()["error"]["param"] == "index"


def test_the_order_reaches_the_store_with_its_cost_and_priority(farm, client):
    order(client, priority="low", seed=1)
    order(client, priority="high", seed=2)
    order(client, priority="high", seed=3)

    farm.claim()  # the flow that asked first
    assert farm.claim().spec.seed == 2


def test_ordered_images_are_counted_by_what_the_cache_said(farm, client):
    order(client)
    order(client)
    farm.render()
    order(client)

    metrics = client.get("/metrics").text
    for outcome in ("new", "attached", "hit"):
        assert f'renderfarm_images_ordered_total{{outcome="{outcome}"}} 1.0' in metrics
