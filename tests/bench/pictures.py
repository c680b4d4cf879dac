"""The plots of `make bench`: from measured figures to SVG, with matplotlib.

Owns what is drawn and how it looks; measures nothing and writes no file. A row of `PICTURES` is a plot; it is drawn
when its figures were measured. Figures that grow with something are named ``AXIS X FIGURE``, such as
``devices 5000 cpu_s_per_10k``: a point at the median, and a bar from the least to the most of the runs. The same
figures give the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from tests.bench.targets import END_TO_END, GROWTH, Bound, Runs, Spread, Verdict, judge, number, spread

#: Figures by subject and run.
Measured: TypeAlias = Mapping[str, Runs]

_COLOURS = ("#0b5394", "#b45f06", "#38761d", "#741b47", "#45818e", "#7f6000", "#666666")
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "headwater",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One plot: its title, also the text for who cannot see it, and the function that draws it."""

    title: str
    draw: Callable[[Measured, str], Figure | None]


def draw(measured: Measured) -> dict[str, str]:
    """Every plot whose figures are there, as SVG, by its name."""
    drawn = {}
    for name in PICTURES:
        figure = figure_of(name, measured)
        if figure is not None:
            drawn[name] = _svg(figure)
    return drawn


def figure_of(name: str, measured: Measured) -> Figure | None:
    """The plot of this name; None if there is nothing to draw."""
    with matplotlib.rc_context(_STYLE):
        return PICTURES[name].draw(measured, PICTURES[name].title)


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    # No blanks at the ends of lines: the files are kept with the code.
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def grown(runs: Runs, axis: str, figure: str) -> list[tuple[float, Spread]]:
    """The points of ``AXIS X FIGURE`` over X, in its order."""
    places = {}
    for name in sorted({name for run in runs for name in run}):
        words = name.split(" ", 2)
        if len(words) == 3 and words[0] == axis and words[2] == figure:
            found = spread(runs, name)
            assert found is not None
            places[float(words[1])] = found
    return sorted(places.items())


