"""The parts of compose that need no Docker: Redis' start command, and the job that makes the bucket."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from deploy.ports import free_port
from tests.compose import COMPOSE, SERVICES, filled
from tests.dockerfile import ROOT
from tests.servers.engines import engine_binary
from tests.servers.grounds import Bucket
from tests.servers.rgw import Rgw
from tests.waiting import wait_until

PASSWORD = "hunter2-in-compose"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Redis, started by the very words of compose.yaml, with this machine's paths."""
    port = free_port("127.0.0.1")
    (tmp_path / "password").write_text(PASSWORD + "\n")
    conf = (COMPOSE / "redis.conf").read_text().replace("dir /data", f"dir {tmp_path}")
    (tmp_path / "farm.conf").write_text(conf + f"port {port}\nbind 127.0.0.1\n")
    words = filled(SERVICES["redis"]["entrypoint"][-1])
    for there, here in (
        ("/etc/valkey/farm.conf", tmp_path / "farm.conf"),
        ("/run/secrets/redis_password", tmp_path / "password"),
        ("/tmp/valkey.conf", tmp_path / "made.conf"),
        ("exec valkey-server", f"exec {engine_binary('valkey')}"),
    ):
        assert there in words
        words = words.replace(there, str(here))
    env = {"PATH": os.environ["PATH"], "MAXMEMORY": "64mb"}
    process = subprocess.Popen(["sh", "-euc", words], env=env, stdout=subprocess.DEVNULL)
    yield process, port
    process.terminate()
    process.wait(10)


def test_redis_starts_durable_behind_its_password(
    server: tuple[subprocess.Popen[bytes], int], tmp_path: Path
) -> None:
    process, port = server
    with redis.Redis(port=port, password=PASSWORD, decode_responses=True) as client:

        def answers() -> bool:
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False

        wait_until(answers)
        kept = {
            name: client.config_get(name)[name]
            for name in ("appendonly", "appendfsync", "maxmemory-policy", "maxmemory", "save")
        }

    assert kept == {
        "appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction",
        "maxmemory": str(64 * 2**20), "save": "",
    }  # fmt: skip
    with redis.Redis(port=port) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    assert PASSWORD.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
    assert (tmp_path / "made.conf").stat().st_mode & 0o077 == 0


@pytest.mark.s3
def test_the_bucket_is_made_once_and_a_wrong_key_is_told(
    rgw: Rgw, make_bucket: Callable[[str], Bucket]
) -> None:
    known = make_bucket("http")
    env = {
        "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "FARM_S3_BUCKET": known.name + "-new",
        "FARM_S3_ENDPOINT": rgw.http,
        "FARM_S3_ACCESS_KEY": str(known.arguments["access_key"]),
        "FARM_S3_SECRET_KEY": str(known.arguments["secret_key"]),
    }  # fmt: skip

    codes = [make(env).returncode for _ in range(2)]
    refused = make(env | {"FARM_S3_SECRET_KEY": "wrong"})

    assert codes == [0, 0]
    assert refused.returncode == 1
    assert refused.stderr.startswith("cannot make the bucket")
    assert "Traceback" not in refused.stderr


def make(env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", COMPOSE / "bucket.py"]
    return subprocess.run(command, env=env, capture_output=True, text=True)
