"""Over HTTP: is a stored picture what its order still draws?"""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from api.app import create_app
from shared.catalog import Catalog
from shared.jobs import Failure, Verdict
from tests.api_kit import TINY, Farm

FOX = {"prompt": "a red fox", "steps": 4, "size": "64x64", "seed": 42}


@pytest.fixture
def farm() -> Farm:
    return Farm()


@pytest.fixture
def client(farm: Farm) -> TestClient:
    return farm.client()


def order(client: TestClient, **fields: Any) -> str:
    return str(client.post("/jobs", json=FOX | fields).json()["id"])


def say(farm: Farm, **fields: Any) -> None:
    """The worker's verdict."""
    taken = farm.claim()
    assert taken is not None
    assert taken.against is not None
    verdict = Verdict(**{"identical": True, "max_abs_diff": 0, "sha256": "f" * 64} | fields)
    assert farm.store.close(taken.render_id, taken.token, verdict)


def test_a_verification_is_a_job_that_ends_with_a_verdict(farm: Farm, client: TestClient) -> None:
    job_id = order(client, n=2, metadata={"a": "b"})
    farm.render(), farm.render()

    taken = client.post(f"/jobs/{job_id}/verify", json={"index": 1})
    job = taken.json()

    assert taken.status_code == 202
    assert taken.headers["location"] == f"http://farm.test/jobs/{job['id']}"
    old = client.get(f"/jobs/{job_id}").json()
    assert (job["verifies"], old["verifies"], job["cache"]) == (job_id, None, "bypass")
    assert job["input"] == old["input"] | {"n": 1, "seed": 43}
    assert (job["metadata"], job["images"][0]["verify"]) == ({"a": "b"}, None)
    assert job["images"][0]["fingerprint"] == old["images"][1]["fingerprint"]

    say(farm, identical=False, max_abs_diff=3, psnr_db=41.5, timings_s={"denoise": 0.5})
    done = client.get(taken.headers["location"]).json()

    assert (done["status"], done["metrics"]["gpu_s"]) == ("succeeded", 0.5)
    assert done["images"][0]["verify"] == {
        "identical": False, "max_abs_diff": 3, "psnr_db": 41.5, "sha256": "f" * 64,
    }  # fmt: skip
    assert done["images"][0]["url"] is None


def test_a_verification_stores_nothing_and_has_nothing_to_fetch(
    farm: Farm, client: TestClient
) -> None:
    job_id = order(client)
    farm.render()
    before = dict(farm.results.pictures)

    new = client.post(f"/v1/jobs/{job_id}/verify").json()["id"]
    say(farm)

    assert farm.results.pictures == before
    for path in (f"/jobs/{new}/result", f"/files/{new}/0.png"):
        response = client.get(path)
        assert (response.status_code, response.json()["error"]["code"]) == (404, "image_not_found")
    json = client.get(f"/jobs/{new}/result", headers={"Accept": "application/json"})
    assert (json.status_code, json.json()["error"]["code"]) == (404, "image_not_found")
    again = client.post(f"/jobs/{new}/verify")
    assert (again.status_code, again.json()["error"]["code"]) == (404, "image_not_found")
    assert client.post("/jobs", json=FOX).json()["cached"], "the stored picture still answers"


@pytest.mark.parametrize(
    ("body", "code", "name"),
    [
        ("[]", "invalid_json", None),
        ("{", "invalid_json", None),
        ('{"index": "0"}', "invalid_value", "index"),
        ('{"index": -1}', "invalid_value", "index"),
        ('{"image": 0}', "unknown_field", "image"),
    ],
)
def test_a_bad_question_names_its_field(
    farm: Farm, client: TestClient, body: str, code: str, name: str | None
) -> None:
    job_id = order(client)
    farm.render()

    headers = {"Content-Type": "application/json"}
    response = client.post(f"/jobs/{job_id}/verify", content=body, headers=headers)

    assert response.status_code == 400
    assert (response.json()["error"]["code"], response.json()["error"]["param"]) == (code, name)


def test_what_has_no_picture_cannot_be_verified(farm: Farm, client: TestClient) -> None:
    def answer(job_id: str, index: int = 0) -> tuple[int, str]:
        response = client.post(f"/jobs/{job_id}/verify", json={"index": index})
        return response.status_code, response.json()["error"]["code"]

    queued = order(client)
    assert answer(queued) == (409, "job_not_finished")
    farm.render()
    assert answer(queued, 1) == (404, "image_not_found")
    failed = order(client, seed=7)
    farm.fail()
    assert answer(failed) == (410, "job_failed")
    canceled = order(client, seed=8)
    client.post(f"/jobs/{canceled}/cancel")
    assert answer(canceled) == (410, "job_canceled")
    farm.results.pictures.clear()
    assert answer(queued) == (410, "result_gone")
    assert farm.pending == 0


def test_a_model_that_has_changed_proves_nothing(farm: Farm, client: TestClient) -> None:
    job_id = order(client)
    farm.render()
    changed = TINY.model_copy(update={"t5": "off"})
    app = create_app(farm.settings, farm.store, farm.results, Catalog([changed], "tiny"))

    response = TestClient(app, "http://farm.test").post(f"/jobs/{job_id}/verify")

    assert (response.status_code, response.json()["error"]["code"]) == (
        400, "unsupported_for_model",
    )  # fmt: skip


def test_the_same_question_under_one_key_is_asked_once(farm: Farm, client: TestClient) -> None:
    job_id = order(client, n=2)
    farm.render(), farm.render()
    key = {"Idempotency-Key": "k"}

    first = client.post(f"/jobs/{job_id}/verify", json={"index": 0}, headers=key)
    again = client.post(f"/jobs/{job_id}/verify", headers=key)
    other = client.post(f"/jobs/{job_id}/verify", json={"index": 1}, headers=key)

    assert first.json()["id"] == again.json()["id"]
    assert again.headers["idempotent-replayed"] == "true"
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert farm.pending == 1


def test_a_failed_verification_is_tried_again_as_one(farm: Farm, client: TestClient) -> None:
    job_id = order(client)
    farm.render()
    failed = client.post(f"/jobs/{job_id}/verify").json()["id"]
    taken = farm.claim()
    assert taken is not None
    failure = Failure(code="render_error", message="the engine failed")
    farm.store.close(taken.render_id, taken.token, failure)

    again = client.post(f"/jobs/{failed}/retry").json()

    assert (again["verifies"], again["retries"]) == (job_id, failed)
    say(farm)
    assert client.get(f"/jobs/{again['id']}").json()["images"][0]["verify"]["identical"]
