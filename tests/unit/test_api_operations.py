"""How the API behaves when parts fail, and what it tells operators."""

import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from api.codes import CODES
from api.schemas import ALIASES, NewJob
from shared.errors import ResultsUnavailable, StoreUnavailable
from shared.settings import Settings
from shared.store.memory import MemoryJobStore
from tests.api_kit import LARGE, TINY, FakeResults, Farm, worker

FOX = {"prompt": "a red fox", "seed": 1}


class FakeDeadStore:
    """A store whose server is away; its words hold what no client may read."""

    def __getattr__(self, name):
        def call(*_args, **_kwargs):
            raise StoreUnavailable("no answer from redis.internal:6379")

        return call


class FakeBrokenStore:
    def __getattr__(self, name):
        def call(*_args, **_kwargs):
            raise ZeroDivisionError("secret detail")

        return call

    def stats(self):
        return MemoryJobStore().stats()

    def workers(self):
        return []


class FakeDeadResults(FakeResults):
    def read(self, result, start=0, end=None):
        raise ResultsUnavailable("no answer from s3.internal")

    def check(self):
        raise ResultsUnavailable("no answer from s3.internal")


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/jobs"), ("POST", "/jobs/x/retry"), ("GET", "/poison"), ("GET", "/jobs/x"), ("POST", "/jobs/x/cancel"), ("GET", "/jobs/x/result"),
     ("GET", "/files/x/0.png"), ("GET", "/files/x/0.png?exp=1&sig=a"), ("GET", "/models")],
)  # fmt: skip
def test_a_store_that_is_down_is_a_503_to_try_again(method, path):
    response = Farm(store=FakeDeadStore()).client().request(method, path, json=FOX)

    assert (response.status_code, response.json()["error"]["code"]) == (503, "store_unavailable")
    assert 1 <= int(response.headers["retry-after"]) <= 60
    assert response.json()["error"]["type"] == "server_error"
    assert "internal" not in response.text


@pytest.mark.parametrize("path", ["/files/{id}/0.png", "/files/{id}/0.webp", "/jobs/{id}/result"])
def test_storage_that_is_down_is_a_503_for_pictures_only(path):
    farm = Farm()
    job = farm.client().post("/jobs", json=FOX).json()
    farm.render()
    blind = Farm(store=farm.store, results=FakeDeadResults()).client()

    response = blind.get(path.format(id=job["id"]))

    assert (response.status_code, response.json()["error"]["code"]) == (503, "store_unavailable")
    assert response.json()["job_id"] == job["id"]
    assert "internal" not in response.text
    assert blind.get(f"/jobs/{job['id']}").status_code == 200


def test_a_full_queue_is_a_503_that_takes_nothing():
    farm = Farm(store=MemoryJobStore(max_queue=2))

    response = farm.client().post("/jobs", json=FOX | {"n": 3})

    assert (response.status_code, response.json()["error"]["code"]) == (503, "queue_full")
    assert response.headers["retry-after"]
    assert farm.pending == 0


def test_a_bug_is_a_500_with_a_request_id_and_the_log_has_the_traceback(caplog):
    farm = Farm(store=FakeBrokenStore())

    response = farm.client().get("/jobs/x", headers={"X-Request-Id": "mine-1"})

    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")
    assert response.json()["request_id"] == response.headers["x-request-id"] == "mine-1"
    assert "secret" not in response.text
    assert "Traceback" not in response.text
    logged = next(record for record in caplog.records if record.exc_info)
    assert (logged.request_id, logged.exc_info[0]) == ("mine-1", ZeroDivisionError)


def test_a_stream_that_breaks_half_way_is_cut_and_not_ended_in_order():
    farm = Farm()
    job = farm.client().post("/jobs", json=FOX).json()
    farm.render()

    class FakeTornResults(FakeResults):
        def read(self, result, start=0, end=None):
            def pieces():
                yield b"half"
                raise ResultsUnavailable

            return pieces()

    torn = Farm(store=farm.store, results=FakeTornResults())
    with pytest.raises(RuntimeError, match="response already started"):
        TestClient(torn.app).get(f"/files/{job['id']}/0.png")


@pytest.mark.parametrize("given", ["abc.DEF_1-2", "x" * 64])
def test_a_sound_request_id_is_kept(given):
    response = Farm().client().get("/healthz", headers={"X-Request-Id": given})

    assert response.headers["x-request-id"] == given


