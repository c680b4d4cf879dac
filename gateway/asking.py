"""One command and its device: what is sent, and what a failed exchange means for the command.

Owns that a command that must not be repeated is recorded as SENT before its datagram leaves, how long its answer is
waited for, and which failure leaves it to be asked again. Whose turn it is is `gateway.lanes`' to say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

import structlog

from gateway.command import Command, request_in
from gateway.command_states import Tell
from gateway.exchange import (
    CoapRequest,
    CoapResponse,
    DeviceReset,
    DeviceView,
    Expired,
    ExpiredUnanswered,
    Failure,
    GatewayFault,
    NotRegistered,
    OutcomeUnknown,
    RefusedRequest,
    TimedOut,
)
from gateway.limits import Limits
from gateway.operations import build
from gateway.reaching import DeviceGone, DeviceLink, DeviceMoved, DeviceSentReset, DeviceTimeout, Rest
from gateway.state import StateError
from schemas.avro.records import CommandPhase, FileRequest, Request, RequestKind
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path

_log = structlog.get_logger("headwater.commands")

#: Makes durable that a command is being sent; raises StateError.
RecordSent = Callable[[Command], Awaitable[None]]
#: Has the next start know that a command was sent that may be sent again.
RecordTried = Callable[[Command], None]

#: What is more than a request and its response.
_WITH_OBSERVATIONS: Final = frozenset(
    (
        RequestKind.OBSERVE,
        RequestKind.OBSERVE_COMPOSITE,
        RequestKind.OBSERVE_CANCEL,
        RequestKind.OBSERVE_COMPOSITE_CANCEL,
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """The command is to be asked again, for the reason in ``words``."""

    words: str


@dataclass(frozen=True, slots=True)
class Silent:
    """A device in queue mode did not answer: it sleeps. What that means for the command."""

    then: Failure | Again


Outcome = CoapResponse | Failure | Again | Silent


class Asking:
    """Puts commands to devices, each when it is told to."""

    def __init__(
        self,
        *,
        link: DeviceLink,
        definitions: Definitions,
        record_sent: RecordSent,
        record_tried: RecordTried,
        tell: Tell,
        now_ms: Callable[[], int],
        limits: Limits,
    ) -> None:
        self._link = link
        self._definitions = definitions
        self._record_sent = record_sent
        self._record_tried = record_tried
        self._tell = tell
        self._now_ms = now_ms
        self._limits = limits
        #: Commands that devices have now; that were sent since the start.
        self.in_flight = 0
        self.sent = 0

    def begin(self, command: Command, view: DeviceView, came: Callable[[Outcome | Rest], None]) -> bool:
        """Ask without a task; ``came`` is told what came of it, later and once.

        False: nothing was done, as it takes more than to send one datagram and to hear one; see `ask`.
        """
        request = command.request
        if (
            request is None
            or request.payload.kind in _WITH_OBSERVATIONS
            or isinstance(request.payload.body, FileRequest)
        ):
            return False

        def answered(result: CoapResponse | Rest | Exception) -> None:
            came(self.came_of(command, result))

        now = self._now_ms()
        try:
            coap = build(request, view, self._definitions)
            if not coap.repeatable or not self._link.begin(
                request.ep, coap, self._patience(command, request, coap, now), answered
            ):
                return False
        except Exception:  # noqa: BLE001  # `ask` meets it again, and there it becomes a reply
            return False
        self._leaves(command, coap, now)
        return True

    def begins(self, command: Command, now_ms: int) -> None:
        """A command that may be repeated leaves for the first time, by the short path (`gateway.short_reads`)."""
        self.sent += 1
        self.in_flight += 1
        command.attempts = 1
        command.since_ms = now_ms

    def came_of(self, command: Command, result: CoapResponse | Rest | Exception) -> Outcome | Rest:
        """What came of a command that may be repeated, and was asked without a task."""
        self.in_flight -= 1
        return self._failed(command, True, result) if isinstance(result, Exception) else result

    def fault(self, command: Command, exc: Exception) -> Failure:
        """What it means that something failed that must not."""
        words = f"{type(exc).__name__}: {exc}"
        _log.error("a command failed", ep=command.ep, ticket=command.ticket, error=words)
        return OutcomeUnknown() if command.sent else GatewayFault(words=words)

    async def rest_of(self, command: Command, rest: Rest) -> Outcome:
        """What came of a command whose answer had only begun; it may be repeated."""
        self.in_flight += 1
        try:
            return await rest.fetch()
        except (DeviceSentReset, DeviceGone, DeviceMoved, DeviceTimeout) as exc:
            return self._failed(command, True, exc)
        finally:
            self.in_flight -= 1

    async def ask(self, command: Command, view: DeviceView | None) -> Outcome:
        """Ask and wait for what comes of it."""
        now = self._now_ms()
        if now >= command.deadline_ms:
            return expired(command)
        if view is None:
            return NotRegistered()
        request = command.request or request_in(command.raw)
        command.request = request
        try:
            if isinstance(request.payload.body, FileRequest):
                view = replace(view, files=self._link.files(command.ep))
            coap = build(request, view, self._definitions)
        except RefusedRequest as exc:
            return exc.refused
        except DeviceGone:
            return NotRegistered()
        if not coap.repeatable:
            try:
                async with asyncio.timeout(self._limits.answer):
                    await self._record_sent(command)
            except (StateError, TimeoutError) as exc:
                return GatewayFault(words=f"the command could not be stored, so it was not sent: {exc}")
        self._leaves(command, coap, now)
        try:
            return await self._exchange(request, coap, self._patience(command, request, coap, now))
        except RefusedRequest as exc:
            return exc.refused
        except (DeviceSentReset, DeviceGone, DeviceMoved, DeviceTimeout) as exc:
            return self._failed(command, coap.repeatable, exc)
        finally:
            self.in_flight -= 1

    def _leaves(self, command: Command, coap: CoapRequest, now_ms: int) -> None:
        self.sent += 1
        self.in_flight += 1
        command.sent = not coap.repeatable
        command.attempts += 1
        if coap.repeatable and command.attempts == 1:
            self._record_tried(command)
        command.since_ms = now_ms
        if command.told:
            self._tell(command, CommandPhase.SENT, "")

    def _failed(self, command: Command, repeatable: bool, exc: Exception) -> Failure | Again | Silent:
        """What it means that the exchange failed."""
        if isinstance(exc, DeviceSentReset):
            return DeviceReset()
        if isinstance(exc, DeviceGone):
            return NotRegistered() if repeatable else OutcomeUnknown()
        if isinstance(exc, DeviceMoved):
            return Again(words="the device moved to another address meanwhile") if repeatable else OutcomeUnknown()
        if not isinstance(exc, DeviceTimeout):
            return self.fault(command, exc)
        sleeps = self._link.queue_mode(command.ep)
        then: Failure | Again
        if not repeatable:
            then = OutcomeUnknown()
        elif self._now_ms() >= command.deadline_ms:
            then = expired(command)
        elif sleeps:
            then = Again(words=f"no answer within {self._limits.answer:g} s: the device sleeps")
        else:
            then = TimedOut(seconds=self._limits.answer)
        return Silent(then) if sleeps else then

    def _patience(self, command: Command, request: Request, coap: CoapRequest, now_ms: int) -> float:
        """For how many seconds a command is sent, again and again, and its answer waited for."""
        limits = self._limits
        timeout = min(limits.answer, max(limits.shortest_answer, (command.deadline_ms - now_ms) / 1000))
        if not coap.pushes:
            return timeout
        return max(timeout, limits.push if request.expires is None else (request.expires - now_ms) / 1000)

    async def _exchange(self, request: Request, coap: CoapRequest, timeout: float) -> CoapResponse:
        match request.payload.kind:
            case RequestKind.OBSERVE | RequestKind.OBSERVE_COMPOSITE:
                path = Path.parse(request.payload.path)
                return await self._link.observe(request.ep, path, request.ticket, coap, timeout)
            case RequestKind.OBSERVE_CANCEL | RequestKind.OBSERVE_COMPOSITE_CANCEL:
                return await self._link.cancel(request.ep, Path.parse(request.payload.path), coap, timeout)
            case _:
                return await self._link.request(request.ep, coap, timeout)


def expired(command: Command) -> Expired | ExpiredUnanswered:
    """A command whose time has passed."""
    return ExpiredUnanswered() if command.attempts else Expired()
