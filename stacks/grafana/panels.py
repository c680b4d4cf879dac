"""What the dashboards are made of: queries, panels, variables and a dashboard's frame, all in one look.

Owns the two data sources' uids, which ``provisioning/datasources`` sets, and the defaults of every panel. A build tool:
nothing of it runs beside Grafana, which reads the JSON that `stacks.grafana.build` writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

PROMETHEUS = dashboard.DataSourceRef(type_val="prometheus", uid="headwater-prometheus")
INFLUXDB = dashboard.DataSourceRef(type_val="influxdb", uid="headwater-influxdb")

#: Every dashboard has it; the drop-down of links to the others finds them by it.
TAG = "headwater"
#: What "All" stands for: a short expression that also takes what appears later.
ALL = ".*"

Target: TypeAlias = Builder[Dataquery]
Panel: TypeAlias = Builder[dashboard.Panel]
Variable: TypeAlias = Builder[dashboard.VariableModel]
Steps: TypeAlias = Sequence[tuple[float, str]]

#: What a threshold's colour says.
GOOD, WARN, BAD = "green", "orange", "red"


class Shape(Enum):
    """What Grafana is to make of an answer of InfluxDB."""

    SERIES = "time_series"
    TABLE = "table"


@dataclass(slots=True, kw_only=True)
class InfluxQuery(Dataquery):
    """A query of InfluxDB's data source, in InfluxQL; the SDK has none."""

    query: str
    alias: str
    shape: Shape
    ref_id: str = ""
    hide: bool | None = None

    def to_json(self) -> dict[str, object]:
        return {
            "refId": self.ref_id,
            "datasource": INFLUXDB,
            "rawQuery": True,
            "query": self.query,
            "alias": self.alias,
            "resultFormat": self.shape.value,
        }


class _Influx(Builder[Dataquery]):
    def __init__(self, query: InfluxQuery) -> None:
        self._query = query

    def build(self) -> Dataquery:
        return self._query


def prom(expr: str, legend: str = "", *, instant: bool = False, interval: str = "") -> Target:
    """A query of Prometheus; ``instant``: only the newest value of each series, as a table.

    ``interval`` is how often it is scraped, where that is not the data source's.
    """
    made = prometheus.Dataquery().expr(expr).legend_format(legend or "__auto").datasource(PROMETHEUS)
    if interval:
        made = made.interval(interval)
    if instant:
        return made.instant().format(PromQueryFormat.TABLE)
    return made.range()


def influx(query: str, alias: str = "", shape: Shape = Shape.SERIES) -> Target:
    """A query of InfluxDB. ``alias`` names a series: ``$tag_ep $tag_path``."""
    return _Influx(InfluxQuery(query=query, alias=alias, shape=shape))


def thresholds(steps: Steps) -> Builder[dashboard.ThresholdsConfig]:
    """``(from which value on, colour)``; the first one's value counts from minus infinity."""
    made = [dashboard.Threshold(value=None if at == 0 else value, color=colour) for at, (value, colour) in _at(steps)]
    return builders.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(made)


def _at(steps: Steps) -> Iterable[tuple[int, tuple[float, str]]]:
    return enumerate(steps)


def _named(targets: Sequence[Target]) -> list[Target]:
    """The targets with the names A, B, C, …, which a panel's overrides refer to."""
    made: list[Target] = []
    for at, target in enumerate(targets):
        query = target.build()
        name = chr(ord("A") + at)
        if isinstance(query, InfluxQuery):
            query.ref_id = name
            made.append(_Influx(query))
        elif isinstance(target, prometheus.Dataquery):
            made.append(target.ref_id(name))
    return made


def _source(targets: Sequence[Target]) -> dashboard.DataSourceRef:
    return INFLUXDB if isinstance(targets[0].build(), InfluxQuery) else PROMETHEUS


def series(
    title: str,
    description: str,
    unit: str,
    *targets: Target,
    span: int = 12,
    height: int = 8,
    stack: bool = False,
    low: float | None = 0,
    high: float | None = None,
    steps: Steps = (),
    points: bool = False,
) -> timeseries.Panel:
    """Lines over time. ``unit`` is Grafana's name of it; ``steps`` are drawn as lines."""
    made = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(_source(targets))
        .targets(_named(targets))
        .unit(unit)
        .span(span)
        .height(height)
        .line_width(1)
        .fill_opacity(25 if stack else 8)
        .show_points(common.VisibilityMode.ALWAYS if points else common.VisibilityMode.NEVER)
        .span_nulls(points)
        .tooltip(common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI))
        .legend(
            common_builders.VizLegendOptions()
            .display_mode(common.LegendDisplayMode.TABLE)
            .placement(common.LegendPlacement.BOTTOM)
            .calcs(["lastNotNull", "max"])
            .show_legend(True)
        )
    )
    if low is not None:
        made = made.axis_soft_min(low)
    if high is not None:
        made = made.max(high)
    if stack:
        made = made.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL))
    if steps:
        made = made.thresholds(thresholds(steps)).thresholds_style(
            common_builders.GraphThresholdsStyleConfig().mode(common.GraphTresholdsStyleMode.DASHED)
        )
    return made


