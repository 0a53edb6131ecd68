"""Webhooks over HTTP: the order, the secret, the log of deliveries, another try; and from the shell."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from click.testing import CliRunner, Result
from starlette.testclient import TestClient

from api.webhooks import MessageView
from cli.main import main
from shared.errors import SettingsError
from shared.settings import Settings
from tests.api_kit import Farm
from tests.hooks import take
from tests.loopback import serving
from tests.receiver import receiving
from tests.waiting import wait_until
from worker.webhooks import Courier

URL = "https://hooks.example/a"
FOX = {"prompt": "a red fox", "size": "64x64", "steps": 4}
Run = Callable[..., Result]


@pytest.fixture
def farm() -> Farm:
    return Farm(Settings(webhook_allow_hosts="127.0.0.0/8"))


@pytest.fixture
def client(farm: Farm) -> TestClient:
    return farm.client()


def order(client: TestClient, url: str = URL, path: str = "/jobs", **webhook: object) -> str:
    answer = client.post(path, json={**FOX, "webhook": {"url": url, **webhook}})
    assert answer.status_code in (200, 202), answer.text
    return str(answer.json()["id"])


def log(client: TestClient, job_id: str) -> list[dict[str, object]]:
    answer = client.get(f"/jobs/{job_id}/deliveries")
    assert answer.status_code == 200
    assert answer.json()["object"] == "list"
    return list(answer.json()["data"])


def test_the_job_shows_its_webhook_and_nothing_more(client: TestClient) -> None:
    job_id = order(client)

    assert client.get(f"/jobs/{job_id}").json()["webhook"] == {
        "url": URL,
        "events": ["job.succeeded", "job.failed", "job.canceled", "job.expired"],
    }
    assert client.post("/jobs", json=FOX).json()["webhook"] is None


def test_chosen_events_are_kept_once_each(farm: Farm, client: TestClient) -> None:
    job_id = order(client, events=["image.succeeded", "job.running", "image.succeeded"])
    farm.render()

    assert [one["type"] for one in log(client, job_id)] == ["job.running", "image.succeeded"]
    assert [one["index"] for one in log(client, job_id)] == [None, 0]


def test_a_url_that_leads_inside_is_refused_with_its_reason(client: TestClient) -> None:
    for url, why in (
        (
            "https://169.254.169.254/latest",
            "leads to an address that is not on the public internet",
        ),
        ("http://example.org/", "must start with https://"),
        ("https://user:hush@example.org/", "must not carry a user or password"),
        ("https://0x7f000001/", "spells an address in an unusual way"),
    ):
        problem = client.post("/jobs", json={**FOX, "webhook": {"url": url}}).json()

        assert problem["error"]["code"] == "webhook_url_not_allowed"
        assert problem["errors"][0]["pointer"] == "#/webhook/url"
        assert why in problem["detail"]
        assert "hush" not in str(problem)


def test_the_operator_may_allow_a_host(client: TestClient) -> None:
    assert order(client, "http://127.0.0.1:8123/hook")


def test_a_misspelt_allowance_refuses_to_start() -> None:
    with pytest.raises(SettingsError, match="FARM_WEBHOOK_ALLOW_HOSTS: 'a/b' is no host name"):
        Farm(Settings(webhook_allow_hosts="a/b"))


def test_a_retried_job_tells_the_same_receiver(farm: Farm, client: TestClient) -> None:
    job_id = order(client)
    farm.fail()

    again = client.post(f"/jobs/{job_id}/retry").json()
    farm.render()

    assert again["webhook"]["url"] == URL
    assert [(d.job_id, d.event) for d in take(farm.store)] == [
        (job_id, "job.failed"), (again["id"], "job.succeeded"),
    ]  # fmt: skip


def test_each_owner_has_a_secret_of_their_own() -> None:
    farm = Farm(Settings(api_keys="alice:ak bob:bk"))
    alice, bob = farm.client("ak"), farm.client("bk")

    mine = alice.get("/webhooks/secret")

    assert mine.headers["cache-control"] == "no-store"
    assert mine.json()["secret"].startswith("whsec_")
    assert alice.get("/v1/webhooks/secret").json() == mine.json()
    assert bob.get("/webhooks/secret").json()["secret"] != mine.json()["secret"]


def test_a_changed_secret_is_new_and_the_old_one_signs_too(client: TestClient) -> None:
    old = client.get("/webhooks/secret").json()

    new = client.post("/webhooks/secret/rotate").json()

    assert (old["signatures"], new["signatures"]) == (1, 2)
    assert new["secret"] != old["secret"]
    assert client.get("/webhooks/secret").json() == new


def test_the_log_shows_each_attempt_and_the_next(farm: Farm, client: TestClient) -> None:
    with receiving(lambda r: 500 if len(r.got) == 1 else 204) as receiver:
        job_id = order(client, receiver.url, "/v1/jobs")
        farm.render()
        (before,) = log(client, job_id)
        assert (before["status"], before["attempts"]) == ("waiting", [])
        courier = Courier.of(farm.settings, farm.store)
        courier.start()
        wait_until(lambda: log(client, job_id)[0]["attempts"])

        (failed,) = log(client, job_id)
        redelivered = client.post(f"/jobs/{job_id}/redeliver")
        wait_until(lambda: log(client, job_id)[0]["status"] == "delivered")
        courier.stop()

    (sent,) = log(client, job_id)
    assert (failed["type"], failed["status"], failed["job"]) == ("job.succeeded", "waiting", job_id)
    assert failed["next_try_at"]
    assert redelivered.status_code == 202
    assert redelivered.json()["id"] == failed["id"] == sent["id"]
    assert [a["status"] for a in sent["attempts"]] == [500, 204]  # type: ignore[attr-defined]
    assert sent["next_try_at"] is None
    secret = client.get("/webhooks/secret").json()["secret"]
    assert MessageView.model_validate_json(receiver.got[1][1]).data.id == job_id
    told = receiver.verified(secret)[1]["data"]
    assert told["urls"]["self"] == f"http://farm.test/v1/jobs/{job_id}"
    url = told["images"][0]["url"]
    assert (
        client.get(url.removeprefix("http://farm.test")).status_code == 200
    )  # its signature opens


def test_only_a_delivery_of_the_job_can_be_sent_again(farm: Farm, client: TestClient) -> None:
    plain = client.post("/jobs", json={**FOX, "seed": 1}).json()["id"]
    farm.render()
    job_id = order(client, events=["job.running", "job.succeeded"])
    farm.render()
    first, last = log(client, job_id)

    assert client.post(f"/jobs/{job_id}/redeliver").json()["id"] == last["id"]
    chosen = client.post(f"/jobs/{job_id}/redeliver", params={"delivery": first["id"]})
    assert chosen.json()["id"] == first["id"]
    for job, params in (
        (plain, {}),
        (plain, {"delivery": first["id"]}),
        (job_id, {"delivery": ""}),
    ):
        answer = client.post(f"/jobs/{job}/redeliver", params=params)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "delivery_not_found")


def test_metrics_tell_what_waits_and_what_came_of_attempts(farm: Farm, client: TestClient) -> None:
    order(client)
    farm.render()
    told = client.get("/metrics").text

    assert "renderfarm_webhooks_waiting 1.0" in told
    assert "renderfarm_webhooks_late_seconds" in told
    for outcome in ("delivered", "gone", "refused", "unreachable"):
        assert f'renderfarm_webhook_attempts_total{{outcome="{outcome}"}} 0.0' in told


# ------------------------------------------------------------------------------------ from the shell


@pytest.fixture
def renderfarm(farm: Farm) -> Iterator[Run]:
    with serving(farm.app) as url:
        env = {"RENDERFARM_URL": url}
        yield lambda *words: CliRunner().invoke(main, words, env=env, prog_name="renderfarm")


def test_the_shell_shows_and_sends_again(farm: Farm, renderfarm: Run) -> None:
    with receiving() as receiver:
        submitted = renderfarm("submit", "a fox", "--size", "64x64", "--webhook", receiver.url)
        job_id = submitted.stdout.split("\t")[0]
        farm.render()

        (line,) = renderfarm("webhooks", "deliveries", job_id).stdout.splitlines()

    delivery = line.split("\t")[0]
    assert line.split("\t")[1:5] == ["job.succeeded", "waiting", "tried 0 times", "not tried yet"]
    again = renderfarm("webhooks", "redeliver", job_id, "--delivery", delivery)
    assert again.stdout.startswith(f"{delivery}\tjob.succeeded\twaiting")
    assert renderfarm("webhooks", "redeliver", job_id, "--delivery", "x").exit_code == 2


def test_the_shell_tries_a_receiver(renderfarm: Run) -> None:
    old = renderfarm("webhooks", "secret").stdout.strip()
    new = renderfarm("webhooks", "rotate").stdout.strip()
    with receiving() as good, receiving(lambda r: 401) as bad:
        tried = renderfarm("webhooks", "test", good.url)
        refused = renderfarm("webhooks", "test", bad.url)

    assert tried.stdout == f"{good.url} answered 204\n"
    assert refused.exit_code == 1
    (message,) = good.verified(new)
    assert message["type"] == "webhook.test"
    assert old != new
    assert abs(int(good.got[0][0]["webhook-timestamp"]) - time.time()) < 10
