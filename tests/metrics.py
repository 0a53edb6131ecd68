"""Every series of the farm as code has it; `python -m tests.metrics` writes their list into docs/metrics.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from shared.cgroup import MemoryGroup
from shared.metrics import (
    ApiMetrics,
    CallMetrics,
    CardCollector,
    CardReading,
    ChoresMetrics,
    EffortMetrics,
    HostCollector,
    StoreCollector,
    WorkerMetrics,
)
from shared.store.memory import MemoryJobStore

DOC = Path(__file__).parent.parent / "docs" / "metrics.md"
_LIST = re.compile(r"(<!-- series -->\n).*?(\n<!-- /series -->)", re.DOTALL)
PLACES = {
    "The farm, on the page of every API process": lambda: StoreCollector(MemoryJobStore(), ["tiny.0"]),
    "One API process": ApiMetrics,
    "The stores, on the pages of API, workers and chores": CallMetrics,
    "One worker (each with `worker` and `model` before its labels)": WorkerMetrics,
    "What its renders take": EffortMetrics,
    "One worker's container": lambda: HostCollector(lambda: MemoryGroup(0, 1, 1)),
    "One worker's card": lambda: CardCollector(lambda: CardReading(1, 1, 1, 1, 1, 1, 0, 0, 0)),
    "One process of chores": ChoresMetrics,
}  # fmt: skip


@dataclass(slots=True, frozen=True)
class Series:
    name: str  # as a query spells it; of a histogram without `_bucket`, `_sum` and `_count`
    kind: str
    labels: tuple[str, ...]
    text: str

    @property
    def names(self) -> set[str]:
        """What of it can stand in a query."""
        if self.kind == "histogram":
            return {f"{self.name}_{part}" for part in ("bucket", "sum", "count")}
        return {self.name}


def series(place: str) -> list[Series]:
    make: Any = PLACES[place]
    if isinstance(make, type):
        return [_series(one) for one in _instruments(make(CollectorRegistry()))]
    return [_series(one) for one in make().collect()]


def every_series() -> list[Series]:
    return [one for place in PLACES for one in series(place)]


def _instruments(metrics: object) -> Iterator[Any]:
    return (value for value in vars(metrics).values() if hasattr(value, "_labelnames"))


def _series(made: Any) -> Series:
    if hasattr(made, "_documentation"):
        name, kind, text = made._name, made._type, made._documentation
    else:
        name, kind, text = made.name, made.type, made.documentation
    suffix = "_total" if kind == "counter" else ""
    return Series(name + suffix, kind, tuple(made._labelnames), text)


def table() -> str:
    lines = []
    for place in PLACES:
        lines += [f"### {place}", "", "| series | type | labels | meaning |", "|---|---|---|---|"]
        for one in series(place):
            labels = ", ".join(f"`{label}`" for label in one.labels)
            lines.append(f"| `{one.name}` | {one.kind} | {labels} | {one.text} |")
        lines.append("")
    return "\n".join(lines).rstrip()


def with_table(text: str) -> str:
    return _LIST.sub(lambda marks: marks[1] + table() + marks[2], text)


if __name__ == "__main__":
    DOC.write_text(with_table(DOC.read_text("utf-8")), "utf-8")
