"""CoAP over DTLS at the endpoint: what the message layer makes of sessions that begin, move and end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from gateway.coap import secure
from gateway.coap.endpoint import Endpoint
from gateway.coap.exchanges import NoAnswer
from gateway.coap.incoming import Incoming
from gateway.coap.message import MAX_DATAGRAM, Code, Message, Option, Type, build, parse
from gateway.coap.peers import Address, SecurePeer
from gateway.coap.secure import SecureLine
from tests.gateway.dtls.dtls_client import Client, Ticket

WAIT_S = 10.0
KEY = b"sixteen byte key"


class Handler:
    """Answers each request with ``answer``."""

    notify_all = None

    def __init__(self) -> None:
        self.requests: list[Incoming] = []
        self.responses: list[Message] = []
        self.answer = (Code.CHANGED, b"ok")
        #: Where requests are put that are not to be answered at once.
        self.hold: list[Incoming] | None = None
        self.notified: list[tuple[bytes, Address]] = []

    def notify(self, datagram: bytes, address: Address) -> bool:
        self.notified.append((datagram, address))
        return False

    def response(self, message: Message, address: Address) -> bool:
        self.responses.append(message)
        return True

    def reset(self, address: Address, mid: int) -> None:
        pass

    def request(self, incoming: Incoming) -> bool:
        self.requests.append(incoming)
        if self.hold is not None:
            self.hold.append(incoming)
        else:
            incoming.reply(self.answer[0], payload=self.answer[1])
        return True

    def batch_done(self) -> None:
        pass

    def verified(self, address: Address) -> bool:
        return False


class Device:
    """A DTLS client on a socket of its own."""

    def __init__(self, server: tuple[str, int], key: bytes = KEY) -> None:
        self._server, self._key = server, key
        self.client = Client(identity=b"dev", key=key, cid=b"")
        self._open()

    def _open(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(("127.0.0.1", 0))

    def move(self) -> None:
        self._socket.close()
        self._open()

    def say(self, *datagrams: bytes) -> None:
        for datagram in datagrams:
            self._socket.sendto(datagram, self._server)

    async def connect(self, ticket: Ticket | None = None) -> None:
        self.client = Client(identity=b"dev", key=self._key, cid=b"", ticket=ticket)
        self.say(*self.client.start())
        while not self.client.established:
            await self._hear()

    async def _hear(self) -> None:
        async with asyncio.timeout(WAIT_S):
            self.say(*self.client.hear(await asyncio.get_running_loop().sock_recv(self._socket, 65536)))

    def tell(self, datagram: bytes) -> None:
        self.say(self.client.send(datagram))

    async def message(self) -> Message:
        while not self.client.received:
            await self._hear()
        return parse(self.client.received.pop(0))

    async def ask(self, datagram: bytes) -> Message:
        self.tell(datagram)
        return await self.message()

    def close(self) -> None:
        self._socket.close()


@asynccontextmanager
async def _running(
    handler: Handler, keys: dict[bytes, bytes], only_endpoint: Callable[[str], str | None] = str
) -> AsyncIterator[tuple[Endpoint, SecureLine, Device]]:
    line = SecureLine("127.0.0.1", 0, keys.get, only_endpoint)
    endpoint = Endpoint(None, handler, secure=line, seed=1)
    endpoint.start(asyncio.get_running_loop())
    device = Device(endpoint.lines.local_address)
    try:
        yield endpoint, line, device
    finally:
        device.close()
        endpoint.close()


def _request(mid: int) -> bytes:
    return build(Type.CON, Code.POST, mid, b"t", [(Option.URI_PATH, b"rd")], b"")


def test_moved_session_gets_no_long_answer_until_it_has_answered_from_there() -> None:
    async def run() -> None:
        handler = Handler()
        handler.answer = (Code.CONTENT, b"x" * 500)
        async with _running(handler, {b"dev": KEY}) as (endpoint, _, device):
            await device.connect()
            assert len((await device.ask(_request(1))).payload) == 500
            peer = handler.requests[0].address
            assert isinstance(peer, SecurePeer)
            before = endpoint.client.request(peer, Code.GET, [(Option.URI_PATH, b"3")])
            early = await device.message()
            device.move()
            assert (await device.ask(_request(2))).code == Code.UNAUTHORIZED
            # What was asked before the move proves nothing: somebody may have held it back.
            device.tell(build(Type.ACK, Code.CONTENT, early.mid, early.token, [], b"1"))
            assert (await before).payload == b"1"
            assert (await device.ask(_request(3))).code == Code.UNAUTHORIZED
            asked = endpoint.client.request(peer, Code.GET, [(Option.URI_PATH, b"3")])
            question = await device.message()
            device.tell(build(Type.ACK, Code.CONTENT, question.mid, question.token, [], b"2"))
            assert (await asked).payload == b"2"
            assert len((await device.ask(_request(4))).payload) == 500
            assert handler.requests[-1].address is peer

    asyncio.run(run())


def test_message_ids_are_of_a_session() -> None:
    async def run() -> None:
        handler = Handler()
        async with _running(handler, {b"dev": KEY}) as (_, line, device):
            line.serve(lambda *_: handler.requests[-1].address if handler.requests else None)  # type: ignore[arg-type]  # over DTLS all are peers
            await device.connect()
            await device.ask(_request(1))
            await device.ask(_request(1))
            assert len(handler.requests) == 1
            ticket = device.client.take_ticket()
            device.move()
            await device.connect(ticket)
            assert device.client.resumed
            await device.ask(_request(1))
            assert len(handler.requests) == 1
            await device.connect()
            await device.ask(_request(1))
            assert len(handler.requests) == 2
            assert handler.requests[0].address is handler.requests[1].address
            assert line.handshakes == {"whole": 2, "resumed": 1}

    asyncio.run(run())


def test_what_is_no_message_is_counted_and_the_next_one_is_answered() -> None:
    async def run() -> None:
        handler = Handler()
        async with _running(handler, {b"dev": KEY}) as (endpoint, line, device):
            await device.connect()
            device.say(b"", b"\x00", b"\x16\xfe\xfd" + bytes(8) + b"\xff\xff", bytes(3000))
            device.tell(b"")
            device.tell(b"\x40")
            device.tell(build(Type.CON, Code.POST, 7, b"t", [], b"x" * MAX_DATAGRAM))
            # Malformed, but confirmable: it is told so (RFC 7252 section 4.2).
            assert (await device.message()).type == Type.RST
            assert (await device.ask(_request(8))).code == Code.CHANGED
            assert endpoint.dropped_datagrams.total() == 3
            assert line.server.dropped.total() >= 3

    asyncio.run(run())


def test_revoked_identity_loses_its_session_and_the_handshake_that_is_under_way() -> None:
    async def run() -> None:
        handler = Handler()
        keys = {b"dev": KEY}
        async with _running(handler, keys) as (_, line, device):
            await device.connect()
            await device.ask(_request(1))
            other = Device(line.local_address)
            hello = other.client.start()
            other.say(*hello)
            while not other.client.cookie:
                await other._hear()
            # Its last flight stays on the way until the key is gone.
            held: list[bytes] = []
            while not held:
                datagram = await asyncio.get_running_loop().sock_recv(other._socket, 65536)
                held += other.client.hear(datagram)
            other.say(held[0])
            # What was said before is read before this is answered.
            await device.ask(_request(2))
            assert line.server.open_handshakes == 1
            del keys[b"dev"]
            line.revoke(["dev"])
            assert (line.server.open_sessions, line.server.open_handshakes, line.revoked) == (0, 0, 1)
            other.say(*held[1:])
            while (1, 0) not in device.client.alerts:
                await device._hear()
            peer = handler.requests[0].address
            assert isinstance(peer, SecurePeer)
            assert peer.session is None
            await asyncio.sleep(0.05)
            assert line.server.open_sessions == 0
            other.close()

    asyncio.run(run())


def test_request_to_a_device_without_a_session_is_lost_like_any_datagram() -> None:
    async def run() -> None:
        handler = Handler()
        async with _running(handler, {b"dev": KEY}) as (endpoint, line, device):
            peer = SecurePeer("dev", ("127.0.0.1", 9))
            line.serve(lambda *_: peer)
            asked = endpoint.client.request(peer, Code.GET, [(Option.URI_PATH, b"3")], timeout=WAIT_S)
            assert line.unsent["no session"] == 1
            # It comes back while the request is still repeated.
            await device.connect()
            question = await device.message()
            device.tell(build(Type.ACK, Code.CONTENT, question.mid, question.token, [], b"1"))
            assert (await asked).payload == b"1"
            line.revoke(["dev"])
            with pytest.raises(NoAnswer):
                await endpoint.client.request(peer, Code.GET, [], timeout=0.1)

    asyncio.run(run())


def test_session_that_was_made_before_the_registrations_are_known_goes_on_with_one() -> None:
    async def run() -> None:
        handler = Handler()
        async with _running(handler, {b"dev": KEY}) as (_, line, device):
            await device.connect()
            await device.ask(_request(1))
            restored = SecurePeer("dev", ("127.0.0.1", 9))
            line.serve(lambda *_: restored)
            await device.ask(_request(2))
            assert handler.requests[0].address is not restored
            assert handler.requests[1].address is restored
            assert restored.proven
            assert line.server.open_sessions == 1

    asyncio.run(run())


def test_key_for_one_name_has_one_session_whether_it_registers_or_not() -> None:
    async def run() -> None:
        async with _running(Handler(), {b"dev": KEY}) as (_, line, device):
            for _ in range(5):
                await device.connect()
                device.move()
            assert line.server.open_sessions == 1

    asyncio.run(run())


def test_key_for_many_has_a_bound_and_its_oldest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secure, "MOST_OF_A_KEY", 3)

    async def run() -> None:
        handler = Handler()
        keys = {b"dev": KEY, b"other": KEY}
        async with _running(handler, keys, {"other": "other"}.get) as (endpoint, line, device):
            other = Device(line.local_address)
            other.client = Client(identity=b"other", key=KEY, cid=b"")
            other.say(*other.client.start())
            while not other.client.established:
                await other._hear()
            await other.ask(_request(1))
            for _ in range(5):
                await device.connect()
                device.move()
            assert line.server.open_sessions == 4
            await other.ask(_request(2))
            await device.ask(_request(3))
            peer = handler.requests[-1].address
            # Its device is known to be elsewhere.
            endpoint.client.abandon(peer)
            assert line.server.open_sessions == 3
            other.close()

    asyncio.run(run())


def test_answer_to_what_was_asked_in_a_session_does_not_go_into_the_next() -> None:
    async def run() -> None:
        handler = Handler()
        held: list[Incoming] = []
        handler.hold = held
        async with _running(handler, {b"dev": KEY}) as (endpoint, _, device):
            await device.connect()
            device.tell(_request(1))
            async with asyncio.timeout(WAIT_S):
                while not held:  # noqa: ASYNC110  # the request is on its way through the socket
                    await asyncio.sleep(0.01)
            await device.connect()
            held[0].reply(Code.CREATED, payload=b"answer to the first")
            assert endpoint.server.open_requests == 0
            handler.hold = None
            assert (await device.ask(_request(1))).payload == b"ok"

    asyncio.run(run())


def test_a_new_session_is_one_look_at_whom_its_key_is_for() -> None:
    async def run() -> None:
        looks: list[str] = []
        told: list[tuple[str, str]] = []

        def only_endpoint(identity: str) -> str:
            looks.append(identity)
            return f"ep of {identity}"

        def known(identity: str, ep: str) -> None:
            told.append((identity, ep))

        async with _running(Handler(), {b"dev": KEY}, only_endpoint) as (_, line, device):
            line.serve(known)
            for _ in range(2):
                await device.connect()
            assert looks == ["dev", "dev"]
            assert told == [("dev", "ep of dev")] * 2

    asyncio.run(run())
