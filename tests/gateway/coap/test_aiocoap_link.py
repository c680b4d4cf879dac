"""Block-wise transfer through aiocoap on our endpoint, against real aiocoap peers and hand-made hostile ones."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiocoap
import pytest
from aiocoap import resource

from gateway.coap import aiocoap_link
from gateway.coap.aiocoap_link import AiocoapLink
from gateway.coap.endpoint import Endpoint
from gateway.coap.exchanges import ExchangeError, NoAnswer, WasReset
from gateway.coap.incoming import Incoming
from gateway.coap.message import Code, Message, Option, Options, Type, build, empty, parse, uint
from gateway.coap.peers import Address

WAIT = 20.0
BODY = bytes(range(256)) * 40  # 10 KiB


class Nobody:
    """A handler that takes nothing: all goes to aiocoap."""

    notify_all = None

    def notify(self, datagram: bytes, address: Address) -> bool:
        return False

    def response(self, message: Message, address: Address) -> bool:
        return False

    def reset(self, address: Address, mid: int) -> None:
        return None

    def request(self, incoming: Incoming) -> bool:
        return False

    def batch_done(self) -> None:
        return None

    def verified(self, address: Address) -> bool:
        return True


class Store(resource.Resource):  # type: ignore[misc]  # aiocoap publishes no types
    """Gives BODY, and keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[bytes] = []

    async def render_get(self, request: aiocoap.Message) -> aiocoap.Message:
        return aiocoap.Message(payload=BODY, content_format=112)

    async def render_post(self, request: aiocoap.Message) -> aiocoap.Message:
        self.kept.append(request.payload)
        return aiocoap.Message(code=aiocoap.CREATED, location_path=("rd", "7"))

    async def render_put(self, request: aiocoap.Message) -> aiocoap.Message:
        self.kept.append(request.payload)
        return aiocoap.Message(code=aiocoap.CHANGED)


class Never(resource.Resource):  # type: ignore[misc]  # aiocoap publishes no types
    async def render_get(self, request: aiocoap.Message) -> aiocoap.Message:
        await asyncio.Event().wait()


class Gateway:
    def __init__(self) -> None:
        self.endpoint = Endpoint(("127.0.0.1", 0), Nobody())
        self.store = Store()
        site = resource.Site()
        site.add_resource(["rd"], self.store)
        site.add_resource(["never"], Never())
        self.link = AiocoapLink(self.endpoint, site)
        self.endpoint.start(asyncio.get_running_loop())

    @property
    def uri(self) -> str:
        return f"coap://127.0.0.1:{self.endpoint.lines.local_address[1]}"


@asynccontextmanager
async def _gateway() -> AsyncIterator[Gateway]:
    gateway = Gateway()
    try:
        async with asyncio.timeout(WAIT):
            yield gateway
    finally:
        gateway.endpoint.close()


@asynccontextmanager
async def _client() -> AsyncIterator[aiocoap.Context]:
    context = await aiocoap.Context.create_client_context()
    try:
        yield context
    finally:
        await context.shutdown()


def _free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def _device() -> AsyncIterator[tuple[Store, Address]]:
    """A real aiocoap server."""
    store, port = Store(), _free_udp_port()
    site = resource.Site()
    site.add_resource(["19", "0", "0"], store)
    context = await aiocoap.Context.create_server_context(site, bind=("127.0.0.1", port), transports=["udp6"])
    try:
        yield store, ("127.0.0.1", port)
    finally:
        await context.shutdown()


class Peer:
    """A UDP socket of the test's, that speaks as the test says."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(("127.0.0.1", 0))

    @property
    def address(self) -> Address:
        name = self._socket.getsockname()
        return name[0], name[1]

    def send(self, datagram: bytes, to: Endpoint) -> None:
        self._socket.sendto(datagram, to.lines.local_address)

    async def receive(self) -> Message:
        return parse(await asyncio.get_running_loop().sock_recv(self._socket, 4096))

    async def ask(self, datagram: bytes, to: Endpoint) -> Message:
        self.send(datagram, to)
        return await self.receive()

    def forget(self) -> None:
        """Throw away what has come."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(4096)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def peer() -> Any:
    made = Peer()
    yield made
    made.close()


