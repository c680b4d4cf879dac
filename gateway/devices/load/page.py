"""The report as one HTML page: no script, nothing fetched, light and dark. Pure; every foreign text is escaped."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

from gateway.devices.load import plots
from gateway.devices.load.audited import AuditResult
from gateway.devices.load.histogram import PERCENTILES, Histogram, bounds_of
from gateway.devices.load.plots import Line, text
from gateway.devices.load.results import figures, most_errors
from gateway.devices.load.timeline import Cell, Timeline

#: Lines of one plot; the other labels are in the table.
_MOST_LINES = plots.COLOURS
#: Bars of the distribution a power of ten, about.
_BARS = 12

_STYLE = """
:root{color-scheme:light dark;--back:#fff;--text:#1b1f24;--faint:#5b6570;--rule:#d5dae0;--bad:#b3261e;--good:#1a7f37;
--c0:#0b62c4;--c1:#c2410c;--c2:#15803d;--c3:#7e22ce;--c4:#be123c;--c5:#0e7490;--c6:#a16207;--c7:#4d5560;--c8:#9d2b84;
--c9:#3f6212}
@media(prefers-color-scheme:dark){:root{--back:#14181d;--text:#e4e8ec;--faint:#9aa5b1;--rule:#333b45;--bad:#ff8a80;
--good:#5bd27e;--c0:#6cb2ff;--c1:#ff9d5c;--c2:#5bd27e;--c3:#c792ff;--c4:#ff8096;--c5:#55d0e8;--c6:#e8c250;--c7:#b4bec9;
--c8:#f08bd8;--c9:#b5d95c}}
body{margin:0 auto;padding:1.5rem;max-width:1100px;background:var(--back);color:var(--text);
font:15px/1.5 system-ui,sans-serif}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .7rem;border-bottom:1px solid var(--rule);text-align:right;white-space:nowrap}
th:first-child,td:first-child,.words td,.words th{text-align:left}.words td{white-space:normal;overflow-wrap:anywhere}
tr.all td{font-weight:600}.bad{color:var(--bad)}.good{color:var(--good)}.none,.note{color:var(--faint)}
svg{width:100%;height:auto;display:block}svg text{fill:var(--faint);font-size:12px}.grid{stroke:var(--rule)}
.line{fill:none;stroke:currentColor;stroke-width:1.8;stroke-linejoin:round}.dot,.bar{fill:currentColor}
.legend span{margin-right:1.2rem;white-space:nowrap}.key{display:inline-block;width:.8em;height:.8em;
margin-right:.4em;background:currentColor}
pre{overflow-x:auto}
""" + "".join(f".s{index}{{color:var(--c{index})}}" for index in range(plots.COLOURS))


def page(
    timeline: Timeline,
    *,
    title: str,
    run: Mapping[str, str],
    audit: AuditResult | None = None,
    notes: Sequence[str] = (),
) -> Iterator[str]:
    """The page in pieces. ``run``: what was run, by name; ``notes``: what a reader has to know of these results."""
    yield (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width,initial-scale=1"/>'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none';style-src 'unsafe-inline'\"/>"
        f"<title>{text(title)}</title><style>{_STYLE}</style></head><body><h1>{text(title)}</h1>"
    )
    for note in notes:
        yield f'<p class="note">{text(note)}</p>'
    whole = timeline.total()
    yield from _facts(whole, run)
    if audit is not None:
        yield from _audit(audit)
    yield "<h2>By label</h2>" + _labels(timeline, whole)
    yield from _plots(timeline, whole)
    yield "<h2>Errors</h2>" + _errors(timeline)
    yield "</body></html>\n"


def _facts(whole: Cell, run: Mapping[str, str]) -> Iterator[str]:
    measured = {
        "first sample sent": _moment(whole.starts) if whole.count else "none",
        "last answer": _moment(whole.ends) if whole.count else "none",
        "samples": f"{whole.count}, of them {whole.errors} errors",
        "throughput": f"{plots.number(whole.rate)} a second over {whole.seconds:.1f} s",
    }
    yield _words_table({**run, **measured}.items())


def _audit(audit: AuditResult) -> Iterator[str]:
    counts = {
        "confirmable values sent": audit.confirmable,
        "acknowledged": audit.acknowledged,
        "acknowledged and in the topic": audit.acknowledged_there,
        "lost (acknowledged and not in the topic)": audit.lost,
        "doubled": audit.doubled,
        "out of order": audit.out_of_order,
        "not acknowledged but in the topic": audit.unacknowledged_there,
        "not confirmable, sent": audit.unconfirmable,
        "not confirmable, in the topic": audit.unconfirmable_there,
        "of others, ignored": audit.foreign,
        "unreadable": audit.unreadable,
    }
    verdict = (
        ("good", "Nothing lost, doubled or out of order.")
        if audit.good
        else ("bad", "Nothing to audit." if audit.empty else "Not as it should be.")
    )
    yield f'<h2>Audit</h2><p class="{verdict[0]}">{verdict[1]}</p>'
    yield f'<p class="note">{text(audit.topic)} at {text(audit.at)}</p>'
    yield _words_table(
        [
            *((name, str(count)) for name, count in counts.items()),
            ("device → topic", str(audit.to_topic)),
            ("device → edge log", str(audit.to_edge_log)),
        ]
    )
    if audit.lost_ones:
        lost = "\n".join(text(f"{endpoint} {path} {value!r}") for endpoint, path, value in audit.lost_ones)
        yield f"<p>Some of the lost:</p><pre>{lost}</pre>"


def _labels(timeline: Timeline, whole: Cell) -> str:
    names = ["label", "count", "errors", "errors %", "min", "avg", "median", *list(PERCENTILES)[1:], "max"]
    heads = [*names, "per s", "received B/s", "sent B/s"]
    rows = []
    for label, cell in [*((label, timeline.total(label)) for label in sorted(timeline.labels)), ("all", whole)]:
        told = figures(cell)
        fields = [
            f'<td class="{"bad" if cell.errors else ""}">{cell.errors}</td>',
            f"<td>{told['error_percent']:.2f}</td>",
            *(f"<td>{told[f'{name}_ms']:.3f}</td>" for name in ("min", "avg", *PERCENTILES, "max")),
            *(f"<td>{told[name]:.1f}</td>" for name in ("rate", "received_bytes_per_s", "sent_bytes_per_s")),
        ]
        last = ' class="all"' if cell is whole else ""
        rows.append(f"<tr{last}><td>{text(label)}</td><td>{cell.count}</td>{''.join(fields)}</tr>")
    head = "".join(f"<th>{name}</th>" for name in heads)
    table = f'<div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>'
    note = "Times in milliseconds, percentiles within 1 %; rates from a label's first sample to its last."
    return f'{table}<p class="note">{note}</p>'


def _plots(timeline: Timeline, whole: Cell) -> Iterator[str]:
    moments = list(timeline.over_time())
    width_s = timeline.width / 1000
    begins_s = (moments[0][0] - whole.starts) / 1000 if moments else 0.0
    labels = sorted(timeline.labels, key=lambda label: (-timeline.total(label).count, label))[:_MOST_LINES]

    def plot(what: str, lines: Sequence[Line], unit: str, *, logarithmic: bool = False) -> str:
        drawn = plots.over_time(what, begins_s, width_s, lines, unit, logarithmic=logarithmic)
        return f"<h2>{what}</h2>{drawn}"

    rates = [
        Line(name=label, values=[_count(interval.get(label)) / width_s for _, interval in moments]) for label in labels
    ]
    yield plot("Throughput by label, by the time of the answer", rates, "/s")
    merged = [_merged(interval.values()) for _, interval in moments]
    wanted = [*PERCENTILES.values(), 100.0]
    over = [times.percentiles(wanted) if times.count else [None] * len(wanted) for times in merged]
    names = [*PERCENTILES, "max"]
    columns = [Line(name=name, values=[_ms(values[place]) for values in over]) for place, name in enumerate(names)]
    yield plot("Elapsed time, all labels", columns, "ms", logarithmic=True)
    if len(labels) > 1:
        p95 = [Line(name=label, values=[_p95(interval.get(label)) for _, interval in moments]) for label in labels]
        yield plot("Elapsed time, p95 by label", p95, "ms", logarithmic=True)
    failing = [label for label in labels if any(label in one and one[label].errors for _, one in moments)]
    if failing:
        errors = [
            Line(name=label, values=[_errors_of(interval.get(label)) / width_s for _, interval in moments])
            for label in failing
        ]
        yield plot("Errors by label", errors, "/s")
    share = [_error_percent(interval.values()) for _, interval in moments]
    yield plot("Error rate", [Line(name="of all samples", values=share)], "%")
    yield f"<h2>Distribution of elapsed times</h2>{plots.distribution('Distribution', _bars(whole.times))}"
    yield f'<p class="note">Each point over time stands for {plots.number(width_s)} s.</p>'


def _bars(times: Histogram) -> list[tuple[float, float, int]]:
    """The histogram's buckets put together to `_BARS` bars a power of ten: (from ms, to ms, how many)."""
    bars: list[tuple[float, float, int]] = []
    for bucket, count in times.items():
        low, above = bounds_of(bucket)
        begins = max(low, 1) / 1000
        if bars and begins < bars[-1][0] * 10 ** (1 / _BARS):
            bars[-1] = (bars[-1][0], above / 1000, bars[-1][2] + count)
        else:
            bars.append((begins, max(above, 2) / 1000, count))
    return bars


def _errors(timeline: Timeline) -> str:
    rows = "".join(
        f"<tr><td>{count}</td><td>{text(label)}</td><td>{text(code)}</td><td>{text(message)}</td></tr>"
        for (label, code, message), count in most_errors(timeline)
    )
    if not rows:
        return '<p class="none">none</p>'
    return (
        '<div class="scroll"><table class="words"><tr><th>count</th><th>label</th><th>code</th><th>why</th></tr>'
        f"{rows}</table></div>"
    )


def _words_table(rows: Iterable[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><td>{text(name)}</td><td>{text(value)}</td></tr>" for name, value in rows)
    return f'<div class="scroll"><table class="words">{cells}</table></div>'


def _merged(cells: Iterable[Cell]) -> Histogram:
    whole = Histogram()
    for cell in cells:
        whole.merge(cell.times)
    return whole


def _count(cell: Cell | None) -> int:
    return 0 if cell is None else cell.count


def _errors_of(cell: Cell | None) -> int:
    return 0 if cell is None else cell.errors


def _error_percent(cells: Collection[Cell]) -> float | None:
    count = sum(cell.count for cell in cells)
    return 100 * sum(cell.errors for cell in cells) / count if count else None


def _p95(cell: Cell | None) -> float | None:
    return None if cell is None else cell.times.percentiles([95.0])[0] / 1000


def _ms(value: int | None) -> float | None:
    return None if value is None else value / 1000


def _moment(epoch_ms: int) -> str:
    return datetime.fromtimestamp(epoch_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + " UTC"
