"""``headwater station``: the virtual devices of a sensor city. Runs until told to stop."""

from __future__ import annotations

import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headwater.commands.base import command
from headwater.commands.device_server import DeviceServer
from headwater.commands.processes import PANEL
from headwater.exits import Exit, Stop
from headwater.options import (
    JournalOption,
    LifetimeOption,
    QueueOption,
    SeedOption,
    SensorVersion,
    SensorVersionOption,
)

if TYPE_CHECKING:
    import asyncio

    from gateway.devices.metrics import Metric

#: Seconds between two readings of a whole station, and of a device with a single sensor.
STATION_PERIOD, SENSOR_PERIOD = 1.0, 10.0


def register(app: typer.Typer) -> None:
    """Add ``station`` to ``app``."""
    command(app, "station", panel=PANEL, logs=True)(station)


def chosen_metrics(names: list[str] | None) -> list[Metric]:
    """The metrics of these names, each once; those of a station where none is named. Raises Stop: there is no such."""
    from gateway.devices.metrics import CITY

    return _metrics(names) if names else list(CITY.values())


def _metrics(names: list[str]) -> list[Metric]:
    from gateway.devices.metrics import METRICS

    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise Stop(Exit.USAGE, f"there is no metric {unknown[0]!r}: choose of {', '.join(METRICS)}")
    return [METRICS[name] for name in dict.fromkeys(names)]


def seconds_between(period: float | None, metrics: int, *, chosen: bool) -> float:
    """How long from one reading to the next: as told, else 10 s of a device with one chosen sensor, else 1 s."""
    return period or (SENSOR_PERIOD if chosen and metrics == 1 else STATION_PERIOD)


def station(
    endpoint: Annotated[str, typer.Option("--endpoint", metavar="NAME", help="Endpoint name; with --count NAME-1, …")],
    where: DeviceServer,
    count: Annotated[int, typer.Option("--count", metavar="N", min=1, max=100_000, help="How many stations.")] = 1,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", metavar="METRIC", help="Only this sensor; may be given several times."),
    ] = None,
    period: Annotated[
        float | None,
        typer.Option(
            "--period",
            metavar="S",
            min=0.001,
            max=86400,
            help="Seconds between two readings; 1, and 10 with a single --metric.",
        ),
    ] = None,
    add: Annotated[
        list[str] | None,
        typer.Option("--add", metavar="METRIC", help="Plug in this sensor later: --after S, or at SIGUSR1."),
    ] = None,
    after: Annotated[
        float | None,
        typer.Option("--after", metavar="S", min=0, max=86400, help="When the sensors of --add come, in seconds."),
    ] = None,
    outliers: Annotated[
        float, typer.Option("--outliers", metavar="RATE", min=0, max=1, help="How many of the readings are outliers.")
    ] = 0.01,
    outlier_size: Annotated[
        float,
        typer.Option("--outlier-size", metavar="SIGMAS", min=0.1, max=1000, help="How far from the mean they are."),
    ] = 6.0,
    lifetime: LifetimeOption = 300,
    version: SensorVersionOption = SensorVersion.V1_1,
    queue: QueueOption = False,
    journal: JournalOption = None,
    made: Annotated[
        Path | None,
        typer.Option("--made", metavar="FILE", help="Write each outlier there that is made, one JSON a line."),
    ] = None,
    seed: SeedOption = None,
) -> None:
    """Run stations of a sensor city: LwM2M devices with nine sensors, whose readings are normally distributed.

    The sensors are temperature, humidity, pressure, air_quality, particulate_matter, noise, illuminance, wind_speed and
    rainfall; --add knows water_level too. A reading follows the trend of the sensor's last 300 and is pulled back to
    its mean; now and then there is an outlier. With a key they speak DTLS or OSCORE, as `headwater sensor` does.

    \b
    Examples:
    headwater station --server 127.0.0.1:5683 --endpoint station --count 4
    headwater station --server coaps://gateway --endpoint station --count 4 --psk-list devices.csv
    headwater station --endpoint thermometer --metric temperature --period 10
    headwater station --endpoint station --add water_level --after 60
    """
    from gateway.devices.client import Version
    from gateway.devices.course import Outliers
    from gateway.devices.fleet import names
    from gateway.devices.sensor import Tally
    from gateway.devices.station import run_stations
    from headwater.demo.journal import JournalTally, OutlierJournal
    from headwater.running import run_until_stopped

    if after is not None and not add:
        raise Stop(Exit.USAGE, "--after says when the sensors of --add come: give --add METRIC too")
    chosen = chosen_metrics(metric)
    later = _metrics(add or [])
    if both := [one.name for one in later if one in chosen]:
        raise Stop(Exit.USAGE, f"--add {both[0]}: the station has that sensor from the beginning")
    seconds = seconds_between(period, len(chosen), chosen=bool(metric))
    keys = where.keys(names(endpoint, count))
    reached = where.place

    async def main(stop: asyncio.Event) -> None:
        import asyncio

        more = asyncio.Event()
        if later:
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, more.set)
        tally = Tally() if journal is None else JournalTally(journal)
        noted = None if made is None else OutlierJournal(made)
        try:
            await run_stations(
                reached,
                endpoint,
                stop=stop,
                count=count,
                metrics=chosen,
                later=later,
                after=after,
                more=more,
                period=seconds,
                lifetime=lifetime,
                version=Version(version.value),
                queue=queue,
                outliers=Outliers(rate=outliers, size=outlier_size),
                tally=tally,
                on_outlier=None if noted is None else noted.made,
                seed=seed,
                keys=keys,
            )
        finally:
            if isinstance(tally, JournalTally):
                tally.close()
            if noted is not None:
                noted.close()

    try:
        run_until_stopped(main)
    except socket.gaierror as exc:
        raise Stop(Exit.CANNOT_START, f"--server {reached}: {exc.strerror}; is the host's name right?") from exc
