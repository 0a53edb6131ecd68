"""Every route of the application, asked by everybody: the lines are in tests/owner_matrix.py."""

from __future__ import annotations

import re

import pytest
from fastapi.routing import iter_route_contexts

from shared.settings import Settings
from tests.api_kit import Farm, worker
from tests.owner_matrix import LINES, ORDER, PLACES, SECRET, Line

KEYS = "alice:alice-key bob:bob-key root:root-key:admin"
WHO = {"nobody": None, "wrong key": "no-key", "other": "bob-key", "owner": "alice-key",
       "admin": "root-key"}  # fmt: skip


def spelled(farm: Farm) -> list[str]:
    """`METHOD /path` of everything that the application answers."""
    found = set()
    for route in iter_route_contexts(farm.app.routes):
        methods = route.methods or {"GET"}
        found |= {f"{method} {route.path or '/'}" for method in methods}
    return sorted(found)


def line_of(route: str) -> Line | None:
    for name in (route, route.replace("HEAD ", "GET ")):
        for spelling in (name, name.replace(" /v1/", " /")):
            if spelling in LINES:
                return LINES[spelling]
    return None


ROUTES = spelled(Farm())


def test_every_route_has_a_line_and_every_line_a_route() -> None:
    assert [route for route in ROUTES if line_of(route) is None] == []
    assert [line for line in LINES if line not in ROUTES] == []


def expected(line: Line) -> dict[str, int]:
    """Status by who asks."""
    everybody = dict.fromkeys(WHO, line.status)
    if line.kind == "free":
        return everybody
    closed = {"nobody": 401, "wrong key": 401}
    if line.kind == "about_job":
        closed |= {"other": 404}
    if line.kind == "for_admin":
        closed |= {"other": 403, "owner": 403}
    return everybody | closed


@pytest.mark.parametrize("route", ROUTES)
def test_everybody_gets_what_is_theirs(route: str) -> None:
    line = line_of(route)
    assert line is not None, "give it a line in tests/owner_matrix.py"
    farm = Farm(Settings(api_keys=KEYS))
    farm.store.heartbeat(worker(), 60.0)

    seen, told = {}, {}
    for who in WHO:
        answer = ask(farm, route, line, WHO[who])
        seen[who], told[who] = answer.status_code, answer.text

    assert seen == expected(line)
    for who in ("nobody", "wrong key", "other"):
        assert SECRET not in told[who], who
        assert "alice" not in told[who], who


def ask(farm: Farm, route: str, line: Line, key: str | None):
    """The answer to one caller; alice has a job of her own for each."""
    method, path = route.split(" ")
    job_id = alices_job(farm, line) if line.kind == "about_job" else ""
    places = {"job_id": job_id, **PLACES}
    path = re.sub(r"\{(\w+)(:path)?\}", lambda match: places[match[1]], path)
    return farm.client(key).request(method, path + line.query, json=line.body)


def alices_job(farm: Farm, line: Line) -> str:
    job = farm.client("alice-key").post("/jobs", json={**ORDER, "cache": "bypass"}).json()
    if line.job == "done":
        farm.render()
    return str(job["id"])
