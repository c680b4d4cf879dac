"""A command: a request on its way from the requests topic to its reply.

What a command that waits asks for lies in the state file alone once it is there: in memory is half a kilobyte of it,
however large the request is.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.state import CommandState, Positions, StoredCommand
from schemas.avro.compiled_requests import decode_request
from schemas.avro.records import CommandPhase, Request, RequestKind


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
    #: The record's value; empty while only the state file has it, and when there is a reply.
    raw: bytes
    #: Its length, also then.
    size: int
    received_ms: int
    expires_ms: int | None
    #: When it is answered as expired if it was not sent: ``expires``, or the longest wait.
    deadline_ms: int
    ticket: str = ""
    kind: RequestKind = RequestKind.READ
    path: str = ""
    #: Decoded, unless it waits.
    request: Request | None = None
    #: Since when it waits, or is with the device; 0: since it was received.
    since_ms: int = 0
    #: How often it was sent, as far as this process knows: at least once where it was sent before the start.
    attempts: int = 0
    #: That which it keeps open.
    batch: Batch | None = None
    #: True while it is in the queue of its device.
    waits: bool = False
    #: True once the state file may have a row of it; once the row with its request is durable.
    recorded: bool = False
    on_disk: bool = False
    #: True while the topic of states has one of it that is not its last.
    told: bool = False
    #: How it ended, when it has a reply; in words that, or why it waits again.
    phase: CommandPhase = CommandPhase.ANSWERED
    words: str = ""
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


def understand(command: Command, request: Request) -> None:
    """Keep of the request what is needed without it."""
    command.ticket = request.ticket
    command.kind = request.payload.kind
    command.path = request.payload.path


def request_in(value: bytes) -> Request:
    """The request in the value of a record.

    Raises:
        SerdeError: there is none.
    """
    return decode_request(value)[0]
