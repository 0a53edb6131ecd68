"""Bad input is a 4xx that names the field, and queues nothing."""

import json
import tracemalloc
from urllib.parse import quote

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.errors import Problem
from api.reading import parse
from api.schemas import Limits, NewJob
from shared.settings import Settings
from tests.api_kit import CATALOG, Farm

FOX = {"prompt": "a red fox"}


@pytest.fixture
def farm():
    return Farm()


@pytest.fixture
def client(farm):
    return farm.client()


def refused(response, farm, status, code, param=None):
    """The problem, checked for its shape; nothing is queued."""
    problem = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert (response.status_code, problem["status"]) == (status, status), problem
    assert problem["error"]["code"] == code, problem
    assert problem["error"]["param"] == param, problem
    assert problem["type"] == f"/errors#{code}"
    assert problem["error"]["message"] == problem["detail"]
    assert problem["request_id"] == response.headers["x-request-id"]
    assert "Traceback" not in response.text
    assert farm.pending == 0
    return problem


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"prompt": None}, "missing_field", "prompt"),
        ({"prompt": ""}, "invalid_value", "prompt"),
        ({"prompt": " \n\t"}, "invalid_value", "prompt"),
        ({"prompt": "a\x00b"}, "invalid_value", "prompt"),
        ({"prompt": 7}, "invalid_value", "prompt"),
        ({"prompt": ["a"]}, "invalid_value", "prompt"),
        ({"prompt": "a" * 32_001}, "invalid_value", "prompt"),
        ({"prompt": "a" * 10_000_000}, "invalid_value", "prompt"),
        ({"negative_prompt": "a" * 32_001}, "invalid_value", "negative_prompt"),
        ({"negative_prompt": {}}, "invalid_value", "negative_prompt"),
        ({"model": "nobody"}, "model_not_found", "model"),
        ({"model": ""}, "model_not_found", "model"),
        ({"model": 3}, "invalid_value", "model"),
        ({"size": "17x0"}, "invalid_size", "size"),
        ({"size": "256"}, "invalid_size", "size"),
        ({"size": "256x256\n"}, "invalid_size", "size"),
        ({"size": 256}, "invalid_size", "size"),
        ({"size": "٢٥٦x256"}, "invalid_size", "size"),
        ({"size": "100000x16"}, "invalid_size", "size"),
        ({"width": 100}, "invalid_size", "width"),
        ({"width": 48}, "invalid_size", "width"),
        ({"height": 0}, "invalid_size", "height"),
        ({"height": -256}, "invalid_size", "height"),
        ({"height": "256"}, "invalid_size", "height"),
        ({"width": 256.0}, "invalid_size", "width"),
        ({"width": 10**30}, "invalid_size", "width"),
        ({"width": 1024, "height": 1024}, "invalid_size", "height"),
        ({"size": "1024x1024"}, "invalid_size", "size"),
        ({"n": 0}, "invalid_value", "n"),
        ({"n": -1}, "invalid_value", "n"),
        ({"n": 11}, "invalid_value", "n"),
        ({"n": 1.5}, "invalid_value", "n"),
        ({"n": "1"}, "invalid_value", "n"),
        ({"n": True}, "invalid_value", "n"),
        ({"seed": -2}, "invalid_value", "seed"),
        ({"seed": 2**32}, "invalid_value", "seed"),
        ({"seed": 10**400}, "invalid_value", "seed"),
        ({"seed": "42"}, "invalid_value", "seed"),
        ({"steps": 0}, "invalid_value", "steps"),
        ({"steps": 51}, "invalid_value", "steps"),
        ({"num_inference_steps": 51}, "invalid_value", "num_inference_steps"),
        ({"guidance_scale": -1}, "invalid_value", "guidance_scale"),
        ({"guidance_scale": 31}, "invalid_value", "guidance_scale"),
        ({"cfg_scale": "4"}, "invalid_value", "cfg_scale"),
        ({"shift": 0}, "invalid_value", "shift"),
        ({"shift": 21}, "invalid_value", "shift"),
        ({"output_format": "gif"}, "invalid_value", "output_format"),
        ({"output_compression": 101}, "invalid_value", "output_compression"),
        ({"cache": "no"}, "invalid_value", "cache"),
        ({"priority": "urgent"}, "invalid_value", "priority"),
        ({"deadline_s": 0}, "invalid_value", "deadline_s"),
        ({"deadline_s": 86_401}, "invalid_value", "deadline_s"),
        ({"metadata": {"a": 1}}, "invalid_value", "metadata/a"),
        ({"metadata": {"a/b": None}}, "invalid_value", "metadata/a~1b"),
        ({"metadata": {str(k): "" for k in range(17)}}, "invalid_value", "metadata"),
        ({"metadata": {"k" * 65: ""}}, "invalid_value", "metadata/" + "k" * 65),
        ({"metadata": []}, "invalid_value", "metadata"),
        ({"metadata": {"[key]": 1}}, "invalid_value", "metadata/[key]"),
        ({"[key]": 1}, "unknown_field", "[key]"),
        ({"promt": "x"}, "unknown_field", "promt"),
        ({"steps": 4, "num_inference_steps": 5}, "conflicting_fields", "num_inference_steps"),
        ({"width": 128, "size": "256x256"}, "conflicting_fields", "size"),
        ({"webhook": {"url": "http://example.org"}}, "webhook_url_not_allowed", "webhook/url"),
        ({"webhook": {"url": "https://10.0.0.1/"}}, "webhook_url_not_allowed", "webhook/url"),
        ({"webhook": {"url": 7}}, "invalid_value", "webhook/url"),
        ({"webhook": {}}, "missing_field", "webhook/url"),
        ({"webhook": "https://example.org"}, "invalid_value", "webhook"),
        ({"webhook": {"url": "https://example.org", "events": []}}, "invalid_value", "webhook/events"),
        ({"webhook": {"url": "https://example.org", "events": ["job.queued"]}}, "invalid_value", "webhook/events/0"),
        ({"webhook": {"url": "https://example.org", "secret": "x"}}, "unknown_field", "webhook/secret"),
        ({"init_image": "aGk="}, "invalid_image", "init_image"),
        ({"init_image": 0}, "invalid_image", "init_image"),
        ({"mask_image": {"job": "x"}}, "invalid_image", "mask_image"),
        ({"mask_image": "aGk="}, "invalid_value", "mask_image"),
        ({"strength": 0.5}, "invalid_value", "strength"),
        ({"loras": [{"name": "a", "scale": 1}]}, "lora_not_found", "loras"),
        ({"loras": "ink"}, "invalid_value", "loras"),
        ({"loras": ["ink"]}, "invalid_value", "loras/0"),
        ({"loras": [{"scale": 1}]}, "missing_field", "loras/0/name"),
        ({"loras": [{"name": "a", "scale": 2.1}]}, "invalid_value", "loras/0/scale"),
        ({"loras": [{"name": "a", "weight": 1}]}, "unknown_field", "loras/0/weight"),
        ({"loras": [{"name": str(k)} for k in range(5)]}, "invalid_value", "loras"),
        ({"loras": [{"name": "a"}, {"name": "a"}]}, "invalid_value", "loras"),
        ({"skip_layer_guidance": 2.8}, "unsupported_for_model", "skip_layer_guidance"),
        ({"skip_layer_guidance": 11}, "invalid_value", "skip_layer_guidance"),
        ({"preset": "fast"}, "invalid_value", "preset"),
        ({"partial_images": 4}, "invalid_value", "partial_images"),
        ({"partial_images": -1}, "invalid_value", "partial_images"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_a_bad_field_is_refused_by_its_name(farm, client, fields, code, param):
    problem = refused(client.post("/jobs", json=FOX | fields), farm, 400, code, param)

    assert problem["errors"][0]["pointer"] == f"#/{param}"
    assert len(json.dumps(problem)) < 2000


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"prompt": None}, "prompt: is required"),
        ({"promt": "x"}, "promt: there is no such field"),
        ({"webhook": "https://example.org"}, "webhook: must be an object"),
        ({"metadata": []}, "metadata: must be an object"),
    ],
)
def test_a_refusal_speaks_of_the_order_and_of_no_part_of_ours(farm, client, fields, told):
    assert client.post("/jobs", json=FOX | fields).json()["detail"] == told