def _post(mid: int, number: int, *, more: bool, payload: bytes = b"x" * 1024, options: Options | None = None) -> bytes:
    block = uint(number << 4 | more << 3 | 6)
    path: Options = [(Option.URI_PATH, b"rd"), (Option.BLOCK1, block), *(options or [])]
    return build(Type.CON, Code.POST, mid, b"tok", path, payload)


def test_upload_in_blocks_arrives_whole() -> None:
    async def run() -> None:
        async with _gateway() as gateway, _client() as client:
            request = aiocoap.Message(code=aiocoap.POST, uri=f"{gateway.uri}/rd?ep=big", payload=BODY)
            response = await client.request(request).response
            assert response.code == aiocoap.CREATED
            assert response.opt.location_path == ("rd", "7")
            assert gateway.store.kept == [BODY]

    asyncio.run(run())


def test_large_resource_is_given_in_blocks() -> None:
    async def run() -> None:
        async with _gateway() as gateway, _client() as client:
            response = await client.request(aiocoap.Message(code=aiocoap.GET, uri=f"{gateway.uri}/rd")).response
            assert (response.code, response.payload) == (aiocoap.CONTENT, BODY)

    asyncio.run(run())


def test_download_in_blocks_arrives_whole() -> None:
    async def run() -> None:
        async with _gateway() as gateway, _device() as (_, address):
            path: Options = [(Option.URI_PATH, part) for part in (b"19", b"0", b"0")]
            response = await gateway.link.transfer(address, Code.GET, path)
            assert (response.code, response.payload) == (Code.CONTENT, BODY)
            assert response.uint(Option.CONTENT_FORMAT) == 112

    asyncio.run(run())


def test_payload_goes_out_in_blocks() -> None:
    async def run() -> None:
        async with _gateway() as gateway, _device() as (store, address):
            path: Options = [(Option.URI_PATH, part) for part in (b"19", b"0", b"0")]
            response = await gateway.link.transfer(address, Code.PUT, path, BODY)
            assert response.code == Code.CHANGED
            assert store.kept == [BODY]

    asyncio.run(run())


