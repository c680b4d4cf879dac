"""Pictures of the dashboards for the docs, drawn from what their queries answer: ``make dashboard-pictures``.

Draws a panel of the committed JSON with what the data sources of a running system gave, as near to Grafana as a picture
needs: its title, unit, thresholds, names. It is no Grafana, and the docs say so.
"""

from __future__ import annotations

import datetime
import io
import math
import re
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import dates
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import Bbox
from PIL import Image

from tests.stacks.dashboard_way import ROOT, SCRAPE_S, SELDOM_S, install, system
from tests.stacks.docker_host import CannotRun
from tests.stacks.grafana_queries import Answer, Chosen, Dashboard, Query, Series, Sources, Span, choose, dashboards
from tests.way import until

FOLDER = ROOT / "docs/pictures"
#: How long a system is looked at for a picture, in seconds.
WATCHED_S = 75
#: Inches of a row of Grafana's grid, and of its 24 columns together.
_ROW, _WIDTH = 0.235, 13.0
_COLOURS = {"green": "#3d9140", "orange": "#d9822b", "red": "#c4314b"}
_LINES = ["#3274d9", "#d9822b", "#3d9140", "#8f3bb8", "#c4314b", "#1f9e9e", "#8a6d3b", "#5a6b7b"]
_PAPER = 0xF4, 0xF5, 0xF5

_STEPS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_UNITS = {
    "ops": "/s",
    "pps": " p/s",
    "reqps": " req/s",
    "Bps": "B/s",
    "bytes": "B",
    "celsius": " °C",
    "humidity": " %H",
    "percent": " %",
    "s": " s",
}


def shown(value: float, unit: str) -> str:
    """A number with its unit, about as Grafana writes it."""
    if math.isinf(value):
        return "∞"
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "s" and value and abs(value) < 1:
        return f"{value * 1000:.3g} ms"
    if unit == "s" and abs(value) >= 3600:
        return f"{value / 3600:.3g} h" if abs(value) < 172_800 else f"{value / 86_400:.3g} d"
    word = _UNITS.get(unit, "" if unit in ("short", "none") else f" {unit}")
    for size, letter in _STEPS:
        if abs(value) >= size and unit not in ("celsius", "humidity", "percent", "s"):
            return f"{value / size:.3g} {letter}{word.lstrip()}"
    return f"{value:.3g}{word}"


def colour(value: float, steps: Sequence[Mapping[str, Any]]) -> str:
    """That of the highest threshold that the value reaches."""
    found = "green"
    for step in steps:
        if step["value"] is None or value >= step["value"]:
            found = str(step["color"])
    return _COLOURS.get(found, found)


def _day(at: float) -> float:
    """Epoch seconds as matplotlib's dates, days since 1970."""
    return at / 86_400


