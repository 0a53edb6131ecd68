"""Headers that every answer has, request ids in every line, and keys in none."""

from __future__ import annotations

import base64
import io
import json
import logging
import re
from collections.abc import Iterator

import pytest

from shared import logs
from shared.errors import StoreUnavailable
from shared.logs import redact
from shared.owners.keys import MARK, Grant, Key, digest
from shared.settings import Settings
from tests.api_kit import Farm, worker
from tests.owner_matrix import LINES, PLACES

# Without the form of our own keys, so that nothing blots them out.
GOOD, WRONG = "the-canary-that-opens-everything", "the-canary-that-opens-nothing"
OURS = MARK + "canary-canary-canary-canary-canary-canary-x"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """All that this process logs at DEBUG, as the API would write it."""
    written = io.StringIO()
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    logs.setup("api", "DEBUG")
    for handler in root.handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(written)
    yield written
    root.setLevel(before[0])
    root.handlers[:] = before[1]


def lines(log: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


# ------------------------------------------------------------------------------------- headers


@pytest.mark.parametrize(
    "path", ["/jobs", "/models", "/healthz", "/nothing", "/", "/docs", "/web/app.js", "/metrics"]
)
def test_every_answer_is_guarded(path: str) -> None:
    headers = Farm().client().get(path).headers

    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert ("script-src" in policy) == (path in ("/", "/docs"))
    assert "strict-transport-security" not in headers


def test_a_farm_behind_https_says_so() -> None:
    farm = Farm(Settings(public_url="https://art.example"))

    assert "max-age=" in farm.client().get("/healthz").headers["strict-transport-security"]


def test_a_fault_nobody_foresaw_is_guarded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    farm = Farm()
    monkeypatch.setattr(farm.store, "workers", lambda: 1 / 0)

    answer = farm.client().get("/models")

    assert answer.status_code == 500
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")


# --------------------------------------------------------------------------------- request ids


def test_every_line_of_a_request_bears_its_id(
    log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what the store says in its thread, refusals, and a fault with its traceback."""
    farm = Farm()
    deep = logging.getLogger("redis.deep")

    def faulty() -> None:
        deep.warning("asked in a thread")
        return 1 / 0

    monkeypatch.setattr(farm.store, "workers", faulty)
    asked = [("GET", "/models", 500), ("GET", "/nothing", 404), ("POST", "/jobs", 400)]

    for number, (method, path, status) in enumerate(asked):
        answer = farm.client().request(
            method, path, headers={"X-Request-Id": f"req-{number}"}, json={}
        )
        assert answer.status_code == status

    written = [line for line in lines(log) if line["logger"] in ("api", "redis.deep")]
    assert [(line["request_id"], line["message"]) for line in written] == [
        ("req-0", "asked in a thread"),
        ("req-0", "request_failed"),
        ("req-0", "request"),
        ("req-1", "request"),
        ("req-2", "request"),
    ]
    assert "ZeroDivisionError" in str(written[1]["exception"])


def test_lines_outside_a_request_bear_none(log: io.StringIO) -> None:
    logging.getLogger("api").warning("on its own")

    assert "request_id" not in lines(log)[-1]


# ------------------------------------------------------------------------------ keys in the log


def ways(key: str) -> list[tuple[dict[str, str], str]]:
    """Every way in which a client may bring its key, right or wrong: headers, and a query."""
    basic = base64.b64encode(f"x:{key}".encode()).decode()
    return [
        ({"Authorization": f"Bearer {key}"}, ""),
        ({"api-key": key}, ""),
        ({"X-API-Key": key}, ""),
        ({"Authorization": f"Basic {basic}"}, ""),
        ({"Authorization": key}, ""),
        ({}, f"?api_key={key}"),
        ({}, f"?limit={key}&index={key}&exp={key}&sig={key}&after={key}&dry_run={key}"),
        ({"Cookie": f"key={key}", "Referer": f"https://x/?key={key}"}, ""),
    ]


def routes() -> list[tuple[str, str, object]]:
    """Method, path and body of every line of the matrix: bodies that nobody has to wait for."""
    found = []
    for name, line in LINES.items():
        method, path = name.split(" ")
        places = {"job_id": "job_x", **PLACES}
        path = re.sub(r"\{(\w+)(:path)?\}", lambda match, to=places: to[match[1]], path)
        found.append((method, path, line.body))
    return found


def test_no_key_is_ever_logged(log: io.StringIO) -> None:
    """A good key and a wrong one, brought in every way to every route."""
    farm = Farm()
    farm.store.heartbeat(worker(), 60.0)
    grant = Grant(owner="alice", role="admin", submits_per_min=0)
    farm.office.keys.add(Key(id="key_1", sha256=digest(GOOD), **grant.model_dump()))

    statuses = set()
    with farm.client() as client:
        for number, (method, path, body) in enumerate(routes()):
            for turn, (headers, query) in enumerate(ways((GOOD, WRONG)[number % 2])):
                answer = client.request(method, path + query, headers=headers, json=body)
                statuses.add((number % 2, turn < 3, answer.status_code))

    assert {(0, True, 200), (1, True, 401)} <= statuses  # the good key opened, the wrong did not
    written = "\n".join(
        json.dumps(line) for line in lines(log) if not str(line["logger"]).startswith("httpx")
    )  # the client of this test is in the same process, and logs URLs
    assert len(written.splitlines()) > 400
    secrets = [form for key in (GOOD, WRONG) for form in forms(key)]
    assert [secret for secret in secrets if secret in written] == []


def forms(key: str) -> list[str]:
    """A key as it is, as the password of Basic, and as its hash: none of them may be written."""
    return [key, base64.b64encode(f"x:{key}".encode()).decode(), digest(key)]


def test_a_key_in_an_error_is_blotted_out(
    log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should a library ever quote one: our own keys can be told by their form."""
    farm = Farm()

    def quoting() -> None:
        raise StoreUnavailable(f"cannot send {OURS}") from ValueError(OURS)

    monkeypatch.setattr(farm.store, "ping", quoting)
    logging.getLogger("any").error("cannot send %s", OURS)
    farm.client().get("/readyz")

    assert OURS not in log.getvalue()
    assert redact(f"key={OURS}.") == f"key={MARK}***."


def test_settings_hide_keys() -> None:
    assert WRONG not in repr(Settings(api_keys=f"carol:{WRONG}"))
