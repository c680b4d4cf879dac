"""Asking devices for observations, and ending them (RFC 7641; OMA LwM2M Core 1.1, section 6.4).

What a device should have (`gateway.wanted`) is asked for when it registers, as it forgets its observations when it
registers anew (section 6.2.1): with the same token, ticket and observation id as before; what it did not answer is
asked for at its next update.
The first value, which answers the observe request, goes to the replies topic as the answer of any request does. Where
nobody else asks again for an answer that got lost, an observation counts as established only once that is durable.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import structlog

from gateway.answering import encoded as encoded_reply
from gateway.coap.exchanges import ExchangeError, Stopped
from gateway.coap.message import Code, Message, Option, Type
from gateway.coap.peers import Address
from gateway.device_link import DeviceLink, encoded, to_response
from gateway.exchange import CONTENT_FORMATS, CoapRequest, CoapResponse, RefusedRequest
from gateway.observations import Observation, ObservationTable, target_of
from gateway.observe_turn import ObserveTurn
from gateway.operations import build
from gateway.registry import Device, Registry
from gateway.replies import reply
from gateway.wanted import Wanted
from schemas.avro.compiled import encode_value
from schemas.avro.records import (
    Request,
    RequestFormat,
    RequestKind,
    RequestPayload,
    Response,
    ResponseCode,
    WriteAttributesRequest,
)
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path

_log = structlog.get_logger("headwater.observing")

OBSERVE_TIMEOUT = 93.0
_CANCEL_TIMEOUT = 20.0
#: Observe requests that are remembered.
_MOST_REQUESTS = 4096
#: What a content format is called in a request.
_FORMATS: Mapping[int | None, RequestFormat] = {number: name for name, number in CONTENT_FORMATS.items()}

Publish = Callable[[Response, Callable[[bool], None] | None], bool]
Record = Callable[[Observation, Message, Address], None]
#: Writes a reply of a device that is there; the last argument is told how it went.
Put = Callable[[Device, bytes, Callable[[bool], None]], None]
TakeTurn = Callable[[str], Callable[[], None] | None]
InOrder = Callable[[str, Callable[[], Coroutine[Any, Any, None]]], None]


class Observing:
    """Keeps every device's observations as they should be."""

    def __init__(
        self,
        *,
        server_id: str,
        wanted: Wanted,
        link: DeviceLink,
        table: ObservationTable,
        registry: Registry,
        definitions: Definitions,
        publish: Publish,
        put: Put,
        record: Record,
        in_order: InOrder,
        take_turn: TakeTurn,
        wall_ms: Callable[[], int],
        clock: Callable[[], float],
    ) -> None:
        self._server_id = server_id
        self._wanted = wanted
        self._link = link
        self._table = table
        self._registry = registry
        self._definitions = definitions
        self._publish = publish
        self._record = record
        self._put = put
        self._in_order = in_order
        self._take_turn = take_turn
        #: Observe requests as they go on the wire, by path and what they are made for.
        self._requests: dict[tuple[Path, str, str], bytes] = {}
        self._wall_ms = wall_ms
        self._clock = clock
        #: Devices whose missing observations wait to be asked for: an update while they wait adds nothing.
        self._waiting: set[Device] = set()
        self.established = 0
        self.refused = 0

    def registered(self, device: Device, old: Device | None) -> None:
        """The device registered (anew): all its observations are asked for."""
        self._wanted.registered(device, old)
        self.complete(device)

    def forgotten(self, device: Device) -> None:
        """The device has forgotten its observations, or has them elsewhere: all are asked for again."""
        self._wanted.suspend(device)
        self.complete(device)

    def objects_changed(self, device: Device) -> None:
        """An update announced other objects."""
        self._wanted.objects_changed(device)
        self.complete(device)

    def gone(self, device: Device) -> None:
        """The registration ended, and its observations with it."""
        self._waiting.discard(device)
        self._wanted.gone(device)

    def complete(self, device: Device) -> None:
        """Ask for what the device should have and has not; in the device's order, after what waits already."""
        if len(device.wanted) <= len(device.observations) or device in self._waiting:
            return
        wanted = device.wanted.values()
        if device.announcement.common and device.behind is None and not any(one.is_special for one in wanted):
            give_back = self._take_turn(device.ep)
            if give_back is not None:
                ObserveTurn(self, device, deque(wanted), give_back).next()
                return
        self.ask_in_order(device)

    def ask_in_order(self, device: Device) -> None:
        """Ask for what is missing in the device's order, after what waits already."""
        self._waiting.add(device)
        self._in_order(device.ep, lambda: self._ask_for_missing(device))

    # The quick way (`gateway.observe_turn`)

    def is_missing(self, device: Device, observation: Observation) -> bool:
        """True if the device should have the observation and has it not."""
        target = observation.target
        return (
            target not in device.observations
            and device.wanted.get(target) is observation
            and self._registry.device(device.ep) is device
        )

    def ask(
        self, device: Device, observation: Observation, answered: Callable[[Message | ExchangeError], None]
    ) -> bool:
        """Send the observe request; False: it is impossible, and will not be asked for again."""
        key = observation.path, device.version, device.announcement.text
        request = self._requests.get(key)
        if request is None:
            if len(self._requests) >= _MOST_REQUESTS:
                self._requests.clear()
            asked = self._request(device, observation, RequestKind.OBSERVE)
            try:
                request = self._requests[key] = encoded(build(asked, device.view(), self._definitions))
            except RefusedRequest as exc:
                self._impossible(device, observation, exc)
                return False
        self._link.begin_observe(
            device.address, request, token=observation.token, timeout=OBSERVE_TIMEOUT, finish=answered
        )
        return True

    def silent(self, device: Device, observation: Observation, error: ExchangeError) -> None:
        """The device did not answer."""
        if not isinstance(error, Stopped):
            _log.info(
                "the device did not answer an observe request", ep=device.ep, path=observation.target, reason=str(error)
            )

    def answered(self, device: Device, observation: Observation, message: Message, address: Address) -> None:
        """The device answered an observe request of our own."""
        self._took(device, observation, message, address)
        decode = observation.decoders.get(message.uint(Option.CONTENT_FORMAT) or 0)
        value = None if decode is None or message.code != Code.CONTENT else decode(message.payload)
        kind, path, resource_type = RequestKind.OBSERVE, observation.path, observation.resource_type
        now = self._wall_ms()
        if value is not None and resource_type is not None:
            texts = observation.ticket, self._server_id, device.ep, observation.target
            record = encode_value(texts, now, ResponseCode.CONTENT, kind, path, resource_type, value)
        else:
            answer = reply(
                self._request(device, observation, kind),
                to_response(message),
                now_ms=now,
                server_id=self._server_id,
                definitions=self._definitions,
                device=device.view(),
            )
            record = encoded_reply(answer)
        self._put(device, record, self._kept_once_durable(device, observation))

    async def _ask_for_missing(self, device: Device) -> None:
        self._waiting.discard(device)
        for path, observation in list(device.wanted.items()):
            if self._registry.device(device.ep) is not device:
                return
            if path in device.observations or device.wanted.get(path) is not observation:
                continue
            address = device.address
            if not await self._ask(device, observation) and device.address == address:
                return

    async def _ask(self, device: Device, observation: Observation) -> bool:
        """Observe, and publish the answer; False if the device is silent, so that asking on would be in vain."""
        kind = RequestKind.OBSERVE_COMPOSITE if observation.paths else RequestKind.OBSERVE
        request = self._request(device, observation, kind)
        view = device.view()
        try:
            coap = build(request, view, self._definitions)
            message = await self._observe(device, observation, coap, OBSERVE_TIMEOUT)
        except RefusedRequest as exc:
            self._impossible(device, observation, exc)
            return True
        except ExchangeError as exc:
            _log.info(
                "the device did not answer an observe request", ep=device.ep, path=observation.target, reason=str(exc)
            )
            return False
        answer = reply(
            request,
            to_response(message),
            now_ms=self._wall_ms(),
            server_id=self._server_id,
            definitions=self._definitions,
            device=view,
        )
        self._keep_once_durable(device, observation, answer)
        return True

    def _impossible(self, device: Device, observation: Observation, why: RefusedRequest) -> None:
        _log.warning("an observation is impossible", ep=device.ep, path=observation.target, reason=str(why))
        device.wanted.pop(observation.target, None)
        self._table.suspend(observation)
        self._wanted.forget(observation.token)

    def _request(self, device: Device, observation: Observation, kind: RequestKind) -> Request:
        """A request of the gateway's own about an observation; a composite one in the format that it has."""
        asked = _FORMATS.get(observation.content_format, RequestFormat.TLV) if observation.paths else RequestFormat.TLV
        return Request(
            server_id=self._server_id,
            ep=device.ep,
            ticket=observation.ticket,
            payload=RequestPayload(
                kind=kind,
                path=str(observation.path),
                content_format=asked,
                body=WriteAttributesRequest(observe_spec=observation.attributes) if observation.attributes else None,
                paths=tuple(map(str, observation.paths)),
            ),
        )

    def _keep_once_durable(self, device: Device, observation: Observation, answer: Response) -> None:
        """Publish the answer to an observe request of our own.

        Only when it is durable the observation is stored as established: a gateway that starts again, or lost the
        answer with its producer, asks again at the device's next update. Notifications are taken meanwhile.
        """
        done = self._kept_once_durable(device, observation)
        if not self._publish(answer, done):
            done(False)

    def _kept_once_durable(self, device: Device, observation: Observation) -> Callable[[bool], None]:
        path = observation.target

        def done(durable: bool) -> None:
            if self._registry.device(device.ep) is not device or device.observations.get(path) is not observation:
                return  # refused, or it has ended since
            if durable:
                self._wanted.remember(observation)
            else:
                del device.observations[path]

        return done

    async def _observe(self, device: Device, observation: Observation, coap: CoapRequest, timeout: float) -> Message:
        """Ask, and take notifications if the device agrees; it is left to the caller to remember the observation."""
        address = device.address
        message = await self._link.send(address, coap, timeout=timeout, token=observation.token, defer=True)
        self._took(device, observation, message, address)
        return message

    def _took(self, device: Device, observation: Observation, message: Message, address: Address) -> None:
        success = message.code >> 5 == 2
        number = message.uint(Option.OBSERVE)
        if success and number is not None and self._registry.device(device.ep) is device:
            own = message.type != Type.ACK
            observation.begin((number - own) & 0xFFFFFF, self._clock())
            observation.content_format = message.uint(Option.CONTENT_FORMAT)
            observation.created_ms = self._wall_ms()
            self._table.add(observation, device)
            device.wanted[observation.target] = observation
            self.established += 1
            if own:
                # What came as a message of its own may be a notification that overtook the answer: it is recorded
                # as one, and acknowledged when it is durable.
                self._record(observation, message, address)
        else:
            if message.type == Type.CON:
                self._link.acknowledge(address, message)
            # Refused, or answered without Observe: it will not notify (RFC 7641 section 3.1).
            if device.wanted.get(observation.target) is observation:
                del device.wanted[observation.target]
            self._wanted.forget(observation.token)
            self.refused += 1

    # Requests

    async def observe(self, device: Device, path: Path, ticket: str, coap: CoapRequest, timeout: float) -> CoapResponse:
        """A request to observe. One that is there already is asked for again and goes by the new ticket.

        Raises:
            ExchangeError: the device did not answer.
        """
        own = "&".join(coap.uri_query)
        observation = self._wanted.new(device, path, ticket, declared=False, paths=coap.paths, attributes=own)
        before = device.wanted.get(observation.target)
        message = await self._observe(device, observation, coap, timeout)
        if device.observations.get(observation.target) is observation:
            self._wanted.remember(observation)
            if before is not None:
                # Another token now; the next message with the old one is answered with RST, which ends it.
                self._table.suspend(before)
                self._wanted.forget(before.token)
        return to_response(message)

    async def cancel(self, device: Device, path: Path, coap: CoapRequest, timeout: float) -> CoapResponse:
        """A request to stop observing. The gateway forgets at once; the device is told (RFC 7641 section 3.6).

        Raises:
            RefusedRequest: nothing is observed there.
        """
        target = target_of(path, coap.paths)
        observation = device.wanted.pop(target, None) or device.observations.get(target)
        if observation is None:
            raise RefusedRequest(_nothing_to_cancel(device, path, coap.paths))
        if observation.paths and observation.content_format not in (None, coap.accept):
            # The device knows the observation by the request that began it.
            again = self._request(device, observation, RequestKind.OBSERVE_COMPOSITE_CANCEL)
            with suppress(RefusedRequest):
                coap = build(again, device.view(), self._definitions)
        if observation.attributes:
            # The same options, those of the query too (RFC 7641 section 3.6).
            coap = replace(coap, uri_query=tuple(observation.attributes.split("&")))
        self._table.remove(observation, device)
        self._wanted.forget(observation.token)
        address = device.address
        try:
            message = await self._link.send(
                address, coap, timeout=min(timeout, _CANCEL_TIMEOUT), token=observation.token, defer=True
            )
        except ExchangeError as exc:
            # It is cancelled all the same: a notification that still comes is answered with RST.
            _log.info("the device did not answer a cancellation", ep=device.ep, path=target, reason=str(exc))
            return CoapResponse(code=_DELETED)
        if message.type != Type.ACK and message.uint(Option.OBSERVE) is not None:
            # A last notification, that crossed the cancellation.
            self._record(observation, message, address)
        elif message.type == Type.CON:
            self._link.acknowledge(address, message)
        if message.code >> 5 == 2 and not message.payload:
            return CoapResponse(code=_DELETED)
        return to_response(message)


def _nothing_to_cancel(device: Device, path: Path, paths: tuple[Path, ...]) -> str:
    if not paths:
        return f"{path} of {device.ep} is not observed, so there is nothing to cancel"
    words = ", ".join(map(str, paths))
    others = [", ".join(map(str, one.paths)) for one in device.wanted.values() if one.paths]
    hint = f"; cancel just what was observed together: {'; or '.join(others[:3])}" if others else ""
    return f"{words} of {device.ep} are not observed together, so there is nothing to cancel{hint}"


_DELETED = 0x42
