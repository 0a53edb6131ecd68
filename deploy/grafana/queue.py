"""Queue and fairness: what waits, whose it is, who got how much."""

from __future__ import annotations

from deploy.grafana.board import Board, Chart

_M = 'model=~"$model"'
_O = 'owner=~"$owner"'

BOARD = Board(
    uid="renderfarm-queue",
    title="Queue and fairness",
    text="What waits and whose it is. The 20 largest owners have names, all others are `other`.",
    variables=("model", "owner"),
    rows=[
        ("Queue", [
            Chart("Queued by model", "Renders that wait.", "short",
                  [(f'sum by (model) (max by (model, pool, priority) (renderfarm_queue_renders{{{_M},state="queued"}}))', "{{model}}")], "stacked"),
            Chart("Queued by priority", "Renders that wait.", "short",
                  [(f'sum by (priority) (max by (model, pool, priority) (renderfarm_queue_renders{{{_M},state="queued"}}))', "{{priority}}")], "stacked"),
            Chart("Running and storing", "Renders that a worker holds.", "short",
                  [(f'sum by (state) (max by (model, pool, priority, state) (renderfarm_queue_renders{{{_M},state!="queued"}}))', "{{state}}")], "stacked"),
            Chart("In the pause before a retry", "After a fault that may pass.", "short",
                  [(f"sum by (model) (max by (model, pool) (renderfarm_renders_delayed{{{_M}}}))", "{{model}}")]),
        ]),
        ("Backlog", [
            Chart("Predicted device seconds", "Of all that is queued; what to scale workers on.", "s",
                  [(f"max by (model) (renderfarm_backlog_gpu_seconds{{{_M}}})", "{{model}}")], "stacked"),
            Chart("By able worker", "Seconds until the backlog is worked off, if nothing more came.", "s",
                  [(f"max by (model) (renderfarm_backlog_gpu_seconds{{{_M}}}) / (sum by (model) (renderfarm:workers_able:max{{{_M}}}) > 0)", "{{model}}")],
                  quiet=True),
            Chart("Prediction", "Measured by predicted device seconds of late; 1 is a perfect first guess.", "short",
                  [(f"max by (pool) (renderfarm_cost_rate{{{_M}}})", "{{pool}}")]),
        ]),
        ("Waiting", [
            Chart("Time in the queue", "From the order to the first claim.", "s",
                  [(f"histogram_quantile({q}, sum by (le) (rate(renderfarm_render_wait_seconds_bucket{{{_M}}}[5m])))", f"p{int(q * 100)}")
                   for q in (0.5, 0.95)]),
            Chart("Longest waiting", "How long it has waited already.", "s",
                  [(f"max by (pool) (renderfarm_queue_oldest_wait_seconds{{{_M}}})", "{{pool}}")]),
            Chart("Tickets", "In the broker; a few invite any number of workers.", "short",
                  [(f"max by (pool) (renderfarm_tickets{{{_M}}})", "{{pool}}")]),
            Chart("Idle tickets", "Tickets that found nothing to render, each second.", "ops",
                  [(f"sum by (worker) (rate(renderfarm_tickets_idle_total{{{_M}}}[5m]))", "{{worker}}")]),
        ]),
        ("Owners", [
            Chart("Renders on account", "Queued and running, by owner.", "short",
                  [(f"max by (owner, state) (renderfarm_owner_renders{{{_O}}})", "{{owner}} {{state}}")]),
            Chart("Device seconds today", "That went into an owner's pictures since 0:00 UTC.", "s",
                  [(f"max by (owner) (renderfarm_owner_gpu_seconds_today{{{_O}}})", "{{owner}}")], "table"),
            Chart("Device time", "Device seconds each second, by owner; 0 where an owner enters or leaves the 20.", "short",
                  [(f"clamp_min(max by (owner) (deriv(renderfarm_owner_gpu_seconds_today{{{_O}}}[10m])), 0)", "{{owner}}")], "stacked"),
        ]),
        ("Repairs", [
            Chart("What the chores changed", "Within the last hour.", "short",
                  [("sum by (what) (increase(renderfarm_chore_changes_total{what!~\".*collected\"}[1h]))", "{{what}}")]),
            Chart("Lost and retried", "Renders each second that lost their worker, or met a fault that may pass.", "ops",
                  [('max by (outcome) (rate(renderfarm_store_total{outcome=~"lost|retried"}[5m]))', "{{outcome}}")]),
            Chart("Poison", "Renders that took down workers until they were given up.", "short",
                  [("max(renderfarm_poisoned_renders)", "poison")]),
        ]),
    ],
)  # fmt: skip
