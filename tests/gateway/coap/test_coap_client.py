"""Requests of an endpoint on a real UDP socket, and hand-made datagrams that come back."""

from __future__ import annotations

import asyncio

import pytest

from gateway.coap.endpoint import Endpoint
from gateway.coap.exchanges import ACK_TIMEOUT, NoAnswer, Stopped, WasReset
from gateway.coap.message import Code, Message, Option, Options, Type, build, empty, parse, uint
from tests.gateway.coap.by_hand import WAIT, Peer, Recorder, running


def test_unknown_response_is_reset_unless_it_is_an_acknowledgement() -> None:
    async def run() -> None:
        async with running(Recorder()) as (endpoint, peer):
            for type_ in (Type.CON, Type.NON):
                assert await peer.ask(build(type_, Code.CONTENT, 5, b"what", [], b"x")) == empty(Type.RST, 5)
            peer.send(build(Type.ACK, Code.CONTENT, 6, b"what", [], b"x"))
            peer.send(empty(Type.ACK, 6))
            peer.send(empty(Type.RST, 7))
            assert await peer.answers_before_ping() == []
            assert endpoint.dropped_datagrams["response to nothing"] == 3

    asyncio.run(run())


def test_reset_of_nothing_that_is_open_is_told_to_the_handler() -> None:
    async def run() -> None:
        handler = Recorder()
        async with running(handler) as (_, peer):
            peer.send(empty(Type.RST, 99))
            await peer.answers_before_ping()
            assert handler.resets == [99]

    asyncio.run(run())


def test_response_with_a_critical_option_that_is_not_understood_is_rejected() -> None:
    async def run() -> None:
        handler = Recorder()
        handler.takes_responses = True
        async with running(handler) as (endpoint, peer):
            critical: Options = [(Option.OBSERVE, b"\1"), (65001, b"")]
            assert await peer.ask(build(Type.CON, Code.CONTENT, 5, b"t", critical, b"1")) == empty(Type.RST, 5)
            peer.send(build(Type.NON, Code.CONTENT, 6, b"t", critical, b"1"))
            assert await peer.answers_before_ping() == []
            assert handler.responses == []
            # It ends no exchange either; the right answer does.
            future = _ask(endpoint, peer)
            request = await _expect_request(peer)
            peer.send(build(Type.ACK, Code.CONTENT, request.mid, request.token, critical, b"1"))
            assert await peer.answers_before_ping() == []
            assert await peer.ask(build(Type.CON, Code.CONTENT, 9, request.token, critical, b"1")) == empty(Type.RST, 9)
            assert not future.done()
            peer.send(build(Type.ACK, Code.CONTENT, request.mid, request.token, [], b"yes"))
            assert (await future).payload == b"yes"
            assert endpoint.dropped_datagrams["unrecognised critical option"] == 4

    asyncio.run(run())


async def _expect_request(peer: Peer) -> Message:
    message = parse(await peer.receive())
    assert (message.type, message.code) == (Type.CON, Code.GET)
    return message


def _ask(endpoint: Endpoint, peer: Peer, *, timeout: float = WAIT, defer: bool = False) -> asyncio.Future[Message]:
    return endpoint.client.request(peer.address, Code.GET, [(Option.URI_PATH, b"3")], timeout=timeout, defer=defer)


def test_request_is_answered_by_a_piggybacked_response() -> None:
    async def run() -> None:
        async with running(Recorder()) as (endpoint, peer):
            future = _ask(endpoint, peer)
            request = await _expect_request(peer)
            assert len(request.token) == 8 and request.token[0] & 0x80
            peer.send(build(Type.ACK, Code.CONTENT, request.mid, request.token, [], b"yes"))
            assert (await future).payload == b"yes"
            assert await peer.answers_before_ping() == []

    asyncio.run(run())


