"""The OpenAPI document says all that can be said of every route, and nothing that is not so."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import jsonschema_rs
import pytest

from api.codes import CODES
from api.openapi import fields, is_plain, operations
from tests.api_kit import Farm

PUBLIC = {
    "GET /healthz", "GET /readyz", "GET /status", "GET /errors", "OPTIONS /v1/images/generations",
}  # fmt: skip


@cache
def document() -> dict[str, Any]:
    found: dict[str, Any] = Farm().client().get("/openapi.json").json()
    return found


def described() -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Every field and parameter: its place, what has its description, what has its example."""
    schemas = [(name, schema) for name, schema in document()["components"]["schemas"].items()]
    found = []
    for name, operation in operations(document()):
        for parameter in operation.get("parameters", []):
            found.append((f"{name}?{parameter['name']}", parameter, parameter["schema"]))
        bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
        for body in bodies:
            for content in body.get("content", {}).values():
                schemas.append((name, content.get("schema", {})))
    found += [(f"{owner}.{name}", x, x) for owner, schema in schemas for name, x in fields(schema)]
    return found


def test_the_document_is_openapi_and_every_operation_is_named_once() -> None:
    assert document()["openapi"].startswith("3.1")
    names = [operation["operationId"] for _, operation in operations(document())]
    assert len(names) == len(set(names))


def test_every_field_and_parameter_has_words_and_an_example() -> None:
    """What fails here wants a line in api/glossary.py, or `Field(description=, examples=)`."""
    silent = {
        place
        for place, words, example in described()
        if not words.get("description") or (is_plain(example) and not example.get("examples"))
    }
    assert silent == set()


def test_every_example_of_a_field_fits_its_schema() -> None:
    for place, _, schema in described():
        whole = {**schema, "components": document()["components"]}
        for example in schema.get("examples", []):
            assert jsonschema_rs.is_valid(whole, example), (place, example)


@pytest.mark.parametrize("name", [name for name, _ in operations(document())])
def test_every_operation_says_what_it_does_who_may_and_what_can_go_wrong(name: str) -> None:
    operation = dict(operations(document()))[name]

    assert operation["summary"]
    assert len(operation["tags"]) == 1
    assert bool(operation.get("security")) is (name not in PUBLIC)
    assert "default" in operation["responses"]
    if operation.get("security"):
        assert "401" in operation["responses"]
    for status, response in operation["responses"].items():
        assert response["description"], status
        content = response.get("content", {})
        if status.startswith("2") and status not in ("204", "206"):
            assert content, f"{status} says nothing of its body"
        if "application/problem+json" in content:
            assert content["application/problem+json"]["examples"], status


def test_every_tag_is_explained() -> None:
    used = {tag for _, operation in operations(document()) for tag in operation["tags"]}
    assert {tag["name"] for tag in document()["tags"]} == used


def test_every_example_of_a_fault_is_one_and_every_code_has_one() -> None:
    problem = {
        **document()["components"]["schemas"]["Problem"],
        "components": document()["components"],
    }
    shown = set()
    for name, operation in operations(document()):
        for status, response in operation["responses"].items():
            content = response.get("content", {}).get("application/problem+json", {})
            for code, example in content.get("examples", {}).items():
                assert jsonschema_rs.is_valid(problem, example["value"]), (name, code)
                assert status in (str(example["value"]["status"]), "default")
                shown.add(code)
    foreseen = {code for code, kind in CODES.items() if min(kind.statuses) < 500}
    assert foreseen - shown <= {"unknown_url", "request_timeout"}


def test_a_real_job_fits_its_schema() -> None:
    farm = Farm()
    with farm.client() as client:
        queued = client.post("/jobs", json={"prompt": "a fox", "size": "64x64"}).json()
        farm.render()
        done = client.get(f"/jobs/{queued['id']}").json()

    whole = {"$ref": "#/components/schemas/JobView", "components": document()["components"]}
    for job in (queued, done):
        jsonschema_rs.validate(whole, job)


def test_the_document_names_no_machine() -> None:
    assert "localhost" not in json.dumps(document())
    assert "127.0.0.1" not in json.dumps(document())