def test_every_bad_field_is_listed_at_once(farm, client):
    order = {"size": "17x0", "n": 0, "steps": 5000, "nonsense": 1, "metadata": {"a": 1}}

    problem = refused(client.post("/jobs", json=order), farm, 400, "missing_field", "prompt")

    named = {error["pointer"] for error in problem["errors"]}
    assert named == {"#/prompt", "#/size", "#/n", "#/steps", "#/nonsense", "#/metadata/a"}


def test_a_million_unknown_fields_get_a_short_answer(farm, client):
    order = FOX | {f"{k:x}" * 20: 1 for k in range(10_000)}

    response = client.post("/jobs", json=order)

    refused(response, farm, 400, "unknown_field", "0" * 20)
    assert len(response.content) < 20_000


@pytest.mark.parametrize("nested", [False, True])
def test_many_bad_fields_cost_no_more_than_reading_them(nested):
    many = {f"{k:x}": 1 for k in range(100_000)}
    order = {"prompt": "a", "metadata": many} if nested else {"prompt": "a"} | many
    body, limits = json.dumps(order).encode(), Limits(CATALOG, 10)

    tracemalloc.start()
    with pytest.raises(Problem) as refusal:
        parse(body, limits)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert len(refusal.value.faults) <= 32
    assert peak_bytes < 40 * 2**20


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"prompt=a",
        b'{"prompt": "a",}',
        b'{"prompt": "a", "shift": NaN}',
        b'{"prompt": "a", "shift": -Infinity}',
        b'{"prompt": "a", "seed": ' + b"9" * 100_000 + b"}",
        b'{"prompt": "\xff"}',
        b'{"prompt": "\\ud800"}',
        b"\xff\xfe{\x00}\x00",
        b"[" * 100_000,
        b'{"metadata":' * 10_000,
        b"[]",
        b"null",
        b'"prompt"',
    ],
    ids=lambda body: repr(body[:30]),
)
def test_a_body_that_is_no_json_object_is_refused(farm, client, body):
    response = client.post("/jobs", content=body, headers={"Content-Type": "application/json"})

    refused(response, farm, 400, "invalid_json")


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
values = st.recursive(scalars, lambda v: st.lists(v) | st.dictionaries(st.text(), v), max_leaves=8)
FIELDS = [*NewJob.model_fields, "size", "num_inference_steps", "cfg_scale", "nonsense"]


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), values) | values)
def test_no_body_costs_a_5xx(order):
    farm = Farm()
    headers = {"Content-Type": "application/json"}

    response = farm.client().post("/jobs", content=json.dumps(order), headers=headers)

    assert response.status_code in (202, 400)
    assert farm.pending == (len(response.json()["images"]) if response.status_code == 202 else 0)


