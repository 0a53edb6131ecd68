"""How long a call to Redis is tried again, on a clock that only the test moves."""

from __future__ import annotations

import pytest
import redis

from shared.store import patience
from shared.store.patience import Patience


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(patience, "time", clock)
    monkeypatch.setattr("redis.retry.sleep", lambda seconds: None)
    return clock


class Server:
    """Answers after so many tries; each failed one takes `costs_s`."""

    def __init__(self, clock: Clock, answers_at: int, costs_s: float) -> None:
        self.tries = 0
        self._clock = clock
        self._answers_at = answers_at
        self._costs_s = costs_s

    def ask(self) -> str:
        self.tries += 1
        if self.tries >= self._answers_at:
            return "PONG"
        self._clock.now += self._costs_s
        raise redis.ConnectionError


def test_a_call_is_tried_again_until_it_is_answered(clock: Clock) -> None:
    server = Server(clock, answers_at=4, costs_s=1.0)

    assert Patience(60).call_with_retry(server.ask, lambda error: None) == "PONG"


def test_the_patience_is_a_time_however_long_each_try_takes(clock: Clock) -> None:
    for costs_s in (0.1, 2.0):
        server = Server(clock, answers_at=10_000, costs_s=costs_s)
        started = clock.now

        with pytest.raises(redis.ConnectionError):
            Patience(10).call_with_retry(server.ask, lambda error: None)

        assert 10 <= clock.now - started <= 10 + 2 * costs_s


def test_a_connection_inside_a_command_shares_its_patience(clock: Clock) -> None:
    server = Server(clock, answers_at=10_000, costs_s=1.0)
    patient = Patience(10)

    def command() -> str:
        return patient.call_with_retry(server.ask, lambda error: None)

    with pytest.raises(redis.ConnectionError):
        patient.call_with_retry(command, lambda error: None)
    assert clock.now <= 12


def test_each_call_has_the_whole_patience(clock: Clock) -> None:
    patient = Patience(10)
    with pytest.raises(redis.ConnectionError):
        patient.call_with_retry(Server(clock, 10_000, 1.0).ask, lambda error: None)

    assert patient.call_with_retry(Server(clock, 9, 1.0).ask, lambda error: None) == "PONG"


def test_an_answer_that_is_a_refusal_is_not_tried_again(clock: Clock) -> None:
    tries = []

    def refused() -> None:
        tries.append(1)
        raise redis.ResponseError("OOM command not allowed")

    with pytest.raises(redis.ResponseError):
        Patience(10).call_with_retry(refused, lambda error: None)
    assert len(tries) == 1
