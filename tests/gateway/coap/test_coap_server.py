"""Requests that come to an endpoint on a real UDP socket, by hand-made datagrams."""

from __future__ import annotations

import asyncio

import pytest

from gateway.coap import server as coap_server
from gateway.coap.incoming import BUSY_MAX_AGE, PATIENCE, Busy, Incoming
from gateway.coap.message import Code, Message, Option, Options, Type, build, parse
from tests.gateway.coap.by_hand import Recorder, post, running


def test_confirmable_request_gets_a_piggybacked_answer() -> None:
    async def run() -> None:
        async with running(Recorder()) as (_, peer):
            assert parse(await peer.ask(post(7))) == Message(Type.ACK, Code.CHANGED, 7, b"tok", [], b"ok")

    asyncio.run(run())


def test_non_confirmable_request_gets_a_non_confirmable_answer() -> None:
    async def run() -> None:
        async with running(Recorder()) as (_, peer):
            answer = parse(await peer.ask(post(7, type_=Type.NON)))
            assert (answer.type, answer.code, answer.token) == (Type.NON, Code.CHANGED, b"tok")

    asyncio.run(run())


def test_duplicate_request_gets_the_same_bytes_and_is_handled_once() -> None:
    async def run() -> None:
        handler = Recorder()
        async with running(handler) as (endpoint, peer):
            first = await peer.ask(post(7))
            assert await peer.ask(post(7)) == first
            assert len(handler.requests) == 1
            assert endpoint.dropped_datagrams["duplicate request"] == 1
            await peer.ask(post(8))
            assert len(handler.requests) == 2

    asyncio.run(run())


def test_duplicate_of_a_request_that_is_still_worked_on_draws_nothing() -> None:
    async def run() -> None:
        handler = Recorder()
        handler.on_request = lambda incoming: None
        async with running(handler) as (_, peer):
            peer.send(post(7))
            peer.send(post(7))
            assert await peer.answers_before_ping() == []
            handler.requests[0].reply(Code.CHANGED)
            handler.requests[0].reply(Code.BAD_REQUEST)  # the second answer is ignored
            assert parse(await peer.receive()).code == Code.CHANGED
            assert await peer.answers_before_ping() == []
            assert len(handler.requests) == 1

    asyncio.run(run())


@pytest.mark.parametrize("size", [0, 10, 300])
def test_answer_to_an_unverified_address_is_never_longer_than_three_times_the_request(size: int) -> None:
    async def run() -> None:
        handler = Recorder()
        options: Options = [(Option.LOCATION_PATH, b"x" * 200), (Option.LOCATION_PATH, b"y" * 200)]

        def reply(incoming: Incoming) -> None:
            incoming.reply(Code.CREATED if incoming.message.mid % 2 else Code.BAD_REQUEST, options, b"words " * 100)

        handler.on_request = reply
        async with running(handler) as (_, peer):
            for mid in (1, 2):
                request = post(mid, payload=b"p" * size)
                answer = await peer.ask(request)
                assert len(answer) <= 3 * len(request)
                assert parse(answer).code == (Code.CREATED if mid % 2 else Code.BAD_REQUEST)
            handler.is_verified = True
            assert len(await peer.ask(post(3))) > 1000

    asyncio.run(run())


def test_content_that_a_stranger_may_not_get_whole_is_unauthorized_and_never_cut() -> None:
    async def run() -> None:
        handler = Recorder()
        content: Options = [(Option.CONTENT_FORMAT, b"(")]
        handler.on_request = lambda incoming: incoming.reply(Code.CONTENT, content, b"</rd>" * 20)
        async with running(handler) as (_, peer):
            answer = parse(await peer.ask(post(1)))
            assert (answer.code, answer.options, answer.payload) == (Code.UNAUTHORIZED, [], b"register first")
            short = build(Type.CON, Code.GET, 2, b"", [])
            assert parse(await peer.ask(short)) == Message(Type.ACK, Code.UNAUTHORIZED, 2, b"", [], b"")
            handler.is_verified = True
            assert parse(await peer.ask(post(3))).payload == b"</rd>" * 20

    asyncio.run(run())


def test_words_for_a_stranger_are_cut_to_what_he_may_get() -> None:
    async def run() -> None:
        handler = Recorder()
        handler.on_request = lambda incoming: incoming.reply(Code.BAD_REQUEST, payload="é".encode() * 60)
        async with running(handler) as (_, peer):
            request = post(1)
            answer = await peer.ask(request)
            assert 3 * len(request) - 1 <= len(answer) <= 3 * len(request)
            assert set(parse(answer).payload.decode()) == {"é"}
            name = build(
                Type.CON, Code.POST, 2, b"", [(Option.URI_PATH, b"rd"), (Option.URI_QUERY, b"ep=" + b"x" * 256)]
            )
            refused = parse(await peer.ask(name))
            assert (refused.code, refused.payload[:35]) == (Code.BAD_OPTION, b"option 15: longer than 255 bytes; s")

    asyncio.run(run())


def test_short_duplicate_of_a_long_request_draws_no_long_answer() -> None:
    async def run() -> None:
        handler = Recorder()
        handler.on_request = lambda incoming: incoming.reply(Code.CHANGED, payload=b"w" * 500)
        async with running(handler) as (_, peer):
            assert len(await peer.ask(post(1, payload=b"p" * 400))) > 500
            peer.send(build(Type.CON, Code.GET, 1, b"", []))
            assert await peer.answers_before_ping() == []

    asyncio.run(run())


