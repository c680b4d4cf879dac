"""``headwater stores``: who may write and who may read in the stores of a fleet."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headwater.commands.base import command
from headwater.exits import Exit, Stop

if TYPE_CHECKING:
    from connectors.store_users import StoreUser

WriterOption = Annotated[
    list[str] | None,
    typer.Option("--writer", metavar="NAME=FILE", help="A user for a sink, and the file of its password; repeatable."),
]
ReaderOption = Annotated[
    list[str] | None,
    typer.Option("--reader", metavar="NAME=FILE", help="A user that may only read; repeatable."),
]
TimeoutOption = Annotated[
    float, typer.Option("--timeout", metavar="S", min=0.1, max=600.0, help="How long an answer may take, in seconds.")
]
CaOption = Annotated[
    Path | None, typer.Option("--ca-file", metavar="FILE", help="Who may have signed its certificate, for TLS (PEM).")
]


def register(app: typer.Typer) -> None:
    """Add the group to ``app``."""
    stores = typer.Typer(
        help="Users of the stores: each may do what it has to, and nothing else.", no_args_is_help=True
    )
    command(stores, "influxdb", group="stores")(influxdb)
    command(stores, "orientdb", group="stores")(orientdb)
    app.add_typer(stores, name="stores", rich_help_panel="Security")


def _users(writers: list[str] | None, readers: list[str] | None) -> list[StoreUser]:
    from connectors.store_users import Access, StoreUser
    from security.secrets import read_secret

    found: dict[str, StoreUser] = {}
    for access, given, flag in ((Access.WRITE, writers, "--writer"), (Access.READ, readers, "--reader")):
        for one in given or ():
            name, equals, file = one.partition("=")
            if not equals or not file:
                raise typer.BadParameter(f"{one!r} is no NAME=FILE", param_hint=flag)
            if name in found:
                raise typer.BadParameter(f"{name!r} is given twice", param_hint=flag)
            found[name] = StoreUser(name=name, password=read_secret(Path(file)), access=access)
    if not found:
        raise typer.BadParameter("say who: --writer NAME=FILE, --reader NAME=FILE", param_hint="--writer")
    return list(found.values())


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ValueError) as exc:  # ssl.SSLError is an OSError
        raise Stop(Exit.CANNOT_START, f"{ca_file}: {exc.strerror if isinstance(exc, OSError) else exc}") from exc


def influxdb(
    url: Annotated[str, typer.Option("--url", metavar="URL", help="Where InfluxDB answers.")],
    token_file: Annotated[
        Path,
        typer.Option("--token-file", metavar="FILE", help="The administrator's token; for InfluxDB 1.8 user:password."),
    ],
    bucket: Annotated[str, typer.Option("--bucket", help="The bucket, or the database of InfluxDB 1.8.")],
    org: Annotated[str, typer.Option("--org", help="The bucket's organization; InfluxDB 1.8 has none.")] = "",
    writer: WriterOption = None,
    reader: ReaderOption = None,
    ca_file: CaOption = None,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Let users be there that may write one bucket, or read it, and nothing else.

    Passwords come from files. Giving it again changes nothing; with another password in a file the old one ends. What
    such a user could do beyond that before, it can do no more. In InfluxDB 2 they are authorizations for clients of 1.x
    ("v1 auth"), at /write and /query.

    \b
    Examples:
    headwater stores influxdb --url http://influxdb:8086 --token-file token --org headwater --bucket headwater \\
        --writer headwater-sink=sink.password --reader headwater-grafana=grafana.password
    """
    from connectors.influxdb_users import InfluxAdmin, ensure_users
    from connectors.sinks.influxdb import http_url
    from security.secrets import read_secret

    try:
        url = http_url(url)
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint="--url") from exc
    users = _users(writer, reader)
    tls = _tls(ca_file) if url.startswith("https:") else None
    admin = InfluxAdmin(url=url, token=read_secret(token_file), timeout=timeout, tls=tls)
    for line in ensure_users(admin, org=org, bucket=bucket, users=users):
        typer.echo(line)


def orientdb(
    host: Annotated[str, typer.Option("--host", help="Where OrientDB listens with HTTP.")],
    password_file: Annotated[
        Path, typer.Option("--password-file", metavar="FILE", help="The password of the server's user.")
    ],
    database: Annotated[str, typer.Option("--database", help="The database; it is made if it is not there.")],
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="OrientDB's HTTP port.")] = 2480,
    user: Annotated[str, typer.Option("--user", help="A user of the server, who may make databases.")] = "root",
    writer: WriterOption = None,
    reader: ReaderOption = None,
    tls: Annotated[bool, typer.Option("--tls", help="Speak HTTPS.")] = False,
    ca_file: CaOption = None,
    timeout: TimeoutOption = 30.0,
) -> None:
    """Let users be there that may keep the asset graph in one database, or read it, and nothing else.

    Makes the database and the classes of the graph too, which such a user may not. Passwords come from files. Giving it
    again changes nothing; with another password in a file the old one ends.

    \b
    Examples:
    headwater stores orientdb --host orientdb --password-file root.password --database headwater \\
        --writer headwater-sink=sink.password
    """
    from connectors.orientdb_users import OrientAdmin, ensure_users
    from security.secrets import read_secret

    users = _users(writer, reader)
    context = _tls(ca_file) if tls or ca_file is not None else None
    admin = OrientAdmin(
        host=host, port=port, user=user, password=read_secret(password_file), timeout=timeout, tls=context
    )
    for line in ensure_users(admin, database=database, users=users):
        typer.echo(line)
