"""Where Redis is: one URL that configures both of its clients, ours and Celery's.

    redis://[user:password@]host:port/db                         one server
    redis+sentinel://[user:password@]host:port,host:port/service[/db]   the primary that Sentinel names

`rediss` instead of `redis` means TLS. Options after `?`: `ssl_ca_certs=FILE` and redis-py's other
`ssl_...`; `sentinel_username` and `sentinel_password` where the sentinels have a login of their own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import redis
import redis.asyncio as aio
from redis.asyncio import sentinel as aio_sentinel
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry as AioRetry
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelManagedConnection, SentinelManagedSSLConnection

from shared.errors import SettingsError
from shared.store.patience import Patience

SENTINEL_PORT = 26379
CONNECT_S = 2.0
ANSWER_S = 2.0  # a connection that is silent for so long is given up: it may be half open


class _Guided(SentinelManagedConnection):
    """Asks the sentinels whenever it connects.

    redis-py asks before a call and not between its tries, so a call that a failover interrupts would
    dial the dead primary until its patience ends.
    """

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        if self._sock is None:
            self._connect_retry()  # type: ignore[no-untyped-call]  # once: the caller tries again
        super().send_packed_command(command, check_health)  # type: ignore[no-untyped-call]


class _GuidedTls(_Guided, SentinelManagedSSLConnection):
    pass


@dataclass(slots=True, frozen=True)
class _Sentinels:
    """A `redis+sentinel` URL, taken apart."""

    places: tuple[tuple[str, int], ...]
    service: str
    db: int
    login: dict[str, str] = field(repr=False)
    sentinel_login: dict[str, str] = field(repr=False)
    tls: dict[str, Any] | None

    @property
    def encrypted(self) -> dict[str, Any]:
        return {} if self.tls is None else {"ssl": True, **self.tls}

    @property
    def asking(self) -> dict[str, Any]:
        """How to connect to a sentinel itself."""
        limits = {"socket_timeout": CONNECT_S, "socket_connect_timeout": CONNECT_S}
        return {**limits, **self.encrypted, **self.sentinel_login}


@dataclass(slots=True, frozen=True)
class Broker:
    """What Celery wants: `broker_url`, `broker_use_ssl`, and transport options of the address."""

    url: str = field(repr=False)
    tls: dict[str, Any] | None
    options: dict[str, Any] = field(repr=False)


def connect(url: str, *, patience_s: float) -> redis.Redis:
    """A client that tries each call again for about `patience_s`: all our scripts may be repeated.

    A server that became a replica counts as an outage: the next try connects anew. Connects to
    nothing yet. Raises SettingsError.
    """
    options: dict[str, Any] = {
        "decode_responses": True,
        "socket_timeout": ANSWER_S,
        "socket_connect_timeout": CONNECT_S,
        "socket_keepalive": True,
        "health_check_interval": 15,
        "retry": Patience(patience_s, redis.ReadOnlyError),
    }
    if not _is_sentinel(url):
        return redis.Redis.from_url(url, **options)
    at = _sentinels(url)
    once = Retry(NoBackoff(), 0)  # the next sentinel is the retry
    sentinel: Any = Sentinel(at.places, sentinel_kwargs={**at.asking, "retry": once})  # type: ignore[no-untyped-call]
    options["connection_class"] = _Guided if at.tls is None else _GuidedTls
    client: redis.Redis = sentinel.master_for(
        at.service, db=at.db, **at.login, **at.encrypted, **options
    )
    return client


@asynccontextmanager
async def connection(url: str) -> AsyncIterator[AbstractConnection]:
    """One connection for whoever waits: it is open, tries nothing again, and ends with the block.

    Raises SettingsError, redis.RedisError, OSError.
    """
    once = {"retry": AioRetry(NoBackoff(), 0)}
    options: dict[str, Any] = {
        "decode_responses": True,
        "socket_timeout": ANSWER_S,
        "socket_connect_timeout": CONNECT_S,
        "socket_keepalive": True,
        "protocol": 2,
        **once,
    }
    guides: list[aio.Redis] = []
    if _is_sentinel(url):
        at = _sentinels(url)
        sentinel: Any = aio_sentinel.Sentinel(at.places, sentinel_kwargs={**at.asking, **once})  # type: ignore[no-untyped-call]
        guides = sentinel.sentinels
        client = sentinel.master_for(at.service, db=at.db, **at.login, **at.encrypted, **options)
    else:
        client = aio.Redis.from_url(url, **options)
    async with AsyncExitStack() as stack:
        for each in (*guides, client):
            stack.push_async_callback(each.aclose)
        one = client.connection_pool.make_connection()
        stack.push_async_callback(one.disconnect, nowait=True)
        await one.connect()
        yield one


def broker(url: str) -> Broker:
    """The same address in Celery's words. Raises SettingsError."""
    if not _is_sentinel(url):
        return Broker(url, _tls(url), {})
    at = _sentinels(url)
    login = ":".join(quote(at.login.get(name, ""), safe="") for name in ("username", "password"))
    before = f"sentinel://{login}@" if at.login else "sentinel://"
    urls = (f"{before}{_bracketed(host)}:{port}/{at.db}" for host, port in at.places)
    return Broker(";".join(urls), at.tls, {"master_name": at.service, "sentinel_kwargs": at.asking})


def _is_sentinel(url: str) -> bool:
    return urlsplit(url).scheme.endswith("+sentinel")


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _tls(url: str) -> dict[str, Any] | None:
    parts = urlsplit(url)
    if not parts.scheme.startswith("rediss"):
        return None
    given = {name: value for name, value in parse_qsl(parts.query) if name.startswith("ssl_")}
    return {"ssl_cert_reqs": "required", **given}


def _sentinels(url: str) -> _Sentinels:
    parts = urlsplit(url)
    userinfo, _, places = parts.netloc.rpartition("@")
    service, _, db = parts.path.strip("/").partition("/")
    username, _, password = (unquote(part) for part in userinfo.partition(":"))
    login = {"username": username, "password": password}
    options = dict(parse_qsl(parts.query))
    theirs = {name: options.get(f"sentinel_{name}", "") for name in login}
    try:
        hosts = [urlsplit(f"//{place}") for place in places.split(",")]
        at = tuple((str(host.hostname), host.port or SENTINEL_PORT) for host in hosts)
        number = int(db or 0)
    except ValueError:
        raise SettingsError(_SHAPE) from None
    if not service or not all(host.hostname for host in hosts):
        raise SettingsError(_SHAPE)
    return _Sentinels(at, service, number, _said(login), _said(theirs), _tls(url))


def _said(options: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in options.items() if value}


_SHAPE = "FARM_REDIS_URL of Sentinel is redis+sentinel://host:port,host:port/service/db"
