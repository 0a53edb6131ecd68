"""Farm overview: is it healthy, how long do people wait, what does a picture cost."""

from __future__ import annotations

from deploy.grafana.board import Board, Chart

_MODEL = 'model=~"$model"'

BOARD = Board(
    uid="renderfarm-overview",
    title="Farm overview",
    text="Is the farm healthy, how long do people wait, what does a picture cost.",
    variables=("model",),
    rows=[
        ("Now", [
            Chart("Redis answers", "1 if the job store answers an API process.", "bool",
                  [("min(renderfarm_store_up)", "")], "number"),
            Chart("Able workers", "Workers that are ready or busy.", "short",
                  [(f"sum(renderfarm:workers_able:max{{{_MODEL}}})", "")], "number"),
            Chart("Queued", "Renders that wait, those in the pause before a retry among them.", "short",
                  [(f'sum(max by (model, pool, priority) (renderfarm_queue_renders{{{_MODEL},state="queued"}}))', "")],
                  "number"),
            Chart("Backlog", "Predicted device seconds of all that is queued; one worker works off one each second.", "s",
                  [(f"sum(max by (model) (renderfarm_backlog_gpu_seconds{{{_MODEL}}}))", "")], "number"),
            Chart("Alerts", "Alerts of the farm that fire now.", "short",
                  [('count(ALERTS{alertname=~"Renderfarm.*",alertstate="firing"}) or vector(0)', "")], "number"),
            Chart("Failed", "Part of the renders of the last hour that failed.", "percentunit",
                  [("renderfarm:render_failures:ratio_rate1h", "")], "number", quiet=True),
        ]),
        ("How long people wait", [
            Chart("Wait in the queue", "Time from the order to the first claim.", "s", [
                (f"histogram_quantile({q}, sum by (le) (rate(renderfarm_render_wait_seconds_bucket{{{_MODEL}}}[5m])))", f"p{int(q * 100)}")
                for q in (0.5, 0.95, 0.99)]),
            Chart("Oldest", "How long the longest waiting render has waited.", "s",
                  [(f"max by (model) (renderfarm_queue_oldest_wait_seconds{{{_MODEL}}})", "{{model}}")]),
            Chart("Error of ETAs", "How far the first ETA that a client saw was off, by the time that was left.", "percentunit",
                  [("histogram_quantile(0.5, sum by (le) (rate(renderfarm_eta_error_ratio_bucket[1h])))", "half below"),
                   ("histogram_quantile(0.9, sum by (le) (rate(renderfarm_eta_error_ratio_bucket[1h])))", "nine of ten below")],
                  quiet=True),
        ]),
        ("What is made", [
            Chart("Pictures", "Pictures made each second.", "ops",
                  [(f"sum by (model) (renderfarm:images:rate5m{{{_MODEL}}})", "{{model}}")], "stacked"),
            Chart("How renders end", "Ends of renders, farm-wide, each second.", "ops",
                  [('max by (outcome) (rate(renderfarm_store_total{outcome=~"succeeded|failed|canceled|lost|retried|found"}[5m]))', "{{outcome}}")]),
            Chart("Cost of a picture", "Device seconds that went into pictures, by pictures made.", "s",
                  [(f"renderfarm:gpu_seconds_per_image:rate1h{{{_MODEL}}}", "{{model}}")]),
        ]),
        ("What is used", [
            Chart("Busy workers", "Part of the time in which workers render.", "percentunit",
                  [(f"avg by (model) (renderfarm:worker_busy:ratio_rate5m{{{_MODEL}}})", "{{model}}")]),
            Chart("Cache", "Images ordered each second, by how the cache answered.", "ops",
                  [("sum by (outcome) (rate(renderfarm_images_ordered_total[5m]))", "{{outcome}}")], "stacked"),
            Chart("Device time saved", "Device seconds that the cache saved, each second: so many GPUs more would be busy.", "short",
                  [("sum by (outcome) (rate(renderfarm_gpu_saved_seconds_total[5m]))", "{{outcome}}")], "stacked"),
        ]),
        ("Service levels", [
            Chart("Budgets", "Bad parts of the last 3 days; docs/slo.md states what is allowed.", "percentunit", [
                (f"renderfarm:{slo}:ratio_rate3d", text) for slo, text in (
                    ("http_errors", "requests with 5xx (0.1 %)"), ("render_failures", "renders that fail (1 %)"),
                    ("slow_starts", "renders that wait over 60 s (5 %)"))], quiet=True),
        ]),
    ],
)  # fmt: skip
