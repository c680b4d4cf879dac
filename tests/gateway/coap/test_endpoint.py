"""The endpoint on a real UDP socket, spoken to by hand-made datagrams."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from gateway.coap import receiving
from gateway.coap import server as coap_server
from gateway.coap.endpoint import Endpoint
from gateway.coap.exchanges import ACK_TIMEOUT, EXCHANGE_LIFETIME, AcknowledgedResponses, NoAnswer, Stopped, WasReset
from gateway.coap.incoming import BUSY_MAX_AGE, PATIENCE, Busy, Incoming
from gateway.coap.many import ManyDatagrams, Slots
from gateway.coap.message import Code, Message, Option, Options, Type, build, empty, parse, uint
from gateway.coap.peers import Address, UdpAddress
from gateway.coap.udp import BATCH, bind

WAIT = 10.0


class Recorder:
    """A handler that writes down what it is given and answers requests as the test says."""

    notify_all = None

    def __init__(self) -> None:
        self.requests: list[Incoming] = []
        self.responses: list[Message] = []
        self.resets: list[int] = []
        self.notified: list[bytes] = []
        self.batches = 0
        self.takes_notifications = False
        self.takes_responses = False
        self.is_verified = False
        self.on_request: Callable[[Incoming], None] = lambda incoming: incoming.reply(Code.CHANGED, payload=b"ok")
        self.on_notify: Callable[[], None] = lambda: None

    def notify(self, datagram: bytes, address: Address) -> bool:
        self.notified.append(datagram)
        self.on_notify()
        return self.takes_notifications

    def response(self, message: Message, address: Address) -> bool:
        self.responses.append(message)
        return self.takes_responses

    def reset(self, address: Address, mid: int) -> None:
        self.resets.append(mid)

    def request(self, incoming: Incoming) -> bool:
        self.requests.append(incoming)
        self.on_request(incoming)
        return True

    def batch_done(self) -> None:
        self.batches += 1

    def verified(self, address: Address) -> bool:
        return self.is_verified


class Peer:
    """A UDP socket of the test's."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(("127.0.0.1", 0))
        self._server = server

    @property
    def address(self) -> tuple[str, int]:
        name = self._socket.getsockname()
        return name[0], name[1]

    def send(self, datagram: bytes) -> None:
        self._socket.sendto(datagram, self._server)

    async def receive(self) -> bytes:
        async with asyncio.timeout(WAIT):
            return await asyncio.get_running_loop().sock_recv(self._socket, 4096)

    async def ask(self, datagram: bytes) -> bytes:
        self.send(datagram)
        return await self.receive()

    async def answers_before_ping(self) -> list[bytes]:
        """What came before the answer to a ping that is sent now: all that the datagrams before it drew."""
        self.send(empty(Type.CON, 0xFEED))
        seen: list[bytes] = []
        while (datagram := await self.receive()) != empty(Type.RST, 0xFEED):
            seen.append(datagram)
        return seen

    def close(self) -> None:
        self._socket.close()


@asynccontextmanager
async def _running(handler: Recorder | Busy) -> AsyncIterator[tuple[Endpoint, Peer]]:
    endpoint = Endpoint(("127.0.0.1", 0), handler, seed=1)
    peer = Peer(endpoint.lines.local_address)
    endpoint.start(asyncio.get_running_loop())
    try:
        yield endpoint, peer
    finally:
        peer.close()
        endpoint.close()


def _request(mid: int = 1, *, token: bytes = b"tok", type_: Type = Type.CON, payload: bytes = b"") -> bytes:
    return build(type_, Code.POST, mid, token, [(Option.URI_PATH, b"rd")], payload)


def test_ping_is_answered_with_reset() -> None:
    async def run() -> None:
        async with _running(Recorder()) as (_, peer):
            assert await peer.ask(empty(Type.CON, 0x1234)) == empty(Type.RST, 0x1234)

    asyncio.run(run())


def test_confirmable_request_gets_a_piggybacked_answer() -> None:
    async def run() -> None:
        async with _running(Recorder()) as (_, peer):
            assert parse(await peer.ask(_request(7))) == Message(Type.ACK, Code.CHANGED, 7, b"tok", [], b"ok")

    asyncio.run(run())


