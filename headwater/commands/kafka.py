"""``headwater kafka``: a real Apache Kafka on this machine; ``headwater topics``: the topics of a gateway."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headwater import reach
from headwater.commands.base import command, complain
from headwater.exits import Exit
from headwater.options import EDGE, GatewayOption, KafkaOption, KafkaTlsOption, Output, OutputOption

if TYPE_CHECKING:
    from security.identities import Identity

#: The contract's ports by the names that everyone gives these two.
PORTS = {"edge": 9082, "cloud": 9092}
DIRECTORY = Path(".headwater/kafka")

NameOption = Annotated[str, typer.Option("--name", metavar="NAME", help="The broker's name; its folder below --dir.")]
DirOption = Annotated[Path, typer.Option("--dir", metavar="DIR", help="Where the data of the brokers lies.")]


def register(app: typer.Typer) -> None:
    """Add both groups to ``app``."""
    kafka = typer.Typer(help="Run a real Apache Kafka on this machine.", no_args_is_help=True)
    for name, function in (("start", start), ("stop", stop), ("status", status), ("reload-certs", reload_certs)):
        command(kafka, name, group="kafka")(function)
    app.add_typer(kafka, name="kafka", rich_help_panel="Kafka")
    topics = typer.Typer(help="The topics of a gateway.", no_args_is_help=True)
    command(topics, "create", group="topics")(create)
    app.add_typer(topics, name="topics", rich_help_panel="Kafka")


def start(
    name: NameOption = "edge",
    port: Annotated[
        int | None,
        typer.Option("--port", min=1, max=65535, help="Where it listens; 9082 for edge, 9092 for cloud when left out."),
    ] = None,
    directory: DirOption = DIRECTORY,
    host: Annotated[str, typer.Option("--host", help="The address that it binds to.")] = "127.0.0.1",
    heap: Annotated[str, typer.Option("--heap", help="Java's heap.")] = "256m",
    tls: Annotated[
        Path | None,
        typer.Option(
            "--tls",
            metavar="DIR",
            help="Speak TLS alone, as the broker identity in this folder, with whoever has a certificate of the same "
            "authority; and refuse what no access control list allows.",
        ),
    ] = None,
    admin: Annotated[
        list[str] | None,
        typer.Option(
            "--admin", metavar="ADMIN:NAME", help="With --tls: who may do everything; admin:fleet when left out."
        ),
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Start a broker and return when it answers; it stays until `headwater kafka stop`.

    The first start downloads Kafka's jars (with progress). Its data survives stop and start.

    \b
    Examples:
    headwater kafka start --name edge --port 9082 --dir ~/kafka
    headwater kafka start --name cloud
    headwater kafka start --name cloud --tls .headwater/pki/issued/broker+cloud
    """
    from headwater.output import print_json
    from headwater.servers import broker

    chosen = port or PORTS.get(name)
    if chosen is None:
        raise typer.BadParameter(f"say where {name} shall listen: --port", param_hint="--port")
    with Download() as download:
        started = broker.start(
            name,
            chosen,
            directory,
            host=host,
            heap=heap,
            tls=tls,
            admins=_admins(admin),
            progress=download.progress,
        )
    if output is Output.JSON:
        print_json(_as_json(name, started))
    else:
        typer.echo(
            f"Kafka {name} answers at {started.bootstrap} (process {started.pid}, data and log in {started.folder})"
        )


def _admins(given: list[str] | None) -> list[Identity]:
    from security.identities import Identity, InvalidIdentity, Role

    try:
        found = [Identity.parse(one) for one in given or ["admin:fleet"]]
    except InvalidIdentity as exc:
        raise typer.BadParameter(str(exc), param_hint="--admin") from exc
    if any(one.role is not Role.ADMIN for one in found):
        raise typer.BadParameter("only an admin:NAME may do everything", param_hint="--admin")
    return found


def stop(
    name: NameOption = "edge",
    directory: DirOption = DIRECTORY,
    output: OutputOption = Output.TABLE,
) -> None:
    """Stop a broker; its data stays.

    \b
    Examples:
    headwater kafka stop --name edge --dir ~/kafka
    """
    from headwater.output import print_json
    from headwater.servers import broker

    ran = broker.stop(name, directory)
    if output is Output.JSON:
        print_json({"name": name, "running": False, "stopped": ran})
    else:
        typer.echo(f"Kafka {name} {'stopped' if ran else 'was not running'}")


def status(
    name: NameOption = "edge",
    directory: DirOption = DIRECTORY,
    output: OutputOption = Output.TABLE,
) -> None:
    """Say whether a broker runs; exit code 3 if not.

    \b
    Examples:
    headwater kafka status --name edge --dir ~/kafka
    """
    from headwater.output import print_json
    from headwater.servers import broker

    running = broker.status(name, directory)
    if output is Output.JSON:
        print_json(_as_json(name, running))
    elif running is None:
        typer.echo(f"Kafka {name} is not running in {directory}")
    else:
        typer.echo(f"Kafka {name} runs at {running.bootstrap} (process {running.pid}, log {running.log})")
    if running is None:
        raise typer.Exit(Exit.UNREACHABLE)