@pytest.mark.parametrize("given", [None, "", "a b", "x" * 65, "a\u00e9"])
def test_any_other_request_id_is_replaced(given):
    headers = [] if given is None else [(b"X-Request-Id", given.encode("latin-1"))]

    named = Farm().client().get("/healthz", headers=headers).headers["x-request-id"]

    assert re.fullmatch(r"req_[0-9A-Z]{26}", named)


def test_a_replay_answers_the_same_job_as_it_is_now():
    farm = Farm()
    client, headers = farm.client(), {"Idempotency-Key": "order-1"}
    order = {"prompt": "a red fox"}

    first = client.post("/jobs", json=order, headers=headers)
    again = client.post("/jobs", json=order | {"n": None}, headers=headers)
    farm.render()
    later = client.post("/jobs", json=order, headers=headers)

    assert "idempotent-replayed" not in first.headers
    assert [r.headers["idempotent-replayed"] for r in (again, later)] == ["true", "true"]
    assert (first.status_code, again.status_code, later.status_code) == (202, 202, 200)
    assert len({r.json()["id"] for r in (first, again, later)}) == 1
    assert farm.pending == 0
    assert 'outcome="new"} 1.0' in client.get("/metrics").text


def test_a_replay_folds_aliases():
    client, headers = Farm().client(), {"Idempotency-Key": "k"}

    client.post("/jobs", json={"prompt": "x", "steps": 4, "size": "64x128"}, headers=headers)
    order = {"height": 128, "width": 64, "num_inference_steps": 4, "prompt": "x"}

    assert client.post("/jobs", json=order, headers=headers).headers["idempotent-replayed"]


def test_a_used_key_with_another_order_is_422():
    farm = Farm()
    client, headers = farm.client(), {"Idempotency-Key": "order-1"}
    client.post("/jobs", json={"prompt": "a"}, headers=headers)

    for other in ({"prompt": "b"}, {"prompt": "a", "steps": 20}):
        response = client.post("/jobs", json=other, headers=headers)
        code = response.json()["error"]["code"]
        assert (response.status_code, code) == (422, "idempotency_key_reused")
    assert farm.pending == 1


def test_keys_of_two_owners_do_not_meet():
    farm = Farm(Settings(api_keys="alice:a bob:b"))
    headers = {"Idempotency-Key": "1"}

    jobs = [farm.client(k).post("/jobs", json=FOX, headers=headers).json()["id"] for k in "ab"]

    assert jobs[0] != jobs[1]


def test_a_refused_order_leaves_its_key_free():
    client, headers = Farm().client(), {"Idempotency-Key": "1"}

    assert client.post("/jobs", json={"prompt": ""}, headers=headers).status_code == 400
    assert client.post("/jobs", json=FOX, headers=headers).status_code == 202


def test_readiness_follows_the_store_and_names_the_storage():
    dead = Farm(store=FakeDeadStore()).client().get("/readyz")
    blind = Farm(results=FakeDeadResults()).client().get("/readyz")

    assert (dead.status_code, dead.json()["ready"]) == (503, False)
    assert dead.json()["checks"] == {"redis": False, "storage": True}
    assert (blind.status_code, blind.json()["checks"]) == (200, {"redis": True, "storage": False})
    assert Farm(store=FakeDeadStore()).client().get("/healthz").status_code == 200


def test_a_model_is_ready_when_a_worker_of_just_this_entry_is():
    farm = Farm()
    client = farm.client()
    assert client.get("/readyz?model=tiny").status_code == 503

    farm.store.heartbeat(worker("loading"), 60.0)
    assert client.get("/readyz?model=tiny").status_code == 503

    other = TINY.model_copy(update={"precision": "fp32"})
    farm.store.heartbeat(worker("ready", other), 60.0)
    assert client.get("/readyz?model=tiny").status_code == 503

    farm.store.heartbeat(worker("busy"), 60.0)
    assert client.get("/readyz?model=lab/tiny").status_code == 200
    assert client.get("/readyz?model=large").status_code == 503


