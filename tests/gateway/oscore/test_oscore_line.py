"""OSCORE at an endpoint on a real socket, with the state on disk, spoken to by aiocoap and by nonsense."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import wraps
from pathlib import Path

import cbor2
import pytest
from aiocoap import Message
from aiocoap.message import Direction
from aiocoap.numbers.codes import Code
from aiocoap.numbers.types import ACK, CON, NON

from gateway.access import Access
from gateway.coap import exchanges
from gateway.coap.endpoint import Endpoint
from gateway.coap.incoming import Incoming
from gateway.coap.message import Code as OurCode
from gateway.coap.message import Option, build, parse
from gateway.coap.peers import Address, OscorePeer
from gateway.oscore.association import RESERVED
from gateway.oscore.found import Again, Opened, Renewing, Stray, Unverified
from gateway.oscore.line import MOST_REFUSALS, OscoreLine
from gateway.oscore.renewal import unwrapped
from gateway.oscore.window import SIZE
from gateway.state import State, StateUnavailable, StoredObservation
from security.credentials.sqlite import SqliteCredentials
from tests.oscore_device import DeviceContext, credential, oscore_store

HERE = ("127.0.0.1", 5000)
OF = credential("press-1", b"\x01")


def on_a_loop(test: Callable[..., Coroutine[None, None, None]]) -> Callable[..., None]:
    """Run a test as a task."""

    @wraps(test)
    def run(*arguments: object, **named: object) -> None:
        asyncio.run(test(*arguments, **named))

    return run


class Handler:
    """Answers each request, and takes each response."""

    notify_all = None

    def __init__(self) -> None:
        self.requests: list[Incoming] = []

    def notify(self, datagram: bytes, address: Address) -> bool:
        return False

    def response(self, message: object, address: Address) -> bool:
        return True

    def reset(self, address: Address, mid: int) -> None:
        return None

    def request(self, incoming: Incoming) -> bool:
        self.requests.append(incoming)
        incoming.reply(OurCode.CHANGED)
        return True

    def batch_done(self) -> None:
        return None

    def verified(self, address: Address) -> bool:
        return False


@asynccontextmanager
async def _line(folder: Path, *, now: float | None = None) -> AsyncIterator[tuple[OscoreLine, State]]:
    """What a gateway has after its start; again, after its restart."""
    path = folder / "credentials.db"
    if not path.exists():
        oscore_store(path, [OF])
    store = SqliteCredentials(path)
    state = State.open(folder / "state")
    wall = OF.created.timestamp() if now is None else now
    try:
        yield OscoreLine(Access(store), state, state.load(), lambda: wall), state
    finally:
        await state.close()
        store.close()


def _request(context: DeviceContext, mid: int = 1, *, kid_context: bytes | bool = True) -> bytes:
    plain = Message(code=Code.POST, uri_path=("rd",), payload=b"</3/0>")
    plain.direction = Direction.OUTGOING
    outer, _ = context.protect(plain, kid_context=kid_context)
    outer.mtype, outer.mid, outer.token = CON, mid, b"tk"
    datagram: bytes = outer.encode()
    return datagram


@on_a_loop
async def test_number_is_not_used_before_it_is_on_disk_and_never_twice(tmp_path: Path) -> None:
    used: list[int] = []
    peer = OscorePeer("01", HERE)
    device = DeviceContext(OF)
    plain = build(0, OurCode.GET, 7, b"token", [(Option.URI_PATH, b"3")])
    for life in range(4):
        async with _line(tmp_path) as (line, state):
            line.adopt([peer])
            assert life or line.close_request(peer, plain, 0.0) is None
            await state.durable()
            # More than what was reserved at once: the rest waits for the disk.
            taken = 0
            while (closed := line.close_request(peer, plain, 0.0)) is not None:
                outer = Message.decode(closed)
                outer.direction = Direction.INCOMING
                used.append(int.from_bytes(device.unprotect(outer)[1].partial_iv, "big"))
                taken += 1
            assert taken == RESERVED
            await state.durable()
            assert line.close_request(peer, plain, 0.0) is not None
            used.append(used[-1] + 1)
    assert used == sorted(set(used))


@on_a_loop
async def test_context_of_a_lost_state_begins_above_what_was_used(tmp_path: Path) -> None:
    async with _line(tmp_path, now=OF.created.timestamp() + 1000) as (line, state):
        peer = OscorePeer("01", HERE)
        line.adopt([peer])
        await state.durable()
        closed = line.close_request(peer, build(0, OurCode.GET, 7, b"token", []), 0.0)
        assert closed is not None
        value = next(value for number, value in parse(closed).options if number == Option.OSCORE)
        assert int.from_bytes(value[1 : 1 + (value[0] & 7)], "big") == 8000


@on_a_loop
async def test_answer_that_the_disk_refuses_does_not_leave_and_the_request_may_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with _line(tmp_path) as (line, state):
        message = parse(_request(DeviceContext(OF)))
        found = line.take(message, HERE, 0.0)
        assert isinstance(found, Opened)

        def full(_: object) -> None:
            raise StateUnavailable("the disk is full")

        with monkeypatch.context() as patched:
            patched.setattr(state, "put_oscore_context", full)
            answers: list[bytes | None] = []
            line.answer(found.peer, 1, build(2, OurCode.CHANGED, 1, b"tk", []), answers.append)
            assert answers == [None]
        again = line.take(message, HERE, 0.0)
        assert isinstance(again, Opened)
        line.answer(again.peer, 1, build(2, OurCode.CHANGED, 1, b"tk", []), answers.append)
        await state.durable()
        assert len(answers) == 2
        assert answers[1] is not None
        assert isinstance(line.take(message, HERE, 0.0), Again)
    async with _line(tmp_path) as (line, _):
        assert isinstance(line.take(message, HERE, 0.0), Again)


def _renewed(id_context: bytes) -> DeviceContext:
    return DeviceContext(replace(OF, id_context=id_context))


def _wrapped(value: bytes) -> bytes:
    return (bytes((0x58, len(value))) if len(value) > 23 else bytes((0x40 + len(value),))) + value


async def _renew(line: OscoreLine, state: State, id1: bytes, r3: bytes) -> tuple[bytes, DeviceContext]:
    """Appendix B.2 as a device does it; its second request, and its new context."""
    first = _renewed(id1)
    begun = line.take(parse(_request(first, 1, kid_context=_wrapped(id1))), HERE, 0.0)
    assert isinstance(begun, Renewing)
    value = next(value for number, value in parse(begun.datagram).options if number == Option.OSCORE)
    r2 = unwrapped(value[2:])
    assert r2 is not None
    between = _renewed(r2 + id1)
    nonce = first._construct_nonce(b"\x00", first.sender_id, first.alg_aead)
    external = cbor2.dumps([1, [between.alg_aead.value], first.sender_id, b"\x00", b""])
    opened = between.alg_aead.decrypt(
        parse(begun.datagram).payload, cbor2.dumps(["Encrypt0", b"", external]), between.recipient_key, nonce
    )
    assert opened == bytes((OurCode.UNAUTHORIZED,))
    last = _renewed(r2 + r3)
    second = _request(last, 2, kid_context=_wrapped(r2 + r3))
    found = line.take(parse(second), HERE, 0.0)
    assert isinstance(found, Opened)
    line.answer(found.peer, 2, build(2, OurCode.CHANGED, 2, b"tk", []), lambda _: None)
    await state.durable()
    return second, last


@on_a_loop
async def test_device_that_lost_its_numbers_has_its_keys_derived_anew_and_nobody_brings_them_back(
    tmp_path: Path,
) -> None:
    async with _line(tmp_path) as (line, state):
        before, old = await _renew(line, state, b"12345678", b"abcdefgh")
        follow = _request(old, 3, kid_context=False)
        found = line.take(parse(follow), HERE, 0.0)
        assert isinstance(found, Opened)
        line.dropped(found.peer, 3)
        second, new = await _renew(line, state, b"87654321", b"hgfedcba")
        # What was said under the keys of before counts no more; its second request only begins another derivation.
        assert isinstance(line.take(parse(follow), HERE, 0.0), Unverified)
        assert isinstance(line.take(parse(before), HERE, 0.0), Renewing)
        assert isinstance(line.take(parse(second), HERE, 0.0), Again)
    async with _line(tmp_path) as (line, state):
        assert isinstance(line.take(parse(second), HERE, 0.0), Again)
        assert isinstance(line.take(parse(follow), HERE, 0.0), Unverified)
        assert isinstance(line.take(parse(_request(new, 4, kid_context=False)), HERE, 0.0), Opened)


@on_a_loop
async def test_notification_that_may_never_have_been_recorded_is_not_acknowledged(tmp_path: Path) -> None:
    async with _line(tmp_path) as (line, state):
        peer, device = OscorePeer("01", HERE), DeviceContext(OF, first=5)
        line.adopt([peer])
        await state.durable()
        observe = build(0, OurCode.GET, 7, b"token", [(Option.OBSERVE, b""), (Option.URI_PATH, b"3")])
        asked = Message.decode(line.close_request(peer, observe, 0.0) or b"")
        asked.direction = Direction.INCOMING
        _, request_id = device.unprotect(asked)
        request_id.can_reuse_nonce = False

        def notification(number: int, mid: int) -> bytes:
            device.sender_sequence_number = number
            plain = Message(code=Code.CONTENT, payload=b"21.5", observe=1)
            plain.direction = Direction.OUTGOING
            outer, _ = device.protect(plain, request_id)
            outer.mtype, outer.mid, outer.token = CON, mid, b"token"
            datagram: bytes = outer.encode()
            return datagram

        first, second = notification(5, 11), notification(5 + SIZE, 12)
        assert isinstance(line.take(parse(first), HERE, 0.0), Opened)
        assert isinstance(line.take(parse(second), HERE, 0.0), Opened)
        line.acknowledge(peer, 12, lambda: None)
        await state.durable()
        # It is still being worked on, however old; under another message id it is somebody else's.
        assert isinstance(line.take(parse(first), HERE, 0.0), Opened)
        assert line.take(parse(first[:2] + b"\x70\x70" + first[4:]), HERE, 0.0) is None
        assert isinstance(line.take(parse(second), HERE, 0.0), Again)
        line.dropped(peer, 11)
        assert line.take(parse(first), HERE, 0.0) is None


@on_a_loop
async def test_notification_before_its_registration_is_read_back_is_left_to_come_again(tmp_path: Path) -> None:
    peer, device = OscorePeer("01", HERE), DeviceContext(OF, first=5)
    token = b"observed"
    async with _line(tmp_path) as (line, state):
        line.adopt([peer])
        await state.durable()
        observe = build(0, OurCode.GET, 7, token, [(Option.OBSERVE, b""), (Option.URI_PATH, b"3")])
        asked = Message.decode(line.close_request(peer, observe, 0.0) or b"")
        asked.direction = Direction.INCOMING
        _, request_id = device.unprotect(asked)
        request_id.can_reuse_nonce = False

        def notification(mid: int) -> bytes:
            plain = Message(code=Code.CONTENT, payload=b"21.5", observe=1)
            plain.direction = Direction.OUTGOING
            outer, _ = device.protect(plain, request_id)
            outer.mtype, outer.mid, outer.token = CON, mid, token
            datagram: bytes = outer.encode()
            return datagram

        assert isinstance(line.take(parse(notification(11)), HERE, 0.0), Opened)
        state.put_observation(
            StoredObservation(
                token=token,
                ep="press-1",
                path="/3",
                ticket="t",
                observation_id="o",
                content_format=None,
                declared=True,
                created_ms=0,
            )
        )
        line.acknowledge(peer, 11, lambda: None)
        await state.durable()
    early = notification(12)
    async with _line(tmp_path) as (line, _):
        # No reset, which would end the observation.
        assert line.take(parse(early), HERE, 0.0) is None
        line.adopt([peer])
        assert isinstance(line.take(parse(early), HERE, 0.0), Opened)
        assert isinstance(line.take(parse(early[:4] + b"nobody's" + early[12:]), HERE, 0.0), Stray)


@on_a_loop
async def test_nonsense_is_counted_and_the_next_good_message_is_answered(tmp_path: Path) -> None:
    async with _line(tmp_path) as (line, _):
        handler = Handler()
        endpoint = Endpoint(("127.0.0.1", 0), handler)
        endpoint.speak_oscore(line, HERE)
        endpoint.start(asyncio.get_running_loop())
        context = DeviceContext(OF)
        chance = random.Random(8613)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as device:
            device.bind(("127.0.0.1", 0))
            device.setblocking(False)
            sample = _request(context)
            notification = Message(code=Code.CONTENT, payload=bytes(20))
            notification.opt.oscore = b"\x01\x05"
            notification.mtype, notification.mid, notification.token = NON, 9, b"tk"
            for number in range(4000):
                mangled = bytearray(notification.encode() if number % 4 == 0 else sample)
                for _ in range(chance.randint(1, 4)):
                    at = chance.randrange(len(mangled))
                    how = chance.random()
                    if how < 0.6:
                        mangled[at] = chance.randrange(256)
                    elif how < 0.8:
                        del mangled[at:]
                        mangled += bytes(4)
                    else:
                        mangled[at:at] = chance.randbytes(3)
                device.sendto(mangled, endpoint.lines.local_address)
                if number % 50 == 0:
                    await asyncio.sleep(0)
            await asyncio.sleep(0)
            handler.requests.clear()
            loop = asyncio.get_running_loop()
            good = _request(context, 0x4444)
            async with asyncio.timeout(60):
                while not any(one.message.mid == 0x4444 for one in handler.requests):
                    await loop.sock_sendto(device, good, endpoint.lines.local_address)
                    await asyncio.sleep(0.05)
        assert endpoint.dropped_datagrams["internal error"] == 0
        assert line.refused.total() > 1000
        assert len(line) == 1
        endpoint.close()


class Stranger:
    """Somebody who says what he likes to an endpoint, and hears all that comes back."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._socket.connect(server)
        self.heard: list[bytes] = []

    def say(self, datagram: bytes) -> None:
        self._socket.send(datagram)

    async def has_been_read(self) -> None:
        """What was said before is done with: the ping behind it is answered (RFC 7252 section 4.3)."""
        self.say(b"\x40\x00\x50\x50")
        async with asyncio.timeout(60):
            while True:
                came = await asyncio.get_running_loop().sock_recv(self._socket, 2048)
                if came == b"\x70\x00\x50\x50":
                    return
                self.heard.append(came)

    def close(self) -> None:
        self._socket.close()


