"""``headwater demo``: see the whole way at work on this machine, or a sensor city upon it."""

from __future__ import annotations

import sys
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headwater.commands.base import command, option_name
from headwater.commands.city import CityOptions, city_settings, run_city
from headwater.commands.kafka import Download
from headwater.commands.stations import STATION_PERIOD
from headwater.exits import Exit, Stop
from headwater.options import Output, OutputOption

if TYPE_CHECKING:
    from headwater.demo.run import Summary

#: Stopping everything may take as long as this, in seconds: two Kafkas close their logs.
GRACE = 45.0


class Which(Enum):
    WAY = "way"
    CITY = "city"


def register(app: typer.Typer) -> None:
    """Add ``demo`` to ``app``."""
    command(app, "demo", panel="Start here")(demo)


def demo(
    ctx: typer.Context,
    city: CityOptions,
    which: Annotated[
        Which, typer.Argument(metavar="[city]", help="The sensor city; left out, the whole way.")
    ] = Which.WAY,
    sensors: Annotated[int, typer.Option("--sensors", metavar="N", min=1, max=1000, help="Virtual devices.")] = 5,
    duration: Annotated[
        float | None,
        typer.Option("--for", metavar="SECONDS", min=1, max=86400, help="End by itself, with an audit of every value."),
    ] = None,
    wan_cut: Annotated[
        float,
        typer.Option("--wan-cut", metavar="SECONDS", min=0, max=86400, help="Cut edge from cloud for so long, midway."),
    ] = 0.0,
    secure: Annotated[
        bool,
        typer.Option("--secure", help="Sensors speak DTLS, each with a fresh key; the gateway takes nothing else."),
    ] = False,
    period: Annotated[
        float | None,
        typer.Option(
            "--period",
            metavar="S",
            min=0.01,
            max=3600,
            help="Seconds between two readings; 1, and 10 in a city with a single --metric.",
        ),
    ] = None,
    dir: Annotated[
        Path | None,
        typer.Option(
            "--dir", metavar="DIR", help="Its data and logs; emptied at each start. Default: .headwater/demo, …/city."
        ),
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """See it all: two real Kafkas, gateway, replicator, SQLite store and virtual sensors, on this machine.

    It prints commands to try from another terminal. On a terminal, c cuts the WAN for 20 s and q stops with the audit;
    Ctrl-C stops everything at once. With --for it ends by itself, and with exit code 0 only if every value that the
    gateway acknowledged to a device is in the cloud's Kafka and in the store exactly once.

    `demo city` is a sensor city: stations with nine sensors whose readings are normally distributed, analytics that
    find the outliers and raise alerts, the judged readings in a real Cassandra and the statistics in a real Redis.
    There a adds a new kind of sensor, and all must be judged and stored once and no outlier be missed.

    \b
    Examples:
    headwater demo
    headwater demo --for 60 --wan-cut 20
    headwater demo --secure --for 20 --wan-cut 4
    headwater demo --sensors 50 --period 0.2 --for 60 --output json
    headwater demo city --stations 4
    headwater demo city --metric temperature
    headwater demo city --for 60 --without cassandra
    """

    def say(line: str) -> None:
        # Only the summary is for programs.
        typer.echo(line, err=output is Output.JSON)

    _refuse_options_of_the_other(ctx, which)
    live = output is Output.TABLE and sys.stdin.isatty() and sys.stdout.isatty()
    if which is Which.CITY:
        settings = city_settings(
            city, duration=duration, wan_cut=wan_cut, period=period, directory=dir or Path(".headwater/city"), live=live
        )
        run_city(settings, say, output)
        return
    from headwater.demo.run import DemoSettings, run
    from headwater.output import print_json
    from headwater.running import run_thread_until_stopped

    told = DemoSettings(
        sensors=sensors,
        period=period or STATION_PERIOD,
        duration=duration,
        wan_cut=wan_cut,
        directory=dir or Path(".headwater/demo"),
        live=live,
        secure=secure,
    )
    with Download() as download:
        summary = run_thread_until_stopped(lambda stop: run(told, stop, say, download.progress), grace=GRACE)
    if summary is None:
        say("stopped; nothing is left running")
        return
    if output is Output.JSON:
        print_json(summary.as_json())
    else:
        _show(summary)
    if not summary.right:
        raise typer.Exit(Exit.REFUSED)


def _refuse_options_of_the_other(ctx: typer.Context, which: Which) -> None:
    """Raises Stop where an option was typed that this demo does not have. (Settings may be there for both.)"""
    others = {"sensors", "secure"} if which is Which.CITY else {field.name for field in fields(CityOptions)}
    for param in ctx.command.params:
        source = ctx.get_parameter_source(str(param.name))
        if param.name in others and source is not None and source.name == "COMMANDLINE":
            flag = "--" + option_name(param.opts, str(param.name)).replace("_", "-")
            whose = "headwater demo" if which is Which.CITY else "headwater demo city"
            raise Stop(Exit.USAGE, f"{flag} is an option of `{whose}`")


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
