"""What one process of chores counts. What the chores keep in order is counted farm-wide."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

CHANGES = (
    "reaped", "poisoned", "expired", "abandoned", "tickets_added", "repaired",
    "pictures_collected", "bytes_collected", "inputs_collected",
)  # fmt: skip
_TRY_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15)


class ChoresMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.runs = Counter(
            "renderfarm_chore_runs", "Turns of each chore", ["chore", "outcome"], registry=registry
        )
        self.seconds = Counter(
            "renderfarm_chore_seconds", "Time that each chore took", ["chore"], registry=registry
        )
        self.last_run = Gauge(
            "renderfarm_chore_last_run_timestamp_seconds", "When each chore ended well last",
            ["chore"], registry=registry,
        )  # fmt: skip
        self.changes = Counter(
            "renderfarm_chore_changes", "What the chores changed", ["what"], registry=registry
        )
        for what in CHANGES:
            self.changes.labels(what)
        self.webhook_seconds = Histogram(
            "renderfarm_webhook_seconds", "Time that a receiver took for one attempt",
            buckets=_TRY_S, registry=registry,
        )  # fmt: skip
        self.webhooks_flying = Gauge(
            "renderfarm_webhooks_under_way", "Attempts under way now", registry=registry
        )

    def expect(self, chore: str) -> None:
        """Show this chore before its first turn."""
        for outcome in ("ok", "failed"):
            self.runs.labels(chore, outcome)
        self.seconds.labels(chore)

    def ran(self, chore: str, seconds: float, *, well: bool) -> None:
        self.runs.labels(chore, "ok" if well else "failed").inc()
        self.seconds.labels(chore).inc(seconds)
        if well:
            self.last_run.labels(chore).set_to_current_time()
