"""Clients that people have, unmodified, against a running farm: a base URL and a key, no more."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from tests.chaos.link import Link, Proxy
from tests.clients.installed import run_node, run_python
from tests.e2e.farm import RunningFarm
from tests.waiting import wait_until

pytestmark = [pytest.mark.clients, pytest.mark.timeout(400)]

KEY = "key-of-alice"
ROOT_KEY = "key-of-root"
VERSIONS = {"openai-2": "2.54.0", "openai-3": "3.52.0"}
PNG_64, PNG_256 = [64, 64], [256, 256]


class CutOnce(Proxy):
    """Resets its first connection half a second after the first byte, and no other."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.connections = 0

    async def _serve(self, link: Link) -> None:
        self.connections += 1
        if self.connections == 1:
            self._loop.call_later(1.5, link.reset)
        await link.relay(
            _pass(link.from_client, link.to_server), _pass(link.from_server, link.to_client)
        )


async def _pass(reader: Any, writer: Any) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    folder = tmp_path_factory.mktemp("clients")
    with RunningFarm(
        folder / "farm", folder / "models", workers=2,
        FARM_API_KEYS=f"alice:{KEY} root:{ROOT_KEY}:admin",
        FARM_WEBHOOK_ALLOW_HOSTS="127.0.0.1", FARM_DRAIN_S="1",
    ) as running:  # fmt: skip
        picture = Image.radial_gradient("L").resize((64, 64)).convert("RGB")
        picture.save(folder / "fox.png")
        mask = picture.convert("RGBA")
        mask.putalpha(Image.linear_gradient("L").resize((64, 64)).point(lambda v: 255 * (v > 127)))
        mask.save(folder / "mask.png")
        yield running


def environment(farm: RunningFarm) -> dict[str, str]:
    return {
        "OPENAI_BASE_URL": f"{farm.url}/v1",
        "OPENAI_API_KEY": KEY,
        "PICTURE": str(farm.folder.parent / "fox.png"),
        "MASK": str(farm.folder.parent / "mask.png"),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def jobs(farm: RunningFarm, name: str) -> list[dict[str, Any]]:
    """The jobs that a case marked with its name."""
    answer = farm.get(f"/jobs?metadata[case]={name}&limit=100", KEY)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["data"])


# -------------------------------------------------------------------------------- openai-python


@pytest.fixture(scope="module", params=VERSIONS)
def python(request: pytest.FixtureRequest, farm: RunningFarm) -> dict[str, Any]:
    """What each case of openai-python gave, for both major versions."""
    port = int(farm.url.rsplit(":", 1)[1])
    proxy = CutOnce(port)
    before = len(jobs(farm, "cut")), len(jobs(farm, "slow"))
    env = environment(farm) | {"CUT_URL": f"http://127.0.0.1:{proxy.port}/v1"}
    try:
        found = run_python(request.param, "openai_python.py", env)
    finally:
        proxy.close()
    after = len(jobs(farm, "cut")), len(jobs(farm, "slow"))
    found["jobs"] = {"cut": after[0] - before[0], "slow": after[1] - before[1]}
    found["connections"] = proxy.connections
    assert found["version"] == VERSIONS[request.param]
    return found


def test_openai_python_draws(python: dict[str, Any]) -> None:
    assert python["b64"] == {"size": PNG_64, "url": None, "tokens": 3 + 16, "seed": 42}
    assert python["url"] == {"size": PNG_64, "type": "image/png", "b64": None}
    assert python["dall_e"] == {"url": True, "b64": None}
    assert (python["any_name"], python["two"]) == (1, [42, 43])
    assert python["raw_headers"]["x-model"] == "tiny"
    assert python["raw_headers"]["x-job-id"].startswith("job_")


def test_openai_python_draws_over_pictures(python: dict[str, Any]) -> None:
    assert python["edit_one"] == [PNG_64]
    assert python["edit_two"] == {"images": 1, "ignored": "image[1]"}
    assert python["edit_mask"] == [PNG_64]
    assert python["variation"] == [PNG_256]


def test_openai_python_streams(python: dict[str, Any]) -> None:
    *partial, last = python["stream"]
    assert last == {"type": "image_generation.completed", "picture": "89504e47", "format": "png"}
    assert {(event["type"], event["format"], event["picture"]) for event in partial} <= {
        ("image_generation.partial_image", "jpeg", "ffd8ffe0")
    }
    assert python["edit_stream"][-1] == "image_edit.completed"


def test_openai_python_lists_models(python: dict[str, Any]) -> None:
    assert "tiny" in python["models"]
    assert python["one_model"] == "tiny"


def test_openai_python_hears_what_is_wrong_as_its_own_exceptions(python: dict[str, Any]) -> None:
    told = {case: python[case] for case in ("bad_model", "bad_size", "bad_key")}
    assert {case: one["raised"] for case, one in told.items()} == {
        "bad_model": "BadRequestError", "bad_size": "BadRequestError",
        "bad_key": "AuthenticationError",
    }  # fmt: skip
    assert (told["bad_model"]["code"], told["bad_size"]["param"]) == ("model_not_found", "size")


def test_a_connection_that_breaks_in_mid_render_costs_no_second_render(
    python: dict[str, Any],
) -> None:
    assert python["cut"] == {"retries": 1, "images": 1}
    assert python["connections"] == 2
    assert python["jobs"]["cut"] == 1


