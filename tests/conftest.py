"""Fixtures that more than one folder of tests uses. Servers start when a test first asks."""

import logging
import secrets
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from xdist.remote import Producer

from deploy.embedded import EmbeddedRedis
from tests.servers import need
from tests.servers.engines import ENGINES, engine_binary
from tests.servers.grounds import Bucket
from tests.servers.rgw import PROGRAMS, Rgw
from tests.spread import Spread, rank


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=rank)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Spread:
    return Spread(config, log)


@pytest.fixture(autouse=True)
def every_line_is_logged() -> None:
    """Whatever level an earlier test's part was started with."""
    for name in ("api", "farm"):
        logging.getLogger(name).setLevel(logging.DEBUG)


@pytest.fixture(scope="session")
def rgw() -> Iterator[Rgw]:
    """A real S3 server, one for the whole run: take a bucket of your own."""
    need(*PROGRAMS)
    with tempfile.TemporaryDirectory(prefix="rgw-") as folder, Rgw(Path(folder)) as server:
        yield server


@pytest.fixture
def make_bucket(rgw: Rgw, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Bucket]:
    """Makes a bucket whose stores speak "http" or "https" to the server."""
    monkeypatch.setenv("AWS_CA_BUNDLE", str(rgw.certificate))
    endpoints = {"http": rgw.http, "https": rgw.https}
    return lambda scheme: Bucket(rgw, endpoints[scheme], f"farm-{secrets.token_hex(6)}")


@pytest.fixture(scope="session", params=ENGINES)
def redis_binary(request: pytest.FixtureRequest) -> Path:
    """The server binary of each engine that the farm supports."""
    return engine_binary(request.param)


@pytest.fixture(scope="session")
def redis_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """The URL of an empty server of one engine; one server each for the whole run."""
    servers: dict[str, EmbeddedRedis] = {}

    def url(engine: str) -> str:
        if engine not in servers:
            folder = tmp_path_factory.mktemp(engine)
            binary = engine_binary(engine)
            server = EmbeddedRedis(folder, binary=binary, appendfsync="everysec")
            server.start()
            servers[engine] = server
        with redis.Redis.from_url(servers[engine].url) as client:
            client.flushall()
        return servers[engine].url

    yield url
    for server in servers.values():
        server.stop()


@pytest.fixture(params=ENGINES)
def redis_server(request: pytest.FixtureRequest, redis_of: Callable[[str], str]) -> str:
    """The URL of an empty Redis server with a password; each test runs once per engine."""
    return redis_of(request.param)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small tiny model, one for the whole run: copy it before you damage it."""
    from worker.loading.tiny import build

    return build(tmp_path_factory.mktemp("tiny") / "model", size="small")
