"""What a worker stands on: the memory of its container, and its card as the driver sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shared.cgroup import MemoryGroup, read_memory


class HostCollector(Collector):
    """The cgroup of this process, where there is one."""

    def __init__(self, read: Callable[[], MemoryGroup | None] = read_memory) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        group = self._read()
        memory = GaugeMetricFamily(
            "renderfarm_container_memory_bytes",
            "Memory of the container (cgroup): used, and the limit where there is one",
            labels=["kind"],
        )
        kills = CounterMetricFamily(
            "renderfarm_container_oom_kills", "Processes that the kernel killed for memory there"
        )
        if group:
            for kind, size in (("used", group.used_bytes), ("limit", group.limit_bytes)):
                if size is not None:
                    memory.add_metric([kind], size)
            kills.add_metric([], group.oom_kills)
        yield memory
        yield kills


@dataclass(slots=True, frozen=True)
class CardReading:
    """One card now, for all processes on it. None: this card, or its driver, does not say."""

    utilization: float | None = None  # 0..1, part of the last moment in which it computed
    power_watts: float | None = None
    power_limit_watts: float | None = None
    temperature_c: float | None = None
    used_bytes: int | None = None
    total_bytes: int | None = None
    ecc_corrected: int | None = None  # since the driver was loaded
    ecc_uncorrected: int | None = None
    xids: int = 0  # since this process began to listen


class CardCollector(Collector):
    """Asks the driver at scrape time. `read` answers None where there is no card or no driver."""

    def __init__(self, read: Callable[[], CardReading | None]) -> None:
        self._read = read

    def describe(self) -> list[Metric]:
        return []  # nobody is asked when the registry is built

    def collect(self) -> Iterator[Metric]:
        card = self._read()
        yield GaugeMetricFamily(
            "renderfarm_gpu_present", "1 if this worker has a card that its driver tells of",
            value=int(card is not None),
        )  # fmt: skip
        yield from _card(card or CardReading(), present=card is not None)


def _card(card: CardReading, *, present: bool) -> Iterator[Metric]:
    for name, text, value in (
        ("utilization_ratio", "Part of the last moment in which the card computed", card.utilization),
        ("power_watts", "Power that the card takes", card.power_watts),
        ("power_limit_watts", "Power that the card may take", card.power_limit_watts),
        ("temperature_celsius", "Temperature of the card", card.temperature_c),
    ):  # fmt: skip
        yield GaugeMetricFamily(f"renderfarm_gpu_{name}", text, value=value)
    memory = GaugeMetricFamily(
        "renderfarm_gpu_memory_bytes", "Memory of the card, of all processes on it", labels=["kind"]
    )
    for kind, size in (("used", card.used_bytes), ("total", card.total_bytes)):
        if size is not None:
            memory.add_metric([kind], size)
    yield memory
    errors = CounterMetricFamily(
        "renderfarm_gpu_ecc_errors", "Memory errors since the driver was loaded", labels=["kind"]
    )
    for kind, count in (("corrected", card.ecc_corrected), ("uncorrected", card.ecc_uncorrected)):
        if count is not None:
            errors.add_metric([kind], count)
    yield errors
    yield CounterMetricFamily(
        "renderfarm_gpu_xid_errors", "Critical Xid events since this worker started",
        value=card.xids if present else None,
    )  # fmt: skip
