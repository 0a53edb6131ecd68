"""Over HTTP: a page of one's jobs, and the end of one."""

from __future__ import annotations

import re
from typing import Any

import pytest
from starlette.testclient import TestClient

from shared.errors import ResultsUnavailable
from shared.results.local import LocalResults
from shared.settings import Settings
from tests.api_kit import Farm

FOX = {"prompt": "a red fox", "steps": 4, "size": "64x64"}
KEYS = Settings(api_keys="alice:a-key bob:b-key root:r-key:admin")


@pytest.fixture
def farm() -> Farm:
    return Farm()


@pytest.fixture
def client(farm: Farm) -> TestClient:
    return farm.client()


def order(client: TestClient, seed: int, **fields: Any) -> dict[str, Any]:
    response = client.post("/jobs", json={**FOX, "seed": seed, **fields})
    assert response.status_code in (200, 202), response.text
    return dict(response.json())


def listed(client: TestClient, query: str = "") -> list[str]:
    response = client.get(f"/jobs{query}")
    assert response.status_code == 200, response.text
    return [job["id"] for job in response.json()["data"]]


# ------------------------------------------------------------------------------------- the list


def test_the_list_shows_jobs_as_a_look_at_each_does(farm: Farm, client: TestClient) -> None:
    first = order(client, 1)
    farm.render()
    second = order(client, 2)

    page = client.get("/jobs").json()

    looks = [client.get(f"/jobs/{job['id']}").json() for job in (second, first)]
    assert page == {
        "object": "list", "data": looks, "first_id": second["id"], "last_id": first["id"],
        "has_more": False,
    }  # fmt: skip
    assert "link" not in client.get("/jobs").headers


def test_an_empty_list_is_a_list(client: TestClient) -> None:
    assert client.get("/jobs").json() == {
        "object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False,
    }  # fmt: skip


@pytest.mark.parametrize("spelling", ["", "/v1"])
def test_the_link_leads_through_all_pages(client: TestClient, spelling: str) -> None:
    jobs = [order(client, seed, metadata={"set": "a b&c"})["id"] for seed in range(5)]
    url = f"{spelling}/jobs?limit=2&metadata[set]=a%20b%26c"

    seen: list[str] = []
    while url:
        response = client.get(url)
        seen += [job["id"] for job in response.json()["data"]]
        link = re.fullmatch(r'<(.*)>; rel="next"', response.headers.get("link", ""))
        assert bool(link) == response.json()["has_more"]
        url = link[1] if link else ""
        assert url == "" or url.startswith(f"http://farm.test{spelling}/jobs?")

    assert seen == jobs[::-1]


def test_before_goes_back_through_the_pages(client: TestClient) -> None:
    jobs = [order(client, seed)["id"] for seed in range(5)]  # shown as 4 3 2 1 0

    back = client.get(f"/jobs?limit=2&before={jobs[0]}")

    assert [job["id"] for job in back.json()["data"]] == [jobs[2], jobs[1]]
    assert back.json()["has_more"]
    assert f'before={jobs[2]}>; rel="prev"' in back.headers["link"]
    assert listed(client, f"?limit=2&before={jobs[2]}") == [jobs[4], jobs[3]]
    assert listed(client, f"?order=asc&before={jobs[2]}") == [jobs[0], jobs[1]]


def test_a_list_is_narrowed_by_what_the_jobs_are(farm: Farm, client: TestClient) -> None:
    done = order(client, 1, metadata={"k": "v"})
    farm.render()
    queued = order(client, 2)

    assert listed(client, "?status=queued") == [queued["id"]]
    assert listed(client, "?status=succeeded&status=failed") == [done["id"]]
    assert listed(client, "?metadata[k]=v") == [done["id"]]
    assert listed(client, "?model=lab/tiny") == [queued["id"], done["id"]]
    assert listed(client, "?model=gone") == []


def test_the_times_that_a_job_shows_can_be_asked_for(client: TestClient) -> None:
    came = [order(client, seed)["created_at"] for seed in range(3)]
    middle = came[1]
    east = f"{middle[:-1]}+00:00"

    for spelling in (middle, east, east.replace("+", "%2B")):
        after = client.get(f"/jobs?created_after={spelling}").json()["data"]
        before = client.get(f"/jobs?created_before={spelling}").json()["data"]
        assert all(job["created_at"] > middle for job in after)
        assert all(job["created_at"] < middle for job in before)
    assert len(listed(client, "?created_after=2020-01-01T00:00:00Z")) == 3
    assert listed(client, "?created_before=2020-01-01T00:00:00Z") == []


@pytest.mark.parametrize(
    ("query", "code", "name"),
    [
        ("limit=0", "invalid_value", "limit"),
        ("limit=101", "invalid_value", "limit"),
        ("limit=many", "invalid_value", "limit"),
        ("limit=1&limit=2", "invalid_value", "limit"),
        ("after=job_1", "invalid_cursor", "after"),
        ("before=%00", "invalid_cursor", "before"),
        ("after=xxjob_01JD8QZ4M3N5P7R9S1T3V5W7X9", "invalid_cursor", "after"),
        ("after=job_01JD8QZ4M3N5P7R9S1T3V5W7X9&before=job_01JD8QZ4M3N5P7R9S1T3V5W7X9",
         "conflicting_fields", "before"),
        ("status=done", "invalid_value", "status"),
        ("order=up", "invalid_value", "order"),
        ("created_after=yesterday", "invalid_value", "created_after"),
        ("created_before=2026-01-05T10:00:00", "invalid_value", "created_before"),
        ("colour=red", "unknown_field", "colour"),
        ("metadata=red", "unknown_field", "metadata"),
    ],
)  # fmt: skip
def test_a_bad_question_names_its_parameter(
    client: TestClient, query: str, code: str, name: str
) -> None:
    response = client.get(f"/jobs?{query}")

    assert response.status_code == 400
    assert (response.json()["error"]["code"], response.json()["error"]["param"]) == (code, name)
    assert response.json()["errors"][0]["parameter"] == name
    assert "extra" not in response.json()["detail"].lower()  # as pydantic would say


