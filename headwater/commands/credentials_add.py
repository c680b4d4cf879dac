"""``headwater credentials add``: one credential, given in a file or made here and shown once."""

from __future__ import annotations

import secrets
import sys
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headwater.commands.credentials_shown import STORE, StoreOption, as_json, from_stdin
from headwater.exits import Exit, Stop
from headwater.options import Output, OutputOption, endpoint_name

if TYPE_CHECKING:
    from security.credentials.kinds import Credential
    from security.credentials.making import Made


class AeadName(Enum):
    """`security.credentials.kinds.Aead` as people type it; its own class so that the help loads nothing."""

    AES_CCM_16_64_128 = "AES-CCM-16-64-128"
    AES_CCM_16_64_256 = "AES-CCM-16-64-256"
    AES_CCM_64_64_128 = "AES-CCM-64-64-128"
    AES_CCM_16_128_128 = "AES-CCM-16-128-128"
    AES_CCM_16_128_256 = "AES-CCM-16-128-256"
    AES_GCM_128 = "AES-GCM-128"
    AES_GCM_192 = "AES-GCM-192"
    AES_GCM_256 = "AES-GCM-256"
    CHACHA20_POLY1305 = "ChaCha20/Poly1305"


class HkdfName(Enum):
    """`security.credentials.kinds.Hkdf`, likewise."""

    SHA_256 = "HKDF-SHA-256"
    SHA_512 = "HKDF-SHA-512"


def add(
    endpoint: Annotated[
        str,
        typer.Argument(
            metavar="ENDPOINT", parser=endpoint_name, help="The name that it may register; a pattern such as 'lab-*'."
        ),
    ],
    psk: Annotated[bool, typer.Option("--psk", help="A pre-shared key.")] = False,
    rpk: Annotated[bool, typer.Option("--rpk", help="A raw public key: stored; a gateway speaks none.")] = False,
    x509: Annotated[bool, typer.Option("--x509", help="A certificate.")] = False,
    oscore: Annotated[bool, typer.Option("--oscore", help="OSCORE.")] = False,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="The key (hex or base64:…), public key or certificate (PEM or DER); - is stdin. Else made here.",
        ),
    ] = None,
    identity: Annotated[
        str | None, typer.Option("--identity", metavar="ID", help="--psk: the PSK identity; else the endpoint's name.")
    ] = None,
    usage: Annotated[
        int | None,
        typer.Option(
            "--usage",
            min=0,
            max=3,
            help="--x509: 0 CA constraint, 1 service certificate constraint, 2 trust anchor, 3 (else) its own.",
        ),
    ] = None,
    subject: Annotated[
        str | None, typer.Option("--subject", metavar="NAME", help="--x509: the CN or SAN; else the endpoint's name.")
    ] = None,
    days: Annotated[
        int, typer.Option("--days", metavar="N", min=1, max=36500, help="--x509 made here: how long it holds.")
    ] = 3650,
    sender_id: Annotated[
        str | None, typer.Option("--sender-id", metavar="HEX", help="--oscore: the gateway's, or ''; else random.")
    ] = None,
    recipient_id: Annotated[
        str | None,
        typer.Option("--recipient-id", metavar="HEX", help="--oscore: the gateway's, or ''; else random."),
    ] = None,
    salt: Annotated[str | None, typer.Option("--salt", metavar="HEX", help="--oscore: the master salt.")] = None,
    id_context: Annotated[
        str | None, typer.Option("--id-context", metavar="HEX", help="--oscore: the ID Context.")
    ] = None,
    aead: Annotated[AeadName | None, typer.Option("--aead", help="--oscore; else AES-CCM-16-64-128.")] = None,
    hkdf: Annotated[HkdfName | None, typer.Option("--hkdf", help="--oscore; else HKDF-SHA-256.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Another key for an identity that is there.")] = False,
    store: StoreOption = STORE,
    output: OutputOption = Output.TABLE,
) -> None:
    """Let a device register, with a key that it has or one that is made here.

    What is made is printed, this once, alone on stdout. A key never goes onto the command line, where others on the
    machine see it: --from reads it from a file or stdin.

    The ids of --oscore are the gateway's: its recipient id is the device's sender id (object 21, resource 1).

    \b
    Examples:
    headwater credentials add sensor-1 --psk > sensor-1.key
    headwater credentials add sensor-2 --psk --identity 8a3f --from sensor-2.key
    headwater credentials add sensor-3 --rpk --from sensor-3.pub.pem
    headwater credentials add 'factory-*' --x509 --usage 2 --from factory-ca.pem
    headwater credentials add sensor-4 --oscore --recipient-id 01 --sender-id 02 --output json
    """
    from headwater.output import print_json
    from security.credentials.importing import conflict_words
    from security.credentials.opening import open_store, place_of
    from security.credentials.store import Done, Put

    kind = _kind(psk=psk, rpk=rpk, x509=x509, oscore=oscore)
    place = place_of(store)
    own = {
        "--identity": (identity, "--psk"),
        "--usage": (usage, "--x509"),
        "--subject": (subject, "--x509"),
        "--aead": (aead, "--oscore"),
        "--hkdf": (hkdf, "--oscore"),
        "--sender-id": (sender_id, "--oscore"),
        "--recipient-id": (recipient_id, "--oscore"),
        "--salt": (salt, "--oscore"),
        "--id-context": (id_context, "--oscore"),
    }
    for flag, (given, of) in own.items():
        if given is not None and of != kind:
            raise typer.BadParameter(f"{flag} goes with {of}", param_hint=flag)
    fields = {
        "--psk": {"identity": identity or ""},
        "--rpk": {},
        "--x509": {"usage": str(3 if usage is None else usage), "subject": subject or ""},
        "--oscore": {
            "master_salt": salt or "",
            "id_context": id_context or "",
            "aead": (aead or AeadName.AES_CCM_16_64_128).value,
            "hkdf": (hkdf or HkdfName.SHA_256).value,
        }
        | {name: one for name, one in (("sender_id", sender_id), ("recipient_id", recipient_id)) if one is not None},
    }[kind]
    made = None if source is not None else _make(kind, endpoint, fields, days)
    credential = made.credential if made is not None else _given(kind, endpoint, fields, source or "")
    opened = open_store(place, make=True)
    (outcome,) = opened.put([credential], Put.ALL if replace else Put.NEW)
    if outcome.done is Done.CONFLICT:
        if outcome.holder == endpoint:
            words = f"{endpoint} has the {credential.id} already, with another key: --replace gives it this one"
        else:
            words = conflict_words(credential, outcome.holder)
        raise Stop(Exit.USAGE, words)
    if output is Output.JSON:
        row = as_json(credential, opened.salt) | {"done": outcome.done.value}
        print_json(row if made is None else row | {"secret": made.secret.reveal()})
        return
    if made is not None:
        # Alone on stdout, so that it can go into a file without being seen.
        typer.echo(made.secret.reveal().rstrip("\n"))
    what = (
        f"{endpoint} has the {credential.id}; it is stored, but a gateway does not speak raw public keys"
        if kind == "--rpk"
        else f"{endpoint} may register with the {credential.id}"
    )
    told = f"{outcome.done.value}: {what}; it is in {place}"
    typer.echo(told + _beside(credential) + ("; the key is not shown again" if made is not None else ""), err=True)


