"""One order through a real API, worker and courier is one trace, and one thread through all logs."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.collector import Collector, Got, collecting
from tests.e2e.farm import QUICK, RunningFarm
from tests.receiver import Receiver, receiving
from tests.waiting import wait_until

CLIENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TRACE = CLIENT.split("-")[1]
REQUEST = "the-request-of-this-test"
ROAD = ["POST /jobs", "queue", "claim", "render", "text", "denoise", "decode", "encode", "store", "close", "webhook"]  # fmt: skip


class Traced:
    """What one order left behind, and whether the farm lives without its collector."""

    def __init__(self, farm: RunningFarm, collector: Collector, receiver: Receiver) -> None:
        order = {**QUICK, "seed": 8100, "webhook": {"url": receiver.url}}
        answer = farm.post(
            order, traceparent=CLIENT, tracestate="vendor=1", **{"X-Request-Id": REQUEST}
        )
        self.response = answer.headers["traceresponse"]
        self.job = farm.wait(answer.json()["id"])
        wait_until(lambda: len(collector.of(TRACE)) >= len(ROAD), 30, "for every part's spans")
        self.spans = collector.of(TRACE)
        ((self.webhook_headers, _),) = receiver.got

    def one(self, name: str) -> Got:
        (span,) = [span for span in self.spans if span.name == name]
        return span


@dataclass(frozen=True)
class Ran:
    """A farm that has stopped: its logs, its traced order, one ordered when the collector was gone."""

    farm: RunningFarm
    traced: Traced
    later: dict[str, Any]
    exit_code: int


@pytest.fixture(scope="module")
def ran(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    with ExitStack() as until_gone, receiving() as receiver:
        collector = until_gone.enter_context(collecting())
        env = {
            "FARM_OTLP_ENDPOINT": collector.url,
            "FARM_WEBHOOK_ALLOW_HOSTS": "127.0.0.1",
            "FARM_API_DRAIN_S": "0.1",
        }
        with RunningFarm(tmp_path_factory.mktemp("traced"), models, **env) as farm:
            traced = Traced(farm, collector, receiver)
            until_gone.close()
            later = farm.wait(farm.submit(seed=8200)["id"])
            return Ran(farm, traced, later, farm.stop())


@pytest.fixture(scope="module")
def traced(ran: Ran) -> Traced:
    return ran.traced


def test_the_whole_road_of_a_job_is_one_trace_that_its_client_began(traced: Traced) -> None:
    assert sorted(span.name for span in traced.spans) == sorted(ROAD)
    assert {span.name: span.service for span in traced.spans} == {
        "POST /jobs": "renderfarm-api", "webhook": "renderfarm-chores",
        **dict.fromkeys(ROAD[1:-1], "renderfarm-worker"),
    }  # fmt: skip
    assert traced.one("POST /jobs").parent == CLIENT.split("-")[2]
    assert traced.response == f"00-{TRACE}-{traced.one('POST /jobs').id}-01"


def test_its_spans_nest(traced: Traced) -> None:
    order, render = traced.one("POST /jobs"), traced.one("render")

    assert {traced.one(name).parent for name in ("queue", "claim", "render", "webhook")} == {
        order.id
    }
    parts = [traced.one(name) for name in ROAD[4:-1]]
    assert {part.parent for part in parts} == {render.id}
    for before, after in pairwise(parts):
        assert render.started <= before.started <= before.ended <= after.started
    assert parts[-1].ended <= render.ended
    outcomes = [traced.one(name).told["renderfarm.outcome"] for name in ("render", "webhook")]
    assert outcomes == ["succeeded", "delivered"]


def test_its_receiver_is_told_of_the_trace(traced: Traced) -> None:
    assert traced.webhook_headers["traceparent"] == f"00-{TRACE}-{traced.one('webhook').id}-01"
    assert traced.webhook_headers["tracestate"] == "vendor=1"


def test_the_lines_of_all_parts_are_joined_by_job_and_trace(ran: Ran) -> None:
    farm, traced = ran.farm, ran.traced
    job = traced.job["id"]
    lines = [line for part in ("api", "worker", "chores") for line in farm.logs(part)]

    of_job = {
        line["action"]: line
        for line in lines
        if line.get("job") == job and line.get("trace") == TRACE
    }
    assert set(of_job) >= {"request", "claimed", "stored", "webhook"}
    assert of_job["request"]["request_id"] == REQUEST
    assert of_job["claimed"]["render"] == of_job["stored"]["render"]
    assert not [line for line in lines if line["level"] == "ERROR"]


def test_every_line_of_every_part_has_one_shape(ran: Ran) -> None:
    parts = ("api", "chores", "worker-*")
    files = [file for part in parts for file in (ran.farm.folder / "logs").glob(f"{part}.log")]
    lines = [line for file in files for line in file.read_text().splitlines() if line]
    goodbye = "worker: Warm shutdown (MainProcess)"  # Celery's, on stdout

    shapes = [set(json.loads(line)) for line in lines if line != goodbye]
    assert len(files) == len(parts)
    assert all(shape >= {"time", "level", "component", "logger", "message"} for shape in shapes)


def test_a_farm_whose_collector_is_gone_renders_and_stops_as_ever(ran: Ran) -> None:
    assert (ran.later["status"], ran.exit_code) == ("succeeded", 0)
    lost = [line for line in ran.farm.logs("worker") if line.get("action") == "not_traced"]
    assert [line["level"] for line in lost] == ["WARNING"]
