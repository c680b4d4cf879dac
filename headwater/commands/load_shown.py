"""How the end of a load is shown: a table by label and what else was noticed, or one JSON document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from gateway.devices.load.results import figures, most_errors, results_json
from headwater.output import console, table
from headwater.terminal import printable

if TYPE_CHECKING:
    from gateway.devices.load.timeline import Cell
    from headwater.load_run import Ended

_COLUMNS = ("label", "samples", "errors", "avg ms", "min", "p50", "p90", "p95", "p99", "max", "per s")
_TIMES = ("avg_ms", "min_ms", "p50_ms", "p90_ms", "p95_ms", "p99_ms", "max_ms")
#: What is counted beside the samples, in words; in the order in which it is told.
_NOTICED = {
    "unfinished": "were open when the load was stopped, and are no samples",
    "not de-registered": "devices had no time to de-register",
    "not observed": "devices were not observed by the gateway, and did nothing",
    "retransmitted": "messages were said again (RFC 7252 section 4.2)",
    "unreachable": "times ICMP said that nobody listens there",
    "not sent": "messages could not be sent at once",
    "resets": "resets came about a NON: the gateway did not know the observation",
    "copies": "answers came once more",
    "requests again": "requests of the gateway came once more, and were answered as before",
    "strays": "answers were to nothing that was said",
    "malformed": "datagrams were no CoAP",
    "late replies": "replies came after their time",
    "held back": "times a device waited, since its message ids would have come again within 247 s: take more threads",
}


def print_ended(ended: Ended) -> None:
    """For people."""
    timeline = ended.results.timeline
    rows = [_row(label, timeline.total(label)) for label in sorted(timeline.labels)]
    if len(rows) != 1:
        rows.append(_row("all", timeline.total()))
    console().print(table(_COLUMNS, rows))
    for (label, code, message), count in most_errors(timeline, 5):
        typer.echo(printable(f"{count} of {label}: {' '.join(filter(None, (code, message)))}"))
    for key, words in _NOTICED.items():
        if count := ended.outcome.counts[key]:
            typer.echo(f"{count} {words}")
    if ended.written.jtl is not None:
        typer.echo(printable(f"samples: {ended.written.jtl}"))
    if ended.written.report is not None:
        typer.echo(printable(f"report:  {ended.written.report}"))


def _row(label: str, cell: Cell) -> list[str]:
    told = figures(cell)
    errors = f"{told['errors']} ({told['error_percent']:.2f} %)"
    return [label, str(told["count"]), errors, *(f"{told[one]:.1f}" for one in _TIMES), f"{told['rate']:.1f}"]


def ended_json(ended: Ended) -> dict[str, Any]:
    """For programs: times in ms, rates a second."""
    outcome = ended.outcome
    return {
        "threads": ended.plan.threads,
        "started": outcome.activity.started,
        "seconds": round(outcome.seconds, 3),
        "stopped": outcome.stopped,
        **results_json(ended.results.timeline),
        "noticed": {key: outcome.counts[key] for key in _NOTICED},
        "audit": None if ended.audit is None else ended.audit.json(),
        "jtl": None if ended.written.jtl is None else str(ended.written.jtl),
        "report": None if ended.written.report is None else str(ended.written.report),
        "trouble": ended.trouble,
    }