def test_separate_response_is_acknowledged_and_its_copy_too() -> None:
    async def run() -> None:
        async with running(Recorder()) as (endpoint, peer):
            future = _ask(endpoint, peer)
            request = await _expect_request(peer)
            peer.send(empty(Type.ACK, request.mid))
            separate = build(Type.CON, Code.CONTENT, 4711, request.token, [], b"later")
            assert await peer.ask(separate) == empty(Type.ACK, 4711)
            assert (await future).payload == b"later"
            # Our acknowledgement was lost; another response to nothing is reset all the same.
            assert await peer.ask(separate) == empty(Type.ACK, 4711)
            other = build(Type.CON, Code.CONTENT, 4712, request.token, [], b"later")
            assert await peer.ask(other) == empty(Type.RST, 4712)

    asyncio.run(run())


def test_separate_response_without_an_acknowledgement_ends_the_exchange_too() -> None:
    async def run() -> None:
        async with running(Recorder()) as (endpoint, peer):
            future = _ask(endpoint, peer)
            request = await _expect_request(peer)
            peer.send(build(Type.NON, Code.CONTENT, 4711, request.token, [], b"later"))
            assert (await future).payload == b"later"
            assert len(endpoint.client.exchanges) == 0

    asyncio.run(run())


def test_deferred_response_is_left_for_the_caller_to_acknowledge() -> None:
    async def run() -> None:
        async with running(Recorder()) as (endpoint, peer):
            future = _ask(endpoint, peer, defer=True)
            request = await _expect_request(peer)
            peer.send(build(Type.CON, Code.CONTENT, 4711, request.token, [], b"later"))
            assert await peer.answers_before_ping() == []
            endpoint.client.acknowledge(peer.address, (await future).mid)
            assert await peer.receive() == empty(Type.ACK, 4711)

    asyncio.run(run())


def test_request_comes_through_a_lossy_path() -> None:
    async def run() -> None:
        async with running(Recorder()) as (endpoint, peer):
            future = _ask(endpoint, peer, timeout=60.0)
            first = await peer.receive()  # lost
            assert await peer.receive() == first  # the retransmission is the same message
            request = parse(first)
            peer.send(build(Type.ACK, Code.CONTENT, request.mid, request.token, [], b"at last"))
            assert (await future).payload == b"at last"

    asyncio.run(run())


def test_peer_that_was_heard_of_gets_what_it_slept_through_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with running(Recorder()) as (endpoint, peer):
            future = _ask(endpoint, peer, timeout=60.0)
            first = await peer.receive()  # slept through
            now = asyncio.get_running_loop().time()
            monkeypatch.setattr(endpoint.client, "now", lambda: now + ACK_TIMEOUT)
            endpoint.client.send_again(peer.address)
            endpoint.client.send_again(peer.address)
            # Once, and the same message.
            assert await peer.answers_before_ping() == [first]
            request = parse(first)
            peer.send(build(Type.ACK, Code.CONTENT, request.mid, request.token, [], b"awake"))
            assert (await future).payload == b"awake"

    asyncio.run(run())


def test_silent_peer_ends_in_no_answer() -> None:
    async def run() -> None:
        async with running(Recorder()) as (endpoint, peer):
            with pytest.raises(NoAnswer):
                await _ask(endpoint, peer, timeout=0.05)
            assert len(endpoint.client.exchanges) == 0

    asyncio.run(run())


def test_acknowledged_request_whose_response_never_comes_ends_in_no_answer() -> None:
    async def run() -> None:
        async with running(Recorder()) as (endpoint, peer):
            future = _ask(endpoint, peer, timeout=0.3)
            peer.send(empty(Type.ACK, (await _expect_request(peer)).mid))
            with pytest.raises(NoAnswer):
                await future

    asyncio.run(run())


def test_reset_ends_the_request_of_its_mid_alone() -> None:
    async def run() -> None:
        handler = Recorder()
        async with running(handler) as (endpoint, peer):
            one, two = _ask(endpoint, peer), _ask(endpoint, peer)
            first, second = await _expect_request(peer), await _expect_request(peer)
            assert first.mid != second.mid and first.token != second.token
            peer.send(empty(Type.RST, first.mid))
            with pytest.raises(WasReset):
                await one
            assert not two.done()
            peer.send(build(Type.ACK, Code.CONTENT, second.mid, second.token, [], b"2"))
            assert (await two).payload == b"2"

    asyncio.run(run())