def _targets(measured: Measured, title: str) -> Figure | None:
    """How far each figure that has a yardstick is beyond its target: to the right of 1 it is reached."""
    verdicts = [one for one in judge(measured) if one.ratio]
    if not verdicts:
        return None
    figure = Figure(figsize=(9.0, 0.9 + 0.27 * len(verdicts)), layout="constrained")
    axes = figure.subplots()
    verdicts.reverse()
    places = range(len(verdicts))
    beyond = [beyond_target(one) for one in verdicts]
    colours = [_COLOURS[0] if one.reached else "#cc0000" for one in verdicts]
    axes.set_xscale("log")
    axes.barh(places, [one - 1 for one in beyond], left=1.0, color=colours, height=0.62)
    axes.axvline(1.0, color="#222222", linewidth=1.2)
    axes.set_yticks(places, [one.target.label for one in verdicts])
    axes.set_ylim(-0.6, len(verdicts) - 0.4)
    low, high = min(0.5, *beyond), max(2.0, *beyond)
    axes.set_xlim(low / 1.2, high * 2.2)
    ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if low / 1.2 <= tick <= high * 2.2]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(visible=False, axis="y")
    for place, one, far in zip(places, verdicts, beyond, strict=True):
        axes.annotate(
            f"{one.ratio:.2f}x (wanted {one.target.wanted})",
            *((max(far, 1.0), place), (4, 0)),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set_xlabel("times better than the target (1: just reached)")
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    return figure


def beyond_target(one: Verdict) -> float:
    """How many times better than its target: 1 is just reached, whichever way the target points."""
    assert one.ratio
    is_least = one.target.bound is Bound.AT_LEAST
    return one.ratio / one.target.limit if is_least else one.target.limit / one.ratio


#: A panel of a plot: what its y axis says, and the lines on it: label → (axis, figure).
Panel: TypeAlias = tuple[str, Mapping[str, tuple[str, str]]]


def _growth(subject: str, x: str, panels: tuple[Panel, ...], measured: Measured, title: str) -> Figure | None:
    """Figures over what they grow with, a panel beside the other; log x, y from zero."""
    runs = measured.get(subject, ())
    found = [
        (y, {label: points for label, (axis, figure) in lines.items() if (points := grown(runs, axis, figure))})
        for y, lines in panels
    ]
    found = [(y, lines) for y, lines in found if lines]
    if not found:
        return None
    figure = Figure(figsize=(4.5 * len(found) + 0.5, 3.3), layout="constrained")
    for axes, (y, lines) in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        for (label, points), colour in zip(lines.items(), _COLOURS, strict=False):
            _line(axes, label, points, colour)
        axes.set_xscale("log")
        ticks = _apart({place for points in lines.values() for place, _ in points})
        axes.set_xticks(ticks, [number(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        if len(lines) > 1:
            axes.legend(frameon=False, fontsize=8)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    return figure


def _apart(places: Iterable[float]) -> list[float]:
    """Those that can stand beside one another on a log axis."""
    kept: list[float] = []
    for place in sorted(places):
        if not kept or place >= 1.5 * kept[-1]:
            kept.append(place)
    return kept


def _line(axes: Axes, label: str, points: list[tuple[float, Spread]], colour: str) -> None:
    places, values = [x for x, _ in points], [one.median for _, one in points]
    axes.plot(places, values, marker="o", markersize=4, color=colour, label=label)
    axes.vlines(places, [one.least for _, one in points], [one.most for _, one in points], colors=colour, linewidth=1)


_CPU = "CPU-seconds per 10,000 notifications"


def _by(axis: str) -> tuple[Panel, ...]:
    lines = {"gateway": (axis, "cpu_s_per_10k"), "edge Kafka": (axis, "kafka_cpu_s_per_10k")}
    return ((_CPU, lines),)


def _replicated(axis: str) -> tuple[Panel, ...]:
    return (
        ("CPU-seconds per 10,000 records", {"replicator": (axis, "cpu_s_per_10k")}),
        ("records/s", {"replicator": (axis, "per_s")}),
    )


_SINKS_BY_BATCH: Panel = (
    "records/s",
    {
        "InfluxDB": ("batch", "influxdb_per_s"),
        "InfluxDB, line protocol alone": ("batch", "influxdb_bare_per_s"),
        "SQLite": ("batch", "sqlite_per_s"),
        "SQLite, executemany alone": ("batch", "sqlite_bare_per_s"),
    },
)
#: The processes of the whole way, in its order.
WAY = ("load", "gateway", "edge Kafka", "replicator", "cloud Kafka", "sink", "InfluxDB")
_WAY_PANELS: tuple[Panel, ...] = (
    ("cores", {name: ("rate", f"{name} cores") for name in WAY}),
    ("stored in InfluxDB /s", {"stored": ("rate", "stored_per_s")}),
)


class Grown(NamedTuple):
    """A plot of figures over what they grow with."""

    title: str
    subject: str
    x: str
    panels: tuple[Panel, ...]


#: By the name of the file.
GROWN: Mapping[str, Grown] = {
    "devices": Grown("What a notification costs, by devices", GROWTH, "devices", _by("devices")),
    "observations": Grown(
        "What a notification costs, by observations of a device",
        *(GROWTH, "observations of each device", _by("observations")),
    ),
    "value": Grown("What a notification costs, by its value", GROWTH, "bytes of the value", _by("value")),
    "partitions": Grown(
        "What a notification costs, by partitions of its topic", GROWTH, "partitions", _by("partitions")
    ),
    "replication-size": Grown(
        "Replication with exactly-once, by the size of a record",
        *(GROWTH, "bytes of a record", _replicated("replicated-bytes")),
    ),
    "replication-partitions": Grown(
        "Replication with exactly-once, by partitions", GROWTH, "partitions", _replicated("replicated-partitions")
    ),
    "sinks-batch": Grown("Sinks, by records in a batch", GROWTH, "records in a batch", (_SINKS_BY_BATCH,)),
    "end-to-end": Grown(
        "Devices to InfluxDB on one machine, by the rate of the devices",
        *(END_TO_END, "notifications/s of the devices", _WAY_PANELS),
    ),
}
PICTURES: Mapping[str, Picture] = {
    "targets": Picture(title="Headwater's figures by those of their yardsticks, beside the targets", draw=_targets),
    **{
        name: Picture(title=one.title, draw=partial(_growth, one.subject, one.x, one.panels))
        for name, one in GROWN.items()
    },
}