@settings(max_examples=50, deadline=None)
@given(st.text(), st.text(), st.text(), st.text())
def test_no_url_or_header_costs_a_5xx(part, query, header, tag):
    client = Farm().client()
    path = quote(part, safe="/")
    headers = {
        name: value.encode("utf-8", "ignore").replace(b"\n", b"").replace(b"\r", b"")
        for name, value in (("Accept", header), ("Range", tag), ("If-None-Match", tag))
    }
    for url in ("/jobs/{}", "/jobs/{}/result", "/files/{}/0.png", "/models/{}", "/{}"):
        response = client.get(
            url.format(path), params={"index": query, "sig": query}, headers=headers
        )
        assert response.status_code < 500


def test_an_endless_number_is_refused(farm, client):
    body = b'{"prompt": "a", "shift": 1e999}'

    response = client.post("/jobs", content=body, headers={"Content-Type": "application/json"})

    refused(response, farm, 400, "invalid_value", "shift")


def test_null_means_absent_and_equal_spellings_agree(client):
    order = FOX | {
        "negative_prompt": None, "n": None, "model": None, "webhook": None, "init_image": None,
        "steps": 4, "num_inference_steps": 4, "size": "128x128", "width": 128, "loras": [],
        "partial_images": 0,
    }  # fmt: skip

    assert client.post("/jobs", json=order).status_code == 202


def test_an_order_that_is_not_json_by_name_is_415(farm, client):
    for kind in ("application/x-www-form-urlencoded", "text/plain", "multipart/mixed"):
        headers = {"Content-Type": kind}
        response = client.post("/jobs", content=json.dumps(FOX), headers=headers)
        refused(response, farm, 415, "unsupported_media_type")
    headers = {"Content-Type": "application/json; charset=utf-8"}
    assert client.post("/jobs", content=json.dumps(FOX), headers=headers).status_code == 202


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_413_however_it_is_sent(chunked):
    farm = Farm(Settings(max_body_mb=1))
    body = json.dumps({"prompt": "a" * 2**20}).encode()
    pieces = (body[at : at + 65_536] for at in range(0, len(body), 65_536))

    response = farm.client().post(
        "/jobs", content=pieces if chunked else body, headers={"Content-Type": "application/json"}
    )

    refused(response, farm, 413, "body_too_large")


