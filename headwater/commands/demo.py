"""``headwater demo``: see the whole way at work on this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headwater.commands.base import command
from headwater.commands.kafka import Download
from headwater.exits import Exit
from headwater.options import Output, OutputOption

if TYPE_CHECKING:
    from headwater.demo import Summary

#: Stopping everything may take as long as this, in seconds: two Kafkas close their logs.
GRACE = 45.0


def register(app: typer.Typer) -> None:
    """Add ``demo`` to ``app``."""
    command(app, "demo", panel="Start here")(demo)


def demo(
    sensors: Annotated[int, typer.Option("--sensors", metavar="N", min=1, max=1000, help="Virtual devices.")] = 5,
    duration: Annotated[
        float | None,
        typer.Option("--for", metavar="SECONDS", min=1, max=86400, help="End by itself, with an audit of every value."),
    ] = None,
    wan_cut: Annotated[
        float,
        typer.Option("--wan-cut", metavar="SECONDS", min=0, max=86400, help="Cut edge from cloud for so long, midway."),
    ] = 0.0,
    period: Annotated[
        float, typer.Option("--period", metavar="S", min=0.01, max=3600, help="Seconds between two readings.")
    ] = 1.0,
    dir: Annotated[Path, typer.Option("--dir", metavar="DIR", help="Its data and logs; emptied at each start.")] = Path(
        ".headwater/demo"
    ),
    output: OutputOption = Output.TABLE,
) -> None:
    """See it all: two real Kafkas, gateway, replicator, SQLite store and virtual sensors, on this machine.

    It prints commands to try from another terminal. On a terminal, c cuts the WAN for 20 s and q stops with the audit;
    Ctrl-C stops everything at once. With --for it ends by itself, and with exit code 0 only if every value that the
    gateway acknowledged to a device is in the cloud's Kafka and in the store exactly once.

    \b
    Examples:
    headwater demo
    headwater demo --for 60 --wan-cut 20
    headwater demo --sensors 50 --period 0.2 --for 60 --output json
    """
    from headwater.demo import DemoSettings, run
    from headwater.output import print_json
    from headwater.running import run_thread_until_stopped

    def say(line: str) -> None:
        # Only the summary is for programs.
        typer.echo(line, err=output is Output.JSON)

    settings = DemoSettings(
        sensors=sensors,
        period=period,
        duration=duration,
        wan_cut=wan_cut,
        directory=dir,
        live=output is Output.TABLE and sys.stdin.isatty() and sys.stdout.isatty(),
    )
    with Download() as download:
        summary = run_thread_until_stopped(lambda stop: run(settings, stop, say, download.progress), grace=GRACE)
    if summary is None:
        say("stopped; nothing is left running")
        return
    if output is Output.JSON:
        print_json(summary.as_json())
    else:
        _show(summary)
    if not summary.right:
        raise typer.Exit(Exit.REFUSED)


def _show(summary: Summary) -> None:
    from headwater.output import console, table

    found = summary.verdict
    rows = [
        ("registrations", f"{found.registrations} (devices: {found.devices} of {summary.sensors})"),
        ("notifications acknowledged", str(found.acknowledged)),
        ("notifications in the cloud", str(found.cloud_notifications)),
        ("records in the cloud", str(found.cloud_records)),
        ("rows stored", str(found.stored_rows)),
        ("WAN cut", f"{summary.wan_cut_seconds:.0f} s of {summary.seconds:.0f} s"),
        ("lost", str(found.lost)),
        ("doubled", str(found.doubled)),
    ]
    console().print(table(("", ""), rows))
    if summary.right:
        typer.echo(f"lost: {found.lost}, doubled: {found.doubled}: all is right")
        return
    if found.devices < summary.sensors:
        typer.echo(f"only {found.devices} of {summary.sensors} sensors registered")
    if not found.acknowledged:
        typer.echo("no notification was acknowledged")
    typer.echo(
        f"lost: {found.lost} (on the way to the cloud's topic {found.lost_on_the_way}, edge records not in the cloud "
        f"{found.lost_to_the_cloud}, rows {found.lost_rows}), doubled: {found.doubled} (in the cloud's topic "
        f"{found.doubled_in_the_cloud}, by replication {found.doubled_by_replication}, rows {found.doubled_rows})"
    )
