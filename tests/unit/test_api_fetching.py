"""Input pictures by URL: refused unless the operator named the host, and then fetched under guard."""

from __future__ import annotations

import io
from collections.abc import Iterator
from threading import BoundedSemaphore
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.responses import RedirectResponse, Response, StreamingResponse
from PIL import Image

import api.fetching
import api.inputs
from shared.errors import SettingsError
from shared.settings import Settings
from tests.api_kit import Farm
from tests.loopback import serving

FOX = {"prompt": "a red fox", "steps": 4, "size": "64x64"}


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 16), "navy").save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def other() -> Iterator[str]:
    """Another host's web server."""
    app = FastAPI()

    @app.get("/cat.png")
    def cat() -> Response:
        return Response(picture(), media_type="text/html")

    @app.get("/away")
    def away() -> Response:
        return RedirectResponse("/cat.png")

    @app.get("/endless")
    def endless() -> Response:
        return StreamingResponse(b"\0" * 2**20 for _ in range(1000))

    @app.get("/slow")
    async def slow() -> Response:
        import asyncio

        await asyncio.sleep(1)
        return Response()

    with serving(app) as url:
        yield url


def ask(hosts: str, url: str) -> Any:
    farm = Farm(Settings(input_url_hosts=hosts))
    return farm.client().post("/jobs", json=FOX | {"init_image": url})


def why(answer: Any) -> str:
    body = answer.json()
    assert (answer.status_code, body["error"]["code"]) == (400, "invalid_image"), body
    assert body["errors"][0]["pointer"] == "#/init_image"
    return str(body["detail"])


def test_a_picture_of_a_named_host_is_fetched(other: str) -> None:
    answer = ask("127.0.0.1", f"{other}/cat.png")

    assert answer.status_code == 202
    assert answer.json()["input"]["init_image"]["width"] == 32


@pytest.mark.parametrize("hosts", ["", "example.org", "10.0.0.0/8"])
def test_a_host_that_is_not_named_is_not_called(other: str, hosts: str) -> None:
    assert "fetch" in why(ask(hosts, f"{other}/cat.png"))


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/", "https://127.0.0.1:9/", "https://[::1]/", "https://10.0.0.1/",
        "https://169.254.169.254/latest/meta-data", "https://2130706433/", "https://localhost/",
        "https://user:word@example.org/", "ftp://example.org/", "https://[::ffff:127.0.0.1]/",
    ],
)  # fmt: skip
def test_every_public_host_means_public(url: str) -> None:
    why(ask("*", url))


@pytest.mark.parametrize(
    ("path", "told"), [("/away", "307"), ("/nothing", "404"), ("/endless", "more than")]
)
def test_only_a_picture_is_taken(other: str, path: str, told: str) -> None:
    assert told in why(ask("127.0.0.1", other + path))


def test_what_takes_too_long_is_given_up(other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.fetching, "LIMIT_S", 0.3)

    assert "no answer" in why(ask("127.0.0.1", f"{other}/slow"))


def test_slow_hosts_take_only_some_of_the_threads(
    other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = BoundedSemaphore(1)
    full.acquire()
    monkeypatch.setattr(api.inputs, "FETCHING", full)

    assert ask("127.0.0.1", f"{other}/cat.png").status_code == 503


def test_a_misspelt_host_is_refused_at_start() -> None:
    with pytest.raises(SettingsError, match="FARM_INPUT_URL_HOSTS"):
        Farm(Settings(input_url_hosts="https://example.org/"))