def _kind(**given: bool) -> str:
    chosen = [f"--{name}" for name, is_given in given.items() if is_given]
    if len(chosen) != 1:
        raise typer.BadParameter("say which, and only one: --psk, --rpk, --x509 or --oscore", param_hint="--psk")
    return chosen[0]


def _make(kind: str, endpoint: str, fields: dict[str, str], days: int) -> Made:
    from security.credentials import making
    from security.credentials.encodings import bytes_of
    from security.credentials.fields import aead_named, hkdf_named, psk_identity

    now, random = datetime.now(UTC), secrets.token_bytes
    if kind == "--psk":
        identity = psk_identity(endpoint, fields["identity"] or None)
        return making.new_psk(endpoint, identity, now=now, random=random)
    if kind == "--rpk":
        return making.new_rpk(endpoint, now=now)
    if kind == "--x509":
        if fields["usage"] != "3" or fields["subject"]:
            raise typer.BadParameter(
                "it is made elsewhere: --from has the certificate", param_hint="--usage, --subject"
            )
        return making.new_x509(endpoint, now=now, days=days)
    ids = {name: bytes_of(name, fields[name]) for name in ("sender_id", "recipient_id") if name in fields}
    return making.new_oscore(
        endpoint,
        now=now,
        random=random,
        sender_id=ids.get("sender_id"),
        recipient_id=ids.get("recipient_id"),
        master_salt=bytes_of("master salt", fields["master_salt"]),
        id_context=bytes_of("ID Context", fields["id_context"]) if fields["id_context"] else None,
        aead=aead_named(fields["aead"]),
        hkdf=hkdf_named(fields["hkdf"]),
    )


def _given(kind: str, endpoint: str, fields: dict[str, str], source: str) -> Credential:
    """The credential whose key or certificate is in a file or on stdin."""
    from security.credentials.encodings import certificate_of, public_key_of
    from security.credentials.fields import credential_of
    from security.secrets import MAX_BYTES, read_bounded, read_secret

    secret = kind in ("--psk", "--oscore")
    if source == "-" and secret and sys.stdin.isatty():
        data = typer.prompt("key", hide_input=True, err=True).encode()
    elif source == "-":
        data = from_stdin(MAX_BYTES)
    else:
        data = read_secret(Path(source)).reveal().encode() if secret else read_bounded(Path(source))
    match kind:
        case "--rpk":
            own = {"public_key": public_key_of(data).hex()}
        case "--x509":
            own = {"certificate": certificate_of(data).hex()}
        case "--psk":
            own = {"key": _text(data)}
        case _:
            own = {"master_secret": _text(data)}
    if kind == "--oscore" and not {"sender_id", "recipient_id"} <= fields.keys():
        raise typer.BadParameter(
            "the device knows its ids: --sender-id and --recipient-id say them", param_hint="--sender-id"
        )
    kind_name = kind.removeprefix("--")
    return credential_of(fields | own | {"endpoint": endpoint, "kind": kind_name}, datetime.now(UTC))


def _text(data: bytes) -> str:
    # What is no text is no hex either; the words for it are those of `bytes_of`.
    return data.decode("ascii", "replace")


def _beside(credential: Credential) -> str:
    """What the device must know too, and is no secret."""
    from security.credentials.kinds import Oscore

    if not isinstance(credential, Oscore):
        return ""
    context = "" if credential.id_context is None else f", ID Context {credential.id_context.hex()}"
    return (
        f"; the device's sender id is {credential.recipient_id.hex() or 'empty'}, its recipient id "
        f"{credential.sender_id.hex() or 'empty'}{context}"
    )
