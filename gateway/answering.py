"""From what came of a command to its one reply, durable in Kafka and then known to the state.

Owns the encoding of replies, their way into the replies topic (again and again until it takes them) and what the state
keeps of them. Every reply carries the header ``request.id``, by which a gateway that was killed knows what it has
answered (`gateway.recovery`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from gateway.command import Command, request_in
from gateway.command_states import CommandStates
from gateway.exchange import (
    CoapResponse,
    DeviceReset,
    DeviceView,
    Expired,
    ExpiredUnanswered,
    Failure,
    GatewayFault,
    NotRegistered,
    OutcomeUnknown,
    Overloaded,
    Refused,
    TimedOut,
)
from gateway.limits import Limits
from gateway.replies import reply
from gateway.state import State, StateOverloaded, StateUnavailable
from gateway.uplink import MOST_RECORD_BYTES
from schemas.avro.compiled import encode_reply
from schemas.avro.records import (
    CommandPhase,
    GenericBody,
    Request,
    RequestPayload,
    Response,
    ResponseCode,
    ResponsePayload,
)
from schemas.avro.serde import SerdeError, decode
from schemas.lwm2m.objects import Definitions

#: Header of every reply: `Command.request_id`, 16 bytes identity and 8 bytes occurrence of the request.
HEADER_REQUEST_ID: Final = "request.id"
#: Header of a reply that is not kept: the request was certainly not sent to the device.
HEADER_NOT_SENT: Final = "request.unsent"
#: Header of a reply that is not the device's own: how the request ended, a value of `CommandPhase`.
HEADER_STATE: Final = "request.state"
#: Header of a reply that was given before, to the same request.
HEADER_AGAIN: Final = "request.again"

Headers = list[tuple[str, bytes]]
Done = Callable[[bool], None]
#: Makes a reply durable: endpoint, value, headers; ``done`` is told how it went. False: not taken, to be tried again.
Publish = Callable[[str, bytes, Headers, Done], bool]

#: Failures after which the device has certainly not executed the request: their replies are not kept.
_NEVER_SENT = (NotRegistered, Expired, Refused, Overloaded, GatewayFault)

#: What the metrics call the end of a command, by what came of it; a device's answer is `_DONE` or `_DEVICE_ERROR`.
_OUTCOMES: Mapping[type, str] = {
    TimedOut: "timed_out",
    NotRegistered: "not_registered",
    Expired: "expired",
    ExpiredUnanswered: "expired",
    Refused: "refused",
    OutcomeUnknown: "outcome_unknown",
    DeviceReset: "device_reset",
    Overloaded: "overloaded",
    GatewayFault: "gateway_fault",
}
_DONE, _DEVICE_ERROR = "done", "device_error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A reply that is in the topic."""

    reply: bytes
    #: False when the request was certainly not sent to the device.
    sent: bool
    phase: CommandPhase = CommandPhase.ANSWERED


