"""Redis as real deployments run it: TLS, a user with the least rights, backup and restore."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import redis
from kombu.exceptions import OperationalError

from api.live import RedisLive
from deploy.ports import free_port
from shared.errors import StoreRefuses, StoreUnavailable
from shared.jobs import JobStatus
from shared.owners import open_office
from shared.owners.keys import Grant, make
from shared.owners.port import Act
from shared.settings import Settings
from shared.store import open_store
from shared.store.address import connect
from shared.store.redis_store import RedisJobStore
from shared.store.scripts import StoreConfig
from shared.tickets import make_app, ticket_template
from tests.orders import POOL, stored, submission
from tests.servers import need
from tests.servers.nodes import Node
from tests.waiting import wait_until

DURABLE = ("appendonly yes", "appendfsync always")


def certify(folder: Path, name: str = "ca") -> Path:
    """An authority of its own, which is the server's certificate too."""
    need("openssl")
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout", f"{folder}/{name}.key",
         "-out", f"{folder}/{name}.crt",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder / f"{name}.crt"


def tickets(settings: Settings, pool: str = POOL) -> int:
    """Take every ticket of the pool off the broker, as a worker's client would."""
    taken = 0
    with make_app(settings).connection_for_read() as connection:
        channel = connection.default_channel
        while channel.basic_get(f"render.{pool}", no_ack=True):
            taken += 1
    return taken


def heard_of(settings: Settings, job: str) -> str:
    """What the API's subscription hears when a worker takes the job."""
    store, said = open_store(settings), []

    async def listen() -> None:
        live, joined, heard = RedisLive(settings.redis_address), asyncio.Event(), asyncio.Event()

        def hear(at: str, message: str) -> None:
            said.append(f"{at} {message}")
            heard.set()

        live.add(job)
        listening = asyncio.create_task(live.run(hear, lambda jobs: joined.set()))
        async with asyncio.timeout(10):
            await joined.wait()
            await asyncio.to_thread(store.claim, POOL, "t1", "slot", "worker", 30.0)
            await heard.wait()
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)

    asyncio.run(listen())
    return said[0]


# ------------------------------------------------------------------------------------------ TLS


def test_both_clients_speak_tls_to_a_server_they_can_verify(tmp_path: Path) -> None:
    trusted, other = certify(tmp_path / "tls"), certify(tmp_path / "other")
    key = trusted.with_suffix(".key")
    node = Node(
        tmp_path / "node", *DURABLE, "port 0", f"tls-port {free_port()}", "tls-auth-clients no",
        f"tls-cert-file {trusted}", f"tls-key-file {key}",
    )  # fmt: skip
    port = re.search(r"tls-port (\d+)", (node.folder / "node.conf").read_text())[1]  # type: ignore[index]
    url = f"rediss://127.0.0.1:{port}/0"
    with node:
        settings = Settings(redis_url=url, redis_ca_file=trusted)
        store = open_store(settings)
        wait_until(lambda: _answers(store))

        job = store.submit(submission()).job

        assert store.get(job.id).status is JobStatus.queued
        assert store.faults() == ()
        assert tickets(settings) == 1
        assert heard_of(settings, job.id)
        with pytest.raises(StoreUnavailable):
            open_store(Settings(redis_url=url, redis_ca_file=other), patience_s=0.2).ping()
        stranger = make_app(Settings(redis_url=url, redis_ca_file=other))
        with stranger.connection_for_read() as connection, pytest.raises(OperationalError):
            connection.ensure_connection(max_retries=1, interval_start=0)


def _answers(store: object) -> bool:
    try:
        store.ping()  # type: ignore[attr-defined]
    except StoreUnavailable:
        return False
    return True


# ------------------------------------------------------------------------------------- Sentinel


def test_the_subscription_asks_the_sentinels_where_the_primary_is(tmp_path: Path) -> None:
    secret = ("requirepass secret", *DURABLE)
    with Node(tmp_path / "primary", *secret) as primary:
        watched = (
            f"sentinel monitor queue 127.0.0.1 {primary.port} 1",
            "sentinel auth-pass queue secret",
        )
        with Node(tmp_path / "sentinel", *watched, sentinel=True) as sentinel:
            sentinel.wait()
            url = f"redis+sentinel://:secret@127.0.0.1:1,127.0.0.1:{sentinel.port}/queue/0"
            settings = Settings(redis_url=url)
            wait_until(lambda: _answers(open_store(settings)))
            job = open_store(settings).submit(submission()).job

            assert heard_of(settings, job.id).startswith(f"{job.id} 2 ")


# -------------------------------------------------------------------------------------- ACL user


def rights() -> list[str]:
    """The rule that docs/redis.md shows, word for word."""
    page = Path("docs/redis.md").read_text("utf-8")
    found = re.search(r"^ACL SETUSER farm on >PASSWORD (.+?)^```", page, re.MULTILINE | re.DOTALL)
    assert found
    return found[1].replace("\\\n", " ").split()


@pytest.fixture
def limited(redis_server: str) -> str:
    """The URL of a user that has exactly the documented rights."""
    with redis.Redis.from_url(redis_server) as admin:
        admin.execute_command("ACL", "SETUSER", "farm", "reset", "on", ">pw", *rights())
    return f"redis://farm:pw@{redis_server.rpartition('@')[2]}"


