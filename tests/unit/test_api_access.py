"""Who may see what: keys, owners, signed URLs, the open farm."""

from urllib.parse import parse_qsl, urlencode

import pytest
from starlette.testclient import TestClient

from api.auth import refuse_open_door
from shared.errors import SettingsError
from shared.settings import Settings
from tests.api_kit import Farm

KEYS = "alice:alice-key bob:bob-key root:root-key:admin"
FOX = {"prompt": "a red fox", "seed": 1}


@pytest.fixture
def farm():
    return Farm(Settings(api_keys=KEYS))


@pytest.fixture
def job(farm):
    """A finished job of alice, with a signed URL."""
    taken = farm.client("alice-key").post("/jobs", json=FOX).json()
    farm.render()
    return farm.client("alice-key").get(f"/jobs/{taken['id']}").json()


def test_an_admin_may_cancel_for_others(farm):
    job = farm.client("alice-key").post("/jobs", json=FOX).json()

    assert farm.client("root-key").post(f"/jobs/{job['id']}/cancel").status_code == 200


@pytest.mark.parametrize("path", ["/models", "/models/tiny", "/jobs/x", "/files/x/0.png"])
def test_without_a_key_the_answer_is_401_and_says_how(farm, path):
    for key, code in ((None, "missing_api_key"), ("wrong", "invalid_api_key")):
        response = farm.client(key).get(path)
        assert (response.status_code, response.json()["error"]["code"]) == (401, code)
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.json()["error"]["type"] == "authentication_error"
    assert "Authorization: Bearer" in farm.client().get(path).json()["detail"]


def test_an_order_without_a_key_is_refused_before_its_body_is_read(farm):
    assert farm.client().post("/jobs", content=b"{").status_code == 401


def test_probes_page_and_error_table_need_no_key(farm):
    for path in ("/healthz", "/readyz", "/status", "/metrics", "/errors", "/openapi.json",
                 "/docs", "/"):  # fmt: skip
        assert (path, farm.client().get(path).status_code) == (path, 200)


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer alice-key"},
        {"Authorization": "bearer alice-key"},
        {"api-key": "alice-key"},
        {"X-API-Key": "alice-key"},
    ],
)
def test_a_key_may_come_in_three_headers(farm, headers):
    job = farm.client().post("/jobs", json=FOX, headers=headers).json()

    assert job["owner"] == "alice"


@pytest.mark.parametrize("header", ["Basic YTpi", "Bearer", "Bearer \xff", "alice-key"])
def test_an_odd_authorization_header_is_a_401(farm, header):
    headers = [(b"Authorization", header.encode("latin-1"))]

    assert farm.client().get("/models", headers=headers).status_code == 401


def test_the_metrics_token_closes_metrics():
    farm = Farm(Settings(metrics_token="scrape"))

    assert farm.client().get("/metrics").status_code == 401
    assert farm.client("wrong").get("/metrics").status_code == 401
    assert "renderfarm_store_up 1.0" in farm.client("scrape").get("/metrics").text


def test_a_signed_url_opens_without_a_key(farm, job):
    response = farm.client().get(job["images"][0]["url"])

    assert response.status_code == 200
    assert response.headers["cache-control"] == "private, max-age=31536000, immutable"


def test_a_signed_url_stays_the_same_from_look_to_look(farm, job):
    again = farm.client("alice-key").get(f"/jobs/{job['id']}").json()

    assert again["images"][0]["url"] == job["images"][0]["url"]


@pytest.mark.parametrize("keys", ["", KEYS])
def test_a_tampered_url_opens_nothing(keys):
    farm = Farm(Settings(api_keys=keys))
    client = farm.client("alice-key" if keys else None)
    jobs = [client.post("/jobs", json=FOX | {"n": 2, "seed": seed}).json() for seed in (1, 5)]
    for _ in range(4):
        farm.render()
    url = client.get(f"/jobs/{jobs[0]['id']}").json()["images"][0]["url"]
    path, query = url.split("?")
    fields = dict(parse_qsl(query))

    tampered = [
        url.replace("/0.png", "/1.png"),
        url.replace("/0.png", "/0.webp"),
        url.replace(jobs[0]["id"], jobs[1]["id"]),
        f"{path}?{urlencode(fields | {'exp': int(fields['exp']) + 1})}",
        f"{path}?{urlencode(fields | {'sig': '0' * 64})}",
        f"{path}?{urlencode(fields | {'sig': 'ä'})}",
        f"{path}?exp={fields['exp']}",
        f"{path}?sig={fields['sig']}",
        f"{path}?exp=&sig=",
    ]
    for forged in tampered:
        response = farm.client().get(forged)
        assert (forged, response.status_code) == (forged, 401)
        assert response.headers["www-authenticate"] == "Bearer"
    assert farm.client().get(url.replace("/files/", "/v1/files/")).status_code == 200


