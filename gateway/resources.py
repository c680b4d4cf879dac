"""What aiocoap serves for us: uploads in blocks to ``/rd`` and ``/dp``, and ``/.well-known/core`` (RFC 6690)."""

from __future__ import annotations

import asyncio

import aiocoap
from aiocoap import resource
from aiocoap.message import Direction

from gateway.coap.aiocoap_link import Remote
from gateway.coap.exchanges import EXCHANGE_LIFETIME
from gateway.coap.incoming import BUSY_MAX_AGE
from gateway.coap.message import Code, Message, Option, Options, Type, build, uint
from gateway.coap.peers import Address
from gateway.registrations import Registrations
from gateway.sending import PATH, Sends


def site(registrations: Registrations, sends: Sends) -> resource.Site:
    """The resources of the gateway."""
    root = resource.Site()
    # Without aiocoap's link about itself: who is not registered yet gets no answer of more than three requests' size.
    core = resource.WKCResource(root.get_resources_as_linkheader, impl_info=None)
    root.add_resource([".well-known", "core"], core)
    root.add_resource(["rd"], RegistrationResource(registrations))
    root.add_resource(["rd"], BelowRegistrationResource(registrations))
    root.add_resource([PATH], SendResource(sends))
    return root


class RegistrationResource(resource.Resource):  # type: ignore[misc]  # aiocoap publishes no types
    """The registration interface, for requests that aiocoap has put together from blocks."""

    rt = "core.rd"

    def __init__(self, registrations: Registrations) -> None:
        super().__init__()
        self._registrations = registrations

    async def render(self, request: aiocoap.Message) -> aiocoap.Message:
        whole = Whole(request)
        self._registrations.serve(whole, list(request.opt.uri_path), request.payload)
        async with asyncio.timeout(EXCHANGE_LIFETIME):
            return await whole.answer


class BelowRegistrationResource(RegistrationResource, resource.PathCapable):  # type: ignore[misc]  # as above
    """``/rd/ID``: aiocoap keeps what is at a path and what is below it apart."""


class SendResource(resource.Resource):  # type: ignore[misc]  # as above
    """``/dp``, for Sends that aiocoap has put together from blocks."""

    def __init__(self, sends: Sends) -> None:
        super().__init__()
        self._sends = sends

    def get_link_description(self) -> None:
        """Not listed: who is not registered yet gets no answer of more than three requests' size."""

    async def render(self, request: aiocoap.Message) -> aiocoap.Message:
        whole = Whole(request)
        self._sends.serve(whole, request.payload, b"")
        async with asyncio.timeout(EXCHANGE_LIFETIME):
            return await whole.answer


class Whole:
    """A request put together from blocks, with the interface of `gateway.coap.incoming.Incoming`."""

    def __init__(self, request: aiocoap.Message) -> None:
        remote: Remote = request.remote
        self.address: Address = remote.address
        options: Options = [(int(option.number), option.encode()) for option in request.opt.option_list()]
        self.message = Message(Type.CON, int(request.code), request.mid, request.token, options, request.payload)
        self.answer: asyncio.Future[aiocoap.Message] = asyncio.get_running_loop().create_future()

    def reply(self, code: int, options: Options | None = None, payload: bytes = b"") -> None:
        if not self.answer.done():
            response = aiocoap.Message.decode(build(Type.ACK, code, 0, b"", options or [], payload))
            response.direction = Direction.OUTGOING
            response.mid = response.mtype = None
            self.answer.set_result(response)

    def busy(self) -> None:
        self.reply(Code.SERVICE_UNAVAILABLE, [(Option.MAX_AGE, uint(BUSY_MAX_AGE))])

    def drop(self) -> None:
        self.busy()