class Answering:
    """All replies on their way. ``settled`` is called when a command needs no more."""

    def __init__(
        self,
        *,
        server_id: str,
        state: State,
        definitions: Definitions,
        publish: Publish,
        states: CommandStates,
        settled: Callable[[Command], None],
        now_ms: Callable[[], int],
        limits: Limits,
    ) -> None:
        self._server_id = server_id
        self._state = state
        self._definitions = definitions
        self._publish = publish
        self._states = states
        self._settled = settled
        self._now_ms = now_ms
        self._limits = limits
        self._unpublished: list[Command] = []
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        #: Replies that are with Kafka; that are durable since the start.
        self.publishing = 0
        self.replied = 0
        #: Commands that came to their end since the start, by how.
        self.outcomes: Counter[str] = Counter(dict.fromkeys((_DONE, _DEVICE_ERROR, *_OUTCOMES.values()), 0))

    @property
    def unpublished(self) -> int:
        """Replies that Kafka does not take at present."""
        return len(self._unpublished)

    def close(self) -> None:
        """Try nothing again; what has no durable reply is taken up at the next start."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def finish(self, command: Command, outcome: CoapResponse | Failure, view: DeviceView | None) -> None:
        """Answer a command; ``view`` is the device as it was asked."""
        self.outcomes[_outcome(outcome)] += 1
        request = command.request or _readable_part(command)
        command.keep = not isinstance(outcome, _NEVER_SENT)
        answer = reply(
            request,
            outcome,
            now_ms=self._now_ms(),
            server_id=self._server_id,
            definitions=self._definitions,
            device=view,
        )
        command.reply = encoded(answer)
        if not isinstance(outcome, CoapResponse):
            expired = isinstance(outcome, Expired | ExpiredUnanswered)
            command.phase = CommandPhase.EXPIRED if expired else CommandPhase.FAILED
        if command.told:
            command.words = _words(answer)
        command.request = None
        command.raw = b""
        self.send(command)

    def finish_read(self) -> None:
        """A command was answered by its device, and the reply is on its way (`gateway.reply_batches`)."""
        self.outcomes[_DONE] += 1

    def send(self, command: Command) -> None:
        """Produce the reply of a command that has one."""

        def done(durable: bool) -> None:
            self.publishing -= 1
            if durable:
                self.replied += 1
                self.settle(command)
            else:
                self.hold(command)

        assert command.reply is not None
        self.publishing += 1
        headers = [(HEADER_REQUEST_ID, command.request_id)]
        if not command.keep:
            headers.append((HEADER_NOT_SENT, b""))
        if command.phase is not CommandPhase.ANSWERED:
            headers.append((HEADER_STATE, command.phase.value.encode()))
        if command.stored:
            headers.append((HEADER_AGAIN, b""))
        if not self._publish(command.ep, command.reply, headers, done):
            self.publishing -= 1
            self.hold(command)

    def hold(self, command: Command) -> None:
        """Kafka has not taken the reply: produce it a little later."""
        self._unpublished.append(command)
        if self._timer is None and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(self._limits.retry, self._send_again)

    def _send_again(self) -> None:
        self._timer = None
        held, self._unpublished = self._unpublished, []
        for number, command in enumerate(held):
            if self._unpublished:
                # One was not taken: the others would not be either. Another is the first to be tried next time.
                self._unpublished = held[number:] + self._unpublished
                return
            self.send(command)

    def is_in_kafka(self, command: Command, said: Said) -> None:
        """The reply was found in the topic: it is not produced again."""
        if command in self._unpublished:
            self._unpublished.remove(command)
        command.reply, command.keep, command.phase = said.reply, said.sent, said.phase
        if command.told:
            with suppress(SerdeError):
                answer = decode(said.reply)
                command.words = _words(answer) if isinstance(answer, Response) else ""
        self.settle(command)

    def settle(self, command: Command) -> None:
        """The reply is durable in Kafka; the state hears of it, and then the command is done."""
        command.published = True
        if command.told:
            # Before anything forgets the command: nobody would correct its last state but one.
            def known() -> None:
                command.told = False
                self.settle(command)

            self._states.tell(command, command.phase, command.words, known)
            return
        if command.stored:
            self._settled(command)
            return

        def written(error: StateUnavailable | None) -> None:
            if error is None:
                self._settled(command)
            else:
                self._settle_later(command)

        try:
            if command.recorded:
                self._state.forget_command(command.sequence, None if command.keep else written)
            if command.keep:
                assert command.reply is not None
                self._state.put_answer(command.identity, command.occurrence, command.reply, self._now_ms(), written)
            elif not command.recorded:
                self._settled(command)
        except StateOverloaded:
            self._settle_later(command)
        except StateUnavailable:
            # The state is closed already: the process ends, and at the next start the topic tells.
            return

    def settle_all(self, commands: list[Command]) -> None:
        """As `settle`, for replies that became durable by one report."""
        self.replied += len(commands)
        plain = []
        for command in commands:
            if command.told or command.recorded:
                self.settle(command)
            else:
                command.published = True
                plain.append(command)

        def written(error: StateUnavailable | None) -> None:
            for command in plain:
                if error is None:
                    self._settled(command)
                else:
                    self._settle_later(command)

        now = self._now_ms()
        try:
            self._state.put_answers([(one.identity, one.occurrence, one.reply or b"", now) for one in plain], written)
        except StateOverloaded:
            for command in plain:
                self._settle_later(command)
        except StateUnavailable:
            return  # as in `settle`

    def _settle_later(self, command: Command) -> None:
        if not self._closed:
            asyncio.get_running_loop().call_later(self._limits.retry, self.settle, command)


def _words(answer: Response) -> str:
    """How it ended, for people."""
    code, body = answer.rep.code.value, answer.rep.body
    return f"{code}: {body.message}" if isinstance(body, GenericBody) and body.message else code


def _outcome(of: CoapResponse | Failure) -> str:
    if isinstance(of, CoapResponse):
        return _DONE if of.code >> 5 == 2 else _DEVICE_ERROR
    return _OUTCOMES[type(of)]


def encoded(response: Response) -> bytes:
    """The record of a reply; of one that fits no record, a reply that says so."""
    try:
        value = encode_reply(response)
        if len(value) <= MOST_RECORD_BYTES:
            return value
        words = f"it takes {len(value):,} bytes; ask for a part of {response.path}"
    except SerdeError as exc:
        words = str(exc)
    body = GenericBody(message=f"the gateway failed: the answer of the device fits no record: {words}")
    rep = ResponsePayload(code=ResponseCode.INTERNAL_SERVER_ERROR, kind=response.rep.kind, body=body)
    return encode_reply(replace(response, rep=rep))


def _readable_part(command: Command) -> Request:
    """The request, or of one that cannot be read what its reply needs."""
    try:
        return request_in(command.raw)
    except SerdeError:
        return Request(
            server_id="",
            ep=command.ep,
            ticket=command.ticket,
            payload=RequestPayload(kind=command.kind, path=command.path),
        )
