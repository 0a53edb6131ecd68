"""The OpenAPI document, completed: words and examples for every field, every fault with one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from api.codes import CODES, kind_of
from api.glossary import WORDS

Schema = dict[str, Any]

TAGS = {
    "jobs": "Order images, look, fetch, cancel.",
    "files": "Pictures by signed URL.",
    "webhooks": "Who is told of jobs: the secret, what became of deliveries, another try.",
    "inputs": "Pictures to start from, kept for later orders.",
    "OpenAI": "The Images API of OpenAI's clients, also without `/v1`.",
    "image bytes": "One picture as the answer, as Hugging Face's clients want it.",
    "A1111": "What tools of AUTOMATIC1111's web UI ask for.",
    "models": "What can be ordered, and who serves it.",
    "operations": "For probes, operators and admins.",
}


def complete(document: Schema) -> Schema:
    """The document with words and examples where a schema, a parameter or a fault has none."""
    used = {tag for _, operation in operations(document) for tag in operation.get("tags", [])}
    document["tags"] = [
        {"name": tag, "description": words} for tag, words in TAGS.items() if tag in used
    ]
    for name, schema in document["components"]["schemas"].items():
        _describe(name, schema)
    for _, operation in operations(document):
        for parameter in operation.get("parameters", []):
            _put(parameter, parameter["name"], parameter["schema"])
        for status, response in operation["responses"].items():
            _exemplify(status, response)
        for body in (operation.get("requestBody", {}), *operation["responses"].values()):
            for content in body.get("content", {}).values():
                _describe("", content.get("schema", {}))
    return document


def operations(document: Schema) -> Iterator[tuple[str, Schema]]:
    """`GET /path` and the operation, for each."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def fields(schema: Schema) -> Iterator[tuple[str, Schema]]:
    """Each property, also of objects inside."""
    for name, found in schema.get("properties", {}).items():
        yield name, found
        yield from fields(found)
        yield from fields(found.get("items", {}))


def _describe(owner: str, schema: Schema) -> None:
    for name, found in fields(schema):
        _put(found, f"{owner}.{name}" if f"{owner}.{name}" in WORDS else name, found)


def _put(described: Schema, name: str, exemplified: Schema) -> None:
    """What it says itself stays."""
    words, example = WORDS.get(name) or WORDS.get(name.lower(), ("", None))
    if words:
        described.setdefault("description", words)
        if is_plain(exemplified):
            exemplified.setdefault("examples", [example])


def is_plain(schema: Schema) -> bool:
    """Whether an example would help: its values are neither listed, nor described elsewhere."""
    inside = [*schema.get("anyOf", []), *([schema["items"]] if schema.get("items") else [])]
    listed = {"$ref", "const", "enum", "oneOf"} & schema.keys() or schema.get("format") == "binary"
    return not listed and all(map(is_plain, inside))


def _exemplify(status: str, response: Schema) -> None:
    """An example for each code that a fault's description names."""
    content = response.get("content", {}).get("application/problem+json")
    if content is None:
        return
    named = [code for code in response["description"].split("`") if code in CODES]
    if named:
        examples = {code: _example(status, code) for code in named}
        response["content"] = {"application/problem+json": {**content, "examples": examples}}


def _example(status: str, code: str) -> Schema:
    kind = kind_of(code)
    problem = {
        "type": f"/errors#{code}",
        "title": kind.title,
        "status": int(status) if status.isdigit() else kind.statuses[0],
        "detail": kind.meaning,
        "instance": "/jobs",
        "request_id": WORDS["request_id"][1],
        "error": {"message": kind.meaning, "type": kind.type, "param": None, "code": code},
    }
    return {"summary": kind.meaning, "value": problem}
