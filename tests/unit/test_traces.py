"""Traces: contexts in and out, spans of orders, renders and deliveries, and none where none are wanted."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.errors import Canceled, RenderFailed, SettingsError
from shared.jobs import TraceContext
from shared.settings import Settings
from shared.store.memory import MemoryJobStore
from shared.traces import (
    NAMES,
    NoTraces,
    Told,
    Traces,
    Unrecorded,
    current,
    headers_of,
    open_traces,
    read_context,
    step,
    within,
)
from tests.api_kit import Farm as Api
from tests.bench import Farm
from tests.collector import Collector, collecting
from tests.orders import submission
from tests.waiting import wait_until

CLIENT = f"00-{'4bf92f3577b34da6a3ce929d0e0e4736'}-00f067aa0ba902b7-01"
TRACE = CLIENT.split("-")[1]
EXTRA = ["opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http.trace_exporter"]
ORDER = {"prompt": "a lighthouse at dusk", "size": "64x64", "steps": 4, "seed": 7}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as one:
        yield one


@pytest.fixture
def traces(collector: Collector) -> Iterator[Traces]:
    traces = open_traces("test", Settings(otlp_endpoint=collector.url))
    yield traces
    traces.close()


@pytest.fixture
def api(traces: Traces) -> Api:
    return Api(traces=traces)


@pytest.fixture
def farm(traces: Traces) -> Iterator[Farm]:
    farm = Farm(MemoryJobStore(retry_pause_s=0.01), traces=traces)
    yield farm
    farm.keep.close()


def traced(farm: Farm, context: str = CLIENT, **order: object) -> str:
    wanted = submission(**order)  # type: ignore[arg-type]
    trace = TraceContext(parent=context)
    object.__setattr__(wanted, "job", wanted.job.model_copy(update={"trace": trace}))
    return farm.store.submit(wanted).job.id


# ------------------------------------------------------------------------------------- contexts


@pytest.mark.parametrize(
    ("line", "read"),
    [
        (CLIENT, CLIENT),
        (CLIENT.replace("00-", "cc-", 1) + "-what-comes-later", CLIENT),  # a later version
        (CLIENT + "-more", None),
        (CLIENT.upper(), None),
        (CLIENT.replace("00-", "ff-", 1), None),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", None),
        (f"00-{'1' * 32}-{'0' * 16}-01", None),
        (CLIENT[:-1], None),
        (CLIENT + "\n", None),
        ("", None),
    ],
)
def test_a_traceparent_is_taken_only_as_the_standard_has_it(line: str, read: str | None) -> None:
    context = read_context([line])

    assert (context.parent if context else None) == read


def test_two_traceparents_are_none() -> None:
    assert read_context([CLIENT, CLIENT]) is None
    assert read_context([]) is None


def test_a_tracestate_is_handed_on_unless_it_is_too_long_or_strange() -> None:
    assert headers_of(read_context([CLIENT], ["a=1", "b=2"])) == {
        "traceparent": CLIENT, "tracestate": "a=1,b=2",
    }  # fmt: skip
    for bad in ("a=" + "x" * 600, "a=ü", "a=1\r\nX: y"):
        assert headers_of(read_context([CLIENT], [bad])) == {"traceparent": CLIENT}


# ------------------------------------------------------------------------------------- switched off


def test_without_a_collector_nothing_is_recorded_and_a_context_goes_on() -> None:
    span = open_traces("api", Settings()).begin("POST", "server", TraceContext(parent=CLIENT))

    with within(span), step("text") as inner:
        assert inner is span
    assert headers_of(span.context) == {"traceparent": CLIENT}
    assert current().context is None


@pytest.mark.parametrize("module", ["api.main", "worker.main", "worker.chores", "worker.keeper"])
def test_every_part_runs_without_the_extra(module: str) -> None:
    code = (  # hidden, since redis-py imports it by itself where it is installed
        f"import sys; sys.modules.update(dict.fromkeys({EXTRA})); import {module}; "
        "from shared.traces import open_traces; from shared.settings import Settings; "
        "open_traces('api', Settings()).close(); print('shared.otel' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("missing", EXTRA)
def test_a_collector_without_the_extra_is_refused_in_words(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, "shared.otel", raising=False)

    with pytest.raises(SettingsError, match=r"not installed: `pip install 'renderfarm\[traces\]'`"):
        open_traces("api", Settings(otlp_endpoint="http://collector:4318"))


def test_headers_for_the_collector_are_sent_and_never_shown(collector: Collector) -> None:
    wrong = Settings(otlp_endpoint=collector.url, otlp_headers="hunter2")
    with pytest.raises(SettingsError, match="FARM_OTLP_HEADERS") as refusal:
        open_traces("api", wrong)
    assert "hunter2" not in str(refusal.value) + repr(wrong)

    right = {"otlp_endpoint": collector.url + "/", "otlp_headers": "Authorization=Basic%20abc, x=y"}
    traces = open_traces("api", Settings.model_validate(right))
    traces.begin("POST", "server").end()
    traces.close()

    assert (collector.headers[0]["authorization"], collector.headers[0]["x"]) == ("Basic abc", "y")
    assert [span.service for span in collector.spans] == ["renderfarm-api"]


# ------------------------------------------------------------------------------------- orders


def test_an_order_goes_on_with_its_clients_trace(
    api: Api, traces: Traces, collector: Collector
) -> None:
    sent = {"traceparent": CLIENT, "tracestate": "vendor=1"}
    answer = api.client().post("/jobs", json=ORDER, headers=sent)
    traces.close()

    (span,) = collector.spans
    assert (span.name, span.kind, span.trace, span.parent) == (
        "POST /jobs", "server", TRACE, "00f067aa0ba902b7",
    )  # fmt: skip
    assert answer.headers["traceresponse"] == f"00-{TRACE}-{span.id}-01"
    job = api.store.get(answer.json()["id"])
    assert job.trace == TraceContext(parent=f"00-{TRACE}-{span.id}-01", state="vendor=1")
    assert span.told == {
        "http.request.method": "POST", "http.route": "/jobs", "http.response.status_code": 202,
        "renderfarm.request": answer.headers["x-request-id"], "renderfarm.job": job.id,
        "renderfarm.model": "tiny", "renderfarm.replayed": False, "renderfarm.cached": 0,
        "renderfarm.attached": 0, "renderfarm.made": 1,
    }  # fmt: skip


def test_an_order_without_a_valid_trace_begins_one(
    api: Api, traces: Traces, collector: Collector
) -> None:
    answers = [
        api.client().post("/jobs", json=ORDER, headers=headers)
        for headers in ({}, {"traceparent": "00-nonsense"})
    ]
    traces.close()

    assert [span.parent for span in collector.spans] == ["", ""]
    assert [a.headers["traceresponse"].split("-")[1] for a in answers] == [
        span.trace for span in collector.spans
    ]


def test_the_span_of_an_order_says_that_the_cache_answered(
    api: Api, traces: Traces, collector: Collector
) -> None:
    api.client().post("/jobs", json=ORDER)
    api.render()
    assert api.client().post("/jobs", json=ORDER).status_code == 200
    traces.close()

    told = collector.spans[1].told
    assert (told["renderfarm.cached"], told["renderfarm.made"]) == (1, 0)


def test_a_job_that_is_ordered_again_is_in_the_trace_of_that_order(
    api: Api, traces: Traces, collector: Collector
) -> None:
    old = api.client().post("/jobs", json=ORDER, headers={"traceparent": CLIENT}).json()["id"]
    api.fail()

    new = api.client().post(f"/jobs/{old}/retry").json()["id"]

    trace = api.store.get(new).trace
    assert trace is not None
    assert trace.trace_id != TRACE
    traces.close()
    assert [s.name for s in collector.of(trace.trace_id)] == ["POST /jobs/{job_id}/retry"]


def test_polls_are_not_recorded(api: Api, traces: Traces, collector: Collector) -> None:
    answer = api.client().get("/jobs", headers={"traceparent": CLIENT})
    traces.close()

    assert (answer.status_code, collector.spans) == (200, [])
    assert "traceresponse" not in answer.headers


def test_no_span_says_what_was_ordered_or_by_whom(
    api: Api, farm: Farm, traces: Traces, collector: Collector
) -> None:
    key = api.key("alice-the-owner")
    api.client(key).post("/jobs", json=ORDER, headers={"traceparent": CLIENT})
    traced(farm, owner="alice-the-owner", prompt="a lighthouse at dusk")
    farm.bench.take()
    farm.keep.close()
    traces.close()

    assert set(NAMES) == set(Told.__annotations__)
    assert {name for span in collector.spans for name in span.told} <= set(NAMES.values())
    for secret in (key, "lighthouse", "alice-the-owner"):
        assert secret not in repr(collector.spans)


def test_only_the_share_that_is_asked_for_is_recorded(collector: Collector) -> None:
    none = Settings(otlp_endpoint=collector.url, trace_sample_ratio=0.0)
    traces = open_traces("api", none)
    api = Api(traces=traces)

    api.client().post("/jobs", json=ORDER)
    api.client().post("/jobs", json=ORDER, headers={"traceparent": CLIENT})
    traces.close()

    assert [span.trace for span in collector.spans] == [TRACE]  # its flag says so


# ------------------------------------------------------------------------------------- renders


def test_the_spans_of_a_render_nest_and_follow_one_another(
    farm: Farm, traces: Traces, collector: Collector
) -> None:
    job = traced(farm)

    farm.bench.take()
    farm.keep.close()
    traces.close()

    spans = {span.name: span for span in collector.of(TRACE)}
    assert list(spans) == ["queue", "claim", "render", "encode", "store", "close"]
    assert {spans[name].parent for name in ("queue", "claim", "render")} == {"00f067aa0ba902b7"}
    render = spans["render"]
    for name in ("encode", "store", "close"):
        assert spans[name].parent == render.id
        assert render.started <= spans[name].started <= spans[name].ended <= render.ended
    assert spans["queue"].ended <= spans["claim"].started <= spans["claim"].ended <= render.started
    assert render.told["renderfarm.outcome"] == "succeeded"
    assert (render.told["renderfarm.job"], render.told["renderfarm.attempt"]) == (job, 1)
    assert not render.failed


def test_a_second_attempt_is_a_second_span_of_the_same_trace(
    farm: Farm, traces: Traces, collector: Collector
) -> None:
    traced(farm)
    faults = [RenderFailed("out_of_memory", "the device is full", retryable=True)]

    def once(step: int) -> None:
        if faults:
            raise faults.pop()

    farm.renderer.at = once
    farm.bench.take()
    wait_until(lambda: farm.bench.take())
    farm.keep.close()
    traces.close()

    first, second = collector.named("render", TRACE)
    assert (first.told["renderfarm.outcome"], first.told["error.type"]) == (
        "retried", "out_of_memory",
    )  # fmt: skip
    assert (first.failed, second.failed) == (True, False)
    assert second.told["renderfarm.attempt"] == 2
    assert len(collector.named("queue", TRACE)) == 1


def test_a_shared_render_is_in_the_oldest_jobs_trace_and_linked_to_the_others(
    farm: Farm, traces: Traces, collector: Collector
) -> None:
    other = CLIENT.replace(TRACE, "2" * 32)
    traced(farm)
    traced(farm, other)

    farm.bench.take()
    farm.keep.close()
    traces.close()

    (render,) = collector.named("render")
    assert (render.trace, render.links) == (TRACE, ("2" * 32,))


def test_a_render_of_an_order_without_a_trace_has_no_spans(
    farm: Farm, traces: Traces, collector: Collector
) -> None:
    farm.store.submit(submission())

    farm.bench.take()
    farm.keep.close()
    traces.close()

    assert collector.spans == []


def test_a_canceled_render_ends_its_span(farm: Farm, traces: Traces, collector: Collector) -> None:
    job = traced(farm)

    def cancel(step: int) -> None:
        farm.store.cancel(job)
        raise Canceled

    farm.renderer.at = cancel
    farm.bench.take()
    traces.close()

    (render,) = collector.named("render")
    assert (render.told["renderfarm.outcome"], render.failed) == ("canceled", False)


# ------------------------------------------------------------------------------------- the collector's faults


@pytest.mark.parametrize("fault", ["away", "refuses"])
def test_a_collector_that_takes_nothing_harms_no_render(
    fault: str,
    collector: Collector,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shared.otel.SEND_S", 0.5)
    collector.status = 503
    url = "http://127.0.0.1:9" if fault == "away" else collector.url  # discard: nobody listens
    traces = open_traces("worker", Settings(otlp_endpoint=url))
    farm = Farm(traces=traces)
    for seed in range(2):
        traced(farm, seed=seed)

        assert farm.bench.take()
    farm.keep.close()
    traces.close()

    assert farm.count("succeeded") == 2
    assert not [r for r in caplog.records if r.levelname == "ERROR"]


def test_an_end_does_not_wait_for_a_collector_that_never_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shared.otel.SEND_S", 1.0)
    monkeypatch.setattr("shared.otel.CLOSE_S", 0.05)

    def sending() -> bool:
        return any(thread.name == "last traces" for thread in threading.enumerate())

    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        traces = open_traces("worker", Settings(otlp_endpoint=f"http://127.0.0.1:{port}"))
        traces.begin("render", "consumer").end()
        traces.close()

        assert sending()
        wait_until(lambda: not sending())


def test_it_is_said_once_that_spans_are_lost_and_once_that_they_go_again(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    from shared.otel import _Noted

    answers = [SpanExportResult.FAILURE, SpanExportResult.FAILURE, *[SpanExportResult.SUCCESS] * 2]

    class FakeExporter(SpanExporter):
        def export(self, spans: object) -> SpanExportResult:
            return answers.pop(0)

    caplog.set_level("INFO", "farm.traces")
    noted = _Noted(FakeExporter())
    for _ in range(4):
        noted.export([object()])  # type: ignore[list-item]

    said = [(r.getMessage(), r.levelname, getattr(r, "spans_lost", 0)) for r in caplog.records]
    assert said == [("not_traced", "WARNING", 0), ("traced_again", "INFO", 2)]


def test_a_step_that_breaks_off_names_the_kind_of_fault_and_not_its_words(
    traces: Traces, collector: Collector
) -> None:
    span = traces.begin("render", "consumer")
    with within(span), pytest.raises(ValueError, match="hunter2"), step("text"):
        raise ValueError("hunter2")
    span.end()
    traces.close()

    (text,) = collector.named("text")
    assert text.told == {"error.type": "ValueError"}
    assert "hunter2" not in repr(collector.spans)


def test_only_one_module_knows_opentelemetry() -> None:
    root = Path(__file__).parents[2]
    packages = ("api", "worker", "shared", "cli", "deploy", "renderfarm_client")
    files = (file for package in packages for file in (root / package).rglob("*.py"))
    users = {
        f.name
        for f in files
        if "import opentelemetry" in f.read_text() or "from opentelemetry" in f.read_text()
    }

    assert users == {"otel.py"}
    assert isinstance(NoTraces().begin("a", "client"), Unrecorded)
