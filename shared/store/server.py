"""What the connected Redis is, read off INFO and CONFIG GET."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import redis


@dataclass(slots=True, frozen=True)
class Server:
    """`fsync` is None where the server does not say (CONFIG is often forbidden)."""

    name: str
    version: tuple[int, ...]  # Valkey's is the Redis it is compatible with
    is_primary: bool
    is_cluster: bool
    has_aof: bool
    write_failed: bool  # its last write to the append-only file
    fsync: str | None
    eviction: str
    used_bytes: int
    max_bytes: int  # 0: no limit

    @property
    def syncs_always(self) -> bool:
        return self.has_aof and self.fsync == "always"

    @property
    def knows_waitaof(self) -> bool:
        return self.version >= (7, 2)

    @property
    def waitaof_is_true(self) -> bool:
        """Valkey (seen on 9.1.2, under strace) answers WAITAOF up to a second before its sync."""
        return self.knows_waitaof and self.name != "valkey"

    @property
    def described(self) -> str:
        aof = f"appendfsync {self.fsync or 'unknown'}" if self.has_aof else "no append-only file"
        return f"{self.name} {'.'.join(map(str, self.version))} with {aof}"


def look(client: redis.Redis) -> Server:
    """Ask the server. Raises redis.RedisError."""
    pipe = client.pipeline(transaction=False)
    for section in ("server", "replication", "persistence", "memory", "cluster"):
        pipe.info(section)
    pipe.config_get("appendfsync")
    *infos, config = pipe.execute(raise_on_error=False)
    said: dict[str, Any] = {}
    for info in infos:
        if isinstance(info, Exception):
            raise info
        said |= info
    fsync = None if isinstance(config, Exception) else config.get("appendfsync")
    return Server(
        name=str(said.get("server_name", "redis")),
        version=tuple(int(part) for part in str(said["redis_version"]).split(".")[:3]),
        is_primary=said["role"] == "master",
        is_cluster=bool(said.get("cluster_enabled")),
        has_aof=bool(said["aof_enabled"]),
        write_failed=said.get("aof_last_write_status", "ok") != "ok",
        fsync=fsync,
        eviction=str(said.get("maxmemory_policy", "noeviction")),
        used_bytes=int(said["used_memory"]),
        max_bytes=int(said.get("maxmemory", 0)),
    )
