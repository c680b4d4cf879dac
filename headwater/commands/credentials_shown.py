"""What the commands of ``headwater credentials`` share: the store's option, how a credential is shown, stdin."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from security.credentials.kinds import Credential

STORE = ".headwater/credentials.db"

StoreOption = Annotated[
    str,
    typer.Option(
        "--store",
        metavar="FILE|URL",
        help="The store: a file for its owner alone, or redis://HOST:PORT/DB, rediss://…. (HEADWATER_CREDENTIALS)",
    ),
]


def as_json(credential: Credential, salt: bytes) -> dict[str, Any]:
    """A credential without its key; the time is epoch milliseconds."""
    from security.credentials.kinds import X509, Oscore, fingerprint, is_pattern

    row: dict[str, Any] = {
        "endpoint": credential.endpoint,
        "pattern": is_pattern(credential.endpoint),
        "kind": credential.id.kind.value,
        "identity": credential.id.name,
        "created": int(credential.created.timestamp()) * 1000,
        "fingerprint": fingerprint(credential, salt),
    }
    match credential:
        case X509():
            row |= {"usage": credential.usage.value, "subject": credential.subject}
        case Oscore():
            row |= {
                "senderId": credential.sender_id.hex(),
                "recipientId": credential.recipient_id.hex(),
                "idContext": None if credential.id_context is None else credential.id_context.hex(),
                "aead": credential.aead.text,
                "hkdf": credential.hkdf.value,
            }
    return row


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """For people."""
    from headwater.output import console, table

    cells = [
        (
            row["endpoint"],
            row["kind"],
            row["identity"],
            f"{datetime.fromtimestamp(row['created'] / 1000, UTC):%Y-%m-%d %H:%M}",
            row["fingerprint"],
        )
        for row in rows
    ]
    console().print(table(("endpoint", "kind", "identity", "created (UTC)", "fingerprint"), cells))


def from_stdin(most: int) -> bytes:
    """All that comes on stdin, up to one byte more than ``most``."""
    stream = getattr(sys.stdin, "buffer", None)
    return stream.read(most + 1) if stream is not None else sys.stdin.read(most + 1).encode()
