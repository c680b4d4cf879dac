"""``headwater credentials``: the keys and certificates with which devices may register; listing, removing, importing.

`headwater.commands.credentials_add` makes and adds one.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.commands.base import ask, command
from headwater.commands.credentials_add import add
from headwater.commands.credentials_shown import STORE, StoreOption, as_json, from_stdin, print_table
from headwater.exits import Exit
from headwater.options import Output, OutputOption, endpoint_name

if TYPE_CHECKING:
    from security.credentials.importing import Report
    from security.credentials.opening import StorePlace

YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def register(app: typer.Typer) -> None:
    """Add the group to ``app``."""
    credentials = typer.Typer(
        help="Credentials of devices: pre-shared keys, public keys, certificates, OSCORE.", no_args_is_help=True
    )
    for name, function in (("add", add), ("list", list_), ("remove", remove), ("import", import_)):
        command(credentials, name, group="credentials")(function)
    app.add_typer(credentials, name="credentials", rich_help_panel="Security")


def list_(
    endpoint: Annotated[
        str | None,
        typer.Argument(
            metavar="[ENDPOINT]", parser=endpoint_name, help="Only those with which a device may register as this one."
        ),
    ] = None,
    store: StoreOption = STORE,
    output: OutputOption = Output.TABLE,
) -> None:
    """List the credentials; never a key.

    The fingerprint of a public key or certificate is its SHA-256, as openssl says it. That of a secret key tells, in
    this store only, whether two are the same; nobody can try out keys with it.

    \b
    Examples:
    headwater credentials list
    headwater credentials list sensor-1
    headwater credentials list --output json | jq '.[] | select(.kind == "psk") | .identity'
    """
    from headwater.output import print_json
    from security.credentials.opening import open_store, place_of

    found = open_store(place_of(store))
    rows = [as_json(one, found.salt) for one in (found if endpoint is None else found.of_endpoint(endpoint))]
    if output is Output.JSON:
        print_json(rows)
    else:
        print_table(rows)


def remove(
    endpoint: Annotated[
        str,
        typer.Argument(metavar="ENDPOINT", parser=endpoint_name, help="The endpoint or pattern, just as it is listed."),
    ],
    identity: Annotated[
        str | None, typer.Option("--identity", metavar="ID", help="Only the one of this identity, as it is listed.")
    ] = None,
    yes: YesOption = False,
    store: StoreOption = STORE,
    output: OutputOption = Output.TABLE,
) -> None:
    """Remove credentials of an endpoint: all, or the one of an identity. Asks first, unless --yes.

    A gateway that uses the store ends the sessions that were made with them.

    \b
    Examples:
    headwater credentials remove sensor-1
    headwater credentials remove sensor-1 --identity sensor-1-2025 --yes
    headwater credentials remove 'factory-*' --yes
    """
    from headwater.output import print_json
    from security.credentials.opening import open_store, place_of
    from security.errors import NoSuchCredential

    place = place_of(store)
    opened = open_store(place)
    own = [one for one in opened.of_endpoint(endpoint) if one.endpoint == endpoint]
    chosen = [one for one in own if identity is None or one.id.name == identity]
    if not chosen:
        known = "; ".join(f"{one.id.kind.value} {one.id.name}" for one in own)
        what = (
            f"no identity {identity!r:.120}: there are {known}" if own else "none: headwater credentials list has all"
        )
        raise NoSuchCredential(f"{place} has of {endpoint!r:.120} {what}")
    ask(yes, f"This removes {len(chosen)} of {endpoint}: " + ", ".join(str(one.id) for one in chosen))
    removed = opened.remove([one.id for one in chosen])
    if output is Output.JSON:
        print_json([as_json(one, opened.salt) for one in removed])
    else:
        for one in removed:
            typer.echo(f"removed {one.endpoint}: {one.id}")


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV or JSON; - is stdin.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would become of each.")] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Store what can be stored; otherwise all is, or nothing.")
    ] = False,
    store: StoreOption = STORE,
    output: OutputOption = Output.TABLE,
) -> None:
    """Take up many credentials at once; twice is as once.

    CSV begins with the names of its columns, JSON is a list of objects with these names: endpoint (or a pattern) and
    kind; for psk identity (else the endpoint) and key; for rpk public_key; for x509 certificate, usage (else 3),
    subject; for oscore master_secret, master_salt, sender_id and recipient_id (the gateway's), id_context, aead, hkdf.
    Bytes are hex, or base64:…; a key or certificate may also be PEM.

    An identity that is there for the same endpoint is changed, and for another one refused. Exit code: 2 if nothing was
    stored because of rows that cannot be, 1 if --skip-bad left some out.

    \b
    Examples:
    headwater credentials import devices.csv --dry-run
    headwater credentials import devices.json --skip-bad --output json
    ssh factory cat batch-7.csv | headwater credentials import -
    \b
    devices.csv:
    endpoint,kind,identity,key
    sensor-1,psk,,000102030405060708090a0b0c0d0e0f
    factory-*,psk,batch-7,base64:AAECAwQFBgcICQoLDA0ODw==
    """
    from security.credentials.importing import MOST_BYTES, Bad, bring_in, read
    from security.credentials.opening import open_store, place_of
    from security.errors import InvalidCredential, StoreMissing

    shown = "stdin" if str(file) == "-" else str(file)
    if str(file) == "-":
        data = from_stdin(MOST_BYTES)
    else:
        with file.open("rb") as opened:
            data = opened.read(MOST_BYTES + 1)
    try:
        found = read(data, datetime.now(UTC))
    except InvalidCredential as exc:
        raise InvalidCredential(f"{shown}: {exc}; nothing was stored") from None
    # What cannot be stored makes no store either.
    make = not dry_run and (skip_bad or not found.refused)
    place = place_of(store)
    try:
        into = open_store(place, make=make)
    except StoreMissing:
        into = None
    report = bring_in(into, found, bad=Bad.SKIP if skip_bad else Bad.REFUSE_ALL, trial=dry_run)
    _tell(report, shown, place, dry_run=dry_run, output=output)
    if report.refused:
        raise typer.Exit(Exit.REFUSED if skip_bad else Exit.USAGE)


def _tell(report: Report, shown: str, store: StorePlace, *, dry_run: bool, output: Output) -> None:
    from headwater.output import print_json
    from headwater.terminal import printable

    if output is Output.JSON:
        content: dict[str, Any] = {
            "stored": report.stored,
            "added": len(report.added),
            "unchanged": len(report.unchanged),
            "changed": len(report.changed),
            "refused": len(report.refused),
            "changedLines": report.changed,
            "refusedLines": [{"line": one.line, "why": one.why} for one in report.refused],
        }
        print_json(content)
        return
    for one in report.refused:
        typer.echo(printable(f"{shown}, line {one.line}: {one.why}"), err=True)
    counts = ", ".join(
        f"{len(lines)} {word}"
        for word, lines in (
            ("added", report.added),
            ("unchanged", report.unchanged),
            ("changed", report.changed),
            ("refused", report.refused),
        )
    )
    lines = f" (changed: lines {', '.join(map(str, report.changed))})" if report.changed else ""
    if report.stored:
        typer.echo(f"{counts}{lines}; in {store}")
    elif dry_run:
        typer.echo(f"would be: {counts}{lines}; nothing was stored")
    else:
        typer.echo(
            f"would be: {counts}{lines}; nothing was stored, because of what is refused: mend it, or --skip-bad leaves "
            "it out"
        )
    sys.stdout.flush()