@asynccontextmanager
async def _oscore_alone(folder: Path) -> AsyncIterator[tuple[Endpoint, OscoreLine, Handler, Stranger]]:
    async with _line(folder) as (line, _):
        handler = Handler()
        endpoint = Endpoint(None, handler)
        endpoint.start(asyncio.get_running_loop())
        endpoint.speak_oscore(line, ("127.0.0.1", 0))
        assert endpoint.lines.plain_address is not None
        stranger = Stranger(endpoint.lines.plain_address)
        try:
            yield endpoint, line, handler, stranger
        finally:
            stranger.close()
            endpoint.close()


@on_a_loop
async def test_where_oscore_alone_is_spoken_nothing_in_the_clear_is_taken(tmp_path: Path) -> None:
    async with _oscore_alone(tmp_path) as (endpoint, line, handler, stranger):
        register = Message(code=Code.POST, uri_path=("rd",), uri_query=("ep=press-1",), payload=b"</3/0>")
        register.mtype, register.mid, register.token = CON, 7, b"abc"
        tiny = Message(code=Code.GET)
        tiny.mtype, tiny.mid = CON, 8
        without_ack = Message(code=Code.POST, uri_path=("dp",), payload=b"[]")
        without_ack.mtype, without_ack.mid, without_ack.token = NON, 9, b"n"
        said = [one.encode() for one in (register, tiny, without_ack)]
        for kind, mid in ((CON, 10), (NON, 11)):
            notification = Message(code=Code.CONTENT, payload=b"1", content_format=0)
            notification.opt.observe = 3
            notification.mtype, notification.mid, notification.token = kind, mid, b"observed"
            stranger.say(notification.encode())
        for one in said:
            stranger.say(one)
        await stranger.has_been_read()
        answers = list(map(Message.decode, stranger.heard))
        assert [(one.mtype, one.code, one.token) for one in answers] == [
            (ACK, Code.UNAUTHORIZED, b"abc"),
            (ACK, Code.UNAUTHORIZED, b""),
            (NON, Code.UNAUTHORIZED, b"n"),
        ]
        assert answers[0].payload == b"only with OSCORE, or over coaps"
        for one, answer in zip(said, stranger.heard, strict=True):
            assert len(answer) <= 3 * len(one)
        assert handler.requests == []
        assert endpoint.server.open_requests == 0
        assert line.refused == {"unprotected request": 3}
        assert endpoint.dropped_datagrams["not protected"] == 2
        # What is protected is taken beside it.
        stranger.say(_request(DeviceContext(OF), 0x4444))
        await stranger.has_been_read()
        assert [one.message.mid for one in handler.requests] == [0x4444]
        assert isinstance(handler.requests[0].address, OscorePeer)
        assert len(line) == 1


