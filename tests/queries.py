"""What the PromQL of dashboards and rules speaks of."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser
import yaml

from deploy.grafana.__main__ import BOARDS
from tests.metrics import PLACES, series

ROOT = Path(__file__).parent.parent
RULES = sorted((ROOT / "deploy" / "prometheus" / "rules").glob("*.yml"))
CASES = sorted((ROOT / "tests" / "prometheus").glob("*.yml"))
FOREIGN = ("DCGM_FI_DEV_", "process_", "ALERTS")  # not ours to list


@dataclass(frozen=True, slots=True)
class Named:
    """One series in a query, and the labels that the query chooses it by."""

    name: str
    labels: frozenset[str]


def rules() -> list[dict[str, Any]]:
    groups = [g for file in RULES for g in yaml.safe_load(file.read_text("utf-8"))["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def recorded() -> set[str]:
    return {rule["record"] for rule in rules() if "record" in rule}


def dashboard_queries() -> list[str]:
    return [query for board in BOARDS for chart in board.charts for query, _ in chart.queries]


def settled(query: str) -> str:
    """With every variable of a dashboard as `All` puts it."""
    return re.sub(r"\$\w+", ".*", query)


def named(query: str) -> list[Named]:
    """Raises ValueError where it is no PromQL."""
    found: list[Named] = []

    def visit(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            labels = frozenset(m.name for m in node.matchers.matchers if m.name != "__name__")
            found.append(Named(str(node.name), labels))
        for part in ("expr", "lhs", "rhs", "vector_selector"):
            if (inner := getattr(node, part, None)) is not None:
                visit(inner)
        for inner in getattr(node, "args", None) or ():
            visit(inner)

    visit(promql_parser.parse(settled(query)))
    return found


def known() -> dict[str, frozenset[str]]:
    """Every name that a query may use of ours, with its labels."""
    names: dict[str, frozenset[str]] = {}
    for place in PLACES:
        common = (
            {"worker", "model"} if place.startswith(("One worker", "What", "The stores")) else set()
        )
        for one in series(place):
            names |= dict.fromkeys(one.names, frozenset({*one.labels, *common, "le", "instance"}))
    return names
