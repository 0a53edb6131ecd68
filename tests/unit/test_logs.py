"""Log lines: one JSON object each, with the fields of the event and without passwords."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest

from shared.jobs import TraceContext
from shared.logs import _Json, _Text, event, redact
from shared.traces import Unrecorded, within

log = logging.getLogger("farm.test")


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level("DEBUG", "farm.test")
    return caplog


def test_an_event_is_one_json_object(lines: pytest.LogCaptureFixture) -> None:
    event(log, "claimed", job="job_1", render="r1", worker=None)

    seen = json.loads(_Json("worker").format(lines.records[0]))

    assert seen["action"] == seen["message"] == "claimed"
    assert (seen["job"], seen["render"], seen["component"]) == ("job_1", "r1", "worker")
    assert "worker" not in seen
    assert seen["time"].endswith("Z")


def test_people_get_words(lines: pytest.LogCaptureFixture) -> None:
    event(log, "claimed", logging.WARNING, job="job_1")

    assert _Text("worker").format(lines.records[0]).endswith("worker WARNING claimed job=job_1")


def test_no_password_gets_through(lines: pytest.LogCaptureFixture) -> None:
    try:
        raise ConnectionError("cannot reach redis://:hunter2@db:6379/0")
    except ConnectionError:
        log.exception("lost redis://user:hunter2@db")

    for formatter in (_Json("api"), _Text("api")):
        assert "hunter2" not in formatter.format(lines.records[0])
    assert redact("s3://bucket/key") == "s3://bucket/key"


def test_a_line_names_the_trace_that_its_thread_is_in(lines: pytest.LogCaptureFixture) -> None:
    context = TraceContext(parent=f"00-{'4' * 32}-{'a' * 16}-01")
    with within(Unrecorded(context)):
        event(log, "claimed", job="job_1")
        seen = json.loads(_Json("worker").format(lines.records[0]))

    assert seen["trace"] == "4" * 32
    assert "trace" not in json.loads(_Json("worker").format(lines.records[0]))


def test_servers_and_libraries_that_bring_handlers_write_our_lines() -> None:
    code = (
        "import logging, uvicorn; from shared import logs; uvicorn.Config('api.main:app'); "
        "logs.setup('api'); logs.take_over('torch'); "
        "logging.getLogger('uvicorn.error').info('Application startup complete.'); "
        "logging.getLogger('uvicorn.access').info('GET /files/a?signature=secret'); "
        "logging.getLogger('torch.utils').warning('deprecated')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    said = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(line["logger"], line["component"]) for line in said] == [
        ("uvicorn.error", "api"), ("torch.utils", "api"),
    ]  # fmt: skip


@pytest.mark.parametrize("password", ["hunter2", "p@ss", "a:b", ":@:@"])
def test_a_password_is_hidden_whole(password: str) -> None:
    told = f"lost redis://user:{password}@db:6379/0, asked by a@b"

    assert redact(told) == "lost redis://user:***@db:6379/0, asked by a@b"