def test_the_documented_user_can_do_all_that_the_farm_does(limited: str) -> None:
    settings = Settings(redis_url=limited)
    store = open_store(settings)

    first, second = store.submit(submission(seed=1)).job, store.submit(submission(seed=2)).job
    taken = store.claim(POOL, "t1", "slot", "worker", 30.0)
    assert taken is not None
    store.renew({"t1": (taken.render_id, 1)}, 30.0)
    assert store.storing(taken.render_id, "t1", 4)
    assert store.close(taken.render_id, "t1", stored(taken.fingerprint, "t1"))
    store.cancel(second.id)
    store.forget(taken.fingerprint, taken.render_id)
    store.adopt("slot")
    for chore in (store.reap, store.expire, store.reconcile, store.audit):
        chore()
    assert (store.poison(), store.drop_poison("nothing")) == ([], False)
    assert store.results_in_use() == {"t1"}
    assert store.condemn(taken.fingerprint, "t1")
    assert store.secret("signing", "proposal") == "proposal"
    assert store.get(first.id).status is JobStatus.succeeded
    assert (store.workers(), store.stats().leases) == ([], 0)
    assert "no_promise" in [fault.code for fault in store.faults()]  # the test's server: everysec
    assert tickets(settings) >= 1
    office = open_office(settings)
    key = make(Grant(owner="alice"), now=0.0)[1]
    office.keys.add(key)
    office.keys.used(key.id, 1.0)
    office.keys.rotate(key.id, make(key, now=1.0)[1], 2.0)
    office.keys.revoke(key.id, 2.0)
    found = office.keys.read()
    assert found
    assert len(found.keys) == 2
    office.audit.record(Act(actor="root", what="worker.drained", target="w"))
    assert [act.target for act in office.audit.acts()] == ["w"]


@pytest.mark.parametrize("command", ["FLUSHALL", "KEYS *", "CONFIG SET maxmemory 1", "SHUTDOWN",
                                     "GET other", "REPLICAOF NO ONE", "ACL LIST"])  # fmt: skip
def test_the_documented_user_can_do_nothing_else(limited: str, command: str) -> None:
    with (
        connect(limited, patience_s=1) as client,
        pytest.raises(redis.exceptions.NoPermissionError),
    ):
        client.execute_command(*command.split())


def test_a_right_that_is_missing_is_named(redis_server: str, limited: str) -> None:
    with redis.Redis.from_url(redis_server) as admin:
        admin.execute_command("ACL", "SETUSER", "farm", "-@scripting")

    with pytest.raises(StoreRefuses, match=r"docs/redis\.md"):
        open_store(Settings(redis_url=limited)).submit(submission())


# ----------------------------------------------------------------------------- backup and restore


def _busy_store(node: Node) -> tuple[RedisJobStore, list[str]]:
    store = RedisJobStore(connect(node.url, patience_s=2), StoreConfig(ticket_template()))
    jobs = [store.submit(submission(seed=seed)).job.id for seed in range(4)]
    taken = store.claim(POOL, "t1", "slot", "worker", 30.0)
    assert taken is not None
    assert store.close(taken.render_id, "t1", stored(taken.fingerprint, "t1"))
    assert store.claim(POOL, "t2", "slot", "worker", 0.0) is not None  # held while it was copied
    return store, jobs


def _is_the_farm_of(node: Node, jobs: list[str]) -> None:
    store = RedisJobStore(connect(node.url, patience_s=2), StoreConfig(ticket_template()))
    assert [store.get(job).status for job in jobs].count(JobStatus.succeeded) == 1
    assert len(store.reap().requeued) == 1  # nobody holds what was held
    for number in range(3):
        taken = store.claim(POOL, f"n{number}", "slot", "worker", 30.0)
        assert taken is not None
        assert store.close(taken.render_id, f"n{number}", stored(taken.fingerprint, f"n{number}"))
    assert {store.get(job).status for job in jobs} == {JobStatus.succeeded}


def test_a_copy_of_the_log_restores_the_farm_on_a_new_server(tmp_path: Path) -> None:
    with Node(tmp_path / "old", *DURABLE) as old:
        _, jobs = _busy_store(old.wait())
        with old.client() as client:
            client.config_set("auto-aof-rewrite-percentage", 0)
            client.bgrewriteaof()
            wait_until(lambda: not client.info("persistence")["aof_rewrite_in_progress"])
            shutil.copytree(old.folder / "appendonlydir", tmp_path / "copy")

    new = Node(tmp_path / "new", *DURABLE)
    shutil.copytree(tmp_path / "copy", new.folder / "appendonlydir")
    with new:
        _is_the_farm_of(new.wait(), jobs)


def test_a_snapshot_restores_the_farm_on_a_new_server(tmp_path: Path) -> None:
    with Node(tmp_path / "old", *DURABLE) as old:
        _, jobs = _busy_store(old.wait())
        with old.client() as client:
            client.bgsave()
            wait_until(lambda: not client.info("persistence")["rdb_bgsave_in_progress"])

    new = Node(tmp_path / "new", "appendonly no")
    shutil.copy(old.folder / "dump.rdb", new.folder / "dump.rdb")
    with new, new.wait().client() as client:
        client.config_set("appendfsync", "always")
        client.config_set("appendonly", "yes")
        wait_until(lambda: not client.info("persistence")["aof_rewrite_in_progress"])
        _is_the_farm_of(new, jobs)