def figure(
    title: str,
    description: str,
    unit: str,
    *targets: Target,
    span: int = 4,
    steps: Steps = ((0, GOOD),),
    words: dict[str, str] | None = None,
) -> stat.Panel:
    """The newest value, large. ``words`` say what a value means: ``{"1": "ready"}``."""
    made = (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(_source(targets))
        .targets(_named(targets))
        .unit(unit)
        .span(span)
        .height(4)
        .graph_mode(common.BigValueGraphMode.NONE if words else common.BigValueGraphMode.AREA)
        .color_mode(common.BigValueColorMode.VALUE)
        .reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .thresholds(thresholds(steps))
        .no_value("no data")
    )
    if words:
        options = {value: dashboard.ValueMappingResult(text=text) for value, text in words.items()}
        made = made.mappings([dashboard.ValueMap(options=options)])
    return made


def rows(
    title: str,
    description: str,
    *targets: Target,
    span: int = 24,
    height: int = 8,
    unit: str = "",
    hidden: Sequence[str] = (),
    renamed: dict[str, str] | None = None,
    newest_first: bool = False,
) -> table.Panel:
    """A table. ``hidden`` columns are left out, ``renamed`` ones shown by another name."""
    made = (
        table.Panel()
        .title(title)
        .description(description)
        .datasource(_source(targets))
        .targets(_named(targets))
        .span(span)
        .height(height)
        .show_header(True)
    )
    if unit:
        made = made.unit(unit)
    if len(targets) > 1:
        made = made.with_transformation(dashboard.DataTransformerConfig(id_val="merge", options={}))
    if hidden or renamed:
        organise = {"excludeByName": dict.fromkeys(hidden, True), "renameByName": renamed or {}, "indexByName": {}}
        made = made.with_transformation(dashboard.DataTransformerConfig(id_val="organize", options=organise))
    if newest_first:
        made = made.sort_by([common_builders.TableSortByFieldState().display_name("Time").desc(True)])
    return made


def choice(
    name: str,
    label: str,
    description: str,
    query: str,
    source: dashboard.DataSourceRef = PROMETHEUS,
) -> Variable:
    """A variable whose values a data source tells: any number of them may be chosen, and all are at first.

    None is for a single value: a link from another dashboard brings what is chosen there, "All" too.
    """
    told: str | dict[str, object] = query
    if source is PROMETHEUS:
        told = {"query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery"}
    return (
        builders.QueryVariable(name)
        .label(label)
        .description(description)
        .datasource(source)
        .query(told)
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(dashboard.VariableSort.ALPHABETICAL_CASE_INSENSITIVE_ASC)
        .multi(True)
        .include_all(True)
        .all_value(ALL)
        .current(dashboard.VariableOption(text=["All"], value=["$__all"], selected=True))
    )


def fixed(name: str, label: str, description: str, values: Sequence[tuple[str, str]]) -> Variable:
    """A variable whose values are known here: ``(what is shown, value)``."""
    said = ", ".join(f"{text.replace(',', ' ')} : {value}" for text, value in values)
    return (
        builders.CustomVariable(name)
        .label(label)
        .description(description)
        .values(said)
        .multi(True)
        .include_all(True)
        .all_value(ALL)
        .current(dashboard.VariableOption(text=["All"], value=["$__all"], selected=True))
    )


def gateways() -> Variable:
    """The variable ``gateway``: those that Prometheus knows."""
    return choice(
        "gateway", "Gateway", "Gateways that Prometheus knows.", "label_values(headwater_gateway_devices, gateway)"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A dashboard: ``rows`` are its sections, each with a title (none for the first one, if it has none)."""

    uid: str
    title: str
    description: str
    rows: Sequence[tuple[str, Sequence[Panel]]]
    variables: Sequence[Variable] = ()
    span: str = "now-1h"
    refresh: str = "30s"

    def build(self) -> dashboard.Dashboard:
        """The dashboard as Grafana has it, its panels numbered in their order."""
        made = (
            builders.Dashboard(self.title)
            .uid(self.uid)
            .description(self.description)
            .tags([TAG])
            .time(self.span, "now")
            .refresh(self.refresh)
            .timezone("browser")
            .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
            .editable()
            .variables(list(self.variables))
            .link(
                builders.DashboardLink("Headwater")
                .type(dashboard.DashboardLinkType.DASHBOARDS)
                .tags([TAG])
                .tooltip("The other dashboards, at the same time and with the same choices")
                .as_dropdown(True)
                .include_vars(True)
                .keep_time(True)
            )
        )
        for title, panels in self.rows:
            if title:
                made = made.with_row(builders.Row(title))
            for panel in panels:
                made = made.with_panel(panel)
        done = made.build()
        for number, item in enumerate(done.panels or [], 1):
            item.id_val = number
        return done