def test_reading_stops_at_the_limit():
    farm = Farm(Settings(max_body_mb=1))
    taken = 0

    def endless():
        nonlocal taken
        for _ in range(1000):
            taken += 65_536
            yield b" " * 65_536

    async def receive():
        return {"type": "http.request", "body": next(pieces), "more_body": True}

    async def send(message):
        sent.append(message)

    pieces, sent = endless(), []
    scope = {
        "type": "http", "method": "POST", "path": "/jobs", "raw_path": b"/jobs", "root_path": "",
        "query_string": b"", "headers": [], "http_version": "1.1", "scheme": "http",
    }  # fmt: skip
    anyio.run(farm.app, scope, receive, send)

    assert sent[0]["status"] == 413
    assert taken <= 2**20 + 65_536


@pytest.mark.parametrize("key", ["", "a b", "ä", "k" * 256, "\t"])
def test_an_idempotency_key_is_visible_ascii(farm, client, key):
    headers = [(b"Idempotency-Key", key.encode("latin-1"))]

    response = client.post("/jobs", json=FOX, headers=headers)

    refused(response, farm, 400, "invalid_idempotency_key", "Idempotency-Key")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "unknown_url"),
        ("POST", "/nothing", 404, "unknown_url"),
        ("GET", "/jobs/", 404, "unknown_url"),
        ("GET", "/web/nothing.js", 404, "unknown_url"),
        ("GET", "/web/../app.py", 404, "unknown_url"),
        ("GET", "/jobs/nothing", 404, "job_not_found"),
        ("GET", "/jobs/%00", 404, "job_not_found"),
        ("GET", "/jobs/" + "x" * 5000, 404, "job_not_found"),
        ("GET", "/jobs/01JD8QZ4M3N5P7R9S1T3V5W7X9", 404, "job_not_found"),
        ("GET", "/jobs/job_81JD8QZ4M3N5P7R9S1T3V5W7X9", 404, "job_not_found"),
        ("POST", "/jobs/nothing/cancel", 404, "job_not_found"),
        ("POST", "/jobs/nothing/retry", 404, "job_not_found"),
        ("POST", "/poison/nothing/retry", 404, "render_not_found"),
        ("DELETE", "/poison/nothing", 404, "render_not_found"),
        ("GET", "/jobs/nothing/result", 404, "job_not_found"),
        ("GET", "/files/nothing/0.png", 404, "job_not_found"),
        ("GET", "/files/nothing/0.gif", 404, "unknown_url"),
        ("GET", "/files/nothing/-1.png", 404, "unknown_url"),
        ("GET", "/files/nothing/" + "9" * 5000 + ".png", 404, "unknown_url"),
        ("GET", "/models/nothing", 404, "model_not_found"),
        ("GET", "/models/nothing/at/all", 404, "model_not_found"),
        ("GET", "/readyz?model=nothing", 400, "model_not_found"),
        ("PUT", "/jobs/nothing", 405, "method_not_allowed"),
        ("GET", "/jobs/nothing/cancel", 405, "method_not_allowed"),
        ("POST", "/web/app.js", 405, "method_not_allowed"),
        ("BREW", "/jobs", 405, "method_not_allowed"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_url_or_method_that_is_not_there(farm, client, method, path, status, code):
    problem = client.request(method, path).json()

    assert (problem["status"], problem["error"]["code"]) == (status, code)
    assert problem["instance"].startswith("/")


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/jobs", "GET, HEAD, POST"),
        ("/v1/jobs/nothing", "DELETE, GET, HEAD"),
        ("/models", "GET, HEAD"),
        ("/web/x", "GET, HEAD"),
    ],
)
def test_a_405_names_every_method_of_the_url(client, path, methods):
    assert client.request("PATCH", path).headers["allow"] == methods


@pytest.mark.parametrize("path", ["/jobs", "/v1/images/generations", "/sdapi/v1/txt2img"])
def test_a_body_of_millions_of_values_is_not_taken_apart(client, farm, path):
    body = b'{"prompt":"a red fox","metadata":[' + b"[]," * 2**20 + b"[]]}"

    tracemalloc.start()
    response = client.post(path, content=body, headers={"Content-Type": "application/json"})
    _, most_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    refused(response, farm, 400, "invalid_json")
    assert most_bytes < 8 * len(body)


def test_a_prompt_of_nothing_but_commas_is_an_order(client):
    order = {"prompt": "," * 32_000, "negative_prompt": "," * 32_000}

    assert client.post("/jobs", json=order).status_code == 202
