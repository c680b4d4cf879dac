"""Where commands stand, told to everybody: the records of ``iot.<gw>.commands``.

Told is what lasts: a command that is answered at once has its reply and nothing here (docs/decisions/0026). The last
state of a command is durable before the state file forgets the command (`gateway.answering`), so a topic that says
QUEUED or SENT is corrected after a crash. Owns the records and their way into the topic, again and again until it takes
them; of a command whose states Kafka does not take at present only the newest is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from gateway.command import Command
from schemas.avro import serde
from schemas.avro.records import CommandKey, CommandPhase, CommandStatus

Done = Callable[[bool], None]
#: Makes a state durable: key, value; ``done`` is told how it went. False: not taken, to be tried again.
Publish = Callable[[bytes, bytes, Done], bool]
#: Tells what a command has come to, and why.
Tell = Callable[[Command, CommandPhase, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    #: Ascends with every state that is told.
    number: int
    identity: bytes
    key: bytes
    value: bytes
    durable: Callable[[], None] | None


class CommandStates:
    """All states on their way. ``retry`` is seconds between tries."""

    def __init__(self, *, server_id: str, publish: Publish, now_ms: Callable[[], int], retry: float) -> None:
        self._server_id = server_id
        self._publish = publish
        self._now_ms = now_ms
        self._retry = retry
        self._number = 0
        #: By identity, what Kafka did not take.
        self._held: dict[bytes, _Told] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def close(self) -> None:
        """Try nothing again; the next start tells what is so then."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def tell(
        self, command: Command, phase: CommandPhase, words: str, durable: Callable[[], None] | None = None
    ) -> None:
        """Say what the command has come to; ``durable`` is called once Kafka has it."""
        command.told = True
        self._number += 1
        status = CommandStatus(
            server_id=self._server_id,
            ep=command.ep,
            ticket=command.ticket,
            kind=command.kind.value,
            path=command.path,
            state=phase,
            since=self._now_ms() if phase.is_final else command.since_ms or command.received_ms,
            received=command.received_ms,
            expires=command.deadline_ms,
            attempts=command.attempts,
            message=words,
        )
        told = _Told(
            number=self._number,
            identity=command.identity,
            key=serde.encode(CommandKey(ep=command.ep, request=command.identity.hex())),
            value=serde.encode(status),
            durable=durable,
        )
        if self._held.pop(command.identity, None) is not None or not self._send(told):
            self._hold(told)

    def _send(self, told: _Told) -> bool:
        def done(durable: bool) -> None:
            if not durable:
                self._hold(told)
            elif told.durable is not None:
                told.durable()

        return self._publish(told.key, told.value, done)

    def _hold(self, told: _Told) -> None:
        newer = self._held.get(told.identity)
        if newer is None or newer.number < told.number:
            self._held[told.identity] = told
        if self._timer is None and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(self._retry, self._again)

    def _again(self) -> None:
        self._timer = None
        held, self._held = self._held, {}
        taken = True
        for told in held.values():
            # One was not taken: the others would not be either.
            taken = taken and self._send(told)
            if not taken:
                self._hold(told)
