"""An API process that leaves: no new orders, everything else is answered."""

from __future__ import annotations

from api.drain import Drain
from tests.api_kit import Farm

FOX = {"prompt": "a red fox", "seed": 1}


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_drain_is_over_after_its_grace():
    clock = FakeClock()
    drain = Drain(5.0, clock)
    assert (drain.begun, drain.over) == (False, False)

    drain.begin()
    assert (drain.begun, drain.over) == (True, False)
    clock.now += 5.0
    assert drain.over


def test_a_second_signal_ends_the_wait():
    drain = Drain(5.0, FakeClock())

    drain.begin()
    drain.begin()

    assert drain.over


def test_a_leaving_process_takes_no_order_and_answers_everything_else():
    farm = Farm()
    client = farm.client()
    job = client.post("/jobs", json=FOX).json()
    farm.render()
    farm.app.state.farm.drain.begin()

    refused = client.post("/jobs", json=FOX)

    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
    assert refused.headers["retry-after"] == "1"
    assert client.post(f"/jobs/{job['id']}/retry").json()["error"]["code"] == "draining"
    assert client.get(f"/jobs/{job['id']}").json()["status"] == "succeeded"
    assert client.get(f"/files/{job['id']}/0.png").status_code == 200
    assert client.get("/healthz").status_code == 200


def test_a_leaving_process_is_not_ready_and_says_why():
    farm = Farm()
    assert farm.client().get("/readyz").json()["draining"] is False

    farm.app.state.farm.drain.begin()

    ready = farm.client().get("/readyz")
    assert (ready.status_code, ready.json()["draining"]) == (503, True)
    status = farm.client().get("/status").json()
    assert (status["ready"], status["reason"]) == (False, "this API process is leaving")


def test_a_leaving_process_closes_each_connection_with_its_answer():
    farm = Farm()
    assert "connection" not in farm.client().get("/healthz").headers

    farm.app.state.farm.drain.begin()

    assert farm.client().get("/healthz").headers["connection"] == "close"
    assert farm.client().post("/jobs", json=FOX).headers["connection"] == "close"