def test_answer_from_another_address_or_with_another_mid_is_none() -> None:
    async def run() -> None:
        async with running(Recorder()) as (endpoint, peer):
            stranger = Peer(endpoint.lines.local_address)
            try:
                future = _ask(endpoint, peer)
                request = await _expect_request(peer)
                stranger.send(build(Type.ACK, Code.CONTENT, request.mid, request.token, [], b"forged"))
                stranger.send(empty(Type.RST, request.mid))
                stranger.send(empty(Type.ACK, request.mid))
                await stranger.answers_before_ping()
                peer.send(build(Type.ACK, Code.CONTENT, request.mid ^ 1, request.token, [], b"stale"))
                await peer.answers_before_ping()
                assert not future.done()
                peer.send(build(Type.ACK, Code.CONTENT, request.mid, request.token, [], b"true"))
                assert (await future).payload == b"true"
            finally:
                stranger.close()

    asyncio.run(run())


def test_cancelled_request_ends_its_exchange() -> None:
    async def run() -> None:
        async with running(Recorder()) as (endpoint, peer):
            future = _ask(endpoint, peer)
            await _expect_request(peer)
            future.cancel()
            await peer.answers_before_ping()
            assert len(endpoint.client.exchanges) == 0

    asyncio.run(run())


def test_closing_ends_open_requests() -> None:
    async def run() -> None:
        async with running(Recorder()) as (endpoint, peer):
            future = _ask(endpoint, peer)
            endpoint.close()
            with pytest.raises(Stopped):
                await future

    asyncio.run(run())


def test_notification_right_behind_the_answer_to_its_observe_request_is_not_reset() -> None:
    async def run() -> None:
        handler = Recorder()
        async with running(handler) as (endpoint, peer):
            future = endpoint.client.request(peer.address, Code.GET, [(Option.OBSERVE, b"")], timeout=WAIT)
            request = await _expect_request(peer)
            number: Options = [(Option.OBSERVE, uint(1))]
            # Both are in the socket when the loop has its turn; nobody knows of the observation yet.
            peer.send(build(Type.ACK, Code.CONTENT, request.mid, request.token, number, b"1"))
            peer.send(build(Type.CON, Code.CONTENT, 77, request.token, [(Option.OBSERVE, uint(2))], b"2"))
            assert await peer.answers_before_ping() == []
            assert (await future).payload == b"1"
            # Another token's is.
            assert await peer.ask(build(Type.CON, Code.CONTENT, 78, b"else", number, b"2")) == empty(Type.RST, 78)

    asyncio.run(run())


def test_notification_that_overtakes_the_answer_answers_the_observe_request() -> None:
    async def run() -> None:
        handler = Recorder()
        async with running(handler) as (endpoint, peer):
            future = endpoint.client.request(peer.address, Code.GET, [(Option.OBSERVE, b"")], timeout=WAIT)
            request = await _expect_request(peer)
            early = build(Type.CON, Code.CONTENT, 77, request.token, [(Option.OBSERVE, uint(2))], b"2")
            assert await peer.ask(early) == empty(Type.ACK, 77)
            assert (await future).payload == b"2"
            peer.send(build(Type.ACK, Code.CONTENT, request.mid, request.token, [(Option.OBSERVE, uint(1))], b"1"))
            assert await peer.answers_before_ping() == []

    asyncio.run(run())


def test_token_is_never_one_of_aiocoap() -> None:
    endpoint = Endpoint(("127.0.0.1", 0), Recorder())
    try:
        tokens = {endpoint.client.new_token() for _ in range(1000)}
        assert len(tokens) == 1000
        assert all(len(token) == 8 and token[0] & 0x80 for token in tokens)
    finally:
        endpoint.close()
