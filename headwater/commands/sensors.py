"""``headwater sensor``: virtual devices with a few sensors, in the clear or over DTLS. Runs until told to stop."""

from __future__ import annotations

import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headwater.commands.base import command
from headwater.commands.processes import PANEL
from headwater.exits import Exit, Stop
from headwater.options import (
    JournalOption,
    LifetimeOption,
    QueueOption,
    SeedOption,
    SensorVersion,
    SensorVersionOption,
    address,
)

if TYPE_CHECKING:
    import asyncio

    from security.credentials.kinds import Psk

CLEAR, SECURE = "coap://", "coaps://"
#: RFC 7252 section 12.6 and 12.7.
_PORTS = {CLEAR: 5683, SECURE: 5684}


def register(app: typer.Typer) -> None:
    """Add ``sensor`` to ``app``."""
    command(app, "sensor", panel=PANEL, logs=True)(sensor)


def server_address(text: str) -> str:
    """HOST:PORT, or ``coap://`` or ``coaps://`` before it, as given; with either the port may be left out.

    Raises:
        typer.BadParameter: it is none of them.
    """
    scheme = next((one for one in _PORTS if text.startswith(one)), "")
    rest = text.removeprefix(scheme).removesuffix("/")
    if scheme and (rest.endswith("]") or ":" not in rest):
        rest = f"{rest}:{_PORTS[scheme]}"
    return scheme + address(rest)


def sensor(
    endpoint: Annotated[str, typer.Option("--endpoint", metavar="NAME", help="Endpoint name; with --count NAME-1, …")],
    server: Annotated[
        str | None,
        typer.Option(
            "--server",
            metavar="HOST:PORT",
            parser=server_address,
            help="The gateway: coap://HOST:PORT, coaps://… for DTLS; else 127.0.0.1:5683, with a key 5684.",
        ),
    ] = None,
    psk_file: Annotated[
        Path | None,
        typer.Option("--psk-file", metavar="FILE", help="Speak DTLS with the pre-shared key in FILE, in hex."),
    ] = None,
    psk_identity: Annotated[
        str | None,
        typer.Option("--psk-identity", metavar="ID", help="The identity of that key; else the endpoint's name."),
    ] = None,
    psk_list: Annotated[
        Path | None,
        typer.Option(
            "--psk-list", metavar="FILE", help="A key for each device, as `headwater credentials import` takes it."
        ),
    ] = None,
    count: Annotated[int, typer.Option("--count", metavar="N", min=1, max=100_000, help="How many devices.")] = 1,
    period: Annotated[
        float, typer.Option("--period", metavar="S", min=0.001, max=86400, help="Seconds between two readings.")
    ] = 1.0,
    lifetime: LifetimeOption = 300,
    version: SensorVersionOption = SensorVersion.V1_1,
    queue: QueueOption = False,
    journal: JournalOption = None,
    seed: SeedOption = None,
) -> None:
    """Run virtual LwM2M devices: objects 1, 3, 3303 (two instances) and 3304; their values move.

    With a key they speak DTLS. It never goes onto the command line, where others on the machine see it: --psk-file has
    one as `headwater credentials add NAME --psk` prints it, --psk-list one for each device.

    \b
    Examples:
    headwater sensor --server 127.0.0.1:5683 --endpoint sensor
    headwater sensor --server gateway:5683 --endpoint sensor --count 50 --period 0.5
    headwater sensor --server coaps://gateway --endpoint sensor-1 --psk-file sensor-1.key
    headwater sensor --server coaps://gateway --endpoint sensor --count 50 --psk-list devices.csv
    """
    from gateway.devices.client import Version
    from gateway.devices.fleet import names
    from gateway.devices.sensor import Tally, run_sensors
    from headwater.demo.journal import JournalTally
    from headwater.running import run_until_stopped

    psks = _keys(names(endpoint, count), psk_file, psk_identity, psk_list)
    reached = _reached(server, secured=psks is not None)

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
                psks=psks,
            )
        finally:
            if isinstance(tally, JournalTally):
                tally.close()

    try:
        run_until_stopped(main)
    except socket.gaierror as exc:
        raise Stop(Exit.CANNOT_START, f"--server {reached}: {exc.strerror}; is the host's name right?") from exc


def _reached(server: str | None, *, secured: bool) -> str:
    """HOST:PORT of the server. Raises Stop: keys and what ``server`` says do not go together."""
    if server is None:
        return f"127.0.0.1:{_PORTS[SECURE if secured else CLEAR]}"
    if secured and server.startswith(CLEAR):
        raise Stop(Exit.USAGE, f"--server {server} is in the clear and needs no key: for DTLS say {SECURE}…")
    if not secured and server.startswith(SECURE):
        raise Stop(
            Exit.USAGE,
            f"--server {server} takes a key: --psk-file FILE (headwater credentials add NAME --psk > FILE), or for "
            "many devices --psk-list FILE",
        )
    return server.removeprefix(CLEAR).removeprefix(SECURE)


def _keys(
    endpoints: list[str], psk_file: Path | None, psk_identity: str | None, psk_list: Path | None
) -> dict[str, Psk] | None:
    """The key of each endpoint, None for devices in the clear. Raises Stop, SecurityError."""
    if psk_file is not None and psk_list is not None:
        raise Stop(Exit.USAGE, "--psk-file and --psk-list: one of them")
    if psk_identity is not None and psk_file is None:
        raise Stop(Exit.USAGE, "--psk-identity goes with --psk-file; in a --psk-list each line has its own")
    if psk_file is None and psk_list is None:
        return None
    from gateway.devices.keys import listed_keys, shared_key

    now = datetime.now(UTC)
    if psk_list is not None:
        return listed_keys(psk_list, endpoints, now)
    assert psk_file is not None
    if len(endpoints) > 1 and psk_identity is None:
        raise Stop(
            Exit.USAGE,
            f"{len(endpoints)} devices have {len(endpoints)} identities: --psk-list FILE has a key for each, or "
            "--psk-identity ID says that they share the one of a pattern",
        )
    return shared_key(psk_file, endpoints, psk_identity, now)
