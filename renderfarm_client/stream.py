"""A job's event stream: server-sent events, taken up again where the connection broke."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator

import httpx2

from renderfarm_client.errors import RenderFarmError, Unreachable
from renderfarm_client.records import Event
from renderfarm_client.wire import FAULTS, Wire, checked, part

SILENCE_S = 45.0  # the farm sends a comment each 15 s
MOST_BYTES = 64 * 2**20  # of one event; the largest holds a preview in base64
FIRST_REST_S = 2.0  # until the farm says `retry:`


def events(wire: Wire, job_id: str, after: str | None) -> Iterator[Event]:
    """Each event once, until the job's last. Raises Refused, Unreachable."""
    parser = _Parser(after)
    while True:
        again = wire.patience()
        while True:
            try:
                for event in _one_connection(wire, job_id, parser):
                    yield event
                    if event.final:
                        return
                    again = wire.patience()  # what came renews it
                break
            except (*FAULTS, RenderFarmError) as error:
                again(error)
        if parser.ended:
            return
        time.sleep(parser.rest_s)


def _one_connection(wire: Wire, job_id: str, parser: _Parser) -> Iterator[Event]:
    headers = {"Accept": "text/event-stream"}
    if parser.last_id is not None:
        headers["Last-Event-ID"] = parser.last_id
    timeout = httpx2.Timeout(wire.timeout_s, read=max(SILENCE_S, wire.timeout_s))
    path = f"/jobs/{part(job_id)}/events"
    with wire.http.stream("GET", path, headers=headers, timeout=timeout) as answer:
        if not answer.is_success:
            answer.read()
        checked(answer)
        parser.ended = answer.status_code == 204  # nothing more will come
        kind = answer.headers.get("content-type", "")
        if not parser.ended and not kind.startswith("text/event-stream"):
            raise Unreachable(f"{answer.url} does not answer like a render farm")
        yield from parser.events(_lines(answer.iter_bytes()))


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Lines as the format knows them; a text may hold other separators, such as U+2028."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        if len(rest) > MOST_BYTES:
            raise Unreachable("an event of the farm has no end")
        yield from (line.removesuffix(b"\r").decode("utf-8", "replace") for line in whole)


class _Parser:
    """What is remembered over all connections: the last id, and how long to rest between two."""

    def __init__(self, last_id: str | None) -> None:
        self.last_id = last_id
        self.rest_s = FIRST_REST_S
        self.ended = False

    def events(self, lines: Iterable[str]) -> Iterator[Event]:
        """Each complete event; what a broken connection left half is dropped."""
        kind, own_id, data = "", None, list[str]()
        for line in lines:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            match name:
                case "" if not line:
                    if data:
                        self.last_id = own_id if own_id is not None else self.last_id
                        yield _event(kind, own_id, "\n".join(data))
                    kind, own_id, data = "", None, []
                case "event":
                    kind = value
                case "id":
                    own_id = value
                case "data":
                    data.append(value)
                case "retry" if value.isdigit():
                    self.rest_s = min(int(value[:6]) / 1000, 60.0)


def _event(kind: str, own_id: str | None, data: str) -> Event:
    try:
        fields = json.loads(data)
    except ValueError as error:
        raise Unreachable("an event of the farm is not JSON") from error
    return Event(type=kind or "message", id=own_id, data=fields if isinstance(fields, dict) else {})
