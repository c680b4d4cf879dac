"""A command: a request on its way from the requests topic to its reply."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from gateway.state import CommandState, Positions, StoredCommand
from schemas.avro.records import Request
from schemas.avro.serde import MalformedRecord, decode


@dataclass(slots=True, eq=False)
class Batch:
    """Requests that were read together."""

    #: Where to go on behind them, and how many they were.
    positions: Positions
    records: int
    #: Seconds, monotonic.
    since: float
    #: Those that have begun, in order.
    waiting: list[Command] = field(default_factory=list)
    #: How many things keep the requests topic from being done with up to here.
    open: int = 1


@dataclass(slots=True, eq=False)
class Command:
    """A request on its way from the topic to its reply."""

    identity: bytes
    #: Which record of the topic it is: see `gateway.request_records.occurrence_of`.
    occurrence: int
    sequence: int
    ep: str
    raw: bytes
    received_ms: int
    expires_ms: int | None
    #: When it is answered as expired if it was not sent: ``expires``, or the longest wait.
    deadline_ms: int
    ticket: str = ""
    #: Decoded, unless it waits.
    request: Request | None = None
    timer: asyncio.TimerHandle | None = None
    #: That which it keeps open.
    batch: Batch | None = None
    #: True once the state file may have a row of it.
    recorded: bool = False
    #: The same request, sent again before it was known whether this one was answered.
    repetition: Command | None = None
    #: True once a command that must not be repeated may have left.
    sent: bool = False
    reply: bytes | None = None
    #: False when it was certainly not sent: then the reply is not kept.
    keep: bool = True
    #: True when the reply is durable in Kafka, and when the state need not hear of it.
    published: bool = False
    stored: bool = False

    def cancel_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    @property
    def request_id(self) -> bytes:
        """What the reply is marked with."""
        return self.identity + self.occurrence.to_bytes(8, "big")

    def row(self, state: CommandState) -> StoredCommand:
        """The command as the state file keeps it."""
        return StoredCommand(
            sequence=self.sequence,
            identity=self.identity,
            occurrence=self.occurrence,
            ticket=self.ticket,
            ep=self.ep,
            request=self.raw,
            state=state,
            received_ms=self.received_ms,
            expires_ms=self.expires_ms,
        )


def request_in(value: bytes) -> Request:
    """The request in the value of a record.

    Raises:
        SerdeError: there is none.
    """
    record = decode(value)
    if not isinstance(record, Request):
        raise MalformedRecord(f"a {type(record).__name__} is no request")
    return record
