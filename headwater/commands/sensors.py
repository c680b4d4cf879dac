"""``headwater sensor``: virtual devices, in the clear, over DTLS or with OSCORE. Runs until told to stop."""

from __future__ import annotations

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


def register(app: typer.Typer) -> None:
    """Add ``sensor`` to ``app``."""
    command(app, "sensor", panel=PANEL, logs=True)(sensor)


def sensor(
    endpoint: Annotated[str, typer.Option("--endpoint", metavar="NAME", help="Endpoint name; with --count NAME-1, …")],
    where: DeviceServer,
    count: Annotated[int, typer.Option("--count", metavar="N", min=1, max=100_000, help="How many devices.")] = 1,
    period: Annotated[
        float, typer.Option("--period", metavar="S", min=0.001, max=86400, help="Seconds between two readings.")
    ] = 1.0,
    lifetime: LifetimeOption = 300,
    version: SensorVersionOption = SensorVersion.V1_1,
    queue: QueueOption = False,
    images: Annotated[
        Path | None,
        typer.Option(
            "--images", metavar="DIR", help="Take firmware (object 5) and software (9), and keep their state there."
        ),
    ] = None,
    journal: JournalOption = None,
    seed: SeedOption = None,
) -> None:
    """Run virtual LwM2M devices: objects 1, 3, 3303 (two instances) and 3304; their values move.

    With a key they speak DTLS. It never goes onto the command line, where others on the machine see it: --psk-file has
    one as `headwater credentials add NAME --psk` prints it, --psk-list one for each device. With --oscore-list they
    speak OSCORE, over coap://; their keys are derived anew at each start (RFC 8613 appendix B.2).

    \b
    Examples:
    headwater sensor --server 127.0.0.1:5683 --endpoint sensor
    headwater sensor --server gateway:5683 --endpoint sensor --count 50 --period 0.5
    headwater sensor --server coaps://gateway --endpoint sensor-1 --psk-file sensor-1.key
    headwater sensor --server coaps://gateway --endpoint sensor --count 50 --psk-list devices.csv
    headwater sensor --server coap://gateway --endpoint sensor --count 50 --oscore-list contexts.csv
    """
    from gateway.devices.client import Version
    from gateway.devices.fleet import names
    from gateway.devices.sensor import Tally, run_sensors
    from headwater.demo.journal import JournalTally
    from headwater.running import run_until_stopped

    keys = where.keys(names(endpoint, count))
    reached = where.place

    async def main(stop: asyncio.Event) -> None:
        tally = Tally() if journal is None else JournalTally(journal)
        try:
            await run_sensors(
                reached,
                endpoint,
                stop=stop,
                count=count,
                period=period,
                lifetime=lifetime,
                version=Version(version.value),
                queue=queue,
                tally=tally,
                seed=seed,
                keys=keys,
                images=images,
            )
        finally:
            if isinstance(tally, JournalTally):
                tally.close()

    try:
        run_until_stopped(main)
    except socket.gaierror as exc:
        raise Stop(Exit.CANNOT_START, f"--server {reached}: {exc.strerror}; is the host's name right?") from exc
