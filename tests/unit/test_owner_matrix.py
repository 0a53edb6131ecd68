"""Every route of the application, asked by everybody: the lines are in tests/owner_matrix.py."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts

from tests.api_kit import Farm, worker
from tests.owner_matrix import LINES, ORDER, PLACES, SECRET, Line

# Whoever asks, and what his key is good for; None: he has none, or one that nobody made.
WHO: dict[str, dict[str, Any] | None] = {
    "nobody": None,
    "wrong key": None,
    "other": {"owner": "bob"},
    "owner": {"owner": "alice"},
    "owner, to look only": {"owner": "alice", "scopes": {"read"}},
    "owner, to order only": {"owner": "alice", "scopes": {"submit"}},
    "admin": {"owner": "root", "role": "admin"},
}
REFUSED = ("nobody", "wrong key", "other")


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


def expected(line: Line, method: str) -> dict[str, int]:
    """Status by who asks."""
    everybody = dict.fromkeys(WHO, line.status)
    if line.kind == "free":
        return everybody
    closed = {"nobody": 401, "wrong key": 401}
    if line.kind == "about_job":
        closed |= {"other": 404}
    if line.kind == "for_admin":
        return everybody | dict.fromkeys(WHO, 403) | closed | {"admin": line.status}
    wants_read = method in ("GET", "HEAD")
    return everybody | closed | {"owner, to " + ("order" if wants_read else "look") + " only": 403}


@pytest.mark.parametrize("route", ROUTES)
def test_everybody_gets_what_is_theirs(route: str) -> None:
    line = line_of(route)
    assert line is not None, "give it a line in tests/owner_matrix.py"
    farm = Farm()
    keys = {who: farm.key(**grant) for who, grant in WHO.items() if grant}
    keys["wrong key"] = "rf_nobody-made-this"
    farm.store.heartbeat(worker(), 60.0)

    seen, told = {}, {}
    for who in WHO:
        answer = ask(farm, route, line, keys.get(who), alice=keys["owner"])
        seen[who], told[who] = answer.status_code, answer.text

    assert seen == expected(line, route.split(" ")[0])
    for who in REFUSED:
        assert SECRET not in told[who], who
        assert line.kind == "free" or "alice" not in told[who], who


def ask(farm: Farm, route: str, line: Line, key: str | None, *, alice: str):
    """The answer to one caller; alice has a job of her own for each."""
    method, path = route.split(" ")
    job_id = alices_job(farm, line, alice) if line.kind == "about_job" else ""
    places = {"job_id": job_id, **PLACES}
    path = re.sub(r"\{(\w+)(:path)?\}", lambda match: places[match[1]], path)
    return farm.client(key).request(method, path + line.query, json=line.body)


def alices_job(farm: Farm, line: Line, key: str) -> str:
    job = farm.client(key).post("/jobs", json={**ORDER, "cache": "bypass"}).json()
    if line.job == "done":
        farm.render()
    return str(job["id"])
