"""Which strangers' URLs this farm may call: guards against server-side request forgery.

A URL is read once, by the parser of the client that will call it. Its host is resolved once, every
address is judged, and the connection is made to exactly one of these addresses: a resolver that
changes its answer changes nothing. What is refused is what does not lie on the public internet.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass

import httpx2

from shared.errors import SettingsError, UrlNotAllowed

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[[str, int], list[str]]
MOST_CHARACTERS = 2048
PORTS = {"http": 80, "https": 443}

_UNSEEN = re.compile(r"[\x00-\x20\x7f\\\ud800-\udfff]")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")

# IANA's special-purpose registries; and one public address that only a cloud's own hosts reach.
_REFUSED_V4 = tuple(map(ipaddress.IPv4Network, (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
    "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
    "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "168.63.129.16/32",
)))  # fmt: skip
_PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")
_REFUSED_V6 = tuple(map(ipaddress.IPv6Network, ("2001::/23", "2001:db8::/32", "3fff::/20")))
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


@dataclass(slots=True, frozen=True)
class Hosts:
    """Whom the operator trusts besides the public: by name, or by address."""

    names: frozenset[str] = frozenset()
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()

    @staticmethod
    def of(text: str) -> Hosts:
        """From names, addresses and CIDRs between spaces. Raises SettingsError."""
        names, networks = set(), []
        for word in text.lower().split():
            try:
                networks.append(ipaddress.ip_network(word))
            except ValueError:
                if not _is_name(word):
                    raise SettingsError(f"{word!r} is no host name, address or CIDR") from None
                names.add(word)
        return Hosts(frozenset(names), tuple(networks))

    def trusts(self, address: Address) -> bool:
        return any(address in network for network in self.networks)

    def covers(self, host: str) -> bool:
        """Whether a URL's host is one of these, by name or as an address. Raises UrlNotAllowed."""
        literal = _literal(host)
        return host in self.names if literal is None else self.trusts(literal)


@dataclass(slots=True, frozen=True)
class Target:
    """A URL taken apart: `host` in lower case and ASCII, an IPv6 address without brackets."""

    scheme: str
    host: str
    port: int
    path: bytes  # with the query

    @property
    def origin(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def read_target(url: str, trusted: Hosts) -> Target:
    """What can be judged without a resolver. Raises UrlNotAllowed, which says why."""
    target = take_apart(url)
    if target.scheme == "http" and not trusted.covers(target.host):
        raise UrlNotAllowed("must start with https://")
    if (literal := _literal(target.host)) is not None:
        judge(literal, trusted)
    return target


def take_apart(url: str) -> Target:
    """Whoever it leads to. Raises UrlNotAllowed where it is no URL of a kind that is called."""
    if len(url) > MOST_CHARACTERS:
        raise UrlNotAllowed(f"has more than {MOST_CHARACTERS} characters")
    if _UNSEEN.search(url):
        raise UrlNotAllowed("has a space, a backslash or a control character")
    try:
        read = httpx2.URL(url)
        host = read.raw_host.decode("ascii").removesuffix(".")
    except (httpx2.InvalidURL, ValueError):
        raise UrlNotAllowed("is not a URL") from None
    if read.scheme not in PORTS:
        raise UrlNotAllowed("must start with https://")
    if read.userinfo or "@" in read.netloc.decode("ascii"):
        raise UrlNotAllowed("must not carry a user or password")
    port = PORTS[read.scheme] if read.port is None else read.port
    if not 0 < port < 65536:
        raise UrlNotAllowed("has an impossible port")
    if _literal(host) is None and not _is_name(host):
        raise UrlNotAllowed("has no host name that can be looked up")
    return Target(read.scheme, host, port, read.raw_path)


def addresses(host: str, port: int, trusted: Hosts, resolve: Resolver) -> list[str]:
    """Where the host is now; one look-up. Raises UrlNotAllowed if any address is; OSError."""
    found = list(dict.fromkeys(resolve(host, port)))
    if host not in trusted.names:
        for text in found:
            judge(ipaddress.ip_address(text), trusted)
    return found


def system_resolver(host: str, port: int) -> list[str]:
    """By the system's own means. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(sockaddr[0]) for *_, sockaddr in found]


def judge(address: Address, trusted: Hosts) -> None:
    """Raises UrlNotAllowed unless the address is public, or trusted."""
    if trusted.trusts(address):
        return None
    inner = _inner(address)
    if inner is not None:
        return judge(inner, trusted)
    if _is_refused(address):
        raise UrlNotAllowed("leads to an address that is not on the public internet")
    return None


def _is_refused(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv4Address):
        return any(address in network for network in _REFUSED_V4)
    return address not in _PUBLIC_V6 or any(address in network for network in _REFUSED_V6)


def _inner(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that a mapped, 6to4 or NAT64 address leads to."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour


def _literal(host: str) -> Address | None:
    """The address that a host spells in the one usual way; a zone is none. Raises UrlNotAllowed."""
    if "%" in host:
        raise UrlNotAllowed("has no host name that can be looked up")
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    # Resolvers take more spellings: 2130706433, 0x7f.1, 0177.0.0.1. No name ends in a number.
    if _NUMBER.fullmatch(host.rpartition(".")[2]):
        raise UrlNotAllowed("spells an address in an unusual way")
    return None


def _is_name(host: str) -> bool:
    return 0 < len(host) <= 253 and all(map(_LABEL.fullmatch, host.split(".")))
