"""The committed dashboards as Grafana asks for them: their queries with the variables filled in, and the answers.

Owns what Grafana does between a dashboard's JSON and its data sources: the order of variables, how the value of one
stands in a query of Prometheus or InfluxDB (multi-value ones as a regular expression), ``$__interval`` and its
relatives, ``$timeFilter``, the names of series. It asks servers over HTTP, and judges nothing.
"""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

FOLDER = Path(__file__).parents[2] / "stacks/grafana/dashboards"
ANSWER_S = 30.0

#: In templates' syntax: ``$name``, ``${name}``, ``${name:format}``, ``[[name]]``.
_VARIABLE = re.compile(r"\$(\w+)|\$\{(\w+)(?::(\w+))?\}|\[\[(\w+)\]\]")
_LABEL_VALUES = re.compile(r"label_values\((?:(.*),\s*)?(\w+)\)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A template variable. ``query`` is empty where its values are fixed."""

    name: str
    source: str
    query: str
    several: bool
    all_value: str | None
    fixed: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One target of one panel, as it is in the JSON."""

    panel: Mapping[str, Any]
    target: Mapping[str, Any]

    @property
    def source(self) -> str:
        return str(self.target["datasource"]["type"])

    @property
    def text(self) -> str:
        return str(self.target["expr"] if self.source == "prometheus" else self.target["query"])

    @property
    def is_table(self) -> bool:
        return bool(self.target.get("instant")) or self.target.get("resultFormat") == "table"

    @property
    def name(self) -> str:
        return f"{self.panel['title']} {self.target['refId']}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    file: Path
    json: Mapping[str, Any]

    @property
    def panels(self) -> list[Mapping[str, Any]]:
        """Those with data: rows are none."""
        found: list[Mapping[str, Any]] = []
        for panel in self.json["panels"]:
            found += panel["panels"] if panel["type"] == "row" else [panel]
        return found

    @property
    def queries(self) -> Iterator[Query]:
        for panel in self.panels:
            for target in panel["targets"]:
                yield Query(panel=panel, target=target)

    @property
    def variables(self) -> list[Variable]:
        return [_variable(one) for one in self.json.get("templating", {}).get("list", [])]


def dashboards() -> list[Dashboard]:
    """All that are committed."""
    return [Dashboard(file=file, json=json.loads(file.read_text("utf-8"))) for file in sorted(FOLDER.glob("*.json"))]


def _variable(told: Mapping[str, Any]) -> Variable:
    several = bool(told.get("multi") or told.get("includeAll"))
    name, all_value = str(told["name"]), told.get("allValue")
    if told["type"] == "custom":
        values = [part.split(" : ")[-1].strip() for part in str(told["query"]).split(", ")]
        return Variable(name=name, source="", query="", several=several, all_value=all_value, fixed=values)
    query = told["query"]
    return Variable(
        name=name,
        source=str(told["datasource"]["type"]),
        query=str(query["query"] if isinstance(query, dict) else query),
        several=several,
        all_value=all_value,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What a variable stands at: one or more values, or all of them in short (``all_value``)."""

    values: Sequence[str]
    several: bool
    all_value: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The time shown, epoch seconds, and the step of a graph."""

    start: float
    end: float
    step: int
    #: How often Prometheus scrapes, in seconds, and how often what is told to be scraped more seldom.
    scrape: int
    seldom: int

    @property
    def words(self) -> dict[str, str]:
        length = round(self.end - self.start)
        return {
            "__interval": f"{self.step}s",
            "__interval_ms": str(self.step * 1000),
            # As the data source does: no rate over less than four scrapes.
            "__rate_interval": f"{max(self.step + self.scrape, 4 * self.scrape)}s",
            "__range": f"{length}s",
            "__range_s": str(length),
            "timeFilter": f"time >= {self.start * 1000:.0f}ms and time <= {self.end * 1000:.0f}ms",
        }


def filled(query: str, source: str, chosen: Mapping[str, Chosen], span: Span) -> str:
    """The query as the data source gets it.

    Raises:
        KeyError: it names a variable that the dashboard does not have.
    """
    words = span.words

    def replaced(found: re.Match[str]) -> str:
        name = found[1] or found[2] or found[4]
        if name in words:
            return words[name]
        one = chosen[name]
        if one.all_value is not None:
            return one.all_value
        if found[3] not in (None, "regex"):
            raise KeyError(f"the format {found[3]} of {name}")
        escaped = _ESCAPED["regex" if found[3] else source]
        values = [escaped(value) if one.several or found[3] else value for value in one.values]
        return values[0] if len(values) == 1 else f"({'|'.join(values)})"

    return _VARIABLE.sub(replaced, query)


def _for_a_regex(value: str) -> str:
    return re.sub(r"[\\^$*+?.()|\[\]{}/]", lambda found: f"\\{found[0]}", value)


def _for_promql(value: str) -> str:
    # It stands in a string of PromQL, where a backslash is written twice.
    return re.sub(r"[\\^$*+?.()|\[\]{}]", lambda found: f"\\\\{found[0]}", value).replace('"', '\\"')


_ESCAPED = {"regex": _for_a_regex, "influxdb": _for_a_regex, "prometheus": _for_promql}


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A line of a panel: its labels, and its points as (epoch seconds, value)."""

    labels: Mapping[str, str]
    points: Sequence[tuple[float, float]]
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a query gave: lines, or the rows of a table."""

    series: Sequence[Series] = ()
    table: Sequence[Mapping[str, Any]] = ()

    def __bool__(self) -> bool:
        return bool(self.series or self.table)


class Refused(AssertionError):
    """A data source did not take a query; the text has both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The two servers behind the dashboards."""

    prometheus: str
    influxdb: str
    database: str
    token: str = field(repr=False)

    def ask(self, query: Query, chosen: Mapping[str, Chosen], span: Span) -> Answer:
        """The answer to one target. Raises Refused."""
        if query.target.get("interval"):
            span = replace(span, scrape=span.seldom)
        text = filled(query.text, query.source, chosen, span)
        if query.source == "influxdb":
            return self._influx(query, text)
        if query.is_table:
            return Answer(table=[_row(one) for one in self.prom("query", query=text, time=span.end)["result"]])
        told = self.prom("query_range", query=text, start=span.start, end=span.end, step=span.step)
        return Answer(series=[_line(one, str(query.target["legendFormat"])) for one in told["result"]])

    def values(self, variable: Variable, chosen: Mapping[str, Chosen], span: Span) -> list[str]:
        """The values among which people choose. Raises Refused."""
        if variable.fixed:
            return list(variable.fixed)
        text = filled(variable.query, variable.source, chosen, span)
        if variable.source == "influxdb":
            return sorted({row["value"] for row in self._influx_rows(text)}, key=str.lower)
        found = _LABEL_VALUES.fullmatch(text)
        assert found, f"{text} is nothing that we know how Grafana asks it"
        asked = ({"match[]": found[1]} if found[1] else {}) | {"start": str(span.start), "end": str(span.end)}
        told = self._get(f"{self.prometheus}/api/v1/label/{found[2]}/values?{urlencode(asked)}")
        return sorted(told["data"], key=str.lower)

    def prom(self, what: str, **parameters: object) -> Any:
        """An answer of Prometheus' API, version 1. Raises Refused."""
        return self._get(f"{self.prometheus}/api/v1/{what}", urlencode(parameters).encode())["data"]

    def _influx(self, query: Query, text: str) -> Answer:
        if query.is_table:
            return Answer(table=self._influx_rows(text))
        made = []
        for one in self._influx_series(text):
            tags = one.get("tags", {})
            points = [(row[0] / 1000, row[1]) for row in one["values"] if row[1] is not None]
            name = re.sub(r"\$tag_(\w+)", lambda found: str(tags[found[1]]), str(query.target["alias"]))  # noqa: B023
            made.append(Series(labels=tags, points=points, name=name))
        return Answer(series=made)

    def _influx_rows(self, text: str) -> list[dict[str, Any]]:
        return [
            one.get("tags", {})
            | {"Time" if name == "time" else name: value for name, value in zip(one["columns"], row, strict=True)}
            for one in self._influx_series(text)
            for row in one["values"]
        ]

    def _influx_series(self, text: str) -> list[dict[str, Any]]:
        body = urlencode({"db": self.database, "q": text, "epoch": "ms"}).encode()
        (result,) = self._get(f"{self.influxdb}/query", body, f"Basic {b64encode(self.token.encode()).decode()}")[
            "results"
        ]
        if "error" in result:
            raise Refused(f"{text}: {result['error']}")
        return list(result.get("series", []))

    def _get(self, url: str, body: bytes | None = None, authorization: str = "") -> Any:
        request = urllib.request.Request(url, data=body)
        if authorization:
            request.add_header("Authorization", authorization)
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as exc:
            raise Refused(f"{url} {(body or b'').decode()}: {exc.read().decode()}") from exc


def _line(told: Mapping[str, Any], legend: str) -> Series:
    labels = told["metric"]
    name = re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: str(labels[found[1]]), legend)
    if legend == "__auto":
        name = ", ".join(f"{key}={value}" for key, value in labels.items()) or "value"
    return Series(labels=labels, points=[(at, float(value)) for at, value in told["values"]], name=name)


def _row(told: Mapping[str, Any]) -> dict[str, Any]:
    return {**told["metric"], "Time": told["value"][0], "Value": float(told["value"][1])}


def choose(
    sources: Sources, dashboard: Dashboard, span: Span, *, listed: bool = False, single: bool = False
) -> dict[str, Chosen]:
    """What stands in the variables, one after the other, as later ones ask with the values of those before.

    As a dashboard opens: all of what may be several, the first of what may not. ``listed``: each value by itself;
    ``single``: one value only, of what the data sources tell.
    """
    chosen: dict[str, Chosen] = {}
    for variable in dashboard.variables:
        values = sources.values(variable, chosen, span)
        assert values, f"there is nothing to choose for {variable.name} of {dashboard.file.name}: {variable.query}"
        if not variable.several or (single and not variable.fixed):
            chosen[variable.name] = Chosen(values=values[:1], several=variable.several)
        elif listed:
            chosen[variable.name] = Chosen(values=values, several=True)
        else:
            chosen[variable.name] = Chosen(values=values, several=True, all_value=variable.all_value)
    return chosen