def test_everybody_lists_his_own_and_an_admin_whose_he_likes() -> None:
    farm = Farm(KEYS)
    alice, bob, root = (farm.client(key) for key in ("a-key", "b-key", "r-key"))
    hers, his = order(alice, 1)["id"], order(bob, 2)["id"]

    assert listed(alice) == listed(alice, "?owner=alice") == [hers]
    assert listed(root) == []
    assert listed(root, "?owner=bob") == [his]
    assert listed(root, "?owner=*") == [his, hers]
    for name in ("bob", "*", "nobody"):
        response = alice.get(f"/jobs?owner={name}")
        assert (response.status_code, response.json()["error"]["code"]) == (403, "admin_only")


def test_anothers_cursor_tells_nothing_but_its_age() -> None:
    farm = Farm(KEYS)
    alice, bob = farm.client("a-key"), farm.client("b-key")
    his = order(bob, 2)["id"]

    unknown = f"{his[:-1]}{'0' if his[-1] != '0' else '1'}"
    assert alice.get(f"/jobs?after={his}").json() == alice.get(f"/jobs?after={unknown}").json()


# ----------------------------------------------------------------------------------- the end of one


def test_a_deleted_job_is_404_and_its_urls_with_it(farm: Farm, client: TestClient) -> None:
    job = order(client, 1)
    farm.render()
    url = client.get(f"/jobs/{job['id']}").json()["images"][0]["url"]

    gone = client.delete(f"/jobs/{job['id']}")

    assert (gone.status_code, gone.content) == (204, b"")
    for path in (f"/jobs/{job['id']}", f"/jobs/{job['id']}/result", url):
        response = client.get(path)
        assert (response.status_code, response.json()["error"]["code"]) == (404, "job_not_found")
    assert client.delete(f"/v1/jobs/{job['id']}").status_code == 404
    assert listed(client) == []


def test_an_unfinished_job_is_not_deleted(farm: Farm, client: TestClient) -> None:
    job = order(client, 1)

    for query in ("", "?purge=true"):
        response = client.delete(f"/jobs/{job['id']}{query}")
        assert (response.status_code, response.json()["error"]["code"]) == (409, "job_not_finished")
    client.post(f"/jobs/{job['id']}/cancel")
    assert client.delete(f"/jobs/{job['id']}").status_code == 204


def test_without_purge_the_picture_stays_stored(farm: Farm, client: TestClient) -> None:
    job = order(client, 1)
    farm.render()

    client.delete(f"/jobs/{job['id']}")

    assert len(farm.results.pictures) == 1


def test_purge_takes_the_pictures_that_no_other_job_has(farm: Farm, client: TestClient) -> None:
    job = order(client, 1, n=2)
    farm.render(), farm.render()
    other = order(client, 2)  # the second image of the first job
    assert other["cached"]

    assert client.delete(f"/jobs/{job['id']}?purge=true").status_code == 204

    assert len(farm.results.pictures) == 1
    kept = client.get(f"/jobs/{other['id']}").json()["images"][0]["url"]
    assert client.get(kept).status_code == 200
    assert client.delete(f"/jobs/{other['id']}?purge=1").status_code == 204
    assert farm.results.pictures == {}


def test_a_purge_that_fails_half_way_can_be_repeated(tmp_path, monkeypatch) -> None:
    farm = Farm(results=LocalResults(tmp_path))
    client = farm.client()
    job = order(client, 1)
    farm.render()

    def down(result: object) -> None:
        raise ResultsUnavailable

    with monkeypatch.context() as broken:
        broken.setattr(farm.results, "delete", down)
        failed = client.delete(f"/jobs/{job['id']}?purge=true")
    assert (failed.status_code, failed.json()["error"]["code"]) == (503, "store_unavailable")
    assert client.get(f"/jobs/{job['id']}").status_code == 200
    again = order(client, 1)
    assert again["cached"] is False, "what is on its way out answers nobody"
    client.post(f"/jobs/{again['id']}/cancel")

    assert client.delete(f"/jobs/{job['id']}?purge=true").status_code == 204
    assert list(farm.results.walk()) == []


def test_a_picture_that_an_order_may_find_is_not_purged(tmp_path) -> None:
    farm = Farm(results=LocalResults(tmp_path))
    client = farm.client()
    job = order(client, 1)
    farm.render()
    farm.store.disown(job["id"])  # a purge has begun
    order(client, 1)  # and an order comes in between: its worker will look for the picture

    assert client.delete(f"/jobs/{job['id']}?purge=true").status_code == 204

    assert len(list(farm.results.walk())) == 1


@pytest.mark.parametrize(
    ("query", "code", "name"),
    [("purge=maybe", "invalid_value", "purge"), ("force=true", "unknown_field", "force")],
)
def test_a_misread_option_deletes_nothing(
    farm: Farm, client: TestClient, query: str, code: str, name: str
) -> None:
    job = order(client, 1)
    farm.render()

    response = client.delete(f"/jobs/{job['id']}?{query}")

    assert response.status_code == 400
    assert (response.json()["error"]["code"], response.json()["error"]["param"]) == (code, name)
    assert client.get(f"/jobs/{job['id']}").status_code == 200


def test_an_old_id_is_gone_and_not_only_unknown(client: TestClient) -> None:
    response = client.delete("/jobs/job_01H00000000000000000000000")

    assert (response.status_code, response.json()["error"]["code"]) == (410, "job_gone")