@on_a_loop
async def test_a_flood_in_the_clear_is_counted_and_answered_so_often_a_second(tmp_path: Path) -> None:
    async with _oscore_alone(tmp_path) as (_, line, handler, stranger):
        loop = asyncio.get_running_loop()
        begun = loop.time()
        request = Message(code=Code.GET, uri_path=("rd",))
        request.mtype, request.token = CON, b"f"
        for mid in range(1000):
            request.mid = mid
            stranger.say(request.encode())
            if mid % 50 == 0:
                await asyncio.sleep(0)
        await stranger.has_been_read()
        assert line.refused["unprotected request"] == 1000
        assert 0 < len(stranger.heard) <= MOST_REFUSALS * (1 + int(loop.time() - begun) + 1)
        assert len(stranger.heard) < 1000 or loop.time() - begun > 8
        assert handler.requests == []


@on_a_loop
async def test_first_message_of_the_first_device_begins_it_where_others_speak_in_the_clear(tmp_path: Path) -> None:
    async with _line(tmp_path) as (line, _):
        handler = Handler()
        endpoint = Endpoint(("127.0.0.1", 0), handler)
        endpoint.start(asyncio.get_running_loop())
        device = Stranger(endpoint.lines.local_address)
        try:
            device.say(_request(DeviceContext(OF)))
            await device.has_been_read()
            # Nobody has a credential for it.
            assert [one[1] for one in device.heard] == [OurCode.BAD_OPTION]
            endpoint.on_oscore = lambda: endpoint.speak_oscore(line, HERE)
            device.say(_request(DeviceContext(OF), 2))
            await device.has_been_read()
            assert len(handler.requests) == 1
        finally:
            device.close()
            endpoint.close()


