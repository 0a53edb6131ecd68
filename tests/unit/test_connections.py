"""What a connection may do to the API: real sockets that trickle, stall, or are too many."""

from __future__ import annotations

import json
import resource
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import repeat

import pytest

from api import connections
from api.main import bounded
from shared.settings import Settings
from tests.api_kit import Farm
from tests.loopback import serving
from tests.waiting import wait_until

TIMEOUT_S = 0.4
LIMIT_S = 10.0
POST = b"POST /jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"


@contextmanager
def served(**settings: object) -> Iterator[int]:
    """The port of a farm."""
    given = Settings.model_validate({"request_timeout_s": TIMEOUT_S, **settings})
    with serving(Farm(given).app, http=bounded(given), log_level="critical") as url:
        yield int(url.rpartition(":")[2])


def dial(port: int) -> socket.socket:
    made: list[socket.socket] = []

    def reached() -> bool:
        try:
            made.append(socket.create_connection(("127.0.0.1", port), LIMIT_S))
        except OSError:
            return False
        return True

    wait_until(reached)
    return made[0]


def trickle(client: socket.socket, drops: Iterator[bytes]) -> bytes:
    """Send a drop every 50 ms until the server has closed; all that it said."""
    said = b""
    client.settimeout(0.05)
    for drop in drops:
        try:
            if drop:
                client.sendall(drop)
            if not (piece := client.recv(65536)):
                return said
            said += piece
        except TimeoutError:
            continue
        except OSError:
            return said
    raise AssertionError("the server never closed")


def ended(client: socket.socket) -> bytes:
    """All that the server says until it closes."""
    return trickle(client, repeat(b"", int(LIMIT_S / 0.05)))


@pytest.mark.parametrize(
    ("begin", "drop"),
    [
        (b"G", b"E"),
        (b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ", b"a"),
        (POST + b"Content-Length: 5000\r\n\r\n{", b" "),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", b"1\r\n \r\n"),
        (POST + b"Content-Length: 5000\r\n\r\n{", b""),
    ],
    ids=["method", "header", "body", "chunks", "stalled body"],
)
def test_a_request_that_trickles_is_cut_off(begin: bytes, drop: bytes) -> None:
    with served() as port, closing(dial(port)) as client:
        client.sendall(begin)

        said = trickle(client, repeat(drop, int(LIMIT_S / 0.05)))

    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in head.lower()
    problem = json.loads(body)
    assert (problem["status"], problem["error"]["code"]) == (408, "request_timeout")
    assert problem["request_id"].encode() in head


def test_a_connection_that_asks_nothing_is_closed_without_a_word() -> None:
    with served() as port, closing(dial(port)) as client:
        assert ended(client) == b""


def test_a_refused_request_may_not_trickle_on() -> None:
    """The answer is there before the body: what is left of it has no more time than the rest."""
    with served(api_keys="alice:alice-key") as port, closing(dial(port)) as client:
        client.sendall(POST + b"Content-Length: 5000\r\n\r\n{")

        said = trickle(client, repeat(b" ", int(LIMIT_S / 0.05)))

    assert said.startswith(b"HTTP/1.1 401 ")
    assert b" 408 " not in said


def asked(client: socket.socket) -> bytes:
    """The whole answer to a small request."""
    client.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    said = b""
    while not said.endswith(b"}") and (piece := client.recv(65536)):
        said += piece
    return said


def test_between_two_requests_no_limit_runs() -> None:
    with served(request_timeout_s=0.2) as port, closing(dial(port)) as client:
        assert asked(client).startswith(b"HTTP/1.1 200 ")
        client.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.recv(1)  # idle for longer than a request may take
        client.settimeout(LIMIT_S)
        assert asked(client).startswith(b"HTTP/1.1 200 ")


def test_while_an_answer_is_made_no_limit_runs() -> None:
    order = b'{"prompt": "a fox"}'
    with served(request_timeout_s=0.2) as port, closing(dial(port)) as client:
        client.sendall(POST + b"Prefer: wait=1\r\nContent-Length: 19\r\n\r\n" + order)

        assert client.recv(65536).startswith(b"HTTP/1.1 202 ")


def test_a_second_request_has_the_same_time_as_the_first() -> None:
    with served() as port, closing(dial(port)) as client:
        assert asked(client).startswith(b"HTTP/1.1 200 ")
        client.sendall(b"GET /healthz HT")

        assert ended(client).startswith(b"HTTP/1.1 408 ")


def test_one_connection_too_many_is_told_to_come_back() -> None:
    with served(max_connections=2, request_timeout_s=60) as port:
        held = [dial(port), dial(port)]
        for client in held:
            assert asked(client).startswith(b"HTTP/1.1 200 ")
        with closing(dial(port)) as third:
            said = ended(third)
        held.pop().close()

        def there_is_room() -> bool:
            with closing(dial(port)) as client:
                return asked(client).startswith(b"HTTP/1.1 200 ")

        wait_until(there_is_room)
        held.pop().close()

    assert said.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nRetry-After: 1\r\n" in said
    assert json.loads(said.partition(b"\r\n\r\n")[2])["error"]["code"] == "too_many_connections"


def test_what_is_no_http_gets_a_problem_of_ours() -> None:
    with served() as port, closing(dial(port)) as client:
        client.sendall(b"\x16\x03\x01 hello\r\n\r\n")

        said = ended(client)

    assert said.startswith(b"HTTP/1.1 400 ")
    assert json.loads(said.partition(b"\r\n\r\n")[2])["error"]["code"] == "invalid_value"


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 3000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"]
)
def test_a_large_body_is_refused_whether_it_says_its_length_or_not(framing: bytes) -> None:
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n" if b"chunked" in framing else b" " * 0x10000
    with served(max_body_mb=1, request_timeout_s=5) as port, closing(dial(port)) as client:
        client.sendall(POST + framing)
        for _ in range(17):  # 64 KiB each: one more than a MiB has
            client.sendall(chunk)

        said = client.recv(65536)

    assert said.startswith(b"HTTP/1.1 413 ")


def test_the_limit_of_files_is_raised_as_far_as_it_may(monkeypatch, caplog) -> None:
    asked = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: asked.append(limits))

    connections.allow_files(100)
    connections.allow_files(2000)
    with caplog.at_level("WARNING"):
        connections.allow_files(10_000)

    assert asked == [(2000 + connections.SPARE_FILES, 4096), (4096, 4096)]
    assert [record.message for record in caplog.records] == ["few_files"]
