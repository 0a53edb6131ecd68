"""A Redis server of the farm's own, for one machine: durable, on loopback, behind a password."""

from __future__ import annotations

import secrets
import subprocess
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Literal

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from deploy.lock import lock, sign
from deploy.ports import free_port, is_free
from deploy.redis_binary import find_server
from deploy.tether import tethered
from shared.errors import StoreUnavailable

READY_S = 10.0
STOP_S = 10.0
LOCK_PATIENCE_S = 2.0  # a server whose supervisor was killed needs a moment to end

_POLL_S = 0.01
_CONF = """\
bind 127.0.0.1
protected-mode yes
port {port}
requirepass {password}
daemonize no
dir .
appendonly yes
appendfsync {fsync}
aof-load-truncated yes
save ""
maxmemory-policy noeviction
"""


def kept_url(data_dir: Path) -> str | None:
    """Where the server of the farm on this folder answers, if it runs; None: there was none."""
    kept = _read(data_dir / "redis" / "redis.conf")
    if "port" not in kept:
        return None
    return f"redis://:{kept['requirepass']}@127.0.0.1:{kept['port']}/0"


def _read(conf: Path) -> dict[str, str]:
    with suppress(FileNotFoundError):
        pairs = (line.partition(" ") for line in conf.read_text().splitlines())
        return {name: value for name, _, value in pairs}
    return {}


class EmbeddedRedis:
    """One server on `data_dir`/redis, with its log, its append-only file and its configuration.

    Password and port are kept in the configuration, so that clients of an earlier run find it
    again; the port changes when somebody else has taken it. `binary` None looks for one. The folder
    stays locked while the server lives, even when this process does not.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        appendfsync: Literal["always", "everysec"] = "always",
        binary: Path | None = None,
    ) -> None:
        self._folder = data_dir / "redis"
        self._conf = self._folder / "redis.conf"
        self._log = self._folder / "redis.log"
        self._fsync = appendfsync
        self._binary = binary
        self._process: subprocess.Popen[bytes] | None = None
        self._held = ExitStack()
        self._port = 0
        self._password = ""

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Return when the server answers; nothing happens if it lives already.

        Call it from a thread that lasts: the server ends with the thread that started it. Raises
        SettingsError (no binary, folder in use), StoreUnavailable (it died or stays silent).
        """
        if self.alive:
            return
        self._held.close()  # the lock of a server that died
        binary = self._binary or find_server()
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock_fd = self._held.enter_context(lock(self._folder, patience_s=LOCK_PATIENCE_S))
        found = any(self._folder.glob("appendonly*"))  # a folder, before Redis 7 a file
        try:
            self._configure()
            self._launch(binary, lock_fd)
            self._await(mend=found)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the server in order: it syncs its file first. Killed if it takes over 10 s."""
        if self._process:
            self._process.terminate()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = None
        self._held.close()

    def restart(self) -> None:
        self.stop()
        self.start()

    def __enter__(self) -> EmbeddedRedis:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _configure(self) -> None:
        kept = _read(self._conf)
        port = int(kept.get("port", 0))
        self._port = port if port and is_free(port) else free_port()
        self._password = kept.get("requirepass") or secrets.token_hex(32)
        text = _CONF.format(port=self._port, password=self._password, fsync=self._fsync)
        aside = self._conf.with_suffix(".new")
        aside.unlink(missing_ok=True)
        aside.touch(mode=0o600)
        aside.write_text(text)
        aside.replace(self._conf)

    def _launch(self, binary: Path, lock_fd: int) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603
                tethered([str(binary), self._conf.name]),
                cwd=self._folder,  # the configuration names no path, so none needs quoting
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(lock_fd,),
                start_new_session=True,  # a Ctrl-C is for the supervisor: Redis goes last
            )
        sign(lock_fd, self._process.pid)

    def _await(self, *, mend: bool) -> None:
        impatient = Retry(NoBackoff(), 0)  # the loop below is the retry
        with redis.Redis.from_url(self.url, socket_timeout=5, retry=impatient) as client:
            try:
                self._await_ping(client)
                if mend:
                    _rewrite(client)
            except redis.RedisError as error:
                raise StoreUnavailable(self._last_words()) from error

    def _await_ping(self, client: redis.Redis) -> None:
        deadline = time.monotonic() + READY_S
        while True:
            try:
                client.ping()
                return
            except redis.BusyLoadingError:  # a large file takes its time; it is not silent
                deadline = time.monotonic() + READY_S
            except redis.RedisError:
                if not self.alive or time.monotonic() > deadline:
                    raise
            time.sleep(_POLL_S)

    def _last_words(self) -> str:
        tail = self._log.read_bytes()[-2000:].decode(errors="replace").splitlines()[-5:]
        state = "is not ready" if self.alive else "died"
        return "\n".join([f"The Redis server in {self._folder} {state}:", *tail])


def _rewrite(client: redis.Redis) -> None:
    """Write a whole append-only file and wait for it.

    One that was cut inside a transaction loads, but what is appended behind the cut is lost when it
    loads again (seen on Redis 7.0).
    """
    with suppress(redis.ResponseError):  # the server has begun by itself
        client.bgrewriteaof()
    while (state := client.info("persistence"))["aof_rewrite_in_progress"]:
        time.sleep(_POLL_S)
    if state["aof_last_bgrewrite_status"] != "ok":
        raise redis.RedisError("the append-only file could not be rewritten")
