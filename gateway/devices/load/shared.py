"""What all devices of a load have in common: what is to be done, to whom it is told, and the parts of messages."""

from __future__ import annotations

import random
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, auto
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

from gateway.coap.exchanges import RequestLog
from gateway.coap.message import Code, Option, build, uint
from gateway.devices.load.content import Content, Payload
from gateway.devices.load.plan import Kind, Plan, Share
from gateway.devices.load.samples import Ledger, Recorder, Sample
from schemas.lwm2m.formats import ContentFormat

if TYPE_CHECKING:
    from gateway.devices.load.device import Device


class Reads(Protocol):
    """Who asks the gateway to read a device, and hands back what came of it."""

    def ask(self, ticket: str, endpoint: str, path: str) -> None:
        """Have it read; must not wait."""


class Doing(IntEnum):
    """What the open sample is; a number, as the hash of another enumeration is worked out in Python each time."""

    NOTHING = auto()
    HANDSHAKE = auto()
    REGISTER = auto()
    OBSERVE = auto()
    UPDATE = auto()
    NOTIFY = auto()
    SEND = auto()
    ANSWER = auto()
    DEREGISTER = auto()


LABELS = {
    Doing.HANDSHAKE: "DTLS handshake",
    Doing.REGISTER: "register",
    Doing.OBSERVE: "observe",
    Doing.UPDATE: "update",
    Doing.SEND: "send",
    Doing.ANSWER: "answer",
    Doing.DEREGISTER: "deregister",
}
EXPECTED = {
    Doing.REGISTER: Code.CREATED,
    Doing.UPDATE: Code.CHANGED,
    Doing.SEND: Code.CHANGED,
    Doing.DEREGISTER: Code.DELETED,
}


@dataclass(slots=True, kw_only=True)
class Load:
    """What all devices of a load have in common. ``offset`` makes epoch seconds of monotonic ones."""

    plan: Plan
    content: Content
    recorder: Recorder
    #: None: nobody asks what becomes of the values.
    ledger: Ledger | None
    reads: Reads | None
    offset: float
    #: Calls `Device.step` at that time, or at the next turn of the loop; and hears that a device is done.
    wait: Callable[[float, Device], None]
    turn: Callable[[Device], None]
    done: Callable[[Device], None]
    #: Marks the tickets of this run.
    run: str
    random: random.Random = field(default_factory=random.Random)
    #: True once no device begins anything but to leave.
    ending: bool = False
    #: What was noticed beside the samples.
    counts: Counter[str] = field(default_factory=Counter)
    seen: RequestLog = field(init=False)
    weights: list[int] = field(init=False)
    send_body: bytes = field(init=False)
    send_payload: Payload = field(init=False)
    path: str = field(init=False)
    only_registers: bool = field(init=False)
    only_notifies: bool = field(init=False)
    record: Callable[[Sample], None] = field(init=False)

    def __post_init__(self) -> None:
        self.seen = RequestLog(peers=self.plan.threads + 1)
        self.weights = list(accumulate(one.weight for one in self.plan.shares))
        self.path = str(self.plan.path)
        self.only_registers = all(one.kind is Kind.REGISTER for one in self.plan.shares)
        self.only_notifies = [one.kind for one in self.plan.shares] == [Kind.NOTIFY]
        self.record = self.recorder.record
        options = [(Option.URI_PATH, b"dp"), (Option.CONTENT_FORMAT, uint(ContentFormat.SENML_CBOR))]
        self.send_body = option_bytes(options) + b"\xff"
        self.send_payload = self.content.payload(ContentFormat.SENML_CBOR)

    def share(self) -> Share:
        """Which kind comes next, by the weights."""
        weights = self.weights
        if len(weights) == 1:
            return self.plan.shares[0]
        return self.plan.shares[bisect(weights, self.random.random() * weights[-1])]


def option_bytes(options: Sequence[tuple[int, bytes]]) -> bytes:
    """The options of a message, as they stand behind its token."""
    return build(0, 0, 0, b"", list(options))[4:]
