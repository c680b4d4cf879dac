"""``headwater schemas``: the pinned schemas for people, as files, and as a registry that other programs ask."""

from __future__ import annotations

import ipaddress
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.commands.base import command
from headwater.exits import Exit, Stop
from headwater.options import (
    MetricsHostOption,
    MetricsKeysOption,
    MetricsOption,
    Output,
    OutputOption,
    gateway_id,
)

if TYPE_CHECKING:
    from schemas.avro.registry import Schema


def register(app: typer.Typer) -> None:
    """Add the group to ``app``."""
    schemas = typer.Typer(help="The schemas of the records, by their pinned ids.", no_args_is_help=True)
    command(schemas, "list", group="schemas")(list_)
    command(schemas, "show", group="schemas")(show)
    command(schemas, "export", group="schemas")(export)
    command(schemas, "serve", group="schemas", logs=True)(serve)
    app.add_typer(schemas, name="schemas", rich_help_panel="Records")


def list_(output: OutputOption = Output.TABLE) -> None:
    """List the schemas with their ids, subjects and versions. An id never means another schema.

    \b
    Examples:
    headwater schemas list
    headwater schemas list -o json | jq -r '.[].subject'
    """
    from headwater.output import console, print_json, table
    from schemas.avro.registry import SCHEMAS

    every = sorted(SCHEMAS.values(), key=lambda one: one.id)
    if output is Output.JSON:
        print_json([_facts(schema) for schema in every])
    else:
        rows = [(str(one.id), one.subject, str(one.version), one.record) for one in every]
        console().print(table(("id", "subject", "version", "record"), rows))


def show(
    what: Annotated[
        str, typer.Argument(metavar="ID|SUBJECT", help="An id, or a subject (also of a gateway's topic): its newest.")
    ],
    output: OutputOption = Output.TABLE,
) -> None:
    """Show a schema.

    \b
    Examples:
    headwater schemas show 6
    headwater schemas show iot.rock64.observations-value -o json | jq .schema
    """
    import json

    from headwater.output import console, print_json, table
    from schemas.avro.registry import SCHEMAS
    from schemas.avro.subjects import SUBJECTS, family_of

    family = family_of(what)
    schema = SUBJECTS[family][-1] if family is not None else SCHEMAS.get(int(what)) if what.isdecimal() else None
    if schema is None:
        raise Stop(Exit.USAGE, f"there is no schema {what}; `headwater schemas list` shows which there are")
    if output is Output.JSON:
        print_json(_facts(schema) | {"schema": json.loads(schema.text)})
    else:
        facts = [(name, str(value)) for name, value in _facts(schema).items()]
        console().print(table(("", ""), facts))
        typer.echo(schema.text.rstrip())


