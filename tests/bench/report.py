"""What `make bench` says of its figures: Markdown for people, JSON for programs, the document's measured block.

Owns the words and tables; the verdicts are `targets`', the plots `pictures`'. Measures nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.bench.parts import REPOSITORY, CannotMeasure, Measured
from tests.bench.pictures import GROWN, PICTURES, WAY, grown
from tests.bench.targets import (
    CATCHING_UP,
    COAPS,
    COAPS_PEER,
    DEFAULT,
    DTLS,
    END_TO_END,
    FIRMWARE,
    FLOOR,
    GROWTH,
    HEADWATER,
    MEMORY,
    MIRROR,
    PROCESSES,
    REPLICATOR,
    SCALE,
    TUNED,
    Verdict,
    judge,
    number,
    shown_table,
    spread,
    verdict_table,
)

DOCUMENT = REPOSITORY / "docs" / "benchmarks.md"
PICTURE_FOLDER = REPOSITORY / "docs" / "pictures" / "bench"
#: What uses so much of what there is uses all of it: looks and switches take some.
_FULL = 0.9
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def joined(files: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What several runs of this tool have kept, as one: of a subject that is in more than one, the last counts."""
    facts: dict[str, list[str]] = {}
    for one in files:
        for name, value in one["machine"].items():
            if value not in facts.setdefault(name, []):
                facts[name].append(value)
    measured = {name: runs for one in files for name, runs in one["measured"].items()}
    return {
        "plans": sorted({plan for one in files for plan in one["plans"]}),
        "machine": {name: "; ".join(values) for name, values in facts.items()},
        "measured": measured,
        "left_out": {part: why for one in files for part, why in one.get("left_out", {}).items()},
    }