def test_non_confirmable_request_gets_a_non_confirmable_answer() -> None:
    async def run() -> None:
        async with _running(Recorder()) as (_, peer):
            answer = parse(await peer.ask(_request(7, type_=Type.NON)))
            assert (answer.type, answer.code, answer.token) == (Type.NON, Code.CHANGED, b"tok")

    asyncio.run(run())


def test_duplicate_request_gets_the_same_bytes_and_is_handled_once() -> None:
    async def run() -> None:
        handler = Recorder()
        async with _running(handler) as (endpoint, peer):
            first = await peer.ask(_request(7))
            assert await peer.ask(_request(7)) == first
            assert len(handler.requests) == 1
            assert endpoint.dropped_datagrams["duplicate request"] == 1
            await peer.ask(_request(8))
            assert len(handler.requests) == 2

    asyncio.run(run())


def test_duplicate_of_a_request_that_is_still_worked_on_draws_nothing() -> None:
    async def run() -> None:
        handler = Recorder()
        handler.on_request = lambda incoming: None
        async with _running(handler) as (_, peer):
            peer.send(_request(7))
            peer.send(_request(7))
            assert await peer.answers_before_ping() == []
            handler.requests[0].reply(Code.CHANGED)
            handler.requests[0].reply(Code.BAD_REQUEST)  # the second answer is ignored
            assert parse(await peer.receive()).code == Code.CHANGED
            assert await peer.answers_before_ping() == []
            assert len(handler.requests) == 1

    asyncio.run(run())


def test_unknown_response_is_reset_unless_it_is_an_acknowledgement() -> None:
    async def run() -> None:
        async with _running(Recorder()) as (endpoint, peer):
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
        async with _running(handler) as (_, peer):
            peer.send(empty(Type.RST, 99))
            await peer.answers_before_ping()
            assert handler.resets == [99]

    asyncio.run(run())


@pytest.mark.parametrize("size", [0, 10, 300])
def test_answer_to_an_unverified_address_is_never_longer_than_three_times_the_request(size: int) -> None:
    async def run() -> None:
        handler = Recorder()
        options: Options = [(Option.LOCATION_PATH, b"x" * 200), (Option.LOCATION_PATH, b"y" * 200)]

        def reply(incoming: Incoming) -> None:
            incoming.reply(Code.CREATED if incoming.message.mid % 2 else Code.BAD_REQUEST, options, b"words " * 100)

        handler.on_request = reply
        async with _running(handler) as (_, peer):
            for mid in (1, 2):
                request = _request(mid, payload=b"p" * size)
                answer = await peer.ask(request)
                assert len(answer) <= 3 * len(request)
                assert parse(answer).code == (Code.CREATED if mid % 2 else Code.BAD_REQUEST)
            handler.is_verified = True
            assert len(await peer.ask(_request(3))) > 1000

    asyncio.run(run())


def test_content_that_a_stranger_may_not_get_whole_is_unauthorized_and_never_cut() -> None:
    async def run() -> None:
        handler = Recorder()
        content: Options = [(Option.CONTENT_FORMAT, b"(")]
        handler.on_request = lambda incoming: incoming.reply(Code.CONTENT, content, b"</rd>" * 20)
        async with _running(handler) as (_, peer):
            answer = parse(await peer.ask(_request(1)))
            assert (answer.code, answer.options, answer.payload) == (Code.UNAUTHORIZED, [], b"register first")
            short = build(Type.CON, Code.GET, 2, b"", [])
            assert parse(await peer.ask(short)) == Message(Type.ACK, Code.UNAUTHORIZED, 2, b"", [], b"")
            handler.is_verified = True
            assert parse(await peer.ask(_request(3))).payload == b"</rd>" * 20

    asyncio.run(run())


def test_words_for_a_stranger_are_cut_to_what_he_may_get() -> None:
    async def run() -> None:
        handler = Recorder()
        handler.on_request = lambda incoming: incoming.reply(Code.BAD_REQUEST, payload="é".encode() * 60)
        async with _running(handler) as (_, peer):
            request = _request(1)
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
        async with _running(handler) as (_, peer):
            assert len(await peer.ask(_request(1, payload=b"p" * 400))) > 500
            peer.send(build(Type.CON, Code.GET, 1, b"", []))
            assert await peer.answers_before_ping() == []

    asyncio.run(run())