def test_a_client_that_would_not_wait_so_long_is_told_and_can_cancel_it(
    python: dict[str, Any], farm: RunningFarm
) -> None:
    assert python["too_slow"]["status_code"] == 504
    assert python["too_slow"]["code"] == "sync_timeout"
    assert python["jobs"]["slow"] == 1
    wait_until(lambda: all(job["done"] for job in jobs(farm, "slow")), 30.0)


def test_an_idempotency_key_of_the_user_makes_one_job(python: dict[str, Any]) -> None:
    assert python["idempotent"] == {"jobs": 1, "replayed": "true"}


# ---------------------------------------------------------------------------- other libraries


def test_litellm_draws_and_edits(farm: RunningFarm) -> None:
    found = run_python("openai-2", "litellm_python.py", environment(farm))

    assert found["version"] == "1.106.2"
    assert found["draw"] == [PNG_64, PNG_64]
    assert found["edit"] == [PNG_64]
    # By the text, it makes one of its own of our 400.
    assert (found["bad_model"]["raised"], found["bad_model"]["status_code"]) == (
        "NotFoundError",
        400,
    )


def test_langchain_gets_a_url_that_opens(farm: RunningFarm) -> None:
    found = run_python("openai-3", "langchain_python.py", environment(farm))

    assert found == {"version": "0.4.2", "draw": {"size": PNG_256, "type": "image/png"}}


def test_hugging_faces_client_gets_a_picture(farm: RunningFarm) -> None:
    found = run_python("openai-3", "hub_python.py", environment(farm))

    assert found["version"] == "1.33.0"
    assert found["draw"] == {"size": PNG_64, "format": "PNG"}
    assert found["bad_size"]["raised"] in ("BadRequestError", "HfHubHTTPError")
    assert "multiple of 16" in found["bad_size"]["text"]


# -------------------------------------------------------------------------------------- Node


@cache
def node(url: str, env: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    return run_node("clients.mjs", dict(env))


@pytest.mark.parametrize(("name", "version"), [("openai", "7.55.0"), ("openai_6", "6.49.0")])
def test_openai_node_draws_streams_and_hears_what_is_wrong(
    farm: RunningFarm, name: str, version: str
) -> None:
    found = node(farm.url, tuple(environment(farm).items()))[name]

    assert found["version"] == version
    assert (found["b64"], found["two"]) == (PNG_64, [42, 43])
    assert found["url"] == {"size": PNG_64, "type": "image/png"}
    assert (found["edit"], found["edit_two"]) == ([PNG_64], [PNG_64])
    assert found["stream"][-1] == "image_generation.completed"
    assert "tiny" in found["models"]
    assert (found["bad_model"]["status"], found["bad_model"]["code"]) == (400, "model_not_found")
    assert found["bad_key"]["status"] == 401


def test_the_ai_sdk_draws_one_and_twelve(farm: RunningFarm) -> None:
    found = node(farm.url, tuple(environment(farm).items()))["ai"]

    assert (found["version"], found["provider"]) == ("7.0.173", "3.0.92")
    assert found["one"] == PNG_64
    assert found["twelve"] == 12
    assert "invalid-model" in found["bad_model"]["text"]


# ---------------------------------------------------------------------------------- webhooks


def test_a_delivery_passes_the_checks_of_standardwebhooks_and_openai(farm: RunningFarm) -> None:
    with Receiver() as receiver:
        webhook = {"url": receiver.url, "events": ["job.succeeded"]}
        job = farm.submit(KEY, seed=9, webhook=webhook)
        wait_until(lambda: receiver.deliveries, 60.0, "for the delivery")
    secret = farm.get("/webhooks/secret", KEY).json()["secret"]
    headers, body = receiver.deliveries[0]
    given = json.dumps({"secret": secret, "headers": headers, "body": body})

    found = run_python("openai-3", "webhooks_python.py", environment(farm), given)

    assert found["version"] == "1.1.0"
    assert (found["verified"]["type"], found["verified"]["data"]["id"]) == ("job.succeeded", job["id"])  # fmt: skip
    assert found["openai_verified"] is True
    assert found["forged"]["raised"] == "WebhookVerificationError"


class Receiver:
    """Takes whatever is posted to it."""

    def __init__(self) -> None:
        self.deliveries: list[tuple[dict[str, str], str]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                headers = {name.lower(): value for name, value in self.headers.items()}
                outer.deliveries.append((headers, body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook"

    def __enter__(self) -> Receiver:
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


# -------------------------------------------------------------------------- who leaves


def test_a_client_that_disconnects_leaves_no_orphan(farm: RunningFarm) -> None:
    blockers = [farm.submit(KEY, size="1024x1024", steps=100, seed=k)["id"] for k in range(2)]
    order = {"prompt": "a red fox", "size": "64x64", "metadata": {"case": "left"}, "seed": 77}
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.post(
            f"{farm.url}/v1/images/generations", json=order, timeout=1.0,
            headers={"Authorization": f"Bearer {KEY}"},
        )  # fmt: skip

    [left] = jobs(farm, "left")
    wait_until(lambda: farm.job(left["id"], KEY)["status"] == "canceled", 40.0, "for the farm")
    for blocker in blockers:
        farm.cancel(blocker, KEY)


def test_the_folder_of_the_farm_knows_no_key(farm: RunningFarm) -> None:
    logs = [path.read_text() for path in Path(farm.folder).rglob("*.log")]

    assert logs
    assert not any(KEY in text or ROOT_KEY in text for text in logs)