def export(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where the files go; made if it is not there.")],
    latest: Annotated[bool, typer.Option("--latest", help="Only the newest version of each subject.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Write the schemas as .avsc files, with ids.json beside them, for programs in other languages.

    \b
    Examples:
    headwater schemas export src/main/avro --latest
    """
    import json

    from headwater.output import console, print_json, table
    from schemas.avro.subjects import SUBJECTS

    chosen = [one for versions in SUBJECTS.values() for one in (versions[-1:] if latest else versions)]
    chosen.sort(key=lambda one: one.id)
    directory.mkdir(parents=True, exist_ok=True)
    for schema in chosen:
        (directory / schema.file).write_text(schema.text, encoding="utf-8")
    ids = [_facts(schema) for schema in chosen]
    (directory / "ids.json").write_text(json.dumps(ids, indent=2) + "\n", encoding="utf-8")
    if output is Output.JSON:
        print_json([str(directory / name) for name in (*(one.file for one in chosen), "ids.json")])
    else:
        console().print(table(("id", "file"), [(str(one.id), str(directory / one.file)) for one in chosen]))


def serve(
    host: Annotated[str, typer.Option("--host", metavar="HOST", help="The address that it binds to.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", metavar="PORT", min=0, max=65535, help="Its port; 0 takes a free one.")
    ] = 8081,
    keys: Annotated[
        Path | None,
        typer.Option("--keys", metavar="FILE", help="API keys; one with the scope schemas:read is asked for."),
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Without keys; on this machine's own address only.")
    ] = False,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="With --no-auth: on any address, so for everybody who reaches it.")
    ] = False,
    tls: Annotated[
        Path | None,
        typer.Option("--tls", metavar="DIR", help="HTTPS, with cert.pem and key.pem of this folder."),
    ] = None,
    gateway: Annotated[
        list[str] | None,
        typer.Option("--gateway", metavar="GW", parser=gateway_id, help="List the subjects of its topics too."),
    ] = None,
    metrics: MetricsOption = None,
    metrics_host: MetricsHostOption = "127.0.0.1",
    metrics_keys: MetricsKeysOption = None,
) -> None:
    """Serve the schemas, read-only, as Confluent's Schema Registry does, for consumers in any language.

    Clients send the key as a bearer token, or as the password of basic authentication (basic.auth.user.info=x:KEY).

    \b
    Examples:
    headwater schemas serve --no-auth
    headwater apikeys create consumers --scope schemas:read
    headwater schemas serve --host 0.0.0.0 --keys .headwater/apikeys.json --tls certs/schemas
    """
    import structlog

    from cloud.schema_server import SchemaServerSettings, run
    from headwater.running import run_thread_until_stopped

    _who_may_ask(host, keys, no_auth=no_auth, insecure=insecure)
    settings = SchemaServerSettings(
        host=host,
        port=port,
        keys=keys,
        tls=tls,
        gateways=tuple(gateway or ()),
        metrics_port=metrics,
        metrics_host=metrics_host,
        metrics_keys=metrics_keys,
    )
    log = structlog.get_logger("headwater.schemas")

    def started(taken: int) -> None:
        shown = f"[{host}]" if ":" in host else host
        log.info("the schemas are served", url=f"{'http' if tls is None else 'https'}://{shown}:{taken}")
        if keys is not None and tls is None and not _is_loopback(host):
            log.warning("API keys come over plain HTTP: whoever is on the way can read them", do="--tls DIR")

    def work(stop: threading.Event) -> None:
        run(settings, stop, started)

    try:
        run_thread_until_stopped(work)
    except OSError as exc:
        where = exc.filename or f"{host}:{port}"
        raise Stop(
            Exit.CANNOT_START,
            f"the schemas cannot be served ({where}): {exc.strerror or exc}; if the port is taken, choose another with "
            "--port (or --metrics)",
        ) from exc


def _who_may_ask(host: str, keys: Path | None, *, no_auth: bool, insecure: bool) -> None:
    """Refuse what would let in more people than was said.

    Raises:
        Stop: it is not said who may ask, it is said twice, or everybody may on an address that others reach.
    """
    if keys is not None and no_auth:
        raise Stop(Exit.USAGE, "--keys and --no-auth exclude each other")
    if insecure and not no_auth:
        raise Stop(Exit.USAGE, "--insecure is for --no-auth; with --keys leave it out")
    if keys is None and not no_auth:
        raise Stop(
            Exit.USAGE,
            "say who may ask: --keys FILE (headwater apikeys create NAME --scope schemas:read makes one), or --no-auth "
            "for everybody on this machine",
        )
    if no_auth and not insecure and not _is_loopback(host):
        raise Stop(
            Exit.USAGE,
            f"--no-auth on {host or 'every address'} would let in everybody who reaches this machine: use --keys FILE, "
            "or --host 127.0.0.1, or say --insecure too",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _facts(schema: Schema) -> dict[str, Any]:
    return {
        "id": schema.id,
        "subject": schema.subject,
        "version": schema.version,
        "record": schema.record,
        "file": schema.file,
        "fingerprint": schema.fingerprint,
    }