def test_busy_is_told_with_max_age_and_the_retransmission_is_worked_on_anew() -> None:
    async def run() -> None:
        handler = Recorder()
        handler.on_request = lambda incoming: incoming.busy()
        async with _running(handler) as (_, peer):
            busy = parse(await peer.ask(_request(7)))
            assert (busy.type, busy.code, busy.mid) == (Type.ACK, Code.SERVICE_UNAVAILABLE, 7)
            assert busy.uint(Option.MAX_AGE) == BUSY_MAX_AGE
            handler.on_request = lambda incoming: incoming.reply(Code.CHANGED)
            assert parse(await peer.ask(_request(7))).code == Code.CHANGED
            assert len(handler.requests) == 2

    asyncio.run(run())


def test_gateway_that_is_not_ready_is_silent_at_first_then_busy_and_never_answers_notifications() -> None:
    async def run() -> None:
        now = 1000.0
        async with _running(Busy(lambda: now)) as (_, peer):
            # At first nothing at all: the device comes again by itself, and a start is over by then.
            now += PATIENCE - 0.1
            peer.send(_request(7))
            assert await peer.answers_before_ping() == []
            now += 0.1
            assert parse(await peer.ask(_request(7))).code == Code.SERVICE_UNAVAILABLE
            peer.send(build(Type.CON, Code.CONTENT, 5, b"token678", [(Option.OBSERVE, b"\x01")], b"21"))
            assert await peer.answers_before_ping() == []

    asyncio.run(run())


def test_dropped_request_is_worked_on_anew() -> None:
    async def run() -> None:
        handler = Recorder()
        handler.on_request = lambda incoming: incoming.drop()
        async with _running(handler) as (_, peer):
            peer.send(_request(7))
            assert await peer.answers_before_ping() == []
            handler.on_request = lambda incoming: incoming.reply(Code.CHANGED)
            assert parse(await peer.ask(_request(7))).code == Code.CHANGED

    asyncio.run(run())


def test_malformed_is_counted_and_the_next_good_datagram_is_answered() -> None:
    async def run() -> None:
        async with _running(Recorder()) as (endpoint, peer):
            peer.send(b"\x40\x01")
            peer.send(b"")
            peer.send(b"\x80\x01\x00\x00")
            peer.send(b"\x50\x01\x00\x01\xb2\xc3\x28")
            peer.send(b"\x50\x01\x00\x01\xff" + b"x" * 3000)
            peer.send(build(Type.ACK, Code.GET, 1, b"", []))
            peer.send(build(Type.RST, Code.CONTENT, 1, b"", []))
            assert parse(await peer.ask(_request(7))).code == Code.CHANGED
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
        async with _running(handler) as (endpoint, peer):
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
            assert parse(await peer.ask(_request(8))).code == Code.CHANGED

    asyncio.run(run())


def test_answer_about_a_critical_option_is_no_longer_than_three_times_the_request() -> None:
    async def run() -> None:
        async with _running(Recorder()) as (_, peer):
            request = build(Type.CON, Code.GET, 7, b"", [(1, b"")])  # 5 bytes
            assert await peer.ask(request) == build(Type.ACK, Code.BAD_OPTION, 7, b"", [], b"option 1")
            assert len(build(Type.ACK, Code.BAD_OPTION, 7, b"", [], b"option 1")) <= 3 * len(request)

    asyncio.run(run())


def test_response_with_a_critical_option_that_is_not_understood_is_rejected() -> None:
    async def run() -> None:
        handler = Recorder()
        handler.takes_responses = True
        async with _running(handler) as (endpoint, peer):
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
        async with _running(handler) as (endpoint, peer):
            assert await peer.ask(datagram) == empty(Type.RST, 0xABCD)
            for first in (0x50, 0x60, 0x70, 0x00, 0x80):  # NON, ACK, RST of version 1; CON of versions 0 and 2
                peer.send(bytes((first | datagram[0] & 0x0F,)) + datagram[1:])
            peer.send(b"\x40\x01\xab")
            assert await peer.answers_before_ping() == []
            assert endpoint.dropped_datagrams.total() == 7
            assert handler.requests == [] and endpoint.server.open_requests == 0

    asyncio.run(run())


