"""The command ``headwater``. Puts the commands together; each is in ``headwater/commands/``.

Owns the top of the help and what is true for all commands. Kafka's client, the CoAP library and the schemas are
loaded by the commands that need them, not here, so that help and completion are quick.
"""

from __future__ import annotations

import codecs
import io
import sys
from pathlib import Path
from typing import Annotated

import typer

from headwater.commands import (
    acl,
    analytics,
    apikeys,
    bootstrap,
    campaigns,
    certs,
    commands,
    credentials,
    deadletters,
    demo,
    deploy,
    devices,
    health,
    kafka,
    load,
    models,
    processes,
    replay,
    schemas,
    sensors,
    sinks,
    stations,
    stores,
    tail,
    verbs,
)

HELP = """Edge-to-cloud LwM2M: devices → gateway → edge Kafka → replicator → cloud Kafka → stores.

\b
See it all at once:      headwater demo
Which devices are there: headwater devices --gateway rock64 --kafka cloud:9092
Read one of them:        headwater read sensor-1 /3303/0/5700 --gateway rock64
What they say:           headwater tail observations --gateway rock64
"""

EPILOG = (
    "A flag beats the environment, which beats the settings file. Every option is also HEADWATER_<COMMAND>_<OPTION> "
    "(HEADWATER_SENSOR_COUNT), and general ones HEADWATER_<OPTION>: HEADWATER_GATEWAY, HEADWATER_KAFKA, "
    "HEADWATER_TIMEOUT, HEADWATER_OUTPUT. "
    "Settings file: --config, ./headwater.toml, ~/.config/headwater/config.toml.\n\n"
    "Exit codes: 0 done, 1 the device or gateway said no, 2 usage, 3 Kafka not reachable, 4 no reply in time, "
    "5 cannot start here, 70 a bug, 130 interrupted."
)

app = typer.Typer(
    name="headwater",
    help=HELP,
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"headwater {version('headwater')}")
        except PackageNotFoundError:
            typer.echo("headwater, not installed (run from its folder)")
        raise typer.Exit


@app.callback()
def top(
    ctx: typer.Context,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Settings file (TOML); also after the command.")
    ] = None,
    _: Annotated[
        bool, typer.Option("--version", help="Say which version this is.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """What stands in front of the command."""
    if config is not None:
        ctx.meta["headwater.config"] = config


for family in (
    demo,
    processes,
    bootstrap,
    sensors,
    stations,
    load,
    sinks,
    analytics,
    replay,
    deadletters,
    kafka,
    certs,
    apikeys,
    credentials,
    stores,
    devices,
    commands,
    health,
    verbs,
    campaigns,
    tail,
    models,
    schemas,
    deploy,
    acl,
):
    family.register(app)


def main() -> None:
    """The entry point of ``headwater``."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that knows no arrows gets question marks, and no traceback.
        if isinstance(stream, io.TextIOWrapper) and codecs.lookup(stream.encoding).name != "utf-8":
            stream.reconfigure(errors="replace")
    app(prog_name="headwater")


if __name__ == "__main__":
    main()
