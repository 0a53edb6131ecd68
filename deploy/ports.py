"""Free ports for servers that live long, and may have to come back on the same one."""

from __future__ import annotations

import random
import socket
from contextlib import suppress
from pathlib import Path

FIRST, LAST = 10_000, 32_767
TRIES = 100
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port(host: str = "127.0.0.1") -> int:
    """A port of this address that nobody listens on; somebody may before it is used.

    From below the range that the kernel gives to outgoing connections, since one of those would keep
    a server that died from coming back; only if nothing is free there, whatever is. Raises OSError.
    """
    for port in random.sample(range(FIRST, _last() + 1), TRIES):
        with suppress(OSError), bound(host, port):
            return port
    with bound(host, 0) as probe:
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether nobody listens on this loopback port."""
    with suppress(OSError), bound("127.0.0.1", port):
        return True
    return False


def bound(host: str, port: int) -> socket.socket:
    """A socket on this address that does not listen yet. Raises OSError, OverflowError."""
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    probe = socket.socket(family, kind)
    try:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
    except BaseException:
        probe.close()
        raise
    return probe


def _last() -> int:
    with suppress(OSError, ValueError):
        return max(FIRST + TRIES, int(_EPHEMERAL.read_text().split()[0]) - 1)
    return LAST
