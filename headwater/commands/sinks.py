"""``headwater sink``: run the sinks, and say which there are."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater import reach
from headwater.commands.base import command
from headwater.exits import Exit, Stop
from headwater.options import (
    CLOUD,
    DefinitionsOption,
    KafkaOption,
    KafkaTlsOption,
    MetricsHostOption,
    MetricsKeysOption,
    MetricsOption,
    Output,
    OutputOption,
    gateway_or_all,
)
from headwater.sink_choice import SINKS_FILE, SinkNameArgument, known_sink, sinks_of

if TYPE_CHECKING:
    from connectors.sink_settings import SinkSettings
    from connectors.sinks import SinkKind

PANEL = "Processes"

_NO_SUCH_PORT = (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES)


def register(app: typer.Typer) -> None:
    """Add the group to ``app``."""
    sinks = typer.Typer(help="Carry records into the stores.", no_args_is_help=True)
    command(sinks, "run", group="sink", logs=True)(run)
    command(sinks, "sqlite", group="sink", logs=True)(sqlite)
    command(sinks, "list", group="sink")(list_)
    command(sinks, "describe", group="sink")(describe)
    app.add_typer(sinks, name="sink", rich_help_panel=PANEL)


def run(
    file: Annotated[
        Path, typer.Argument(metavar="[FILE]", help="The sinks, a table each; `headwater sink describe` makes one.")
    ] = SINKS_FILE,
    gateway: Annotated[
        str | None,
        typer.Option(
            "--gateway",
            metavar="GW",
            parser=gateway_or_all,
            help="The gateway's id, '*' for all; a table that names its own keeps it.",
        ),
    ] = None,
    kafka: KafkaOption = CLOUD,
    kafka_tls: KafkaTlsOption = None,
    metrics: MetricsOption = None,
    metrics_host: MetricsHostOption = "127.0.0.1",
    metrics_keys: MetricsKeysOption = None,
) -> None:
    """Run the sinks of a file, all in this process; ./sinks.toml when no file is given.

    Each is a table of its options, named as the sink. A table may also have gateway, group, batch_records, batch_bytes
    and linger_s, and any option from an environment variable (password_env = "STORE_PASSWORD"). With
    '*' for the gateway all gateways are served, and new ones as they appear. Start the same command again, here or on
    another machine, and the instances share the work.

    \b
    Examples:
    headwater sink describe sqlite > sinks.toml
    headwater sink run sinks.toml --gateway rock64 --kafka cloud:9092
    headwater sink run sinks.toml --gateway '*' --kafka cloud:9092 --metrics 9600
    """
    every = sinks_of(file, gateway, reach.cluster(kafka, kafka_tls))
    every[0] = replace(every[0], metrics_port=metrics, metrics_host=metrics_host, metrics_keys=metrics_keys)
    _carry(every, f"{file}: ")


def sqlite(
    file: Annotated[Path, typer.Option("--file", metavar="FILE", help="The database; made if it is not there.")],
    gateway: Annotated[
        str,
        typer.Option("--gateway", metavar="GW", parser=gateway_or_all, help="The gateway's id; '*' for all."),
    ],
    kafka: KafkaOption = CLOUD,
    kafka_tls: KafkaTlsOption = None,
    group: Annotated[
        str | None,
        typer.Option("--group", help="Consumer group; a new name reads everything from the beginning."),
    ] = None,
    max_size_mb: Annotated[
        float | None, typer.Option("--max-size-mb", min=0.1, help="Take no more where the database has this size.")
    ] = None,
    definitions: DefinitionsOption = None,
    dead_letters: Annotated[
        bool, typer.Option("--dead-letters", help="Read again what this sink refused, once, and end.")
    ] = False,
    metrics: MetricsOption = None,
    metrics_host: MetricsHostOption = "127.0.0.1",
    metrics_keys: MetricsKeysOption = None,
) -> None:
    """Store history and the devices in one SQLite file, which needs no server.

    \b
    Examples:
    headwater sink sqlite --gateway rock64 --kafka cloud:9092 --file headwater.db
    sqlite3 headwater.db 'select ep, path, value from latest'
    """
    from connectors.sink_settings import SinkSettings, Source
    from connectors.sinks import SinkConfigError
    from headwater.sink_choice import sqlite_options

    options = sqlite_options(file, max_size_mb, definitions)
    try:
        settings = SinkSettings(
            sink="sqlite",
            gateway=gateway,
            kafka=reach.cluster(kafka, kafka_tls),
            options=options,
            group=group,
            source=Source.DEAD_LETTERS if dead_letters else Source.TOPICS,
            metrics_port=metrics,
            metrics_host=metrics_host,
            metrics_keys=metrics_keys,
        )
    except SinkConfigError as exc:
        raise Stop(Exit.USAGE, str(exc)) from exc
    _carry([settings])


def _carry(every: Sequence[SinkSettings], where: str = "") -> None:
    """Run sinks until they are told to stop; ``where`` stands in front of what is wrong with their options.

    Raises:
        Stop: their options are wrong, or the port of the metrics cannot be had.
    """
    from connectors.runner import run_sinks
    from connectors.sinks import SinkConfigError
    from headwater.running import run_thread_until_stopped

    try:
        run_thread_until_stopped(lambda stop: run_sinks(every, stop))
    except SinkConfigError as exc:
        raise Stop(Exit.USAGE, f"{where}{exc}") from exc
    except OSError as exc:
        face = every[0]
        if face.metrics_port is None or not (isinstance(exc, socket.gaierror) or exc.errno in _NO_SUCH_PORT):
            raise
        raise Stop(
            Exit.CANNOT_START,
            f"the metrics cannot be served at {face.metrics_host}:{face.metrics_port}: {exc.strerror}; "
            "choose another port with --metrics",
        ) from exc


def list_(output: OutputOption = Output.TABLE) -> None:
    """Show which sinks there are, what they store, and whether what they need is installed here.

    \b
    Examples:
    headwater sink list
    headwater sink list --output json | jq -r '.[].name'
    """
    from connectors.sinks import SINKS
    from headwater.output import console, print_json, table

    rows = [_about(kind) for _, kind in sorted(SINKS.items())]
    if output is Output.JSON:
        print_json(rows)
        return
    said = {None: "nothing", True: "installed", False: "not installed"}
    console().print(
        table(
            ("sink", "stores", "reads", "needs", ""),
            [
                (
                    row["name"],
                    row["stores"],
                    ", ".join(row["topics"]),
                    f"headwater[{row['extra']}]" if row["extra"] else "nothing more",
                    said[row["installed"]] if row["extra"] else "",
                )
                for row in rows
            ],
        )
    )


def describe(name: SinkNameArgument) -> None:
    """Show a sink's options as the file that `headwater sink run` takes, with what each is for.

    \b
    Examples:
    headwater sink describe sqlite
    headwater sink describe sqlite > sinks.toml
    """
    typer.echo(description(known_sink(name)), nl=False)


def description(kind: SinkKind) -> str:
    """The sample configuration of a sink, with what is true for all of them in its table and above it."""
    about = _about(kind)
    needs = "It needs nothing else to be installed."
    if about["extra"]:
        here = "installed here" if about["installed"] else "not installed here"
        needs = f"It needs: pip install 'headwater[{about['extra']}]' ({here})."
    head = f"""\
# The sink {kind.name}, for: headwater sink run FILE --gateway GW --kafka HOST:PORT
# It reads {", ".join(about["topics"])} of a gateway. {needs}
# Any option may come from the environment: password_env = "STORE_PASSWORD" stands for password.
# The page docs/sinks/{kind.name}.md says what becomes of the records.

"""
    return head + kind.sample_config.replace(f"[{kind.name}]\n", f"[{kind.name}]\n{_RUNNER}", 1)


_RUNNER = """\
# The gateway whose records it gets, or "*" for all. Default: --gateway of the command.
# gateway = "rock64"
# The consumer group. Instances of one group share the work; a new name reads everything from the beginning.
# group = "headwater-sink-NAME-GATEWAY"
# A batch is written when it has so many records or bytes, or has waited so many seconds.
# batch_records = 2000
# batch_bytes = 4194304
# linger_s = 0.2
"""


def _about(kind: SinkKind) -> dict[str, Any]:
    from importlib.util import find_spec

    return {
        "name": kind.name,
        "stores": kind.stores,
        "topics": [topic.value for topic in kind.topics],
        "extra": kind.name if kind.library else None,
        "library": kind.library,
        "installed": kind.library is None or find_spec(kind.library) is not None,
    }