class Picture:
    """One dashboard as one figure."""

    def __init__(self, dashboard: Dashboard, sources: Sources, chosen: Mapping[str, Chosen], span: Span) -> None:
        self._dashboard = dashboard
        self._sources = sources
        self._chosen = chosen
        self._span = span
        self._rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard.json["panels"])
        self._figure = Figure(figsize=(_WIDTH, (self._rows + 2) * _ROW), facecolor="#f4f5f5")

    def draw(self, file: Path) -> None:
        """Ask for everything and write the picture."""
        self._figure.text(
            0.008, 1 - 1.1 / (self._rows + 2), self._dashboard.json["title"], size=12, weight="bold", va="center"
        )
        for panel in self._dashboard.json["panels"]:
            at = panel["gridPos"]
            if panel["type"] == "row":
                y = 1 - (at["y"] + 2.5) / (self._rows + 2)
                self._figure.text(0.008, y, f"▾ {panel['title']}", size=9, color="#464c54", va="center")
                continue
            answers = {
                str(query.target["refId"]): (query, self._sources.ask(query, self._chosen, self._span))
                for query in self._dashboard.queries
                if query.panel is panel
            }
            _DRAWN[panel["type"]](self, panel, answers)
        file.parent.mkdir(parents=True, exist_ok=True)
        drawn = io.BytesIO()
        self._figure.savefig(drawn, dpi=84)
        # A palette is a third of the bytes.
        colours = Image.open(drawn).convert("RGB").quantize(128, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        # The paper's own colour, which the first pixel has.
        palette, paper = colours.getpalette() or [], colours.tobytes()[0]
        palette[paper * 3 : paper * 3 + 3] = _PAPER
        colours.putpalette(palette)
        colours.save(file, optimize=True)

    def axes(self, panel: Mapping[str, Any], below: float = 0.0, left: float = 0.0) -> Axes:
        """The room of a panel, with its title; ``below`` and ``left`` in inches are left for legend and numbers."""
        at, height = panel["gridPos"], (self._rows + 2) * _ROW
        x, y = at["x"] / 24, 1 - (at["y"] + 2 + at["h"]) * _ROW / height
        w, h = at["w"] / 24, at["h"] * _ROW / height
        gap = 0.05
        frame = self._figure.add_axes((x + gap / _WIDTH, y + gap / height, w - 2 * gap / _WIDTH, h - 2 * gap / height))
        frame.set(xticks=[], yticks=[], facecolor="white")
        for spine in frame.spines.values():
            spine.set_color("#dcdfe3")
        frame.text(0.08 / (w * _WIDTH), 1 - 0.12 / (at["h"] * _ROW), panel["title"], size=8, va="center")
        inner = self._figure.add_axes(
            (
                x + (gap + left) / _WIDTH,
                y + (gap + below) / height,
                w - (2 * gap + left + 0.1) / _WIDTH,
                h - (2 * gap + below + 0.22) / height,
            )
        )
        inner.set_facecolor("none")
        return inner

    def stat(self, panel: Mapping[str, Any], answers: Mapping[str, tuple[Query, Answer]]) -> None:
        (_, answer), *_ = answers.values()
        defaults = panel["fieldConfig"]["defaults"]
        axes = self.axes(panel)
        axes.axis("off")
        if not answer.series:
            axes.text(0.5, 0.45, "no data", ha="center", va="center", size=13, color="#8e8e8e")
            return
        points = [value for _, value in answer.series[0].points if not math.isnan(value)]
        value = points[-1]
        text = shown(value, defaults["unit"])
        for mapping in defaults.get("mappings", []):
            told = mapping["options"].get(f"{value:g}")
            text = told["text"] if told else text
        drawn = colour(value, defaults["thresholds"]["steps"])
        axes.text(0.5, 0.55, text, ha="center", va="center", size=16, color=drawn, transform=axes.transAxes)
        if not defaults.get("mappings") and all(math.isfinite(one) for one in points) and len(set(points)) > 1:
            spark = axes.inset_axes((0.0, 0.0, 1.0, 0.3))
            spark.axis("off")
            spark.fill_between(range(len(points)), points, min(points), color=drawn, alpha=0.2, lw=0)
            spark.plot(points, color=drawn, lw=0.8)

    def timeseries(self, panel: Mapping[str, Any], answers: Mapping[str, tuple[Query, Answer]]) -> None:
        defaults = panel["fieldConfig"]["defaults"]
        series = [one for _, answer in answers.values() for one in answer.series]
        named = [(self._named(panel, one), one) for one in series]
        lines = min(len(named), 8)
        columns = 1 if panel["gridPos"]["w"] < 10 else 2 if panel["gridPos"]["w"] < 24 else 3
        axes = self.axes(panel, below=0.27 + 0.125 * math.ceil(lines / columns), left=0.55)
        total: dict[float, float] = {}
        stacked = defaults.get("custom", {}).get("stacking", {}).get("mode") == "normal"
        for number, ((name, unit), one) in enumerate(named):
            points = [(at, value) for at, value in one.points if math.isfinite(value)]
            newest = shown(points[-1][1], unit or defaults["unit"]) if points else "-"
            most = 44 if columns < 3 else 56
            label = f"{name if len(name) <= most else name[: most - 1] + '…'}   {newest}" if number < 8 else None
            if stacked:
                points = [(at, total.setdefault(at, 0.0) + value) for at, value in points]
                total |= dict(points)
            times = [_day(at) for at, _ in points]
            drawn = _LINES[number % len(_LINES)]
            style = "o-" if defaults.get("custom", {}).get("showPoints") == "always" else "-"
            values = [value for _, value in points]
            if stacked:
                axes.fill_between(times, values, color=drawn, alpha=0.15, lw=0)
            axes.plot(times, values, style, lw=1.0, ms=1.5, color=drawn, label=label)
        low, high = axes.get_ylim()
        if defaults.get("custom", {}).get("axisSoftMin") == 0:
            axes.set_ylim(0, high if any(value for one in series for _, value in one.points) else 1)
        if defaults.get("max") is not None:
            axes.set_ylim(low if low < 0 else 0, defaults["max"] * 1.05)
        for step in defaults.get("thresholds", {}).get("steps", []):
            top = axes.get_ylim()[1]
            if step["value"] is not None and step["value"] <= top:
                axes.axhline(step["value"], color=_COLOURS.get(step["color"]), lw=0.7, ls="--")
        units = {unit for (_, unit), _ in named}
        unit = units.pop() if len(units) == 1 and None not in units else None
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value, unit or defaults["unit"])))
        axes.xaxis.set_major_locator(dates.AutoDateLocator(maxticks=7))  # type: ignore[no-untyped-call]  # not annotated
        axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M:%S"))  # type: ignore[no-untyped-call]  # not annotated
        axes.tick_params(labelsize=6, length=2, color="#b0b4b8")
        axes.grid(lw=0.3, color="#dcdfe3")
        axes.set_xlim(_day(self._span.start), _day(self._span.end))
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        room = axes.get_position().height * self._figure.get_figheight()
        legend = {"fontsize": 5.8, "ncols": columns, "frameon": False, "handlelength": 1.2, "columnspacing": 1.0}
        if named:
            axes.legend(
                loc="upper left", bbox_to_anchor=(-0.02, -0.17 / room), labelspacing=0.15, borderaxespad=0.4, **legend
            )
        if len(named) > 8:
            axes.text(0.995, 0.96, f"and {len(named) - 8} more", size=6, ha="right", transform=axes.transAxes)

    def _named(self, panel: Mapping[str, Any], one: Series) -> tuple[str, str | None]:
        """The name and the unit that the panel's overrides give a series."""
        name, unit = one.name, None
        for override in panel["fieldConfig"]["overrides"]:
            if re.search(override["matcher"]["options"].strip("/"), one.name):
                told = {item["id"]: item["value"] for item in override["properties"]}
                name = re.sub(r"\$\{__field\.labels\.(\w+)\}", lambda found: one.labels[found[1]], told["displayName"])
                unit = told.get("unit")
        return name, unit

    def table(self, panel: Mapping[str, Any], answers: Mapping[str, tuple[Query, Answer]]) -> None:
        merged = self._merged(answers)
        organize: Mapping[str, Any] = next(
            (step["options"] for step in panel.get("transformations", []) if step["id"] == "organize"),
            {"excludeByName": {}, "renameByName": {}},
        )
        columns = list(dict.fromkeys(name for row in merged for name in row))
        columns = [name for name in columns if name not in organize["excludeByName"]]
        columns.sort(key=lambda name: (name != "Time", name.startswith("Value")))
        titles = [organize["renameByName"].get(name, name) for name in columns]
        room = int(panel["gridPos"]["h"] * _ROW / 0.165) - 3
        cells = [
            [self._cell(panel, title, row.get(name)) for name, title in zip(columns, titles, strict=True)]
            for row in merged[:room]
        ]
        axes = self.axes(panel)
        axes.axis("off")
        if not cells:
            return
        widths = [max(3.0, *(len(row[number]) for row in [titles, *cells])) for number in range(len(columns))]
        drawn = axes.table(
            cellText=cells,
            colLabels=titles,
            cellLoc="left",
            colLoc="left",
            colWidths=[width / sum(widths) for width in widths],
            bbox=Bbox.from_bounds(
                0.005, 1 - 0.98 * (len(cells) + 1) / (room + 1), 0.99, 0.98 * (len(cells) + 1) / (room + 1)
            ),
        )
        drawn.auto_set_font_size(False)
        drawn.set_fontsize(6.3)
        for (row_number, _), cell in drawn.get_celld().items():
            cell.set(edgecolor="#e4e6e8", linewidth=0.4)
            if row_number == 0:
                cell.get_text().set_color("#3274d9")
        if len(merged) > len(cells):
            axes.text(0.995, 1.05, f"{len(merged)} rows", size=6, ha="right", transform=axes.transAxes)

    @staticmethod
    def _merged(answers: Mapping[str, tuple[Query, Answer]]) -> list[dict[str, Any]]:
        """As Grafana's "merge": rows of several queries that agree in all columns that all of them have are one."""
        if len(answers) == 1:
            return [dict(row) for _, answer in answers.values() for row in answer.table]
        tables = {
            f"Value #{letter}": [{k: v for k, v in row.items() if k != "Time"} for row in answer.table]
            for letter, (_, answer) in answers.items()
        }
        common = set.intersection(*({*rows[0]} - {"Value"} for rows in tables.values() if rows))
        found: dict[tuple[object, ...], dict[str, Any]] = {}
        for value, rows in tables.items():
            for row in rows:
                key = tuple(row[name] for name in sorted(common))
                found.setdefault(key, {}).update({value if k == "Value" else k: v for k, v in row.items()})
        return list(found.values())

    @staticmethod
    def _cell(panel: Mapping[str, Any], title: str, value: Any) -> str:
        if value is None:
            return ""
        if title == "Time":
            seconds = value / 1000 if value > 1e11 else value
            return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%H:%M:%S")
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, int | float):
            return "∞" if math.isinf(value) else f"{value:.6g}" if value < 1e6 else f"{value:,.0f}"
        text = str(value)
        for override in panel["fieldConfig"]["overrides"]:
            if override["matcher"] == {"id": "byName", "options": title}:
                for mapping in override["properties"][0]["value"]:
                    pattern, told = mapping["options"]["pattern"].strip("/"), mapping["options"]["result"]["text"]
                    if found := re.search(pattern, text):
                        text = told.replace("$1", found[1] or "").replace("$2", found[2] or "")
                        break
        most = 64 if panel["gridPos"]["w"] > 12 else 44
        return text if len(text) <= most else f"{text[: most - 1]}…"