def test_datagram_that_was_cut_off_never_reaches_the_short_path() -> None:
    async def run() -> None:
        handler = Recorder()
        handler.takes_notifications = True
        async with _running(handler) as (endpoint, peer):
            peer.send(build(Type.NON, Code.CONTENT, 5, b"t", [(Option.OBSERVE, b"\x01")], b" " * 5000))
            await peer.answers_before_ping()
            assert handler.notified == []
            assert endpoint.dropped_datagrams["too long"] == 1

    asyncio.run(run())


def test_handler_that_fails_answers_internal_error_and_leaves_nothing_open() -> None:
    async def run() -> None:
        handler = Recorder()

        def fail(incoming: Incoming) -> None:
            raise RuntimeError("a bug")

        handler.on_request = fail
        async with _running(handler) as (endpoint, peer):
            assert parse(await peer.ask(_request(7))).code == Code.INTERNAL_SERVER_ERROR
            assert parse(await peer.ask(_request(7))).code == Code.INTERNAL_SERVER_ERROR
            assert endpoint.dropped_datagrams["internal error"] == 1
            assert endpoint.server.open_requests == 0
            handler.on_request = lambda incoming: incoming.reply(Code.CHANGED)
            assert parse(await peer.ask(_request(8))).code == Code.CHANGED

    asyncio.run(run())


def test_short_path_that_fails_ends_neither_the_batch_nor_the_gateway() -> None:
    async def run() -> None:
        handler = Recorder()

        def fail() -> None:
            raise RuntimeError("a bug")

        handler.on_notify = fail
        async with _running(handler) as (endpoint, peer):
            peer.send(build(Type.NON, Code.CONTENT, 5, b"t", [(Option.OBSERVE, b"\x01")], b"1"))
            assert parse(await peer.ask(_request(7))).code == Code.CHANGED
            assert endpoint.dropped_datagrams["internal error"] == 1
            assert handler.batches >= 1

    asyncio.run(run())


def test_flood_of_open_requests_is_bounded_by_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coap_server, "MOST_OPEN_REQUESTS", 3)

    async def run() -> None:
        handler = Recorder()
        handler.on_request = lambda incoming: None
        async with _running(handler) as (_, peer):
            for mid in range(1, 6):
                peer.send(_request(mid))
            answers = [parse(datagram) for datagram in await peer.answers_before_ping()]
            assert [(answer.code, answer.mid) for answer in answers] == [(0xA3, 4), (0xA3, 5)]
            assert len(handler.requests) == 3
            handler.requests[0].reply(Code.CHANGED)
            await peer.receive()
            peer.send(_request(4))  # there is room again
            assert await peer.answers_before_ping() == []
            assert len(handler.requests) == 4

    asyncio.run(run())


def test_batch_ends_after_its_bound_and_the_rest_follows() -> None:
    async def run() -> None:
        handler = Recorder()
        handler.takes_notifications = True
        async with _running(handler) as (_, peer):
            # All wait in the socket before the loop has its turn.
            for _ in range(BATCH + 20):
                peer.send(build(Type.NON, Code.CONTENT, 5, b"t", [], b"1"))
            await peer.answers_before_ping()
            assert len(handler.notified) == BATCH + 20
            assert handler.batches >= 2

    asyncio.run(run())


# Requests of our own


async def _expect_request(peer: Peer) -> Message:
    message = parse(await peer.receive())
    assert (message.type, message.code) == (Type.CON, Code.GET)
    return message


def _ask(endpoint: Endpoint, peer: Peer, *, timeout: float = WAIT, defer: bool = False) -> asyncio.Future[Message]:
    return endpoint.client.request(peer.address, Code.GET, [(Option.URI_PATH, b"3")], timeout=timeout, defer=defer)


def test_request_is_answered_by_a_piggybacked_response() -> None:
    async def run() -> None:
        async with _running(Recorder()) as (endpoint, peer):
            future = _ask(endpoint, peer)
            request = await _expect_request(peer)
            assert len(request.token) == 8 and request.token[0] & 0x80
            peer.send(build(Type.ACK, Code.CONTENT, request.mid, request.token, [], b"yes"))
            assert (await future).payload == b"yes"
            assert await peer.answers_before_ping() == []

    asyncio.run(run())


