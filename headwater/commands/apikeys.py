"""``headwater apikeys``: the keys with which programs ask Headwater over HTTP."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.commands.base import command
from headwater.options import Output, OutputOption

if TYPE_CHECKING:
    from security.api_keys import ApiKey

FILE = Path(".headwater/apikeys.json")


class KeyScope(Enum):
    """`security.api_keys.Scope` as people type it; its own class so that the help loads nothing."""

    SCHEMAS_READ = "schemas:read"
    METRICS_READ = "metrics:read"
    DEVICES_READ = "devices:read"
    COMMANDS_WRITE = "commands:write"


_SPAN = re.compile(r"([1-9][0-9]{0,4})([hdw])")
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is, such as prometheus.")]
FileOption = Annotated[Path, typer.Option("--file", metavar="FILE", help="The file of the keys' hashes.")]


def register(app: typer.Typer) -> None:
    """Add the group to ``app``."""
    keys = typer.Typer(help="API keys for HTTP: named, with scopes, revocable.", no_args_is_help=True)
    for name, function in (("create", create), ("list", list_), ("revoke", revoke)):
        command(keys, name, group="apikeys")(function)
    app.add_typer(keys, name="apikeys", rich_help_panel="Security")


def _span(text: str) -> timedelta:
    found = _SPAN.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is no time such as 12h, 90d or 52w")
    return int(found[1]) * _UNITS[found[2]]


def create(
    name: NameArgument,
    scope: Annotated[list[KeyScope], typer.Option("--scope", help="What it opens; repeatable.")],
    expires: Annotated[
        timedelta | None,
        typer.Option("--expires", metavar="TIME", parser=_span, help="It ends so long from now: 12h, 90d, 52w."),
    ] = None,
    file: FileOption = FILE,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a key and print it. It is shown this once: the file holds its hash only.

    A server that reads the file takes the new key at once. The file may be a Swarm secret.

    \b
    Examples:
    headwater apikeys create consumers --scope schemas:read --expires 52w
    headwater apikeys create prometheus --scope metrics:read > prometheus.key
    """
    from headwater.output import print_json
    from security.api_keys import Scope, add, new_key

    now = datetime.now(UTC)
    scopes = frozenset(Scope(one.value) for one in scope)
    key, row = new_key(name, scopes, now=now, expires=None if expires is None else now + expires)
    add(file, row)
    if output is Output.JSON:
        print_json(_as_json(row, now) | {"key": key})
    else:
        # The key alone on stdout, so that it can go into a file without being seen.
        typer.echo(key)
        until = "" if row.expires is None else f", until {row.expires:%Y-%m-%d %H:%M} UTC"
        opens = ", ".join(sorted(one.value for one in row.scopes))
        typer.echo(f"That is the key {name} ({opens}{until}); it is not shown again. Its hash is in {file}.", err=True)


def list_(file: FileOption = FILE, output: OutputOption = Output.TABLE) -> None:
    """List the keys: names, scopes, until when. The keys themselves are nowhere.

    \b
    Examples:
    headwater apikeys list
    """
    from headwater.output import console, print_json, table
    from security.api_keys import read_keys

    now = datetime.now(UTC)
    rows = [_as_json(key, now) for key in read_keys(file)]
    if output is Output.JSON:
        print_json(rows)
    else:
        cells = [
            (row["name"], ", ".join(row["scopes"]), row["state"], row["created"], row["expires"] or "never")
            for row in rows
        ]
        console().print(table(("name", "scopes", "state", "created", "expires"), cells))


def revoke(name: NameArgument, file: FileOption = FILE, output: OutputOption = Output.TABLE) -> None:
    """End a key at once. Whoever still sends it is refused with 401.

    Where the file was handed out as a secret, hand it out again.

    \b
    Examples:
    headwater apikeys revoke consumers
    """
    from headwater.output import print_json
    from security import api_keys

    now = datetime.now(UTC)
    row = api_keys.revoke(file, name, now)
    if output is Output.JSON:
        print_json(_as_json(row, now))
    else:
        typer.echo(f"the key {name} opens nothing any more")


def _as_json(key: ApiKey, now: datetime) -> dict[str, Any]:
    state = "valid" if key.is_valid(now) else "revoked" if key.revoked is not None else "expired"
    return {
        "name": key.name,
        "scopes": sorted(scope.value for scope in key.scopes),
        "state": state,
        "created": _shown(key.created),
        "expires": _shown(key.expires),
        "revoked": _shown(key.revoked),
    }


def _shown(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")