@on_a_loop
async def test_first_request_to_a_new_device_leaves_as_soon_as_its_number_is_on_disk(tmp_path: Path) -> None:
    async with _oscore_alone(tmp_path) as (endpoint, _, handler, device):
        context = DeviceContext(OF)
        device.say(_request(context))
        await device.has_been_read()
        # Before the retransmissions have their turn, which is what it would be sent by otherwise.
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(exchanges, "ACK_TIMEOUT", 3600.0)
            peer = handler.requests[0].address
            asked = endpoint.client.request(peer, OurCode.GET, [(Option.URI_PATH, b"3")])
            async with asyncio.timeout(60):
                while not [one for one in device.heard if parse(one).mid and one[1] == OurCode.POST]:
                    await device.has_been_read()
        asked.cancel()


@on_a_loop
async def test_where_oscore_alone_is_spoken_nothing_goes_in_the_clear(tmp_path: Path) -> None:
    async with _oscore_alone(tmp_path) as (endpoint, _, _, stranger):
        here = stranger._socket.getsockname()
        # As to a device whose registration is of a time when it might speak so.
        asked = endpoint.client.request(here, OurCode.GET, [(Option.URI_PATH, b"3")])
        await stranger.has_been_read()
        assert stranger.heard == []
        assert endpoint.dropped_datagrams["no plain CoAP here"] == 1
        asked.cancel()