def test_separate_response_is_acknowledged_and_its_copy_too() -> None:
    async def run() -> None:
        async with _running(Recorder()) as (endpoint, peer):
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


def test_acknowledged_responses_are_known_for_the_lifetime_of_an_exchange_and_bounded() -> None:
    known = AcknowledgedResponses(most=2)
    for mid in (1, 2, 3):
        known.add(("127.0.0.1", 40000), mid, 10.0 * mid)
    assert [known.has(("127.0.0.1", 40000), mid, 31.0) for mid in (1, 2, 3)] == [False, True, True]
    assert [known.has(("127.0.0.1", 40000), mid, 21.0 + EXCHANGE_LIFETIME) for mid in (2, 3)] == [False, True]


def test_separate_response_without_an_acknowledgement_ends_the_exchange_too() -> None:
    async def run() -> None:
        async with _running(Recorder()) as (endpoint, peer):
            future = _ask(endpoint, peer)
            request = await _expect_request(peer)
            peer.send(build(Type.NON, Code.CONTENT, 4711, request.token, [], b"later"))
            assert (await future).payload == b"later"
            assert len(endpoint.client.exchanges) == 0

    asyncio.run(run())


def test_deferred_response_is_left_for_the_caller_to_acknowledge() -> None:
    async def run() -> None:
        async with _running(Recorder()) as (endpoint, peer):
            future = _ask(endpoint, peer, defer=True)
            request = await _expect_request(peer)
            peer.send(build(Type.CON, Code.CONTENT, 4711, request.token, [], b"later"))
            assert await peer.answers_before_ping() == []
            endpoint.client.acknowledge(peer.address, (await future).mid)
            assert await peer.receive() == empty(Type.ACK, 4711)

    asyncio.run(run())


def test_request_comes_through_a_lossy_path() -> None:
    async def run() -> None:
        async with _running(Recorder()) as (endpoint, peer):
            future = _ask(endpoint, peer, timeout=60.0)
            first = await peer.receive()  # lost
            assert await peer.receive() == first  # the retransmission is the same message
            request = parse(first)
            peer.send(build(Type.ACK, Code.CONTENT, request.mid, request.token, [], b"at last"))
            assert (await future).payload == b"at last"

    asyncio.run(run())


def test_peer_that_was_heard_of_gets_what_it_slept_through_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with _running(Recorder()) as (endpoint, peer):
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
        async with _running(Recorder()) as (endpoint, peer):
            with pytest.raises(NoAnswer):
                await _ask(endpoint, peer, timeout=0.05)
            assert len(endpoint.client.exchanges) == 0

    asyncio.run(run())


def test_acknowledged_request_whose_response_never_comes_ends_in_no_answer() -> None:
    async def run() -> None:
        async with _running(Recorder()) as (endpoint, peer):
            future = _ask(endpoint, peer, timeout=0.3)
            peer.send(empty(Type.ACK, (await _expect_request(peer)).mid))
            with pytest.raises(NoAnswer):
                await future

    asyncio.run(run())


def test_reset_ends_the_request_of_its_mid_alone() -> None:
    async def run() -> None:
        handler = Recorder()
        async with _running(handler) as (endpoint, peer):
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
        async with _running(Recorder()) as (endpoint, peer):
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
        async with _running(Recorder()) as (endpoint, peer):
            future = _ask(endpoint, peer)
            await _expect_request(peer)
            future.cancel()
            await peer.answers_before_ping()
            assert len(endpoint.client.exchanges) == 0

    asyncio.run(run())


def test_closing_ends_open_requests() -> None:
    async def run() -> None:
        async with _running(Recorder()) as (endpoint, peer):
            future = _ask(endpoint, peer)
            endpoint.close()
            with pytest.raises(Stopped):
                await future

    asyncio.run(run())


def test_notification_right_behind_the_answer_to_its_observe_request_is_not_reset() -> None:
    async def run() -> None:
        handler = Recorder()
        async with _running(handler) as (endpoint, peer):
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
        async with _running(handler) as (endpoint, peer):
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


def test_port_that_is_taken_is_an_error() -> None:
    endpoint = Endpoint(("127.0.0.1", 0), Recorder())
    try:
        with pytest.raises(OSError, match="in use"):
            Endpoint(endpoint.lines.local_address, Recorder())
    finally:
        endpoint.close()


