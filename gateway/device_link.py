"""Requests to devices: from the values of an operation to the CoAP exchange and back.

Owns the choice between one datagram (our own exchanges) and blocks (aiocoap), and nothing of what a request means.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from gateway.coap.aiocoap_link import AiocoapLink
from gateway.coap.client import CoapClient
from gateway.coap.exchanges import ExchangeError
from gateway.coap.message import Message, Option, Options, encode_rest, uint
from gateway.coap.peers import Address
from gateway.exchange import MOST_IN_ONE_DATAGRAM, CoapRequest, CoapResponse, Method


class DeviceLink:
    """Sends requests to addresses."""

    def __init__(self, client: CoapClient, link: AiocoapLink) -> None:
        self._client = client
        self._link = link

    def new_token(self) -> bytes:
        """A token for an observation."""
        return self._client.new_token()

    async def send(
        self,
        address: Address,
        request: CoapRequest,
        *,
        timeout: float,
        token: bytes | None = None,
        defer: bool = False,
    ) -> Message:
        """One request; a response that comes in blocks is whole.

        With ``defer`` a confirmable separate response is left for the caller to acknowledge.

        Raises:
            ExchangeError: NoAnswer, WasReset, Stopped.
        """
        options = _options(request)
        if len(request.payload) > MOST_IN_ONE_DATAGRAM:
            return await self._link.transfer(address, request.method, options, request.payload, timeout=timeout)
        first = await self._client.request(
            address, request.method, options, request.payload, token=token, timeout=timeout, defer=defer
        )
        return await self.whole(address, request, first, timeout=timeout) if has_more(request, first) else first

    def begin(
        self,
        address: Address,
        request: CoapRequest,
        finish: Callable[[Message | ExchangeError], None],
        *,
        timeout: float,
    ) -> bool:
        """As `send`, but ``finish`` is told, once, of the response that comes first (`has_more`). False: not in one
        datagram, and so not sent.
        """
        if len(request.payload) > MOST_IN_ONE_DATAGRAM:
            return False
        client = self._client
        options, token = _options(request), client.new_token()
        client.begin(address, request.method, options, request.payload, token, finish, timeout)
        return True

    async def whole(self, address: Address, request: CoapRequest, first: Message, *, timeout: float) -> Message:
        """The whole of a response of which ``first`` is the first block. Raises ExchangeError."""
        options = _options(request)
        # The whole is fetched by a plain request of its own (RFC 7959 section 2.6: without Observe).
        plain = [option for option in options if option[0] != Option.OBSERVE]
        whole = await self._link.transfer(address, request.method, plain, request.payload, timeout=timeout)
        observe = [option for option in first.options if option[0] == Option.OBSERVE]
        return Message(first.type, whole.code, first.mid, first.token, observe + whole.options, whole.payload)

    def begin_observe(
        self,
        address: Address,
        request: bytes,
        *,
        token: bytes,
        timeout: float,
        finish: Callable[[Message | ExchangeError], None],
    ) -> None:
        """One GET, of which ``request`` is what `encoded` made; ``finish`` has the response or why there is none.

        A confirmable separate response is left for the caller to acknowledge; of one in blocks this is the first.
        """
        self._client.begin_encoded(address, Method.GET, request, token, finish, timeout, defer=True)

    def send_again(self, address: Address) -> None:
        """What a peer that was heard of has not acknowledged is sent once more, now."""
        self._client.send_again(address)

    def acknowledge(self, address: Address, message: Message) -> None:
        """Acknowledge a response that was deferred."""
        self._client.acknowledge(address, message.mid)


def has_more(request: CoapRequest, first: Message) -> bool:
    """True for the first block of a response that has others."""
    block = first.block(Option.BLOCK2)
    # Only a GET or a FETCH may be asked again; no other operation of LwM2M has an answer that needs blocks.
    return block is not None and block.more and request.method in (Method.GET, Method.FETCH)


def _options(request: CoapRequest) -> Options:
    return list(
        _remembered_options(
            request.uri_path, request.uri_query, request.observe, request.accept, request.content_format
        )
    )


@lru_cache(maxsize=1024)
def _remembered_options(
    uri_path: tuple[str, ...],
    uri_query: tuple[str, ...],
    observe: int | None,
    accept: int | None,
    content_format: int | None,
) -> tuple[tuple[int, bytes], ...]:
    options: Options = [(Option.URI_PATH, segment.encode()) for segment in uri_path]
    options += [(Option.URI_QUERY, query.encode()) for query in uri_query]
    for option, value in ((Option.OBSERVE, observe), (Option.ACCEPT, accept), (Option.CONTENT_FORMAT, content_format)):
        if value is not None:
            options.append((option, uint(value)))
    return tuple(options)


def encoded(request: CoapRequest) -> bytes:
    """A request as it goes on the wire, behind its token."""
    return encode_rest(_options(request), request.payload)


def to_response(message: Message) -> CoapResponse:
    """What of a message an operation's reply is made from."""
    return CoapResponse(
        code=message.code,
        content_format=message.uint(Option.CONTENT_FORMAT),
        payload=message.payload,
        location=tuple(message.texts(Option.LOCATION_PATH)),
        observe=message.uint(Option.OBSERVE),
    )
