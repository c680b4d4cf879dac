"""The endpoint on a real UDP socket, spoken to by what is no message, or none of either role."""

from __future__ import annotations

import asyncio

import pytest

from gateway.coap.endpoint import Endpoint
from gateway.coap.message import Code, Type, build, empty, parse
from tests.gateway.coap.by_hand import Recorder, post, running


def test_ping_is_answered_with_reset() -> None:
    async def run() -> None:
        async with running(Recorder()) as (_, peer):
            assert await peer.ask(empty(Type.CON, 0x1234)) == empty(Type.RST, 0x1234)

    asyncio.run(run())


def test_malformed_is_counted_and_the_next_good_datagram_is_answered() -> None:
    async def run() -> None:
        async with running(Recorder()) as (endpoint, peer):
            peer.send(b"\x40\x01")
            peer.send(b"")
            peer.send(b"\x80\x01\x00\x00")
            peer.send(b"\x50\x01\x00\x01\xb2\xc3\x28")
            peer.send(b"\x50\x01\x00\x01\xff" + b"x" * 3000)
            peer.send(build(Type.ACK, Code.GET, 1, b"", []))
            peer.send(build(Type.RST, Code.CONTENT, 1, b"", []))
            assert parse(await peer.ask(post(7))).code == Code.CHANGED
            assert endpoint.dropped_datagrams == {
                "short header": 2,
                "version": 1,
                "option text": 1,
                "too long": 1,
                "request as ACK or RST": 1,
                "RST with a code": 1,
            }

    asyncio.run(run())


@pytest.mark.parametrize(
    "datagram",
    [
        b"\x49\x01\xab\xcd123456789",  # RFC 7252 section 3: "Lengths 9-15 are reserved"
        b"\x48\x01\xab\xcd1234",
        b"\x40\x01\xab\xcd\xff",
        b"\x40\x01\xab\xcd\xf1a",
        b"\x40\x01\xab\xcd\xb5abc",
        b"\x40\x01\xab\xcd\xb1\xff",
        b"\x40\x20\xab\xcd",  # code classes 1, 6 and 7
        b"\x40\xc1\xab\xcd",
        b"\x40\xe1\xab\xcd",
        b"\x40\x00\xab\xcd\x01",  # empty, with content
        b"\x40\x02\xab\xcd\xff" + b"x" * 3000,
    ],
)
def test_malformed_is_rejected_where_it_is_confirmable_and_of_our_version(datagram: bytes) -> None:
    async def run() -> None:
        handler = Recorder()
        async with running(handler) as (endpoint, peer):
            assert await peer.ask(datagram) == empty(Type.RST, 0xABCD)
            for first in (0x50, 0x60, 0x70, 0x00, 0x80):  # NON, ACK, RST of version 1; CON of versions 0 and 2
                peer.send(bytes((first | datagram[0] & 0x0F,)) + datagram[1:])
            peer.send(b"\x40\x01\xab")
            assert await peer.answers_before_ping() == []
            assert endpoint.dropped_datagrams.total() == 7
            assert handler.requests == [] and endpoint.server.open_requests == 0

    asyncio.run(run())


def test_port_that_is_taken_is_an_error() -> None:
    endpoint = Endpoint(("127.0.0.1", 0), Recorder())
    try:
        with pytest.raises(OSError, match="in use"):
            Endpoint(endpoint.lines.local_address, Recorder())
    finally:
        endpoint.close()
