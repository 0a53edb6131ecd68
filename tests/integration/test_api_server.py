"""The API as a process of its own, on a real Redis server."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import httpx2
import pytest
from starlette.testclient import TestClient

import api.main
from shared.errors import SettingsError
from shared.owners import open_office
from shared.owners.keys import Grant, make
from shared.settings import Settings, environment

STARTED = re.compile(r"http://127\.0\.0\.1:(\d+)")


@pytest.fixture
def server(redis_server, tmp_path):
    """(URL, process, log) of a served farm with one key."""
    settings = Settings(
        redis_url=redis_server, data_dir=tmp_path, port=0, api_keys="alice:alice-key"
    )
    log = tmp_path / "api.log"
    code = "from api.main import serve; from shared.settings import load_settings as l; serve(l())"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", code], env=os.environ | environment(settings), stderr=stderr
        )
    try:
        yield _url(process, log), process, log
    finally:
        process.kill()
        process.wait()


def _url(process, log):
    until = time.monotonic() + 20
    while not (match := STARTED.search(log.read_text())):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.02)
    return f"http://127.0.0.1:{match[1]}"


def test_a_served_farm_takes_orders_and_leaves_in_order(server):
    url, process, log = server
    headers = {"Authorization": "Bearer alice-key"}

    with httpx2.Client(base_url=url, headers=headers) as client:
        assert client.get("/readyz").json()["checks"] == {"redis": True, "storage": True}
        job = client.post("/jobs", json={"prompt": "a fox"}).json()
        assert client.get(job["urls"]["self"]).json()["status"] == "queued"
        assert client.head(job["urls"]["self"]).content == b""
        assert client.post(f"{job['urls']['self']}/cancel").json()["status"] == "canceled"

    process.terminate()
    assert process.wait(10) in (0, -signal.SIGTERM)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    requests = [line for line in lines if line.get("action") == "request"]
    assert [line["status"] for line in requests] == [200, 202, 200, 200, 200]
    assert all(line["component"] == "api" for line in lines)
    assert "alice-key" not in log.read_text()


def test_a_served_farm_lives_while_redis_is_away(tmp_path):
    settings = Settings(redis_url="redis://127.0.0.1:1/0", data_dir=tmp_path)

    client = TestClient(api.main.build(settings))

    assert client.get("/healthz").status_code == 200
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["checks"]["redis"]) == (503, False)


def test_the_root_refuses_an_open_door(redis_server, tmp_path):
    settings = Settings(host="0.0.0.0", data_dir=tmp_path, redis_url=redis_server)

    with pytest.raises(SettingsError, match="renderfarm keys add"):
        api.main.build(settings)
    open_office(settings).keys.add(make(Grant(owner="alice"), now=0.0)[1])
    api.main.build(settings)


def test_a_door_that_may_have_keys_starts_closed(tmp_path):
    """Redis is away, so nobody knows whether there are keys: nobody comes in."""
    settings = Settings(redis_url="redis://127.0.0.1:1/0", host="0.0.0.0", data_dir=tmp_path)

    client = TestClient(api.main.build(settings), "http://10.0.0.7")

    for headers in ({}, {"X-API-Key": "rf_anything"}):
        answer = client.get("/models", headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_unavailable")


def test_the_application_is_made_when_it_is_asked_for():
    environ = {name: value for name, value in os.environ.items() if not name.startswith("FARM_")}
    code = "import api.main as m; assert 'app' not in vars(m); assert m.app.title == 'renderfarm'"
    subprocess.run([sys.executable, "-c", code], check=True, env=environ)

    with pytest.raises(AttributeError, match="nothing"):
        _ = api.main.nothing