def test_status_tells_the_loading_steps_and_the_reason():
    farm = Farm()
    client = farm.client()
    assert client.get("/status").json()["reason"] == "no worker is running"

    farm.store.heartbeat(worker("loading"), 60.0)
    loading = client.get("/status").json()
    assert (loading["ready"], loading["reason"]) == (False, "a worker of tiny is loading (load)")
    tiny = next(model for model in loading["models"] if model["id"] == "tiny")
    assert tiny["workers"][0]["state"] == "loading"
    assert tiny["workers"][0]["steps"][1] == {"name": "load", "status": "running", "seconds": None}

    farm.store.heartbeat(worker("failed", error="log in and accept the licence"), 60.0)
    assert "log in and accept the licence" in client.get("/status").json()["reason"]

    farm.store.heartbeat(worker("ready", load_s=41.7), 60.0)
    ready = client.get("/status").json()
    assert (ready["ready"], ready["reason"]) == (True, None)
    seen = ready["models"][0]["workers"][0]["load_s"]
    assert (tiny["workers"][0]["load_s"], seen) == (None, 41.7)
    assert {m["id"]: m["ready"] for m in ready["models"]} == {"tiny": True, "large": False}


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("there is no model folder /srv/models/sd35", "there is no model folder sd35"),
        ("cannot read '/srv/m/model_index.json': no", "cannot read 'model_index.json': no"),
        ("see https://host.example/lab/large or lab/large", None),
    ],
)
def test_only_admins_see_in_which_folder_a_model_was_sought(error, told):
    farm = Farm(Settings(api_keys="root:root-key:admin"))
    farm.store.heartbeat(worker("failed", error=error), 60.0)

    status = farm.client().get("/status").json()
    order = farm.client("root-key").post("/v1/txt2img", json={"prompt": "a red fox"})

    tiny = next(model for model in status["models"] if model["id"] == "tiny")
    assert tiny["workers"][0]["error"] == (told or error)
    assert status["reason"] == f"a worker of tiny failed: {told or error}"
    assert order.json()["detail"].endswith(told or error)
    workers = farm.client("root-key").get("/workers").json()["data"]
    assert workers[0]["error"] == error


def test_status_is_always_200():
    response = Farm(store=FakeDeadStore()).client().get("/status")

    assert response.status_code == 200
    assert response.json()["ready"] is False
    assert "internal" not in response.text


def test_models_say_what_they_can_do_and_what_they_are():
    farm = Farm()
    farm.store.heartbeat(worker("ready"), 60.0)

    tiny, large = farm.client().get("/v1/models").json()["data"]

    assert set(tiny) >= {
        "id", "object", "created", "owned_by", "default", "aliases", "engine", "precision", "t5",
        "placement", "defaults", "limits", "loras", "workers_ready", "random_weights",
    }  # fmt: skip
    assert (tiny["default"], tiny["random_weights"], tiny["workers_ready"]) == (True, True, 1)
    assert (large["default"], large["random_weights"], large["workers_ready"]) == (False, False, 0)
    assert tiny["defaults"]["steps"] == TINY.steps
    assert large["limits"]["max_pixels"] == LARGE.max_pixels
    assert farm.client().get("/models/lab/tiny").json() == tiny


def test_one_line_per_request_without_keys_or_signatures(caplog):
    caplog.set_level(logging.INFO)
    farm = Farm(Settings(api_keys="alice:alice-key"))
    job = farm.client("alice-key").post("/jobs", json=FOX).json()
    farm.render()
    url = farm.client("alice-key").get(f"/jobs/{job['id']}").json()["images"][0]["url"]
    caplog.clear()

    farm.client().get(url)
    farm.client("wrong-key").get("/models")

    lines = [r for r in caplog.records if getattr(r, "action", "") == "request"]
    assert [(r.method, r.route, r.status) for r in lines] == [
        ("GET", "/files/{job_id}/{index}.{extension}", 200),
        ("GET", "/models", 401),
    ]
    assert (lines[0].job, lines[1].code) == (job["id"], "invalid_api_key")
    assert lines[0].request_id.startswith("req_")
    logged = json.dumps([vars(r) for r in caplog.records if r.name == "api"], default=str)
    for secret in ("alice-key", "wrong-key", "sig="):
        assert secret not in logged


def test_labels_of_requests_come_from_closed_sets():
    client = Farm().client()
    for k in range(3):
        client.get(f"/jobs/{k}")
        client.get(f"/nothing/{k}")
        client.request(f"BREW{k}", "/jobs")

    text = client.get("/metrics").text

    series = re.findall(r"renderfarm_http_requests_total\{(.*)\}", text)
    assert sorted(series) == [
        'method="GET",route="/jobs/{job_id}",status="404"',
        'method="GET",route="unmatched",status="404"',
        'method="OTHER",route="/jobs",status="405"',
    ]