def test_blocks_of_a_payload_have_one_token_and_a_copy_of_an_answer_is_none_of_the_next(peer: Peer) -> None:
    # A device that finds by the token what a block belongs to, and answers each in a message of its own. Our
    # acknowledgement of its first answer was lost, so that comes again while the second is awaited.
    async def run() -> None:
        async with _gateway() as gateway:
            transfer = asyncio.create_task(
                gateway.link.transfer(peer.address, Code.PUT, [(Option.URI_PATH, b"5")], BODY)
            )
            tokens: set[bytes] = set()
            got, before = b"", b""
            for mid in range(100, 100 + (len(BODY) + 1023) // 1024):
                asked = await peer.receive()
                block = asked.block(Option.BLOCK1)
                assert block is not None and block.number == mid - 100
                tokens.add(asked.token)
                got += asked.payload
                if before:
                    peer.send(before, gateway.endpoint)
                    assert await peer.receive() == empty_ack(mid - 1)
                peer.send(empty(Type.ACK, asked.mid), gateway.endpoint)
                code = Code.CONTINUE if block.more else Code.CHANGED
                options: Options = [(Option.BLOCK1, uint(block.number << 4 | block.more << 3 | block.szx))]
                before = build(Type.CON, code, mid, asked.token, options)
                assert await peer.ask(before, gateway.endpoint) == empty_ack(mid)
            assert (await transfer).code == Code.CHANGED
            assert got == BODY
            assert len(tokens) == 1
            assert gateway.endpoint.dropped_datagrams["duplicate response"] == mid - 100 > 1

    def empty_ack(mid: int) -> Message:
        return Message(Type.ACK, Code.EMPTY, mid, b"", [], b"")

    asyncio.run(run())


def test_what_no_resource_knows_is_not_found(peer: Peer) -> None:
    async def run() -> None:
        async with _gateway() as gateway:
            request = build(Type.CON, Code.GET, 1, b"t", [(Option.URI_PATH, b"nothing")])
            answer = await peer.ask(request, gateway.endpoint)
            assert (answer.type, answer.code, answer.mid, answer.token) == (Type.ACK, Code.NOT_FOUND, 1, b"t")

    asyncio.run(run())


@pytest.mark.parametrize(
    "options",
    [[(Option.OBSERVE, b"")], [(258, b"\x1a")], [(9, b"")], [(65001, b"x")], [(Option.IF_MATCH, b"e")]],
    ids=["observe", "no-response", "oscore", "critical", "if-match"],
)
def test_every_request_is_answered_whatever_options_it_has(peer: Peer, options: Options) -> None:
    async def run() -> None:
        async with _gateway() as gateway:
            path: Options = [(Option.URI_PATH, b"rd")]
            answer = await peer.ask(build(Type.CON, Code.GET, 1, b"t", path + options), gateway.endpoint)
            assert answer.is_response and answer.mid == 1
            assert gateway.endpoint.server.open_requests == 0
            assert gateway.link._incoming == {}

    asyncio.run(run())


def test_request_that_takes_the_token_of_an_open_one_leaves_nothing_open(peer: Peer) -> None:
    async def run() -> None:
        async with _gateway() as gateway:
            for mid in range(1, 6):
                peer.send(build(Type.CON, Code.GET, mid, b"same", [(Option.URI_PATH, b"never")]), gateway.endpoint)
            request = build(Type.CON, Code.GET, 9, b"same", [(Option.URI_PATH, b"nothing")])
            assert (await peer.ask(request, gateway.endpoint)).mid == 9
            assert gateway.endpoint.server.open_requests == 0

    asyncio.run(run())


def test_upload_beyond_the_bound_is_refused(peer: Peer) -> None:
    async def run() -> None:
        async with _gateway() as gateway:
            answer = await peer.ask(_post(1, 64, more=True), gateway.endpoint)
            assert answer.code == Code.REQUEST_ENTITY_TOO_LARGE
            answer = await peer.ask(_post(2, 5, more=False), gateway.endpoint)
            assert answer.code == Code.REQUEST_ENTITY_INCOMPLETE  # its beginning never came

    asyncio.run(run())


@pytest.mark.parametrize("wrong", [2, 3, 1, 0], ids=["gap", "wide gap", "again", "from the start"])
def test_block_out_of_order_is_told_and_the_upload_can_begin_again(peer: Peer, wrong: int) -> None:
    async def run() -> None:
        async with _gateway() as gateway:
            # As clients do: the size is told with the first block alone (RFC 7959 section 4).
            first: Options = [(Option.SIZE1, uint(3072))]
            codes = []
            for mid, number in enumerate((0, 1) if wrong == 1 else (0,)):
                post = _post(mid, number, more=True, options=[] if number else first)
                codes.append((await peer.ask(post, gateway.endpoint)).code)
            answer = await peer.ask(_post(5, wrong, more=True, payload=b"w" * 1024), gateway.endpoint)
            assert answer.code == (Code.REQUEST_ENTITY_INCOMPLETE if wrong else Code.CONTINUE)
            for number in range(3):
                post = _post(10 + number, number, more=number < 2, options=[] if number else first)
                codes.append((await peer.ask(post, gateway.endpoint)).code)
            assert codes[-3:] == [Code.CONTINUE, Code.CONTINUE, Code.CREATED]
            assert set(codes[:-3]) == {Code.CONTINUE}
            assert gateway.store.kept == [b"x" * 3072]
            assert gateway.link._uploaded == 3072
            # Its last block, once more, is no part of anything.
            assert (await peer.ask(_post(20, 2, more=False), gateway.endpoint)).code == Code.REQUEST_ENTITY_INCOMPLETE

    asyncio.run(run())


def test_block_that_is_not_full_is_a_bad_request_unless_it_is_the_last(peer: Peer) -> None:
    async def run() -> None:
        async with _gateway() as gateway:
            assert (await peer.ask(_post(1, 0, more=True, payload=b"x"), gateway.endpoint)).code == Code.BAD_REQUEST
            assert (await peer.ask(_post(2, 0, more=True), gateway.endpoint)).code == Code.CONTINUE
            assert (await peer.ask(_post(3, 1, more=True, payload=b"x"), gateway.endpoint)).code == Code.BAD_REQUEST
            assert (await peer.ask(_post(4, 1, more=False, payload=b"x"), gateway.endpoint)).code == Code.CREATED
            assert gateway.store.kept == [b"x" * 1025]

    asyncio.run(run())


def test_block_size_of_tcp_is_refused(peer: Peer) -> None:
    async def run() -> None:
        async with _gateway() as gateway:
            path: Options = [(Option.URI_PATH, b"rd"), (Option.BLOCK1, b"\x0f")]
            answer = await peer.ask(build(Type.CON, Code.POST, 1, b"t", path, b"x"), gateway.endpoint)
            assert answer.code == Code.BAD_REQUEST

    asyncio.run(run())


@pytest.mark.parametrize("vary", ["path", "query", "other option"])
def test_uploads_at_once_are_bounded_in_number(peer: Peer, monkeypatch: pytest.MonkeyPatch, vary: str) -> None:
    monkeypatch.setattr(aiocoap_link, "MOST_UPLOADS", 3)
    number = {"path": Option.URI_PATH, "query": Option.URI_QUERY, "other option": Option.ETAG}[vary]

    async def run() -> None:
        async with _gateway() as gateway:
            codes = []
            for mid in range(1, 6):
                options: Options = [(number, b"%d" % mid)] if vary != "path" else [(Option.URI_QUERY, b"%d" % mid)]
                codes.append((await peer.ask(_post(mid, 0, more=True, options=options), gateway.endpoint)).code)
            assert codes == [Code.CONTINUE] * 3 + [Code.SERVICE_UNAVAILABLE] * 2
            # One that is under way goes on.
            options = [(number if vary != "path" else Option.URI_QUERY, b"1")]
            answer = await peer.ask(_post(9, 1, more=True, options=options), gateway.endpoint)
            assert answer.code == Code.CONTINUE

    asyncio.run(run())


def test_uploads_at_once_are_bounded_in_bytes_also_when_they_are_complete(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aiocoap_link, "MOST_UPLOADED", 4096)

    async def run() -> None:
        async with _gateway() as gateway:
            codes = []
            for mid in range(1, 7):
                options: Options = [(Option.URI_QUERY, b"%d" % mid)]
                codes.append((await peer.ask(_post(mid, 0, more=False, options=options), gateway.endpoint)).code)
            assert codes == [Code.CREATED] * 4 + [Code.SERVICE_UNAVAILABLE] * 2

    asyncio.run(run())


def test_endless_download_is_given_up(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiocoap_link, "MOST_DOWNLOADED", 8192)

    async def run() -> None:
        async with _gateway() as gateway:

            async def device() -> None:
                while True:
                    request = await peer.receive()
                    block = request.block(Option.BLOCK2)
                    number = 0 if block is None else block.number
                    options: Options = [(Option.BLOCK2, uint(number << 4 | 8 | 6))]
                    peer.send(
                        build(Type.ACK, Code.CONTENT, request.mid, request.token, options, b"x" * 1024),
                        gateway.endpoint,
                    )

            serving = asyncio.create_task(device())
            with pytest.raises(ExchangeError, match="more than"):
                await gateway.link.transfer(peer.address, Code.GET, [(Option.URI_PATH, b"3")])
            serving.cancel()

    asyncio.run(run())


def test_reset_ends_one_transfer_and_not_the_other(peer: Peer) -> None:
    async def run() -> None:
        async with _gateway() as gateway:
            one = asyncio.create_task(gateway.link.transfer(peer.address, Code.GET, [(Option.URI_PATH, b"1")]))
            first = await peer.receive()
            two = asyncio.create_task(gateway.link.transfer(peer.address, Code.GET, [(Option.URI_PATH, b"2")]))
            second = await peer.receive()
            assert first.token != second.token and len(first.token) < 8  # never one of the gateway's own
            peer.send(empty(Type.RST, first.mid), gateway.endpoint)
            with pytest.raises(WasReset):
                await one
            assert not two.done()
            peer.send(build(Type.ACK, Code.CONTENT, second.mid, second.token, [], b"2"), gateway.endpoint)
            assert (await two).payload == b"2"

    asyncio.run(run())


def test_silent_device_ends_in_no_answer_and_leaves_nothing(peer: Peer) -> None:
    async def run() -> None:
        async with _gateway() as gateway:
            with pytest.raises(NoAnswer):
                await gateway.link.transfer(peer.address, Code.GET, [(Option.URI_PATH, b"1")], timeout=0.05)
            request = await peer.receive()
            await asyncio.sleep(0)
            assert len(gateway.endpoint.client.exchanges) == 0
            late = build(Type.CON, Code.CONTENT, 77, request.token, [], b"late")
            assert (await peer.ask(late, gateway.endpoint)) == Message(Type.RST, 0, 77, b"", [], b"")

    asyncio.run(run())


def test_blocks_that_do_not_fit_together_are_an_error(peer: Peer) -> None:
    async def run() -> None:
        async with _gateway() as gateway:
            task = asyncio.create_task(gateway.link.transfer(peer.address, Code.GET, [(Option.URI_PATH, b"1")]))
            first = await peer.receive()
            for request, number in ((first, 0), (None, 5)):
                asked = request or await peer.receive()
                options: Options = [(Option.BLOCK2, uint(number << 4 | 8 | 6))]
                datagram = build(Type.ACK, Code.CONTENT, asked.mid, asked.token, options, b"x" * 1024)
                peer.send(datagram, gateway.endpoint)
            with pytest.raises(ExchangeError):
                await task

    asyncio.run(run())


def test_mutated_requests_never_reach_aiocoap_as_what_it_cannot_read(peer: Peer) -> None:
    numbers = [*range(1, 40), 60, 252, 258, 292, 548, 2049, 65000, 65001]

    async def run() -> None:
        rng = random.Random(11)
        async with _gateway() as gateway:
            for mid in range(3000):
                options: Options = [(Option.URI_PATH, rng.choice((b"rd", b"x", b".well-known")))]
                options += [(rng.choice(numbers), rng.randbytes(rng.choice((0, 1, 2, 4)))) for _ in range(3)]
                datagram = bytearray(build(rng.randrange(2), rng.randrange(1, 9), mid, b"t", options, b"body"))
                if rng.randrange(2):
                    datagram[rng.randrange(len(datagram))] = rng.randrange(256)
                peer.send(bytes(datagram), gateway.endpoint)
                if mid % 100 == 0:
                    peer.forget()
                    await asyncio.sleep(0)
            peer.forget()
            peer.send(empty(Type.CON, 0xFEED), gateway.endpoint)
            while await peer.receive() != Message(Type.RST, 0, 0xFEED, b"", [], b""):
                pass
            assert gateway.endpoint.dropped_datagrams["internal error"] == 0
            assert gateway.endpoint.dropped_datagrams["option text"] > 0

    asyncio.run(run())
