"""Store and webhooks: Redis, the storage of pictures, chores, deliveries."""

from __future__ import annotations

from deploy.grafana.board import Board, Chart


def _by_operation(store: str) -> list[Chart]:
    calls = f'renderfarm_store_call_seconds_count{{store="{store}"}}'
    seconds = f'renderfarm_store_call_seconds_bucket{{store="{store}"}}'
    errors = f'renderfarm_store_call_errors_total{{store="{store}"}}'
    return [
        Chart("Calls", "Each second, by method of the store's port.", "ops",
              [(f"topk(10, sum by (operation) (rate({calls}[5m])))", "{{operation}}")], "stacked"),
        Chart("Time of a call", "95th percentile.", "s",
              [(f"histogram_quantile(0.95, sum by (le, operation) (rate({seconds}[5m])))", "{{operation}}")]),
        Chart("Calls without an answer", "Each second.", "ops",
              [(f"sum by (operation) (rate({errors}[5m]))", "{{operation}}")], quiet=True),
    ]  # fmt: skip


BOARD = Board(
    uid="renderfarm-stores",
    title="Store and webhooks",
    text="Redis, the storage of pictures, chores and webhooks.",
    rows=[
        ("Redis", [
            Chart("Answers", "1 if it answers an API process.", "bool", [("min(renderfarm_store_up)", "")], "number"),
            Chart("Memory", "Used, and the limit where there is one.", "bytes",
                  [("max by (kind) (renderfarm_redis_memory_bytes)", "{{kind}}")]),
            Chart("Faults", "1 for each reason why it may lose, or not take, what it is given.", "short",
                  [("max by (code) (renderfarm_store_faults)", "{{code}}")]),
        ]),
        ("Calls of the job store (Redis)", _by_operation("jobs")),
        ("Calls of the result store (S3 or a folder)", _by_operation("results")),
        ("Pictures", [
            Chart("Bytes", "To and from the result store, each second.", "Bps",
                  [("sum by (direction) (rate(renderfarm_store_bytes_total[5m]))", "{{direction}}")]),
            Chart("Time to store", "Mean time to encode and to store one picture.", "s",
                  [('sum by (phase) (rate(renderfarm_render_phase_seconds_sum{phase=~"encode|store"}[5m])) '
                    '/ sum by (phase) (rate(renderfarm_render_phase_seconds_count{phase=~"encode|store"}[5m]))', "{{phase}}")], "stacked"),
            Chart("Collected", "Pictures and inputs that gc took away within a day.", "short",
                  [('sum by (what) (increase(renderfarm_chore_changes_total{what=~"pictures_collected|inputs_collected"}[1d]))', "{{what}}")]),
        ]),
        ("Chores", [
            Chart("Since the last turn", "Seconds since each chore ended well last.", "s",
                  [("time() - max by (chore) (renderfarm_chore_last_run_timestamp_seconds)", "{{chore}}")]),
            Chart("Reaper", "Seconds since the reaper came last, in any process.", "s",
                  [("time() - max(renderfarm_reaper_last_run_timestamp_seconds)", "")], "number"),
            Chart("Failed turns", "Within the last hour.", "short",
                  [('sum by (chore) (increase(renderfarm_chore_runs_total{outcome="failed"}[1h]))', "{{chore}}")]),
            Chart("Time in chores", "Part of the time that each chore takes.", "percentunit",
                  [("sum by (chore) (rate(renderfarm_chore_seconds_total[5m]))", "{{chore}}")]),
        ]),
        ("Webhooks", [
            Chart("Waiting", "Not yet delivered; those that wait for a further try too.", "short",
                  [("max(renderfarm_webhooks_waiting)", "waiting"), ("sum(renderfarm_webhooks_under_way)", "under way")]),
            Chart("Late", "How long the oldest should have been tried already.", "s",
                  [("max(renderfarm_webhooks_late_seconds)", "late")]),
            Chart("Attempts", "Each second, by outcome.", "ops",
                  [("max by (outcome) (rate(renderfarm_webhook_attempts_total[5m]))", "{{outcome}}")], "stacked"),
            Chart("Time of an attempt", "95th percentile of what receivers take.", "s",
                  [("histogram_quantile(0.95, sum by (le) (rate(renderfarm_webhook_seconds_bucket[5m])))", "p95")]),
        ]),
    ],
)  # fmt: skip
