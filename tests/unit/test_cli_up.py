import shutil
import socket
import subprocess

import pytest
from click.testing import CliRunner
from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response

from cli.hints import base_url, curl_line, how_to_use
from cli.main import main
from cli.screen import FarmScreen, describe
from renderfarm_client import FarmStatus
from shared.catalog import load_catalog
from shared.settings import Settings, load_settings, variable
from tests.loopback import serving

TINY = load_catalog().find("tiny")


@pytest.fixture
def up(monkeypatch, tmp_path):
    def run(*options, **env):
        return CliRunner().invoke(main, ["up", *options], env=env, prog_name="renderfarm")

    for field in Settings.model_fields:
        monkeypatch.delenv(variable(field), raising=False)
    monkeypatch.chdir(tmp_path)
    return run


def loading(*steps, error=None):
    """A /status with one worker of `tiny` that has reached these steps: (name, status, seconds)."""
    fields = ("name", "status", "seconds")
    worker = {
        "state": "loading",
        "steps": [dict(zip(fields, step, strict=True)) for step in steps],
        "error": error,
    }
    models = [{"id": "tiny", "ready": False, "workers": [worker]}]
    return FarmStatus.model_validate({"ready": True, "models": models})


def test_a_taken_port_is_told_before_anything_starts(up, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = up("--port", str(port))

    assert result.exit_code == 2
    assert f"port {port}" in result.stderr
    assert "--port" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [(("--model", "nonsense"), "there is no model 'nonsense'"), (("--gpus", "77"), "no GPU 77")],
)
def test_a_farm_that_cannot_be_is_refused_in_one_line(up, options, words):
    result = up("--port", "0", *options)

    assert result.exit_code == 2
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_line_orders_waits_and_leaves_a_picture(tmp_path):
    app, looks, orders = FastAPI(), iter([202, 202, 200]), []

    @app.post("/jobs")
    def submit(order: dict):
        orders.append(order)
        return JSONResponse({"id": "job_01JD8Q", "urls": {"self": "/jobs/job_01JD8Q"}}, 202)

    @app.get("/jobs/job_01JD8Q/result")
    def result():
        return Response(b"a picture", next(looks))

    with serving(app) as url:
        subprocess.run(["sh", "-c", curl_line(url)], cwd=tmp_path, check=True, capture_output=True)

    assert orders == [{"prompt": "a lighthouse at dusk"}]
    assert (tmp_path / "lighthouse.png").read_bytes() == b"a picture"


def test_the_last_words_before_work_name_url_page_and_commands_on_lines_of_their_own():
    lines = how_to_use(load_settings({"FARM_PORT": "8123"}), TINY).splitlines()

    assert any(line.startswith("job=$(curl") and line.endswith("lighthouse.png") for line in lines)
    assert any('renderfarm render "a lighthouse at dusk"' in line for line in lines)
    assert "  docs  http://127.0.0.1:8123/docs" in lines


def test_a_key_is_named_by_its_variable_and_never_shown():
    settings = load_settings({"FARM_API_KEYS": "alice:wonder"})

    text = how_to_use(settings, TINY)

    assert "Bearer $RENDERFARM_KEY" in text
    assert "wonder" not in text


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("::1", "http://[::1]:8000"),
        ("farm.local", "http://farm.local:8000"),
    ],
)
def test_the_url_is_one_that_this_machine_can_open(host, url):
    assert base_url(load_settings({"FARM_HOST": host})) == url


def test_loading_steps_are_told_as_far_as_they_are_reached():
    status = loading(
        ("download", "skipped", None), ("preflight", "done", 0.04), ("load", "running", None),
        ("warmup", "waiting", None),
    )  # fmt: skip

    assert describe(status, "tiny") == ["worker 1: preflight 0.0 s, load..."]


def test_a_worker_that_cannot_load_says_why():
    status = loading(("download", "failed", None), error="accept the licence on the model page")

    assert describe(status, "tiny") == ["worker 1: accept the licence on the model page"]


def test_before_the_first_heartbeat_the_reason_is_told():
    status = FarmStatus(ready=False, reason="the job store does not answer")

    assert describe(None, "tiny") == ["waiting for the API"]
    assert describe(status, "tiny") == ["waiting for a worker (the job store does not answer)"]


def test_without_a_terminal_each_change_is_one_line(capsys):
    with FarmScreen() as screen:
        screen.show(None, "tiny")
        screen.show(None, "tiny")
        screen.show(loading(("load", "running", None)), "tiny")

    assert capsys.readouterr().out.splitlines() == [
        "renderfarm: waiting for the API",
        "renderfarm: worker 1: load...",
    ]
