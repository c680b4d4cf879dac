"""The command loop's way to the devices (`gateway.commands.DeviceLink`): by endpoint name, as registered now."""

from __future__ import annotations

from collections.abc import Callable

from gateway.coap.exchanges import MAX_TRANSMIT_WAIT, ExchangeError, WasReset
from gateway.coap.message import Code, Message
from gateway.coap.peers import Address
from gateway.device_link import DeviceLink, has_more, to_response
from gateway.exchange import CoapRequest, CoapResponse, DeviceView, RefusedRequest
from gateway.file_push import push_options
from gateway.files import Files
from gateway.observing import Observing
from gateway.reaching import Answered, DeviceGone, DeviceMoved, DeviceSentReset, DeviceTimeout, Rest
from gateway.registry import Device, Registry
from schemas.avro.records import ResponseCode
from schemas.lwm2m.path import Path


class CommandLink:
    """``clock`` is monotonic seconds; ``reshaped`` is told of whom a command has made or deleted an instance."""

    def __init__(
        self,
        registry: Registry,
        link: DeviceLink,
        observing: Callable[[], Observing],
        files: Files,
        clock: Callable[[], float],
        reshaped: Callable[[Device], None],
    ) -> None:
        self._registry = registry
        self._link = link
        self._observing = observing
        self._files = files
        self._clock = clock
        self._reshaped = reshaped

    def view(self, ep: str) -> DeviceView | None:
        device = self._registry.device(ep)
        return None if device is None else device.view()

    def front(self, ep: str) -> str:
        device = self._registry.device(ep)
        return ep if device is None else device.peer.ep

    def queue_mode(self, ep: str) -> bool:
        device = self._registry.device(ep)
        return device is not None and device.peer.queue

    def awake(self, ep: str) -> bool:
        # OMA LwM2M Core 1.1, section 6.5: a device in queue mode should listen for MAX_TRANSMIT_WAIT after it spoke.
        device = self._registry.device(ep)
        if device is None:
            return False
        peer = device.peer
        return not peer.queue or self._clock() - peer.heard < MAX_TRANSMIT_WAIT

    def send_again(self, ep: str) -> None:
        device = self._registry.device(ep)
        if device is not None:
            self._link.send_again(device.address)

    def files(self, ep: str) -> str:
        return self._files.base(self._device(ep).address)

    def _device(self, ep: str) -> Device:
        device = self._registry.device(ep)
        if device is None:
            raise DeviceGone(ep)
        return device

    async def request(self, ep: str, request: CoapRequest, timeout: float) -> CoapResponse:
        device = self._device(ep)
        if request.file is not None and not self._files.has(request.file):
            raise RefusedRequest(self._files.why(request.file), ResponseCode.REQUEST_ENTITY_INCOMPLETE)
        if request.file is not None and request.pushes:
            return await self._push(device, request.file, request, timeout)
        address = device.address
        try:
            message = await self._link.send(address, request, timeout=timeout)
        except ExchangeError as exc:
            raise self._failure(device, address, exc) from exc
        return self._response(device, message)

    def begin(self, ep: str, request: CoapRequest, timeout: float, answered: Answered) -> bool:
        if request.file is not None:
            return False
        device = self._device(ep)
        address = device.address

        def finish(result: Message | ExchangeError) -> None:
            answered(self.outcome(device, address, request, timeout, result))

        return self._link.begin(address, request, finish, timeout=timeout)

    def outcome(
        self, device: Device, address: Address, request: CoapRequest, timeout: float, result: Message | ExchangeError
    ) -> CoapResponse | Rest | Exception:
        """What the end of an exchange means for who began it without a task."""
        if isinstance(result, ExchangeError):
            return self._failure(device, address, result)
        if has_more(request, result):
            return Rest(lambda: self._whole(device, address, request, result, timeout))
        return self._response(device, result)

    async def _whole(
        self, device: Device, address: Address, request: CoapRequest, first: Message, timeout: float
    ) -> CoapResponse:
        try:
            return self._response(device, await self._link.whole(address, request, first, timeout=timeout))
        except ExchangeError as exc:
            raise self._failure(device, address, exc) from exc

    def _response(self, device: Device, message: Message) -> CoapResponse:
        if message.code in (Code.CREATED, Code.DELETED):
            self._reshaped(device)
        return to_response(message)

    async def _push(self, device: Device, sha256: str, request: CoapRequest, timeout: float) -> CoapResponse:
        ep = device.ep
        try:
            return to_response(
                await self._files.push.send(
                    ep,
                    lambda: self._device(ep).address,
                    push_options(request.uri_path),
                    sha256,
                    patient=not device.peer.queue,
                    timeout=timeout,
                )
            )
        except WasReset as exc:
            raise DeviceSentReset(str(exc)) from exc
        except ExchangeError as exc:
            raise DeviceTimeout(str(exc)) from exc

    async def observe(self, ep: str, path: Path, ticket: str, request: CoapRequest, timeout: float) -> CoapResponse:
        device = self._device(ep)
        address = device.address
        try:
            return await self._observing().observe(device, path, ticket, request, timeout)
        except ExchangeError as exc:
            raise self._failure(device, address, exc) from exc

    async def cancel(self, ep: str, path: Path, request: CoapRequest, timeout: float) -> CoapResponse:
        return await self._observing().cancel(self._device(ep), path, request, timeout)

    def _failure(
        self, device: Device, address: Address, exc: ExchangeError
    ) -> DeviceTimeout | DeviceSentReset | DeviceMoved:
        now = self._registry.device(device.ep)
        if now is not None and now.address != address:
            return DeviceMoved(device.ep)
        return DeviceSentReset(str(exc)) if isinstance(exc, WasReset) else DeviceTimeout(str(exc))