def test_busy_is_told_with_max_age_and_the_retransmission_is_worked_on_anew() -> None:
    async def run() -> None:
        handler = Recorder()
        handler.on_request = lambda incoming: incoming.busy()
        async with running(handler) as (_, peer):
            busy = parse(await peer.ask(post(7)))
            assert (busy.type, busy.code, busy.mid) == (Type.ACK, Code.SERVICE_UNAVAILABLE, 7)
            assert busy.uint(Option.MAX_AGE) == BUSY_MAX_AGE
            handler.on_request = lambda incoming: incoming.reply(Code.CHANGED)
            assert parse(await peer.ask(post(7))).code == Code.CHANGED
            assert len(handler.requests) == 2

    asyncio.run(run())


def test_gateway_that_is_not_ready_is_silent_at_first_then_busy_and_never_answers_notifications() -> None:
    async def run() -> None:
        now = 1000.0
        async with running(Busy(lambda: now)) as (_, peer):
            # At first nothing at all: the device comes again by itself, and a start is over by then.
            now += PATIENCE - 0.1
            peer.send(post(7))
            assert await peer.answers_before_ping() == []
            now += 0.1
            assert parse(await peer.ask(post(7))).code == Code.SERVICE_UNAVAILABLE
            peer.send(build(Type.CON, Code.CONTENT, 5, b"token678", [(Option.OBSERVE, b"\x01")], b"21"))
            assert await peer.answers_before_ping() == []

    asyncio.run(run())


def test_dropped_request_is_worked_on_anew() -> None:
    async def run() -> None:
        handler = Recorder()
        handler.on_request = lambda incoming: incoming.drop()
        async with running(handler) as (_, peer):
            peer.send(post(7))
            assert await peer.answers_before_ping() == []
            handler.on_request = lambda incoming: incoming.reply(Code.CHANGED)
            assert parse(await peer.ask(post(7))).code == Code.CHANGED

    asyncio.run(run())


@pytest.mark.parametrize(
    ("option", "code", "payload"),
    [
        ((Option.IF_MATCH, b"e"), Code.BAD_OPTION, b"option 1"),
        ((Option.OSCORE, b""), Code.BAD_OPTION, b"option 9"),
        ((65001, b"x" * 20), Code.BAD_OPTION, b"option 65001"),
        ((Option.BLOCK1, b"abcd"), Code.BAD_OPTION, b"option 27"),
        ((Option.PROXY_URI, b"coap://other/x"), Code.PROXYING_NOT_SUPPORTED, b""),
        ((Option.PROXY_SCHEME, b"coap"), Code.PROXYING_NOT_SUPPORTED, b""),
    ],
)
def test_request_with_a_critical_option_that_is_not_understood_is_answered_so_and_reaches_nobody(
    option: tuple[int, bytes], code: Code, payload: bytes
) -> None:
    async def run() -> None:
        handler = Recorder()
        async with running(handler) as (endpoint, peer):
            request = build(Type.CON, Code.POST, 7, b"tok", [(Option.URI_PATH, b"rd"), option])
            answer = await peer.ask(request)
            assert parse(answer) == Message(Type.ACK, code, 7, b"tok", [], payload)
            assert len(answer) <= 3 * len(request)
            assert await peer.ask(request) == answer  # its copy
            # A non-confirmable one is ignored (RFC 7252 section 5.4.1).
            peer.send(build(Type.NON, Code.POST, 8, b"tok", [(Option.URI_PATH, b"rd"), option]))
            assert await peer.answers_before_ping() == []
            assert handler.requests == [] and endpoint.server.open_requests == 0
            assert endpoint.dropped_datagrams["unrecognised critical option"] == 2
            # The same message id again, without the option, is a new request.
            assert parse(await peer.ask(post(8))).code == Code.CHANGED

    asyncio.run(run())


def test_answer_about_a_critical_option_is_no_longer_than_three_times_the_request() -> None:
    async def run() -> None:
        async with running(Recorder()) as (_, peer):
            request = build(Type.CON, Code.GET, 7, b"", [(1, b"")])  # 5 bytes
            assert await peer.ask(request) == build(Type.ACK, Code.BAD_OPTION, 7, b"", [], b"option 1")
            assert len(build(Type.ACK, Code.BAD_OPTION, 7, b"", [], b"option 1")) <= 3 * len(request)

    asyncio.run(run())


def test_handler_that_fails_answers_internal_error_and_leaves_nothing_open() -> None:
    async def run() -> None:
        handler = Recorder()

        def fail(incoming: Incoming) -> None:
            raise RuntimeError("a bug")

        handler.on_request = fail
        async with running(handler) as (endpoint, peer):
            assert parse(await peer.ask(post(7))).code == Code.INTERNAL_SERVER_ERROR
            assert parse(await peer.ask(post(7))).code == Code.INTERNAL_SERVER_ERROR
            assert endpoint.dropped_datagrams["internal error"] == 1
            assert endpoint.server.open_requests == 0
            handler.on_request = lambda incoming: incoming.reply(Code.CHANGED)
            assert parse(await peer.ask(post(8))).code == Code.CHANGED

    asyncio.run(run())


def test_flood_of_open_requests_is_bounded_by_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coap_server, "MOST_OPEN_REQUESTS", 3)

    async def run() -> None:
        handler = Recorder()
        handler.on_request = lambda incoming: None
        async with running(handler) as (_, peer):
            for mid in range(1, 6):
                peer.send(post(mid))
            answers = [parse(datagram) for datagram in await peer.answers_before_ping()]
            assert [(answer.code, answer.mid) for answer in answers] == [(0xA3, 4), (0xA3, 5)]
            assert len(handler.requests) == 3
            handler.requests[0].reply(Code.CHANGED)
            await peer.receive()
            peer.send(post(4))  # there is room again
            assert await peer.answers_before_ping() == []
            assert len(handler.requests) == 4

    asyncio.run(run())