def test_two_applications_in_one_process_have_their_own_metrics():
    Farm().client().get("/healthz")

    assert "healthz" not in Farm().client().get("/metrics").text


def test_the_error_table_lists_every_code_with_its_meaning():
    table = Farm().client().get("/errors").json()["data"]

    assert {row["code"] for row in table} == set(CODES)
    assert all(row["meaning"].endswith(".") and row["status"] for row in table)


def test_openapi_describes_every_route_with_its_faults():
    document = Farm().client().get("/openapi.json").json()

    assert set(document["paths"]) >= {
        "/jobs", "/jobs/{job_id}", "/jobs/{job_id}/cancel", "/jobs/{job_id}/events", "/jobs/{job_id}/result",
        "/inputs", "/inputs/{sha256}", "/jobs/{job_id}/retry", "/poison", "/poison/{render_id}", "/poison/{render_id}/retry",
        "/audit",
        "/files/{job_id}/{index}.{extension}", "/models", "/models/{model_id}", "/healthz",
        "/readyz", "/status", "/metrics", "/errors", "/workers", "/workers/{name}/drain",
        "/workers/{name}/release", "/v1/images/generations", "/v1/images/edits",
        "/v1/images/variations", "/openai/deployments/{deployment}/images/generations",
        "/openai/deployments/{deployment}/images/edits", "/v1/txt2img",
        *(f"/sdapi/v1/{name}" for name in (
            "txt2img", "img2img", "options", "sd-models", "samplers", "schedulers", "loras",
            "upscalers", "latent-upscale-modes", "sd-vae", "sd-modules", "progress", "interrupt",
            "png-info",
        )),
    }  # fmt: skip
    keyed = ("/jobs", "/jobs/{job_id}/retry", "/v1/images/", "/openai/", "/v1/txt2img", "/sdapi/")
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["summary"], path
            assert "422" not in operation["responses"] or path.startswith(keyed)
    post = document["paths"]["/jobs"]["post"]
    assert set(post["responses"]) >= {"200", "202", "400", "401", "413", "415", "422", "503"}
    body = post["requestBody"]["content"]["application/json"]
    assert {"prompt", "size", "num_inference_steps", "cfg_scale"} <= set(
        body["schema"]["properties"]
    )
    assert body["examples"]
    assert document["components"]["schemas"]["Problem"]
    references = re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(document))
    assert set(references) <= set(document["components"]["schemas"])


def test_every_example_of_the_document_is_a_good_order():
    client = Farm().client()
    post = client.get("/openapi.json").json()["paths"]["/jobs"]["post"]

    for example in post["requestBody"]["content"]["application/json"]["examples"].values():
        assert client.post("/jobs", json=example["value"]).status_code == 202


def test_the_guide_names_every_field_that_can_be_ordered():
    guide = (Path(__file__).parents[2] / "docs" / "api.md").read_text()

    offered = {
        name
        for name, field in NewJob.model_fields.items()
        if "in this version" not in (field.description or "")
    }
    assert {name for name in [*offered, *ALIASES, "size"] if f"`{name}`" not in guide} == set()


def test_the_page_keeps_to_its_own_origin():
    page = Farm().client().get("/")

    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert not re.search(r"https?://|<style|<script>|\son\w+=|style=", page.text)
    for asset in re.findall(r'(?:src|href)="(web/[^"]+)"', page.text):
        assert Farm().client().get(f"/{asset}").headers["cache-control"] == "no-cache"


def test_the_api_never_loads_a_model_library():
    code = (
        "import sys, api.main, api.app\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(loaded & {'torch', 'diffusers', 'transformers', 'worker', 'numpy'}))"
    )

    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert shown.stdout.strip() == "[]"


def test_aliases_are_listed_where_the_operator_wants_it():
    def names(**settings):
        data = Farm(Settings(**settings)).client().get("/models").json()["data"]
        return [(model["id"], model["precision"]) for model in data]

    plain, all_of_them = names(), names(list_aliases=True)

    assert all_of_them[: len(plain)] == plain
    assert ("lab/tiny", dict(plain)["tiny"]) in all_of_them
    assert len(all_of_them) == len({name for name, _ in all_of_them})