def test_an_expired_url_says_so_and_the_job_has_a_fresh_one(farm, job, monkeypatch):
    url = job["images"][0]["url"]
    late = int(dict(parse_qsl(url.split("?")[1]))["exp"])
    monkeypatch.setattr("shared.signing.time.time", lambda: float(late))

    response = farm.client().get(url)

    assert (response.status_code, response.json()["error"]["code"]) == (403, "url_expired")
    fresh = farm.client("alice-key").get(f"/jobs/{job['id']}").json()["images"][0]["url"]
    assert fresh != url
    assert farm.client().get(fresh).status_code == 200


def test_a_url_is_never_handed_out_with_less_than_half_its_life(monkeypatch):
    farm = Farm(Settings(file_url_ttl_s=100))
    signer = farm.app.state.farm.signer
    for now in range(1_000_000, 1_000_200):
        monkeypatch.setattr("shared.signing.time.time", lambda now=now: now + 0.9)
        expires = int(dict(parse_qsl(signer.query("/files/a/0.png")))["exp"])
        assert 50 <= expires - now <= 100


def test_farms_that_share_a_store_share_signatures(farm, job):
    other = Farm(farm.settings, farm.store, farm.results)

    assert other.client().get(job["images"][0]["url"]).status_code == 200
    elsewhere = Farm(Settings(signing_secret="other"), farm.store, farm.results)
    assert elsewhere.client().get(job["images"][0]["url"]).status_code == 401


def test_a_farm_without_keys_is_open_and_everybody_is_anonymous():
    assert Farm().client().post("/jobs", json=FOX).json()["owner"] == "anonymous"


@pytest.mark.parametrize("address", ["10.0.0.7", "::", "192.168.1.2"])
def test_a_farm_without_keys_answers_on_loopback_only_however_it_was_bound(address):
    host = f"[{address}]" if ":" in address else address
    closed = TestClient(Farm().app, f"http://{host}")
    opened = TestClient(Farm(Settings(allow_open=True)).app, f"http://{host}")

    assert closed.post("/jobs", json=FOX).status_code == 401
    assert opened.post("/jobs", json=FOX).status_code == 202
    assert TestClient(Farm().app, "http://127.0.0.1").post("/jobs", json=FOX).status_code == 202


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "stranger.example"},  # a name that was made to lead to 127.0.0.1
        {"Host": "stranger.example:8000", "Origin": "http://stranger.example:8000"},
        {"Origin": "https://stranger.example"},
        {"Origin": "null"},
        {"Host": "[::1"},
    ],
)
def test_a_page_of_a_stranger_cannot_use_the_farm_without_keys(headers):
    here, opened = Farm(), Farm(Settings(allow_open=True))

    for farm, status in ((here, 401), (opened, 202)):
        browser = TestClient(farm.app, "http://127.0.0.1", headers=headers)
        assert (
            browser.post("/jobs", data={"prompt": "x"}, files={"n": (None, "1")}).status_code
            == status
        )
    assert TestClient(here.app, "http://127.0.0.1", headers=headers).get("/jobs").status_code == 401


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:8000", "[::1]:8000", "a.localhost"])
def test_the_page_of_a_farm_without_keys_can(host):
    headers = {"Host": host, "Origin": f"http://{host}"}
    page = TestClient(Farm().app, "http://127.0.0.1", headers=headers)

    assert page.post("/jobs", json=FOX).status_code == 202


def test_an_open_door_is_refused_at_start_with_the_ways_out():
    with pytest.raises(SettingsError, match=r"FARM_API_KEYS=.*FARM_HOST=.*FARM_ALLOW_OPEN=true"):
        refuse_open_door(Settings(host="0.0.0.0"))
    for settings in (
        Settings(),
        Settings(host="::1"),
        Settings(host="localhost"),
        Settings(host="0.0.0.0", api_keys="a:b"),
        Settings(host="0.0.0.0", allow_open=True),
    ):
        refuse_open_door(settings)


@pytest.mark.parametrize("keys", ["secret", "a:", ":secret", "a:secret:owner", "a:secret b:secret"])
def test_a_bad_list_of_keys_refuses_to_start_and_shows_no_key(keys):
    with pytest.raises(SettingsError, match="FARM_API_KEYS: entry") as refused:
        Farm(Settings(api_keys=keys))

    assert "secret" not in str(refused.value)
