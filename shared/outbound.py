"""One guarded HTTP request to a stranger: a pinned address, no redirects, no proxy, one time limit."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpcore2
import httpx2

from shared.errors import OutboundFailed, SettingsError
from shared.ssrf import Hosts, Resolver, Target, addresses, read_target, system_resolver


def trust(ca_file: Path | None) -> ssl.SSLContext:
    """Verifies servers by the usual authorities, and by those in `ca_file`. Raises SettingsError."""
    context = httpx2.create_ssl_context(trust_env=False)
    try:
        if ca_file:
            context.load_verify_locations(ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise SettingsError(f"{ca_file} holds no certificates: {error}") from None
    return context


@dataclass(slots=True, frozen=True)
class Outbound:
    """Calls strangers' URLs. Thread-safe; every request has a connection of its own."""

    trusted: Hosts
    tls: ssl.SSLContext
    resolve: Resolver = system_resolver

    def post(self, url: str, headers: dict[str, str], body: bytes, *, limit_s: float) -> int:
        """The status of the answer; a redirect is not followed, a body not read.

        `limit_s` is for all of it: connecting, sending, the answer's headers. Looking the name up
        cannot be interrupted; when that alone takes as long, nothing is sent.
        Raises UrlNotAllowed, OutboundFailed.
        """
        length = {"Content-Length": str(len(body))}
        with self._answer("POST", url, length | headers, body, limit_s) as answer:
            return answer.status

    def get(self, url: str, *, limit_s: float, limit_bytes: int) -> bytes:
        """The body of a 200, as it comes; every other answer, a redirect too, is a failure.

        `limit_s` as in `post`, with reading the body. Raises UrlNotAllowed, OutboundFailed.
        """
        data = bytearray()
        with self._answer("GET", url, {"Accept": "*/*"}, b"", limit_s) as answer:
            if answer.status != 200:
                raise OutboundFailed(f"the host answered {answer.status}")
            for piece in answer.iter_stream():
                data += piece
                if len(data) > limit_bytes:
                    raise OutboundFailed(f"it has more than {limit_bytes} bytes")
        return bytes(data)

    @contextmanager
    def _answer(
        self, method: str, url: str, headers: dict[str, str], body: bytes, limit_s: float
    ) -> Iterator[httpcore2.Response]:
        target = read_target(url, self.trusted)
        network = _Pinned(self, time.monotonic() + limit_s)
        origin = httpcore2.Origin(target.scheme.encode(), target.host.encode(), target.port)
        lines = [("Host", _host(target)), *headers.items()]
        try:
            with (
                httpcore2.HTTPConnection(origin, self.tls, network_backend=network) as connection,
                connection.stream(method, _url(target), headers=lines, content=body) as answer,
            ):
                yield answer
        except (httpcore2.TimeoutException, TimeoutError) as error:
            raise OutboundFailed(f"no answer within {limit_s:g} s") from error
        except (httpcore2.NetworkError, httpcore2.ProtocolError, OSError) as error:
            raise OutboundFailed(_reason(error)) from error


class _Pinned(httpcore2.NetworkBackend):
    """Looks the name up once, has every address judged, and connects to one of them."""

    def __init__(self, outbound: Outbound, end: float) -> None:
        self._outbound = outbound
        self._end = end
        self._network = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        found = addresses(host, port, self._outbound.trusted, self._outbound.resolve)
        for number, address in enumerate(found, 1):
            share_s = _left_s(self._end) / (len(found) - number + 1)
            try:
                stream = self._network.connect_tcp(
                    address, port, share_s, socket_options=socket_options
                )
                return _Timed(stream, self._end)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                if number == len(found):
                    raise
        raise httpcore2.ConnectError("the host has no address")


class _Timed(httpcore2.NetworkStream):
    """A stream whose reads and writes share one time limit, so that no drip outlasts it."""

    def __init__(self, stream: httpcore2.NetworkStream, end: float) -> None:
        self._stream = stream
        self._end = end

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left_s(self._end))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left_s(self._end))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.NetworkStream:
        left_s = _left_s(self._end)
        return _Timed(self._stream.start_tls(ssl_context, server_hostname, left_s), self._end)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left_s(end: float) -> float:
    left_s = end - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


def _url(target: Target) -> httpcore2.URL:
    scheme, host = target.scheme.encode(), target.host.encode()
    return httpcore2.URL(scheme=scheme, host=host, port=target.port, target=target.path)


def _host(target: Target) -> str:
    """As it stands in a URL: the port only where it is not the scheme's own."""
    scheme, _, rest = target.origin.partition("://")
    return rest.removesuffix(":443" if scheme == "https" else ":80")


def _reason(error: Exception) -> str:
    """A few words for the client's log: what failed, nothing of ours."""
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text or "certificate" in text.lower():
        return "the certificate of the receiver is not valid"
    return next((words for kind, words in _REASONS if isinstance(error, kind)), "no connection")


_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (httpcore2.ConnectError, "no connection to the receiver"),
    (httpcore2.ProtocolError, "the receiver does not answer in HTTP"),
    (httpcore2.NetworkError, "the connection broke"),
    (OSError, "the host name cannot be looked up"),
)
