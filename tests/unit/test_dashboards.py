"""Dashboards and rules: in step with their code, whole, and speaking only of series that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from itertools import combinations
from typing import Any

import pytest
import yaml

from deploy.grafana.__main__ import BOARDS, file_of, stale
from deploy.grafana.board import WIDTH, Board
from tests.queries import (
    CASES,
    FOREIGN,
    ROOT,
    RULES,
    alerts,
    dashboard_queries,
    known,
    named,
    recorded,
    rules,
)

RUNBOOK = (ROOT / "docs" / "runbook.md").read_text("utf-8")
boards = pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)


def panels(board: Board) -> list[dict[str, Any]]:
    return list(json.loads(file_of(board.uid).read_text("utf-8"))["panels"])


def test_the_files_are_what_the_code_writes():
    assert stale() == [], "python -m deploy.grafana"


def test_no_two_dashboards_share_an_id():
    assert len({board.uid for board in BOARDS}) == len({b.title for b in BOARDS}) == len(BOARDS)


@boards
def test_every_panel_says_what_it_shows_and_in_what_unit(board):
    for panel in panels(board):
        assert panel["title"]
        if panel["type"] != "row":
            assert panel["description"].endswith(".")
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert panel["targets"]
    assert len({panel["id"] for panel in panels(board)}) == len(panels(board))


@boards
def test_no_panel_lies_on_another_or_beyond_the_edge(board):
    places = [panel["gridPos"] for panel in panels(board)]

    assert all(place["x"] + place["w"] <= WIDTH for place in places)
    for a, b in combinations(places, 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        below = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or below, (a, b)


@boards
def test_a_dashboard_uses_the_variables_that_it_declares(board):
    text = file_of(board.uid).read_text("utf-8")
    declared = {variable["name"] for variable in json.loads(text)["templating"]["list"]}

    used = set(re.findall(r"\$\{?([a-z]+)\b", re.sub(r"\$\{1\}", "", text)))

    assert used == declared


def test_every_query_is_promql_and_names_only_series_and_labels_that_there_are():
    ours = known() | dict.fromkeys(recorded(), frozenset({"model", "worker"}))
    for query in [*dashboard_queries(), *(rule["expr"] for rule in rules())]:
        for one in named(query):
            if not one.name.startswith(FOREIGN):
                assert one.name in ours, (one.name, query)
                assert one.labels <= ours[one.name], (one, query)


def test_every_series_of_the_farm_is_looked_at_somewhere():
    used = {n.name for q in [*dashboard_queries(), *(r["expr"] for r in rules())] for n in named(q)}
    parts = re.compile(r"_(bucket|sum|count)$")
    unseen = {parts.sub("", name) for name in known()} - {parts.sub("", name) for name in used}

    assert unseen == {  # for people's own questions
        "renderfarm_container_oom_kills_total",
        "renderfarm_denoise_flops_total",
        "renderfarm_gpu_power_limit_watts",
        "renderfarm_leases",
    }


@pytest.mark.parametrize("alert", sorted({rule["alert"] for rule in alerts()}))
def test_every_alert_has_an_entry_in_the_runbook_and_is_proven_both_ways(alert):
    entry = RUNBOOK.partition(f"\n## {alert}\n")[2].partition("\n## ")[0]
    for question in ("**Meaning**", "**Impact**", "**Look at**", "**Do**"):
        assert question in entry, (alert, question)

    tests = [t for file in CASES for t in yaml.safe_load(file.read_text("utf-8"))["tests"]]
    cases = [c for t in tests for c in t.get("alert_rule_test", ()) if c["alertname"] == alert]
    assert {bool(case["exp_alerts"]) for case in cases} == {True, False}


def test_every_alert_says_how_much_it_matters_and_where_to_read_on():
    for rule in alerts():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"


def test_the_runbook_has_no_entry_without_an_alert():
    titles = set(re.findall(r"^## (Renderfarm\w+)$", RUNBOOK, re.MULTILINE))

    assert titles == {rule["alert"] for rule in alerts()}


@pytest.mark.skipif(not shutil.which("promtool"), reason="needs promtool: tests/setup-servers")
def test_promtool_accepts_the_rules_and_every_case_of_every_alert():
    for what, files in (("check", RULES), ("test", CASES)):
        argv = ["promtool", what, "rules", *map(str, files)]
        done = subprocess.run(argv, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
