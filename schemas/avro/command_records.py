"""The records of ``iot.<gw>.commands``: where each command stands that was not answered at once.

Frozen, as those of `schemas.avro.records`, and their way to and from the plain dicts that fastavro writes and reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

Fields = dict[str, Any]


class CommandPhase(Enum):
    """AvroCommandState."""

    #: Stored at the gateway, to be sent when the device can hear it.
    QUEUED = "QUEUED"
    #: With the device; its answer is awaited.
    SENT = "SENT"
    #: By the device, be it with an error.
    ANSWERED = "ANSWERED"
    #: Not answered in its time.
    EXPIRED = "EXPIRED"
    #: Ended without an answer of the device.
    FAILED = "FAILED"

    @property
    def is_final(self) -> bool:
        """True if nothing comes after it: the command has its reply."""
        return self not in (CommandPhase.QUEUED, CommandPhase.SENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandKey:
    """AvroCommandKey; ``request`` is the request's identity, hexadecimal."""

    ep: str
    request: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandStatus:
    """AvroCommandStatus. Times are epoch ms; ``kind`` is a value of RequestKind."""

    server_id: str
    ep: str
    ticket: str
    kind: str
    path: str
    state: CommandPhase
    since: int
    received: int
    expires: int
    attempts: int
    message: str


CommandRecord = CommandKey | CommandStatus


def key_fields(record: CommandKey) -> Fields:
    return {"ep": record.ep, "request": record.request}


def key_record(fields: Fields) -> CommandKey:
    return CommandKey(ep=fields["ep"], request=fields["request"])


def status_fields(record: CommandStatus) -> Fields:
    return {
        "serverId": record.server_id,
        "ep": record.ep,
        "ticket": record.ticket,
        "kind": record.kind,
        "path": record.path,
        "state": record.state._value_,
        "since": record.since,
        "received": record.received,
        "expires": record.expires,
        "attempts": record.attempts,
        "message": record.message,
    }


def status_record(fields: Fields) -> CommandStatus:
    return CommandStatus(
        server_id=fields["serverId"],
        ep=fields["ep"],
        ticket=fields["ticket"],
        kind=fields["kind"],
        path=fields["path"],
        state=CommandPhase(fields["state"]),
        since=fields["since"],
        received=fields["received"],
        expires=fields["expires"],
        attempts=fields["attempts"],
        message=fields["message"],
    )