_DRAWN = {"stat": Picture.stat, "timeseries": Picture.timeseries, "table": Picture.table}


def draw(sources: Sources, span: Span, names: Sequence[str], folder: Path = FOLDER) -> list[Path]:
    """Draw these dashboards (``fleet``) from what the sources answer now."""
    mpl.rcParams["font.family"] = "DejaVu Sans"
    written = []
    for dashboard in dashboards():
        if dashboard.file.stem in names:
            file = folder / f"dashboard-{dashboard.file.stem}.png"
            Picture(dashboard, sources, choose(sources, dashboard, span), span).draw(file)
            written.append(file)
    return written


def main() -> None:
    """Run the system for a while and draw; the services on a Swarm, where that can be."""
    from tests.stacks import test_dashboard_of_services as services

    install()
    with tempfile.TemporaryDirectory(prefix="headwater-pictures-") as place:
        with system(Path(place) / "way", watched_s=WATCHED_S) as running:
            names = [one.file.stem for one in dashboards() if one.file.name != "services.json"]
            written = draw(running.sources, running.span, names)
        try:
            with services.swarm(Path(place) / "services") as (sources, since):
                until("time for a picture", lambda: time.time() > since + WATCHED_S)
                span = Span(start=since, end=time.time(), step=SCRAPE_S, scrape=SCRAPE_S, seldom=SELDOM_S)
                written += draw(sources, span, ["services"])
        except CannotRun as exc:
            sys.stderr.write(f"the services are not drawn: {exc}\n")
    sys.stdout.write("".join(f"{file}\n" for file in written))


if __name__ == "__main__":
    main()
