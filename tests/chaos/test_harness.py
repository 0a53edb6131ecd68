"""The harness itself: what it reads off the wire, and what it calls illegal."""

from __future__ import annotations

import pytest

from tests.chaos import verdict
from tests.chaos.load import Image
from tests.chaos.recovery import slowest
from tests.chaos.resp import Requests

PING = b"*1\r\n$4\r\nPING\r\n"
SET = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4\r\n\r\n*1\r\n"  # a value that looks like a request


@pytest.mark.parametrize("size", range(1, len(PING + SET) + 1))
def test_requests_are_found_however_the_bytes_are_cut(size: int) -> None:
    requests, data, seen = Requests(), PING + SET, []
    for at in range(0, len(data), size):
        seen += requests.feed(data[at : at + size])

    assert seen == [(PING, [b"PING"]), (SET, [b"SET", b"k", b"\r\n*1"])]


@pytest.mark.parametrize(
    ("seen", "legal"),
    [
        ([("queued", 0, None), ("running", 1, None), ("succeeded", 1, "a")], True),
        ([("running", 1, None), ("queued", 1, None), ("running", 2, None)], True),
        ([("storing", 1, None), ("canceled", 1, None), ("canceled", 2, None)], True),
        ([("storing", 1, None), ("running", 1, None)], False),
        ([("running", 2, None), ("queued", 1, None)], False),
        ([("succeeded", 1, "a"), ("queued", 1, None)], False),
        ([("succeeded", 1, "a"), ("succeeded", 2, "b")], False),
    ],
)
def test_an_image_moves_forward_and_back_only_to_be_tried_again(
    seen: list[Image], legal: bool
) -> None:
    assert verdict.legal(seen) is legal


def test_the_slowest_of_a_share() -> None:
    assert slowest([3.0, 1.0, 2.0]) == 3.0
    assert slowest([float(n) for n in range(100)], 0.95) == 95.0
