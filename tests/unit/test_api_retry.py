"""A failed job ordered again, and jobs that are no longer remembered."""

import time

import pytest
from starlette.testclient import TestClient
from ulid import ULID

from api.app import create_app
from shared.catalog import Catalog
from shared.settings import Settings
from shared.store.memory import MemoryJobStore
from tests.api_kit import TINY, FakeResults, Farm

FOX = {"prompt": "a red fox", "seed": 1, "steps": 5, "size": "128x64", "output_format": "webp"}


@pytest.fixture
def farm():
    return Farm()


@pytest.fixture
def client(farm):
    return farm.client()


def failed(farm, client, **fields):
    """A job of two images, of which one has failed."""
    job = client.post("/jobs", json=FOX | {"n": 2} | fields).json()
    farm.render()
    farm.fail()
    return client.get(f"/jobs/{job['id']}").json()


def test_a_retry_is_a_new_job_that_renders_only_what_is_missing(farm, client):
    old = failed(farm, client, metadata={"ticket": "42"}, priority="low")

    answer = client.post(f"/jobs/{old['id']}/retry")

    new = answer.json()
    assert (answer.status_code, new["retries"]) == (202, old["id"])
    assert answer.headers["location"].endswith(new["id"])
    assert new["id"] != old["id"]
    for field in ("input", "owner", "cache", "priority", "metadata"):
        assert new[field] == old[field]
    assert [image["seed"] for image in new["images"]] == [1, 2]
    assert sorted(image["cached"] for image in new["images"]) == [False, True]
    assert farm.pending == 1
    farm.render()
    assert client.get(f"/jobs/{new['id']}").json()["status"] == "succeeded"
    after = client.get(f"/jobs/{old['id']}").json()
    assert (after["status"], after["retries"]) == ("failed", None)


def test_a_retry_of_what_others_rendered_since_is_done_at_once(farm, client):
    old = failed(farm, client)
    client.post("/jobs", json=FOX | {"n": 2})
    farm.render()

    answer = client.post(f"/v1/jobs/{old['id']}/retry")

    assert (answer.status_code, answer.json()["cached"]) == (200, True)
    assert "/v1/jobs/" in answer.headers["location"]


def test_a_canceled_job_may_be_retried(farm, client):
    job = client.post("/jobs", json=FOX).json()
    client.post(f"/jobs/{job['id']}/cancel")

    assert client.post(f"/jobs/{job['id']}/retry").status_code == 202


def test_a_retry_keeps_the_time_that_the_order_gave(farm, client):
    old = failed(farm, client, deadline_s=3600)

    new = client.post(f"/jobs/{old['id']}/retry").json()

    assert new["deadline_at"] > old["deadline_at"]


def test_an_open_job_and_a_succeeded_one_are_not_retried(farm, client):
    job = client.post("/jobs", json=FOX).json()
    early = client.post(f"/jobs/{job['id']}/retry")
    farm.render()
    late = client.post(f"/jobs/{job['id']}/retry")

    codes = [(r.status_code, r.json()["error"]["code"]) for r in (early, late)]
    assert codes == [(409, "job_not_finished"), (409, "job_already_finished")]


def test_a_retry_under_one_key_makes_one_job(farm, client):
    old, other = failed(farm, client), failed(farm, client, seed=100)
    headers = {"Idempotency-Key": "again"}

    first = client.post(f"/jobs/{old['id']}/retry", headers=headers)
    second = client.post(f"/jobs/{old['id']}/retry", headers=headers)
    misused = client.post(f"/jobs/{other['id']}/retry", headers=headers)

    assert first.json()["id"] == second.json()["id"]
    assert second.headers["idempotent-replayed"] == "true"
    assert (misused.status_code, misused.json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert client.post(f"/jobs/{old['id']}/retry").json()["id"] != first.json()["id"]


def test_an_admins_retry_belongs_to_the_jobs_owner():
    farm = Farm(Settings(api_keys="alice:a root:r:admin"))
    old = failed(farm, farm.client("a"))

    new = farm.client("r").post(f"/jobs/{old['id']}/retry").json()

    assert new["owner"] == "alice"
    assert farm.client("a").get(f"/jobs/{new['id']}").status_code == 200


def test_a_retry_of_a_changed_model_is_for_the_workers_of_today(farm, client):
    old = failed(farm, client)
    changed = TINY.model_copy(update={"precision": "fp32"})
    today = create_app(farm.settings, farm.store, farm.results, Catalog([changed], "tiny"))

    new = TestClient(today).post(f"/jobs/{old['id']}/retry").json()

    assert {image["cached"] for image in new["images"]} == {False}
    assert farm.store.get(new["id"]).images[0].render.pool == changed.pool


@pytest.mark.parametrize("path", ["/jobs/{}", "/jobs/{}/result", "/files/{}/0.png"])
def test_an_unknown_id_older_than_the_retention_is_gone(path):
    client = Farm(Settings(job_retention_s=60)).client()
    old, young = (f"job_{ULID.from_timestamp(time.time() - age_s)}" for age_s in (61, 55))

    codes = [client.get(path.format(job)).json()["error"]["code"] for job in (old, young)]

    assert codes == ["job_gone", "job_not_found"]
    assert client.get(path.format(old)).status_code == 410


def test_an_old_job_that_is_still_there_is_not_gone():
    long_ago = Farm(Settings(job_retention_s=60), MemoryJobStore(lambda: 1000.0), FakeResults())
    client = long_ago.client()
    job = client.post("/jobs", json=FOX).json()

    assert client.get(f"/jobs/{job['id']}").status_code == 200