def as_json(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The whole for programs: what was kept, and the verdicts."""
    return {**saved, "verdicts": [_verdict(one) for one in judge(saved["measured"])]}


def _verdict(one: Verdict) -> dict[str, Any]:
    def shown(which: Any) -> dict[str, float] | None:
        return which and {"median": which.median, "min": which.least, "max": which.most, "runs": which.runs}

    return {
        "figure": one.target.label,
        "headwater": shown(one.ours),
        "yardstick": shown(one.yardstick),
        "against": one.target.against,
        "ratio": one.ratio,
        "wanted": one.target.wanted,
        "reached": one.reached,
        "other_cores": one.others,
    }


def report(saved: Mapping[str, Any], pictures: Mapping[str, str] | None = None) -> str:
    """Everything that was measured, as Markdown; ``pictures`` are links by the names of `PICTURES`."""
    measured: Measured = saved["measured"]
    facts = [f"- {name}: {value}" for name, value in saved["machine"].items()]
    facts.append(f"- {' and '.join(saved['plans'])}; medians (least to most) of {_runs(measured)}")
    if (others := _others(measured)) is not None:
        facts.append(f"- programs outside the measurement used up to {others:.2f} cores during a step")
    facts += [f"- not measured: {part}: {why}" for part, why in saved.get("left_out", {}).items()]
    peers = [name for name in (TUNED, DEFAULT) if name in measured]
    parts = [
        *(("## Targets", verdict_table(verdicts)) if (verdicts := judge(measured)) else ()),
        *_section("## Gateway, beside the peer", shown_table(measured, HEADWATER, peers)),
        *_section("## A bare loop over a socket", shown_table(measured, FLOOR, ())),
        *_section("## 20,000 devices", shown_table(measured, SCALE, ())),
        *_section("## Several processes", shown_table(measured, PROCESSES, ())),
        *_section("## Replicator, beside MirrorMaker 2 (exactly-once on)", shown_table(measured, REPLICATOR, [MIRROR])),
        *_section("## Catching up after a WAN cut", shown_table(measured, CATCHING_UP, ())),
        *[_memory_section(figures) for figures in measured.get(MEMORY, ())],
        *_section("## DTLS with pre-shared keys", shown_table(measured, DTLS, ())),
        *_section("## Notifications over DTLS-PSK, beside the peer", shown_table(measured, COAPS, [COAPS_PEER])),
        *_section("## Images for many devices at once", shown_table(measured, FIRMWARE, ())),
        *_section("## Devices to InfluxDB, on one machine", _way_section(measured)),
        *_section("## How figures grow", growth_table(measured)),
        *_section("## Plots", "\n\n".join(f"![{PICTURES[name].title}]({at})" for name, at in (pictures or {}).items())),
        "## Measured on",
        "\n".join(facts),
    ]
    return "\n\n".join(parts)


def growth_table(measured: Measured) -> str:
    """What grew with what: each figure at each place, and the last by the first."""
    lines = []
    for one in GROWN.values():
        for figure, shown in one.panels if one.subject == GROWTH else ():
            for label, (axis, name) in shown.items():
                if points := grown(measured.get(GROWTH, ()), axis, name):
                    told = "; ".join(f"{number(x)}: {found}" for x, found in points)
                    first, last = points[0][1].median, points[-1][1].median
                    ratio = f"{last / first:.2f}" if first else ""
                    lines.append(f"| {one.x} | {label}, {figure} | {told} | {ratio} |")
    return "\n".join(("| grows | figure | | last / first |", "|---|---|---|---|", *lines)) if lines else ""


def _way_section(measured: Measured) -> str:
    """What is sustained; and of the first rate that is not, who works how much."""
    runs = measured.get(END_TO_END, ())
    table = shown_table(measured, END_TO_END, ())
    if not table:
        return ""
    cores = {name: found for name in WAY if (found := spread(runs, f"{name} cores")) is not None}
    has = spread(runs, "machine cores")
    if not cores or has is None:
        return table
    rows = [f"| {name} | {found} |" for name, found in cores.items()]
    words = limit({name: found.median for name, found in cores.items()}, has.median)
    return "\n".join((table, "", words, "", "| cores at the first rate that was not sustained | |", "|---|---|", *rows))


def limit(cores: Mapping[str, float], has: float) -> str:
    """What the limit of the whole way is, in words: from the cores that each process used, and those that there are."""
    together = sum(cores.values())
    most = sorted(cores, key=lambda name: -cores[name])
    shares = ", ".join(f"{name} {cores[name] / together:.0%}" for name in most[:3])
    if together >= _FULL * has:
        return f"The limit is the machine: {together:.2f} of {has:g} cores were used ({shares})."
    if cores[most[0]] >= _FULL:
        return f"The limit is one process, {most[0]}, with {cores[most[0]]:.2f} cores; a thread has no more than one."
    busiest = f"{most[0]}, {cores[most[0]]:.2f}"
    return (
        f"Neither the machine ({together:.2f} of {has:g} cores) nor one thread ({busiest}) was full: something waits."
    )


def _runs(measured: Measured) -> str:
    """How often each was measured: what is said of one run is less than what is said of three."""
    return ", ".join(f"{len(runs)} run{'s'[: len(runs) != 1]} ({name})" for name, runs in measured.items())


def _others(measured: Measured) -> float | None:
    """The most cores that others used, over all steps: what is disturbed is to be seen as such."""
    return max(
        (
            value
            for runs in measured.values()
            for figures in runs
            for name, value in figures.items()
            if name.endswith("other_cores")
        ),
        default=None,
    )


def _section(title: str, table: str) -> list[str]:
    return [title, table] if table else []


def _memory_section(figures: Mapping[str, float]) -> str:
    shape = f"{figures['devices']:,.0f} devices, {figures['observations']:,.0f} observations"
    length = f"{figures['minutes']:g} minutes at full rate ({figures['per_s']:,.0f} notifications/s)"
    fate = f"{figures['acknowledged']:,.0f} acknowledged, {figures['landed']:,.0f} in the topic"
    rows = (
        ("started", "rss_start_mb"),
        ("all registered and observed", "rss_registered_mb"),
        ("at the end", "rss_end_mb"),
        ("peak", "rss_peak_mb"),
    )
    return "\n".join(
        (
            "## Memory of the gateway",
            "",
            f"{shape}, {length}: {fate}, {figures['lost']:.0f} given up by a device.",
            "",
            "| resident memory | MiB |",
            "|---|---|",
            *(f"| {label} | {number(figures[name])} |" for label, name in rows),
        )
    )


def write(saved: Mapping[str, Any], drawn: Mapping[str, str]) -> None:
    """Put the report between the marks of the document, and ``drawn``, SVG by name, beside it.

    Raises:
        CannotMeasure: the document has no marks.
    """
    before, begin, rest = DOCUMENT.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise CannotMeasure(f"{DOCUMENT.relative_to(REPOSITORY)} has no {BEGIN} … {END}")
    links = {}
    PICTURE_FOLDER.mkdir(parents=True, exist_ok=True)
    for old in PICTURE_FOLDER.glob("*.svg"):
        old.unlink()
    for name, text in drawn.items():
        place = PICTURE_FOLDER / f"{name}.svg"
        place.write_text(text)
        links[name] = str(place.relative_to(DOCUMENT.parent))
    DOCUMENT.write_text(f"{before}{BEGIN}\n{report(saved, links)}\n{END}{after}")
