"""The file of rules of the job `outliers`: known distributions and alerts, in TOML. Pure: a text, and what it says.

Each text of an error names the table and the key.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from analytics.alerts import Comparison, Measure, Per, Rule, Severity
from analytics.durations import milliseconds
from analytics.outliers import Known
from analytics.series import SeriesPattern
from schemas.lwm2m.path import PathError, PathPattern

SAMPLE = """\
# What is usual, where it is known; the first table that matches a series counts. Others are judged by their own past.
[[distribution]]
# Paths at or below this; * stands for any id. Default: all.
path = "/3303/*/5700"
# Endpoint names, as a shell's pattern. Default: all.
# endpoint = "*"
mean = 25.0
std_dev = 2.0

[[alert]]
# Names are unique: they are the alertname of Alertmanager.
name = "too-hot"
path = "/3303/*/5700"
# endpoint = "*"
# value, rate (of change; |rate| in both directions), z (z-score; |z|); > >= < <= == !=
when = "value > 30"
# A firing alert ends only at this level. Default: as soon as `when` no longer holds.
clear = 28.0
# For so long `when` must hold, by the times of the readings: "90s", "5m", "1h". Default: "0s".
for = "2m"
# "info", "warning", "critical". Default: "warning".
severity = "critical"
# {ep}, {path}, {value} (what was measured) and {threshold} are filled in.
summary = "{path} of {ep} is at {value}"

[[alert]]
name = "heats-too-fast"
path = "/3303/*/5700"
when = "rate >= 5 per minute"

[[alert]]
name = "far-from-usual"
when = "|z| > 4"
severity = "info"
"""

_WHEN = re.compile(
    r"(?P<measure>value|rate|\|rate\||z|\|z\|)\s*(?P<comparison>>=|<=|==|!=|>|<)\s*"
    r"(?P<threshold>[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?)(\s+per\s+(?P<per>second|minute))?"
)

_T = TypeVar("_T")


class RulesError(ValueError):
    """The file says something that cannot be; the text names table and key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the file says, in its order."""

    distributions: tuple[Known, ...] = ()
    alerts: tuple[Rule, ...] = ()


def parse_rules(text: str) -> Rules:
    """The rules of a file such as `SAMPLE`.

    Raises:
        RulesError: no TOML, an unknown table or key, one that is missing, or a value that makes no sense.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise RulesError(f"the rules are no TOML: {exc}") from exc
    for name in document:
        if name not in _TABLES:
            raise RulesError(f"there is no table {name!r}{_hint(name, _TABLES)}; there are [[distribution]], [[alert]]")
    distributions = tuple(_each(document, "distribution", _distribution))
    alerts = tuple(_each(document, "alert", _alert))
    seen: dict[str, int] = {}
    for number, rule in enumerate(alerts, 1):
        if rule.name in seen:
            raise RulesError(f"[[alert]] number {number}: name: {rule.name!r} is that of number {seen[rule.name]} too")
        seen[rule.name] = number
    return Rules(distributions=distributions, alerts=alerts)


class _Table:
    """One table: what was asked of it, so that the rest can be told to be unknown."""

    def __init__(self, where: str, content: Mapping[str, object], known: frozenset[str]) -> None:
        self.where = where
        self._content = content
        for key in content:
            if key not in known:
                raise RulesError(f"{where}: {key}: there is no such key{_hint(key, known)}")

    def text(self, key: str, default: str | None = None) -> str:
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self.wrong(key, f"a text is needed, not {value!r}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(key, f"a number is needed, not {value!r}")
        try:
            return float(value)
        except OverflowError as exc:
            raise self.wrong(key, "it is too large a number") from exc

    def has(self, key: str) -> bool:
        return key in self._content

    def series(self) -> SeriesPattern:
        try:
            pattern = PathPattern.parse(self.text("path")) if self.has("path") else None
        except PathError as exc:
            raise self.wrong("path", str(exc)) from exc
        return SeriesPattern(path=pattern, endpoint=self.text("endpoint", "*"))

    def wrong(self, key: str, why: str) -> RulesError:
        return RulesError(f"{self.where}: {key}: {why}")

    def _get(self, key: str, default: object) -> object:
        value = self._content.get(key, default)
        if value is None:
            raise self.wrong(key, "it is missing")
        return value


def _each(document: Mapping[str, object], name: str, make: Callable[[_Table], _T]) -> list[_T]:
    tables = document.get(name, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise RulesError(f"{name}: it is a list of tables, each headed by [[{name}]]")
    found = []
    for number, content in enumerate(tables, 1):
        table = _Table(f"[[{name}]] number {number}", content, _TABLES[name])
        try:
            found.append(make(table))
        except RulesError:
            raise
        except ValueError as exc:
            raise RulesError(f"{table.where}: {exc}") from exc
    return found


def _distribution(table: _Table) -> Known:
    std_dev = table.number("std_dev")
    if std_dev < 0:
        raise table.wrong("std_dev", f"it is not negative, as {std_dev:g} is")
    return Known(mean=table.number("mean"), std_dev=std_dev, series=table.series())


def _alert(table: _Table) -> Rule:
    name = table.text("name")
    said = table.text("when")
    found = _WHEN.fullmatch(said.strip())
    if found is None:
        raise table.wrong("when", f'{said!r} is no condition such as "value > 30", "|rate| >= 5 per minute", "|z| > 4"')
    measure = Measure(found["measure"])
    rates = measure in (Measure.RATE, Measure.RATE_SIZE)
    if rates and found["per"] is None:
        raise table.wrong("when", f'{said!r}: a rate is "per second" or "per minute"')
    if not rates and found["per"] is not None:
        raise table.wrong("when", f"{said!r}: only a rate is per {found['per']}")
    severity = table.text("severity", Severity.WARNING.value)
    if severity not in {one.value for one in Severity}:
        raise table.wrong("severity", f"{severity!r} is none of {', '.join(one.value for one in Severity)}")
    try:
        for_ms = milliseconds(table.text("for", "0s"))
    except ValueError as exc:
        raise table.wrong("for", str(exc)) from exc
    return Rule(
        name=name,
        comparison=Comparison(found["comparison"]),
        threshold=float(found["threshold"]),
        measure=measure,
        per=Per[found["per"].upper()] if found["per"] else Per.SECOND,
        series=table.series(),
        clear=table.number("clear") if table.has("clear") else None,
        for_ms=for_ms,
        severity=Severity(severity),
        summary=table.text("summary", ""),
    )


_TABLES: Mapping[str, frozenset[str]] = {
    "distribution": frozenset({"path", "endpoint", "mean", "std_dev"}),
    "alert": frozenset({"name", "path", "endpoint", "when", "clear", "for", "severity", "summary"}),
}


def _hint(name: str, known: Mapping[str, object] | frozenset[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f", did you mean {near[0]!r}?" if near else f"; there are: {', '.join(sorted(known))}"
