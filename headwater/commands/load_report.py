"""``headwater load report``: the report of a file of results, of ours or of JMeter's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headwater.exits import Exit, Stop
from headwater.options import Output, OutputOption


def report(
    jtl: Annotated[Path, typer.Argument(metavar="FILE.jtl", help="The file of results, from --jtl or from JMeter.")],
    html: Annotated[Path, typer.Option("--html", metavar="FILE", help="Write the page there.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the page if it is there.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a report of a file of results: one HTML page with tables and plots, that needs no network.

    The file is CSV with a header, as headwater load --jtl writes it and JMeter does, and may be of any length. Its
    times are whole milliseconds; the page that headwater load --report writes at the end of a load has finer ones.

    \b
    Examples:
    headwater load report load.jtl --html load.html
    headwater load report jmeter.jtl --html jmeter.html --output json | jq .total.p99_ms
    """
    from gateway.devices.load.jtl import JtlError
    from gateway.devices.load.report import ReportError, write_report
    from gateway.devices.load.results import results_json
    from headwater.output import print_json
    from headwater.terminal import printable

    if html.exists() and not overwrite:
        raise Stop(Exit.CANNOT_START, f"{html}: there is such a file already; name another, or say --overwrite")
    try:
        reported = write_report(jtl, html)
    except JtlError as exc:
        raise Stop(Exit.USAGE, str(exc)) from exc
    except ReportError as exc:
        raise Stop(Exit.CANNOT_START, str(exc)) from exc
    if output is Output.JSON:
        print_json({**results_json(reported.timeline), "report": str(html), "cut_off": reported.cut_off})
        return
    total = reported.timeline.total()
    typer.echo(printable(f"report: {html} ({total.count} samples, {total.errors} errors)"))
    if reported.cut_off:
        typer.echo(printable(f"{jtl}: the last line has no end and is left out"))