# Gathering


async def _gathering(endpoint: Endpoint, wanted: bool) -> None:
    async with asyncio.timeout(60):
        while endpoint.receiving.is_gathering is not wanted:  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(0.01)


@pytest.fixture
def long_gathering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long enough to be seen also where the machine is busy."""
    monkeypatch.setattr(receiving, "GATHERING", 1.0)


@pytest.mark.usefixtures("long_gathering")
def test_few_notifications_are_gathered_and_what_comes_afterwards_is_heard() -> None:
    async def run() -> None:
        handler = Recorder()
        handler.takes_notifications = True
        async with _running(handler) as (endpoint, peer):
            notified = build(Type.CON, Code.CONTENT, 7, b"tok", [(Option.OBSERVE, b"\1")], b"1")
            for round_ in range(1, 3):
                peer.send(notified)
                await _gathering(endpoint, True)
                peer.send(notified)
                # Nothing comes any more: it waits to be told of the next again, and is.
                await _gathering(endpoint, False)
                assert len(handler.notified) == 2 * round_
                peer.send(_request(round_))
                assert parse(await peer.receive()).code == Code.CHANGED
                assert not endpoint.receiving.is_gathering

    asyncio.run(run())


@pytest.mark.usefixtures("long_gathering")
def test_a_request_of_ours_ends_the_gathering() -> None:
    async def run() -> None:
        handler = Recorder()
        handler.takes_notifications = True
        async with _running(handler) as (endpoint, peer):
            peer.send(build(Type.CON, Code.CONTENT, 7, b"tok", [(Option.OBSERVE, b"\1")], b"1"))
            await _gathering(endpoint, True)
            future = endpoint.client.request(peer.address, Code.GET, [], timeout=WAIT)
            assert not endpoint.receiving.is_gathering
            asked = parse(await peer.receive())
            peer.send(build(Type.CON, Code.CONTENT, 8, b"tok", [(Option.OBSERVE, b"\2")], b"1"))
            async with asyncio.timeout(60):
                while len(handler.notified) < 2:  # noqa: ASYNC110  # nothing tells of it
                    await asyncio.sleep(0.01)
            assert not endpoint.receiving.is_gathering
            peer.send(build(Type.ACK, Code.CHANGED, asked.mid, asked.token, []))
            assert (await future).code == Code.CHANGED

    asyncio.run(run())


@pytest.mark.usefixtures("long_gathering")
def test_an_endpoint_that_gathers_can_be_closed() -> None:
    async def run() -> None:
        handler = Recorder()
        handler.takes_notifications = True
        async with _running(handler) as (endpoint, peer):
            peer.send(build(Type.CON, Code.CONTENT, 7, b"tok", [(Option.OBSERVE, b"\1")], b"1"))
            await _gathering(endpoint, True)
            endpoint.close()
            await asyncio.sleep(0.01)
            assert not endpoint.receiving.is_gathering

    asyncio.run(run())


@pytest.mark.parametrize("many", [True, False])
def test_posts_in_the_clear_are_offered_to_their_short_path_and_one_that_fails_costs_no_other(
    many: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not many:
        monkeypatch.setattr("gateway.coap.lines.many_datagrams", lambda _: None)

    class Notified(Recorder):
        def notify_all(  # type: ignore[override]  # a method where the others have None
            self,
            received: ManyDatagrams,
            slots: Slots,
            leave: Callable[[bytes, UdpAddress], None],
            post: Callable[[bytes, int, bytes, bytes], bool],
        ) -> int:
            for slot, size in slots:
                leave(*received.datagram(slot, size))
            return 0

    async def run() -> None:
        handler = Notified()
        offered: list[int] = []

        def on_post(datagram: bytes, address: Address) -> bool:
            offered.append(datagram[3])
            if datagram[3] == 1:
                raise RuntimeError("on purpose")
            return datagram[3] == 2

        async with _running(handler) as (endpoint, peer):
            endpoint.receiving.on_post = on_post
            for mid in (1, 2, 3):
                peer.send(build(Type.CON, Code.POST, mid, b"t", [(Option.URI_PATH, b"rd")]))
            peer.send(build(Type.CON, Code.GET, 4, b"t", [(Option.URI_PATH, b"rd")]))
            assert len(await peer.answers_before_ping()) == 2
            assert offered == [1, 2, 3]
            assert [one.message.mid for one in handler.requests] == [3, 4]
            assert endpoint.dropped_datagrams == {"internal error": 1}

    asyncio.run(run())


# Beside other processes of the port


@pytest.mark.parametrize("way", ["many", "notify alone", "one by one"])
def test_what_no_short_path_takes_may_be_another_processes_and_what_that_one_hands_over_is_of_the_same_batch(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "one by one":
        monkeypatch.setattr("gateway.coap.lines.many_datagrams", lambda _: None)

    class Ours(Recorder):
        """Takes the notifications to the token ``ours``."""

        def notify(self, datagram: bytes, address: Address) -> bool:
            if datagram[4:8] != b"ours":
                return False
            self.notified.append(datagram)
            return True

    class OursAtOnce(Ours):
        def notify_all(  # type: ignore[override]  # a method where the others have None
            self,
            received: ManyDatagrams,
            slots: Slots,
            leave: Callable[[bytes, UdpAddress], None],
            _: Callable[[bytes, int, bytes, bytes], bool],
        ) -> int:
            for slot, size in slots:
                datagram, address = received.datagram(slot, size)
                if size < 8 or datagram[1] != Code.CONTENT or not self.notify(datagram, address):
                    leave(datagram, address)
            return 0

    def notification(mid: int, token: bytes) -> bytes:
        return build(Type.NON, Code.CONTENT, mid, token, [(Option.OBSERVE, b"\1")], b"1")

    async def run() -> None:
        handler = Ours() if way == "notify alone" else OursAtOnce()
        handler.takes_responses = True
        asked: list[int] = []
        batches: list[int] = []

        def is_elsewhere(datagram: bytes, address: UdpAddress) -> bool:
            """The even ones; and as if what another process handed over was found while its facts were looked for."""
            asked.append(datagram[3])
            if datagram[3] == 4:
                endpoint.receiving.handed([(notification(20, b"ours"), address), (notification(22, b"none"), address)])
                endpoint.receiving.handed([(build(Type.NON, Code.POST, 24, b"t", [(Option.URI_PATH, b"rd")]), address)])
                endpoint.receiving.batch_done(0)
                batches.append(handler.batches)
            return datagram[3] % 2 == 0

        bound = bind("127.0.0.1", 0)
        endpoint = Endpoint(("127.0.0.1", 0), handler, seed=1, bound=bound, is_elsewhere=is_elsewhere)
        assert endpoint.lines.local_address == bound.getsockname()
        assert (endpoint.lines.many is None) is (way == "one by one")
        endpoint.receiving.on_post = lambda datagram, address: datagram[3] == 10
        peer = Peer(endpoint.lines.local_address)
        for datagram in (
            notification(2, b"ours"),
            notification(4, b"none"),
            notification(5, b"none"),
            build(Type.CON, Code.POST, 8, b"t", [(Option.URI_PATH, b"rd")]),
            build(Type.CON, Code.POST, 10, b"t", [(Option.URI_PATH, b"rd")]),
            build(Type.CON, Code.GET, 11, b"t", [(Option.URI_PATH, b"rd")]),
        ):
            peer.send(datagram)
        endpoint.start(asyncio.get_running_loop())
        try:
            await peer.receive()
            async with asyncio.timeout(WAIT):
                while endpoint.receiving.received < 6:  # noqa: ASYNC110  # nothing tells of it
                    await asyncio.sleep(0.01)
            assert asked == [4, 5, 8, 11]
            assert [parse(one).mid for one in handler.notified] == [2, 20]
            assert [one.mid for one in handler.responses] == [22, 5]
            assert [one.message.mid for one in handler.requests] == [24, 11]
            # In the middle of the batch none had ended.
            assert batches == [0] and handler.batches > 0
            # Nor is a datagram gathered while there are others than notifications.
            assert not endpoint.receiving.is_gathering
            endpoint.receiving.handed([(notification(26, b"ours"), peer.address)])
            before = handler.batches
            endpoint.receiving.batch_done(0)
            assert handler.batches == before + 1
        finally:
            peer.close()
            endpoint.close()

    asyncio.run(run())
