"""A dashboard as rows of charts, and as the JSON that Grafana reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, StackingMode
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    GridPos,
    VariableRefresh,
)

TAG = "renderfarm"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
WIDTH, HEIGHT, LOW = 24, 8, 4  # of Grafana's grid; LOW is that of a number

Kind = Literal["graph", "stacked", "number", "table"]
VARIABLES = {  # name: where its values come from
    "model": "label_values(renderfarm_backlog_gpu_seconds, model)",
    "worker": 'label_values(renderfarm_worker_state{model=~"$model"}, worker)',
    "owner": "label_values(renderfarm_owner_gpu_seconds_today, owner)",
}


@dataclass(slots=True, frozen=True)
class Chart:
    """`queries`: (PromQL, legend). `unit` is Grafana's. `quiet`: may have no data in a healthy farm."""

    title: str
    text: str
    unit: str
    queries: Sequence[tuple[str, str]]
    kind: Kind = "graph"
    quiet: bool = False


@dataclass(slots=True, frozen=True)
class Board:
    """`rows` of charts share the width; `variables` are names in VARIABLES."""

    uid: str
    title: str
    text: str
    rows: Sequence[tuple[str, Sequence[Chart]]]
    variables: Sequence[str] = field(default_factory=tuple)

    @property
    def charts(self) -> list[Chart]:
        return [chart for _, charts in self.rows for chart in charts]

    def json(self) -> str:
        return str(JSONEncoder(sort_keys=True, indent=2).encode(self._built().build())) + "\n"

    def _built(self) -> Any:
        built = (
            dashboard.Dashboard(self.title)
            .uid(self.uid)
            .description(self.text)
            .tags([TAG])
            .time("now-6h", "now")
            .refresh("30s")
            .tooltip(DashboardCursorSync.CROSSHAIR)
            .link(_others())
            .link(_runbook())
            .with_variable(dashboard.DatasourceVariable("datasource").label("source").type("prometheus"))
            .with_variable(_docs())
        )  # fmt: skip
        for name in self.variables:
            built = built.with_variable(_variable(name))
        top, ids = 0, count(1)
        for title, charts in self.rows:
            built = built.with_row(
                dashboard.Row(title).id(next(ids)).grid_pos(GridPos(h=1, w=WIDTH, x=0, y=top))
            )
            top += 1
            height = LOW if all(chart.kind == "number" for chart in charts) else HEIGHT
            width = WIDTH // len(charts)
            for place, chart in enumerate(charts):
                at = GridPos(h=height, w=width, x=place * width, y=top)
                built = built.with_panel(_panel(chart).id(next(ids)).grid_pos(at))
            top += height
        return built


def _panel(chart: Chart) -> Any:
    make: Any = {"number": stat.Panel, "table": table.Panel}.get(chart.kind, timeseries.Panel)
    panel = make().title(chart.title).description(chart.text).unit(chart.unit)
    panel = panel.datasource(SOURCE)
    if chart.kind == "stacked":
        panel = panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL)).fill_opacity(30)
    if chart.kind in ("graph", "stacked"):
        below = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST)
        panel = panel.legend(below.placement(LegendPlacement.BOTTOM).show_legend(True)).min(0)
    for letter, (query, legend) in zip("ABCDEFGH", chart.queries, strict=False):
        target = prometheus.Dataquery().expr(query).legend_format(legend).ref_id(letter)
        panel = panel.with_target(target.instant() if chart.kind == "table" else target.range())
    return panel


def _variable(name: str) -> Any:
    return (
        dashboard.QueryVariable(name)
        .label(name)
        .datasource(SOURCE)
        .query({"query": VARIABLES[name], "refId": name})
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )


def _docs() -> Any:
    """Where the operator serves docs/, for links; the project has no place of its own."""
    return dashboard.ConstantVariable("docs").label("docs").value("/renderfarm")


def _others() -> Any:
    link = dashboard.DashboardLink("Dashboards").type(DashboardLinkType.DASHBOARDS).tags([TAG])
    return link.as_dropdown(True).include_vars(True).keep_time(True)


def _runbook() -> Any:
    link = dashboard.DashboardLink("Runbook").type(DashboardLinkType.LINK)
    return link.url("${docs}/runbook.md").target_blank(True)
