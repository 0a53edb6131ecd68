"""API and clients: requests, refusals, waits, what the cache answers."""

from __future__ import annotations

from deploy.grafana.board import Board, Chart

BOARD = Board(
    uid="renderfarm-api",
    title="API and clients",
    text="What clients ask, how fast they are answered, and why they are refused.",
    rows=[
        ("Requests", [
            Chart("By status", "Requests each second, by the first digit of the answer.", "reqps",
                  [('sum by (class) (label_replace(rate(renderfarm_http_requests_total[5m]), "class", "${1}xx", "status", "(.).."))', "{{class}}")],
                  "stacked"),
            Chart("By route", "The ten routes that are asked most.", "reqps",
                  [("topk(10, sum by (method, route) (rate(renderfarm_http_requests_total[5m])))", "{{method}} {{route}}")]),
            Chart("Server errors", "Part of the requests answered with 5xx.", "percentunit",
                  [("renderfarm:http_errors:ratio_rate5m", "5xx")]),
        ]),
        ("Latency", [
            Chart("All routes", "Time to answer, but for requests that wait for a job.", "s",
                  [(f"histogram_quantile({q}, sum by (le) (rate(renderfarm_http_request_seconds_bucket[5m])))", f"p{int(q * 100)}")
                   for q in (0.5, 0.95, 0.99)]),
            Chart("Slowest routes", "95th percentile of the five slowest routes.", "s",
                  [("topk(5, histogram_quantile(0.95, sum by (le, method, route) (rate(renderfarm_http_request_seconds_bucket[5m]))))", "{{method}} {{route}}")]),
            Chart("Held requests", "How long requests were held that wait for a job.", "s",
                  [("histogram_quantile(0.95, sum by (le, route) (rate(renderfarm_http_wait_seconds_bucket[5m])))", "p95 {{route}}")]),
        ]),
        ("Clients", [
            Chart("Waiting clients", "Clients that follow or wait for a job now.", "short",
                  [("sum(renderfarm_waiting_clients)", "clients")]),
            Chart("Refusals", "Answers that refuse or fail, by the code of their problem.", "ops",
                  [("sum by (code) (rate(renderfarm_http_refusals_total[5m]))", "{{code}}")], "stacked"),
            Chart("Images ordered", "By how the cache answered.", "ops",
                  [("sum by (outcome) (rate(renderfarm_images_ordered_total[5m]))", "{{outcome}}")], "stacked"),
            Chart("Answered by the cache", "Part of the images that cost no device time.", "percentunit",
                  [('sum(rate(renderfarm_images_ordered_total{outcome=~"hit|attached"}[1h])) / sum(rate(renderfarm_images_ordered_total[1h]))', "hit or attached")]),
        ]),
        ("Processes", [
            Chart("CPU", "CPU seconds each second of what is scraped.", "short",
                  [("rate(process_cpu_seconds_total[5m])", "{{instance}} {{worker}}")]),
            Chart("Memory", "Resident memory.", "bytes", [("process_resident_memory_bytes", "{{instance}} {{worker}}")]),
            Chart("Open files", "Sockets are files too.", "short", [("process_open_fds", "{{instance}} {{worker}}")]),
        ]),
    ],
)  # fmt: skip
