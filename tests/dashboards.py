"""A farm under load with a real Prometheus over it, and what every dashboard then shows.

`python -m tests.dashboards` writes that to docs/dashboards/; tests/e2e/test_prometheus.py runs the same.
"""

from __future__ import annotations

import math
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2

from deploy.grafana.__main__ import BOARDS
from deploy.grafana.board import Board, Chart
from deploy.local import TARGETS
from tests.e2e.farm import ENDLESS, LONG, QUICK, RunningFarm
from tests.queries import RULES, settled
from tests.receiver import receiving
from tests.servers.prometheus import Prometheus, prometheus
from tests.waiting import wait_until

FOLDER = Path(__file__).parent.parent / "docs" / "dashboards"
KEYS = {"alice": "key-of-alice", "bob": "key-of-bob"}
SETTINGS = {
    "FARM_LEASE_S": "2",
    "FARM_MAX_LOSSES": "1",  # one lost worker fails its render, so that something does
    "FARM_MAX_RETRIES": "1",
    "FARM_WEBHOOK_ALLOW_HOSTS": "127.0.0.1",
    "FARM_API_KEYS": " ".join(f"{owner}:{key}" for owner, key in KEYS.items()),
}
MOST_ROWS = 6  # of one query


@contextmanager
def watched(folder: Path, models: Path) -> Iterator[tuple[RunningFarm, Prometheus]]:
    with (
        RunningFarm(folder, models, **SETTINGS) as farm,
        prometheus(folder / TARGETS, RULES) as watch,
    ):
        wait_until(lambda: seen(watch, 'count(up{job="renderfarm"} == 1)') == 3, 30, "for 3 pages")
        yield farm, watch


def seen(watch: Prometheus, promql: str) -> float:
    found = watch.query(promql)
    return found[0][1] if found else 0.0


def drive(farm: RunningFarm, watch: Prometheus) -> None:
    """Twice the same load with a scrape between, since a rate is a difference; then one worker dies."""
    with receiving() as receiver:
        for turn in (1, 2):
            _orders(farm, turn, receiver.url)
            made = farm.total("succeeded")
            wait_until(
                lambda made=made: seen(watch, 'max(renderfarm_store_total{outcome="succeeded"})') >= made,  # type: ignore[misc]
                30, "for a scrape",
            )  # fmt: skip
    _kill_a_worker_at_work(farm)
    wait_until(lambda: seen(watch, "max(renderfarm_poisoned_renders)") == 1, 30, "for the poison")
    again = 'changes(process_start_time_seconds{worker!=""}[5m])'
    wait_until(lambda: seen(watch, again) >= 1, 60, "for the next worker")
    loaded = 'max(renderfarm_model_load_seconds{step="warmup"})'
    wait_until(lambda: seen(watch, loaded), 60, "for it to load")


def _orders(farm: RunningFarm, turn: int, hook: str) -> None:
    alice, bob = KEYS["alice"], KEYS["bob"]
    first = farm.submit(alice, seed=turn, webhook={"url": hook})
    farm.wait(first["id"], alice)
    farm.submit(alice, seed=turn)  # a hit
    seed = 100 * turn
    jobs = [
        (farm.submit(owner, seed=seed + k, n=2, priority=priority)["id"], owner)
        for k, (owner, priority) in enumerate([(alice, "normal"), (bob, "high"), (bob, "low")] * 2)
    ]
    farm.submit(bob, seed=seed)  # attached, or a hit by now
    unreachable = {"url": "http://127.0.0.1:9/nobody"}
    jobs.append((farm.submit(bob, seed=seed + 50, webhook=unreachable)["id"], bob))
    for job, owner in jobs:
        farm.wait(job, owner)
        farm.get(f"/jobs/{job}/events", owner)
        farm.picture(farm.job(job, owner))
    order = {**QUICK, "seed": seed + 60}
    assert farm.post(order, alice, Prefer="wait=20").json()["done"]
    assert farm.post({"prompt": ""}, alice).status_code == 400
    assert farm.get("/jobs", "wrong").status_code == 401
    canceled = farm.submit(alice, **{**ENDLESS, "seed": turn})
    farm.cancel(canceled["id"], alice)
    farm.wait(canceled["id"], alice)


def _kill_a_worker_at_work(farm: RunningFarm) -> None:
    alice = KEYS["alice"]
    job = farm.submit(alice, **LONG, seed=9)
    wait_until(lambda: farm.job(job["id"], alice)["status"] == "running", 30, "for a render")
    farm.part("cli.main", "worker").send_signal(signal.SIGKILL)
    assert farm.wait(job["id"], alice)["status"] == "failed"


def shown(chart: Chart, watch: Prometheus) -> list[tuple[str, float]]:
    """(legend, value) of all that the chart would draw at this moment."""
    rows = []
    for query, legend in chart.queries:
        for labels, value in watch.query(settled(query)):
            if not math.isnan(value):
                rows.append((_legend(legend, labels) or chart.title.lower(), value))
    return rows


def _legend(legend: str, labels: dict[str, str]) -> str:
    for name, value in labels.items():
        legend = legend.replace("{{" + name + "}}", "a page" if name == "instance" else value)
    return " ".join(part for part in legend.split() if not part.startswith("{{"))


def page(board: Board, watch: Prometheus) -> str:
    lines = [f"# {board.title}", "", board.text, "", ABOUT]
    for title, charts in board.rows:
        lines += ["", f"## {title}", "", "| panel | what it shows | value |", "|---|---|---|"]
        for chart in charts:
            rows = sorted(shown(chart, watch), key=lambda row: -row[1])
            told = [
                f"{_plain(legend)}: {_number(value, chart.unit)}"
                for legend, value in rows[:MOST_ROWS]
            ]
            if len(rows) > MOST_ROWS:
                told.append(f"and {len(rows) - MOST_ROWS} more")
            lines.append(f"| {chart.title} | {chart.text} | {'<br>'.join(told) or 'no data'} |")
    text = "\n".join(lines) + "\n"
    return text.replace(f"{socket.gethostname()}-", "host-")


ABOUT = (
    "What each panel gave after the load of `tests/dashboards.py`, on one worker with the tiny model on a CPU: "
    "Prometheus was asked the panel's own queries. Grafana itself was not run. `python -m tests.dashboards` writes this anew."
)


def _plain(legend: str) -> str:
    return legend.replace("|", "\\|")


def _number(value: float, unit: str) -> str:
    if unit == "bytes":
        return f"{value / 2**20:.4g} MiB"
    if unit == "percentunit":
        return f"{value:.1%}"
    return f"{value:.3g}" + {"s": " s", "ops": " /s", "reqps": " /s", "Bps": " B/s"}.get(unit, "")


def main() -> int:
    FOLDER.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="farm-") as folder,
        watched(Path(folder) / "farm", Path(folder) / "models") as (farm, watch),
    ):
        drive(farm, watch)
        for board in BOARDS:
            file = FOLDER / f"{board.uid.removeprefix('renderfarm-')}.md"
            file.write_text(page(board, watch), "utf-8")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except httpx2.HTTPError as error:
        sys.exit(f"the farm did not answer: {error}")
