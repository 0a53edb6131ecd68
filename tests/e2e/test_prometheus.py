"""A real Prometheus over a running farm: every panel that should have data has data, every rule is well."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.grafana.__main__ import BOARDS
from tests.dashboards import drive, page, seen, shown, watched
from tests.queries import alerts, recorded, settled
from tests.servers import need
from tests.servers.prometheus import PROGRAMS, Prometheus
from tests.waiting import wait_until

CHARTS = [(board, chart) for board in BOARDS for chart in board.charts]
BUSY = [(board, chart) for board, chart in CHARTS if not chart.quiet]


@pytest.fixture(scope="module")
def watch(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    need(*PROGRAMS)
    with watched(tmp_path_factory.mktemp("watched"), models) as (farm, prometheus):
        drive(farm, prometheus)
        yield prometheus


def test_every_panel_that_should_have_data_has_data(watch: Prometheus) -> None:
    empty = [f"{board.uid}: {chart.title}" for board, chart in BUSY if not shown(chart, watch)]

    assert empty == []


def test_every_query_of_every_panel_is_understood(watch: Prometheus) -> None:
    for _, chart in CHARTS:
        for query, _ in chart.queries:
            watch.query(settled(query))  # fails on its own


def test_every_rule_was_evaluated_and_every_recorded_series_is_there(watch: Prometheus) -> None:
    groups = watch.ask("rules")["groups"]
    told = {rule["name"]: rule for group in groups for rule in group["rules"]}

    assert told.keys() == recorded() | {rule["alert"] for rule in alerts()}
    assert {name for name, rule in told.items() if rule["health"] != "ok"} == set()
    for name in sorted(recorded()):
        wait_until(lambda name=name: watch.query(name), 20, name)  # type: ignore[misc]


def test_the_render_that_took_down_its_worker_raises_an_alert_and_a_healthy_part_none(
    watch: Prometheus,
) -> None:
    wait_until(lambda: watch.query('ALERTS{alertname="RenderfarmPoison",alertstate="firing"}'), 20)

    firing = {labels["alertname"] for labels, _ in watch.query('ALERTS{alertstate="firing"}')}
    assert firing.isdisjoint(
        {"RenderfarmNotScraped", "RenderfarmStoreDown", "RenderfarmReaperSilent"}
    )


def test_the_numbers_of_the_store_and_of_the_workers_agree(watch: Prometheus) -> None:
    made = seen(watch, 'max(renderfarm_store_total{outcome="succeeded"})')

    assert made == seen(
        watch, 'max_over_time(renderfarm_renders_total{outcome="succeeded"}[10m]) > 0'
    )
    assert seen(watch, 'max(renderfarm_store_total{outcome="failed"})') == 1
    assert seen(watch, 'max(renderfarm_worker_deaths_total{cause="worker_lost"})') == 1


def test_a_dashboard_can_be_told_in_words(watch: Prometheus) -> None:
    text = page(BOARDS[0], watch)

    assert "| Able workers |" in text
    assert "no data" not in text.partition("## What is made")[2].partition("##")[0]
