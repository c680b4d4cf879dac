"""``headwater demo city``: its options, and how its summary looks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headwater.commands.kafka import Download
from headwater.commands.stations import chosen_metrics, seconds_between
from headwater.exits import Exit, Stop
from headwater.options import Output, address

if TYPE_CHECKING:
    from collections.abc import Callable

    from headwater.city.run import CitySettings, CitySummary

#: Stopping everything may take as long as this, in seconds: two Kafkas and the stores close their logs.
GRACE = 60.0

_OF_THE_CITY = "Of the sensor city"


@dataclass(frozen=True, slots=True, kw_only=True)
class CityOptions:
    """The options that `demo city` alone has."""

    stations: Annotated[
        int,
        typer.Option(
            "--stations",
            metavar="N",
            min=1,
            max=1000,
            help="Stations, nine sensors each unless --metric says otherwise.",
            rich_help_panel=_OF_THE_CITY,
        ),
    ] = 3
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            metavar="METRIC",
            help="Stations have only this sensor, read every 10 s; may be given several times.",
            rich_help_panel=_OF_THE_CITY,
        ),
    ] = None
    add_after: Annotated[
        float | None,
        typer.Option(
            "--add-after",
            metavar="S",
            min=0,
            max=86400,
            help="When every station gets a new kind of sensor; midway with --for, else at key a.",
            rich_help_panel=_OF_THE_CITY,
        ),
    ] = None
    outliers: Annotated[
        float,
        typer.Option(
            "--outliers",
            metavar="RATE",
            min=0,
            max=1,
            help="How many of the readings are outliers.",
            rich_help_panel=_OF_THE_CITY,
        ),
    ] = 0.01
    seed: Annotated[
        int | None, typer.Option("--seed", help="Repeat the readings of a run.", rich_help_panel=_OF_THE_CITY)
    ] = None
    cassandra: Annotated[
        str | None,
        typer.Option(
            "--cassandra",
            metavar="HOST:PORT",
            parser=address,
            help="Your Cassandra, without login; else one is fetched and started.",
            rich_help_panel=_OF_THE_CITY,
        ),
    ] = None
    redis: Annotated[
        str | None,
        typer.Option(
            "--redis",
            metavar="HOST:PORT",
            parser=address,
            help="Your Redis, without login; else one is fetched and started.",
            rich_help_panel=_OF_THE_CITY,
        ),
    ] = None
    without: Annotated[
        list[str] | None,
        typer.Option(
            "--without",
            metavar="STORE",
            help="Leave cassandra or redis out, on a small machine.",
            rich_help_panel=_OF_THE_CITY,
        ),
    ] = None


def city_settings(
    given: CityOptions, *, duration: float | None, wan_cut: float, period: float | None, directory: Path, live: bool
) -> CitySettings:
    """The settings of a city. Raises Stop where they make no sense."""
    from headwater.city.run import CitySettings
    from headwater.city.stores import Store, choose

    names = [store.value for store in Store]
    unknown = [name for name in given.without or () if name not in names]
    if unknown:
        raise Stop(Exit.USAGE, f"--without {unknown[0]}: the stores are {', '.join(names)}")
    metrics = [one.name for one in chosen_metrics(given.metric)]
    return CitySettings(
        stores=choose(
            {Store.CASSANDRA: given.cassandra, Store.REDIS: given.redis}, [Store(name) for name in given.without or ()]
        ),
        stations=given.stations,
        metrics=metrics,
        period=seconds_between(period, len(metrics), chosen=bool(given.metric)),
        duration=duration,
        wan_cut=wan_cut,
        add_after=given.add_after,
        outliers=given.outliers,
        seed=given.seed,
        directory=directory,
        live=live,
    )


def run_city(settings: CitySettings, say: Callable[[str], None], output: Output) -> None:
    """Run a city and show its summary; exit code 1 where that is not right."""
    from headwater.city.run import run
    from headwater.output import print_json
    from headwater.running import run_thread_until_stopped

    with Download() as download:
        summary = run_thread_until_stopped(lambda stop: run(settings, stop, say, download.progress), grace=GRACE)
    if summary is None:
        say("stopped; nothing is left running")
        return
    if output is Output.JSON:
        print_json(summary.as_json())
    else:
        _show_city(summary)
    if not summary.right:
        raise typer.Exit(Exit.REFUSED)


def _show_city(summary: CitySummary) -> None:
    from headwater.output import console, table

    found, way = summary.city, summary.way
    columns, rows = summary.sample
    screen = console()
    if rows:
        typer.echo("SELECT * FROM city.readings LIMIT 10")
        screen.print(table(columns, rows))
    counts = [
        ("stations", f"{way.devices} of {summary.stations}"),
        ("kinds of sensors", str(summary.city.kinds)),
        ("notifications acknowledged", str(way.acknowledged)),
        ("readings judged", str(found.readings_judged)),
        ("outliers made", f"{found.outliers_made} ({found.outliers_told} of them told to the gateway)"),
        ("outliers found", f"{found.outliers_found} of {found.outliers_told}"),
        ("false alarms", str(found.false_alarms)),
        ("alerts raised", str(found.alerts_raised)),
        *([] if found.readings_stored is None else [("rows in Cassandra", str(found.readings_stored))]),
        *([] if found.readings_counted is None else [("in the statistics in Redis", str(found.readings_counted))]),
        *([] if summary.redis_keys is None else [("keys in Redis", str(summary.redis_keys))]),
        ("WAN cut", f"{summary.wan_cut_seconds:.0f} s of {summary.seconds:.0f} s"),
        ("lost", str(summary.lost)),
        ("doubled", str(summary.doubled)),
    ]
    screen.print(table(("", ""), counts))
    if summary.right:
        typer.echo("lost: 0, doubled: 0, every outlier found: all is right")
        return
    if way.devices < summary.stations:
        typer.echo(f"only {way.devices} of {summary.stations} stations registered")
    if not way.acknowledged:
        typer.echo("no notification was acknowledged")
    typer.echo(
        f"lost: {summary.lost} (on the way to the cloud {way.lost}, not judged {found.lost_readings}, rows "
        f"{found.lost_rows}, in the statistics {found.lost_counts}), doubled: {summary.doubled} (on the way "
        f"{way.doubled}, judged {found.doubled_readings}, rows {found.doubled_rows}, in the statistics "
        f"{found.doubled_counts}), outliers missed: {found.outliers_missed}"
    )
