"""A farm tells receivers how jobs end: signed, once, and later when they were away."""

from __future__ import annotations

from typing import Any

import httpx2

from deploy.embedded import free_port
from tests.e2e.farm import QUICK, RunningFarm
from tests.receiver import receiving
from tests.waiting import wait_until


def deliveries(farm: RunningFarm, job_id: str) -> list[dict[str, Any]]:
    return list(farm.get(f"/jobs/{job_id}/deliveries").json()["data"])


def test_a_receiver_hears_of_a_job_once_and_can_open_the_picture(farm: RunningFarm) -> None:
    events = ["job.running", "image.succeeded", "job.succeeded"]
    with receiving() as receiver:
        order = {**QUICK, "seed": 7100, "n": 2, "webhook": {"url": receiver.url, "events": events}}
        job_id = farm.post(order).json()["id"]
        wait_until(lambda: [d["status"] for d in deliveries(farm, job_id)] == ["delivered"] * 4, 60)

    secret = farm.get("/webhooks/secret").json()["secret"]
    told = receiver.verified(secret)
    assert sorted(message["type"] for message in told) == [
        "image.succeeded", "image.succeeded", "job.running", "job.succeeded",
    ]  # fmt: skip
    assert sorted(receiver.ids) == sorted(d["id"] for d in deliveries(farm, job_id))
    (end,) = [message["data"] for message in told if message["type"] == "job.succeeded"]
    assert (end["id"], end["status"], end["input"]["seed"]) == (job_id, "succeeded", 7100)
    assert httpx2.get(end["images"][1]["url"]).headers["content-type"] == "image/png"


def test_a_receiver_that_was_away_hears_of_it_later(farm: RunningFarm) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/hook"
    job_id = farm.post({**QUICK, "seed": 7200, "webhook": {"url": url}}).json()["id"]
    wait_until(lambda: [len(d["attempts"]) for d in deliveries(farm, job_id)] == [1], 60)

    with receiving(port=port) as receiver:
        wait_until(lambda: deliveries(farm, job_id)[0]["status"] == "delivered", 20)

    (delivery,) = deliveries(farm, job_id)
    assert [a["error"] or a["status"] for a in delivery["attempts"]] == [
        "no connection to the receiver", 204,
    ]  # fmt: skip
    assert receiver.ids == [delivery["id"]]