def reload_certs(name: NameOption = "edge", directory: DirOption = DIRECTORY) -> None:
    """Let a broker that runs take up its renewed certificate, or its authorities, without a restart.

    \b
    Examples:
    headwater certs renew broker:rock64 && headwater kafka reload-certs --name edge
    """
    from headwater.servers import broker

    done = broker.reload_certificates(name, directory)
    typer.echo(f"Kafka {name} shows the certificate in {done.tls} to whoever connects from now on")


def _as_json(name: str, running: object) -> dict[str, object]:
    from headwater.servers.broker import Broker

    if not isinstance(running, Broker):
        return {"name": name, "running": False}
    return {
        "name": name,
        "running": True,
        "bootstrap": running.bootstrap,
        "port": running.port,
        "pid": running.pid,
        "folder": str(running.folder),
        "log": str(running.log),
        "tls": None if running.tls is None else str(running.tls),
    }


class Download:
    """Shows how far a download is: a bar on a terminal, a line every tenth part where there is none. On stderr."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._told = -1

    def __enter__(self) -> Download:
        return self

    def progress(self, done: int, total: int) -> None:
        """Kafka's jars: ``done`` of ``total`` bytes are here."""
        tenth = 10 * done // max(total, 1)
        if self._terminal:
            sys.stderr.write(f"\rdownloading Kafka {'█' * (2 * tenth):<20} {done / 1e6:6.1f} of {total / 1e6:.1f} MB ")
        elif tenth != self._told:
            sys.stderr.write(f"downloading Kafka: {done / 1e6:.1f} of {total / 1e6:.1f} MB\n")
        self._told = tenth
        sys.stderr.flush()

    def __exit__(self, *_: object) -> None:
        if self._terminal and self._told >= 0:
            sys.stderr.write("\n")


Partitions2 = Annotated[int | None, typer.Option(min=1, max=1000, help="Partitions of this topic.", show_default="2")]
Partitions1 = Annotated[int | None, typer.Option(min=1, max=1000, help="Partitions of this topic.", show_default="1")]


def create(
    gateway: GatewayOption,
    kafka: KafkaOption = EDGE,
    kafka_tls: KafkaTlsOption = None,
    partitions: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="Partitions of each topic that carries what devices say (those with 2)."),
    ] = None,
    registrations: Partitions2 = None,
    observations: Partitions2 = None,
    requests: Partitions1 = None,
    replies: Partitions2 = None,
    maxper30sec: Partitions2 = None,
    commands: Partitions1 = None,
    deadletter: Partitions1 = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Create the topics of a gateway that are missing; those that are there stay as they are.

    \b
    Examples:
    headwater topics create --gateway rock64 --kafka edge:9082
    headwater topics create --gateway rock64 --kafka edge:9082 --observations 8
    """
    from cloud.interrupts import interruptible
    from connectors.kafka import ensure_topics, partition_counts
    from headwater.output import console, print_json, table
    from schemas.avro.topics import FAMILIES, TopicKind, Topics

    asked = {
        TopicKind.REGISTRATIONS: registrations or partitions,
        TopicKind.OBSERVATIONS: observations or partitions,
        TopicKind.REQUESTS: requests,
        TopicKind.REPLIES: replies or partitions,
        TopicKind.MAXPER30SEC: maxper30sec or partitions,
        TopicKind.COMMANDS: commands,
        TopicKind.DEADLETTER: deadletter,
        # Its pieces are put together in their order.
        TopicKind.FILES: None,
    }
    names = Topics(gateway)
    cluster = reach.cluster(kafka, kafka_tls)
    wanted = {names.name(kind): count or FAMILIES[kind].partitions for kind, count in asked.items()}
    created = interruptible(lambda: ensure_topics(cluster, wanted))
    counts = interruptible(lambda: partition_counts(cluster, list(wanted)))
    # Metadata may lag a moment behind a creation.
    rows = [(topic, counts.get(topic, wanted[topic]), topic in created) for topic in wanted]
    if output is Output.JSON:
        print_json([{"topic": topic, "partitions": count, "created": new} for topic, count, new in rows])
    else:
        lines = [(topic, str(count), "created" if new else "was there") for topic, count, new in rows]
        console().print(table(("topic", "partitions", ""), lines))
    differing = [
        f"{names.name(kind)} has {counts[names.name(kind)]} partitions, not the {count} that were asked for"
        for kind, count in asked.items()
        if count and counts.get(names.name(kind), count) != count
    ]
    if differing:
        complain("; ".join(differing) + ". Partitions of a topic that is there are not changed.")
        raise typer.Exit(Exit.REFUSED)
