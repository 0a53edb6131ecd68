"""What the metrics pages say, and that they stay small."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import httpx2
import pynvml
import pytest
from prometheus_client import CollectorRegistry, enable_created_metrics, generate_latest
from prometheus_client.parser import text_string_to_metric_families as parse
from ulid import ULID

import shared.metrics
from api.promises import MOST, Promises
from deploy.ports import free_port
from shared.cgroup import MemoryGroup
from shared.errors import JobNotFound, StoreUnavailable
from shared.metrics import (
    CallMetrics,
    CardCollector,
    CardReading,
    ChoresMetrics,
    HostCollector,
    Labelled,
    StoreCollector,
    WorkerMetrics,
    counted,
)
from shared.metrics.farm import OTHERS, TOP_OWNERS
from shared.store.memory import MemoryJobStore
from shared.store.queries import Backlog, OwnerLoad
from shared.store.values import Spent, WorkerStatus
from tests.api_kit import FakeResults, Farm
from tests.metrics import DOC, every_series, with_table
from tests.orders import POOL, stored, submission
from worker.card import open_card

API_PAGE_BYTES, WORKER_PAGE_BYTES = 256 * 1024, 64 * 1024
LABELS = {
    "model", "pool", "priority", "state", "worker", "cause", "owner", "outcome", "code", "kind", "route",
    "method", "status", "store", "operation", "direction", "phase", "step", "chore", "what",
}  # fmt: skip


def page(*collectors: Any) -> str:
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    return generate_latest(registry).decode()


def value(text: str, name: str, **labels: str) -> float:
    found = [
        sample.value
        for family in parse(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    assert len(found) == 1, (name, labels, found)
    return found[0]


def finish(store: MemoryJobStore, device_s: float = 0.0) -> None:
    token = str(ULID())
    claim = store.claim(POOL, token, "slot", "worker", 30.0)
    assert claim is not None
    store.close(claim.render_id, token, stored(claim.fingerprint, token), device_s=device_s)


def test_the_page_of_the_docs_lists_every_series_and_no_other():
    text = DOC.read_text("utf-8")

    assert with_table(text) == text, "python -m tests.metrics"


def test_names_are_the_farms_end_in_their_unit_and_are_used_once():
    names = [one.name for one in every_series()]

    assert len(set(names)) == len(names)
    assert all(name.startswith("renderfarm_") for name in names)
    assert all(one.name.endswith("_total") == (one.kind == "counter") for one in every_series())


def test_labels_come_from_a_closed_set():
    assert {label for one in every_series() for label in one.labels} <= LABELS


def test_the_queue_is_told_by_model_and_priority_and_in_device_seconds():
    store = MemoryJobStore()
    store.submit(submission(seed=1, n=3, cost_s=2.0, priority="high"))
    store.submit(submission(seed=9, n=2, cost_s=4.0))
    finish(store, device_s=3.0)  # 1.5 times what was predicted

    text = page(StoreCollector(store, [POOL, "idle.0123456789ab"]))

    high = {"model": POOL.rpartition(".")[0], "priority": "high", "state": "queued"}
    assert value(text, "renderfarm_queue_renders", **high) == 2
    assert value(text, "renderfarm_backlog_gpu_seconds", model=high["model"]) == 1.5 * (2 * 2 + 8)
    assert value(text, "renderfarm_backlog_gpu_seconds", model="idle") == 0
    assert value(text, "renderfarm_gpu_seconds_total", model="idle") == 0
    assert value(text, "renderfarm_gpu_seconds_total", model=high["model"]) == 3.0


def test_two_pools_of_one_model_are_one_backlog():
    store = MemoryJobStore()
    status = WorkerStatus(name="old", pool=f"{POOL[:-1]}0", model="m", state="ready")
    store.heartbeat(status, 9)
    store.submit(submission(n=2, cost_s=5.0))

    text = page(StoreCollector(store, [POOL]))

    assert text.count("renderfarm_backlog_gpu_seconds{") == 1
    assert value(text, "renderfarm_workers", pool=status.pool, state="ready") == 1
    assert value(text, "renderfarm_workers", pool=POOL, state="ready") == 0


class BusyStore(MemoryJobStore):
    """A hundred workers; and a thousand owners, the first of whom have most."""

    def workers(self) -> list[WorkerStatus]:
        names = (f"gpu-node-{number:04}-gpu0" for number in range(100))
        return [WorkerStatus(name=name, pool=POOL, model="m", state="busy") for name in names]

    def backlog(self, pools: Sequence[str], owner: str | None = None) -> Backlog:
        owners = (OwnerLoad(f"customer-{n:06}", 2 if n < TOP_OWNERS else 1, 1) for n in range(1000))
        return Backlog(super().backlog(pools).pools, tuple(owners))

    def spent(self, top: int) -> Spent:
        return Spent(1000.0, {f"customer-{number:06}": 2.0 for number in range(top)})


def test_the_largest_owners_are_named_and_the_rest_is_one():
    text = page(StoreCollector(BusyStore(), [POOL]))

    named = [line for line in text.splitlines() if 'owner="cust' in line and "queued" in line]
    assert len(named) == TOP_OWNERS
    assert value(text, "renderfarm_owner_renders", owner=OTHERS, state="queued") == 980
    assert value(text, "renderfarm_owner_gpu_seconds_today", owner=OTHERS) == 960.0


def test_an_owner_who_is_called_other_is_part_of_the_rest():
    store = MemoryJobStore()
    store.submit(submission(owner=OTHERS))
    finish(store, device_s=2.0)

    text = page(StoreCollector(store, [POOL]))

    assert value(text, "renderfarm_owner_gpu_seconds_today", owner=OTHERS) == 2.0


def test_a_store_that_is_away_says_only_that():
    class Away:
        def __getattr__(self, name: str) -> Any:
            raise StoreUnavailable

        def faults(self) -> Any:
            raise StoreUnavailable

    store: Any = Away()

    text = page(StoreCollector(store, [POOL], store.faults))

    assert "renderfarm_store_up 0.0" in text
    assert "renderfarm_queue_renders" not in text


def test_a_hundred_workers_and_a_thousand_owners_fit_on_the_page():
    farm = Farm(store=BusyStore())
    client = farm.client()
    for path in {route.path for route in farm.app.routes if hasattr(route, "path")}:
        for method in ("GET", "POST", "DELETE"):
            client.request(method, path.replace("{", "").replace("}", ""))

    text = client.get("/metrics").content

    assert b'renderfarm_worker_state{model="m",state="busy",worker="gpu-node-0099-gpu0"}' in text
    assert text.count(b"renderfarm_owner_gpu_seconds_today{") == TOP_OWNERS + 1
    assert len(text) < API_PAGE_BYTES, len(text)


def of_the_api(registry: CollectorRegistry) -> str:
    return shared.metrics.page(registry, CollectorRegistry()).decode()


def of_a_worker(registry: CollectorRegistry) -> str:
    port = free_port("127.0.0.1")
    shared.metrics.open_page("127.0.0.1", port, registry, logging.getLogger())
    return httpx2.get(f"http://127.0.0.1:{port}/metrics").text


@pytest.mark.parametrize("page_of", [of_the_api, of_a_worker])
def test_a_page_has_no_second_series_for_each_counter(page_of):
    enable_created_metrics()  # as the library has it
    registry = CollectorRegistry()
    ChoresMetrics(registry).ran("reap", 0.1, well=True)

    text = page_of(registry)

    assert "renderfarm_chore_runs_total{" in text
    assert "_created" not in text


def test_a_workers_page_is_small():
    registry = CollectorRegistry()
    metrics, calls = WorkerMetrics(registry), CallMetrics(registry)
    for operation in range(25):
        calls.seconds.labels("jobs", f"operation_{operation}").observe(1)
    for phase in ("text", "denoise", "decode", "encode", "store"):
        metrics.phase_seconds.labels(phase).observe(1)
    labelled = Labelled(registry, {"worker": "gpu-node-0099-gpu0", "model": "sd3.5-large-turbo"})

    assert len(page(labelled)) < WORKER_PAGE_BYTES


def test_labels_in_common_stand_on_every_sample():
    registry = CollectorRegistry()
    WorkerMetrics(registry)

    lines = page(Labelled(registry, {"worker": "w", "model": "m"})).splitlines()

    samples = [line for line in lines if not line.startswith("#")]
    assert samples
    assert all('worker="w"' in line and 'model="m"' in line for line in samples)


def test_calls_of_a_store_are_counted_and_only_silence_is_an_error():
    class Store:
        def get(self, name: str) -> str:
            if name == "away":
                raise StoreUnavailable
            if name == "none":
                raise JobNotFound
            return name

    registry = CollectorRegistry()
    store = counted(Store(), "jobs", CallMetrics(registry))

    assert store.get("job") == "job"
    with pytest.raises(JobNotFound):
        store.get("none")
    with pytest.raises(StoreUnavailable):
        store.get("away")

    labels = {"store": "jobs", "operation": "get"}
    assert registry.get_sample_value("renderfarm_store_call_seconds_count", labels) == 3
    assert registry.get_sample_value("renderfarm_store_call_errors_total", labels) == 1


def test_bytes_are_counted_both_ways_and_a_stream_when_it_is_over():
    registry = CollectorRegistry()
    results: Any = counted(FakeResults(), "results", CallMetrics(registry))
    result = stored("f" * 64, "token")
    results.put(result, b"p" * 250, {})
    reads = {"store": "results", "operation": "read"}

    pieces = results.read(result)
    next(pieces)
    assert registry.get_sample_value("renderfarm_store_call_seconds_count", reads) is None
    list(pieces)

    assert registry.get_sample_value("renderfarm_store_call_seconds_count", reads) == 1
    for direction in ("written", "read"):
        moved = {"store": "results", "direction": direction}
        assert registry.get_sample_value("renderfarm_store_bytes_total", moved) == 250


def test_a_refusal_is_counted_by_its_code():
    client = Farm().client()

    client.get(f"/jobs/job_{ULID()}")
    client.post("/jobs", json={"prompt": "a fox", "size": "7x7"})

    text = client.get("/metrics").text
    assert value(text, "renderfarm_http_refusals_total", code="job_not_found") == 1
    assert value(text, "renderfarm_http_refusals_total", code="invalid_size") == 1


def test_what_the_cache_saves_is_what_the_picture_once_took():
    farm = Farm()
    order = {"prompt": "a fox", "seed": 7, "size": "64x64", "steps": 2}
    client = farm.client()
    client.post("/jobs", json=order)
    client.post("/jobs", json=order)  # attached
    claim = farm.claim()
    result = stored(claim.fingerprint, claim.token).model_copy(
        update={"timings_s": {"text": 0.5, "denoise": 2.0, "encode": 9.0}}
    )
    farm.store.close(claim.render_id, claim.token, result)
    client.post("/jobs", json=order)  # hit

    text = client.get("/metrics").text
    assert value(text, "renderfarm_gpu_saved_seconds_total", outcome="hit") == 2.5
    assert value(text, "renderfarm_gpu_saved_seconds_total", outcome="attached") > 0


def test_the_error_of_an_eta_is_a_part_of_the_time_that_was_left():
    seen: list[float] = []
    promises = Promises(seen.append)

    promises.told("job", 10.0, now=100.0)
    promises.told("job", 1.0, now=119.0)  # the first one counts
    promises.told("unknown", None, now=100.0)
    promises.kept("job", 120.0)
    promises.kept("job", 130.0)
    promises.kept("unknown", 130.0)

    assert seen == [0.5]


def test_only_so_many_promises_are_remembered():
    seen: list[float] = []
    promises = Promises(seen.append)
    for number in range(MOST + 1):
        promises.told(str(number), 10.0, now=0.0)

    promises.kept("0", 10.0)
    promises.kept("1", 10.0)

    assert seen == [0.0]


def test_a_machine_without_a_driver_has_no_card_and_no_fault():
    text = page(CardCollector(open_card("GPU-0")))

    assert "renderfarm_gpu_present 0.0" in text
    assert "\nrenderfarm_gpu_power_watts " not in text


class FakeNvml:
    """A driver with one card that does not tell its temperature; `xids` have come."""

    NVMLError = pynvml.NVMLError

    def __init__(self) -> None:
        self.xids = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(pynvml, name)

    def nvmlInit(self) -> None: ...  # noqa: N802

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        if uuid != "GPU-1":
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return "card"

    def nvmlEventSetCreate(self) -> str:  # noqa: N802
        return "events"

    def nvmlDeviceRegisterEvents(self, card: str, kinds: int, events: str) -> None:  # noqa: N802
        assert (card, kinds, events) == ("card", pynvml.nvmlEventTypeXidCriticalError, "events")

    def nvmlEventSetWait_v2(self, events: str, timeout_ms: int) -> None:  # noqa: N802
        assert timeout_ms == 0
        if not self.xids:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT)
        self.xids -= 1

    def nvmlDeviceGetUtilizationRates(self, card: str) -> Any:  # noqa: N802
        return SimpleNamespace(gpu=97, memory=40)

    def nvmlDeviceGetMemoryInfo(self, card: str) -> Any:  # noqa: N802
        return SimpleNamespace(used=20 * 2**30, total=24 * 2**30)

    def nvmlDeviceGetPowerUsage(self, card: str) -> int:  # noqa: N802
        return 149_500

    def nvmlDeviceGetEnforcedPowerLimit(self, card: str) -> int:  # noqa: N802
        return 150_000

    def nvmlDeviceGetTemperature(self, card: str, sensor: int) -> int:  # noqa: N802
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    def nvmlDeviceGetTotalEccErrors(self, card: str, kind: int, counter: int) -> int:  # noqa: N802
        return {pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED: 5}.get(kind, 1)


def test_a_card_is_told_by_its_driver_and_left_out_where_that_is_silent():
    nvml = FakeNvml()
    read = open_card("GPU-1", nvml)

    first = read()
    nvml.xids = 2
    second, third = read(), read()

    assert first == CardReading(0.97, 149.5, 150.0, None, 20 * 2**30, 24 * 2**30, 5, 1, xids=0)
    assert [r.xids for r in (second, third) if r] == [2, 2]
    text = page(CardCollector(read))
    assert "\nrenderfarm_gpu_temperature_celsius " not in text
    assert value(text, "renderfarm_gpu_memory_bytes", kind="used") == 20 * 2**30
    assert value(text, "renderfarm_gpu_ecc_errors_total", kind="uncorrected") == 1


def test_the_fake_driver_has_what_the_real_library_has():
    asked = [name for name in vars(FakeNvml) if name.startswith("nvml")]

    assert all(callable(getattr(pynvml, name)) for name in asked)


def test_a_container_without_a_limit_shows_none():
    text = page(HostCollector(lambda: MemoryGroup(3, None, 7)))

    assert value(text, "renderfarm_container_memory_bytes", kind="used") == 7
    assert 'kind="limit"' not in text
    assert value(text, "renderfarm_container_oom_kills_total") == 3
