"""Files by CoAP, block by block, on a real UDP socket: for those that are known and for strangers."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiocoap
import pytest

from gateway.coap.endpoint import Endpoint
from gateway.coap.incoming import Busy, Incoming
from gateway.coap.message import Block, Code, Message, Option, Options, Type, build, parse, uint
from gateway.coap.peers import Address
from gateway.file_cache import FileCache
from gateway.file_server import FileServer
from schemas.files import describe, pieces

IMAGE = random.Random(5).randbytes(200_001)
FILE = describe(IMAGE, "image.bin")
WAIT = 30.0


class _Handler(Busy):
    """Files for everybody; ``is_known`` says whether who asks has shown that it can be reached."""

    def __init__(self, folder: Path, per_second: float) -> None:
        super().__init__()
        self.cache = FileCache(folder)
        self.is_known = True
        self.missed = 0
        self.server = FileServer(
            self.cache,
            known=lambda _: self.is_known,
            missed=self._missed,
            clock=time.monotonic,
            per_second=per_second,
        )
        for piece in pieces(FILE, IMAGE):
            self.cache.take(piece)

    def _missed(self, sha256: str) -> None:
        assert len(sha256) == 64
        self.missed += 1

    def request(self, incoming: Incoming) -> bool:
        return self.server.request(incoming)

    def verified(self, address: Address) -> bool:
        return self.is_known


@asynccontextmanager
async def serving(folder: Path, per_second: float = 20_000.0) -> AsyncIterator[tuple[_Handler, Endpoint]]:
    handler = _Handler(folder, per_second)
    endpoint = Endpoint(("127.0.0.1", 0), handler)
    endpoint.start(asyncio.get_running_loop())
    try:
        yield handler, endpoint
    finally:
        endpoint.close()
        handler.cache.close()


class _Peer:
    def __init__(self, server: tuple[str, int]) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._server = server
        self._mid = 0

    async def ask(self, options: Options, code: int = Code.GET) -> tuple[Message, int, int]:
        """The answer, its bytes and those of the request."""
        self._mid += 1
        sent = build(Type.CON, code, self._mid, b"t", options)
        self._socket.sendto(sent, self._server)
        async with asyncio.timeout(WAIT):
            received = await asyncio.get_running_loop().sock_recv(self._socket, 4096)
        return parse(received), len(received), len(sent)

    async def block(self, sha256: str, number: int = 0, szx: int = 6, *more: tuple[int, bytes]) -> Message:
        return (await self.ask([*of(sha256), (Option.BLOCK2, uint(number << 4 | szx)), *more]))[0]


def of(sha256: str) -> Options:
    return [(Option.URI_PATH, b"files"), (Option.URI_PATH, sha256.encode())]


def test_aiocoaps_client_gets_the_whole_file(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (handler, endpoint):
            host, port = endpoint.lines.local_address
            context = await aiocoap.Context.create_client_context()
            uri = f"coap://{host}:{port}/files/{FILE.sha256}"
            answer = await context.request(aiocoap.Message(code=aiocoap.GET, uri=uri)).response
            assert answer.payload == IMAGE
            assert handler.server.blocks == -(-len(IMAGE) // 1024)
            handler.is_known = False
            with_name = await context.request(aiocoap.Message(code=aiocoap.GET, uri=f"{uri}/image.bin")).response
            assert with_name.payload == IMAGE
            await context.shutdown()

    asyncio.run(scenario())


@pytest.mark.parametrize("szx", range(7))
def test_blocks_are_of_the_size_that_is_asked_for(tmp_path: Path, szx: int) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (_, endpoint):
            peer, size = _Peer(endpoint.lines.local_address), 16 << szx
            first = await peer.block(FILE.sha256, 0, szx)
            assert first.block(Option.BLOCK2) == Block(0, more=True, szx=szx)
            assert first.uint(Option.SIZE2) == len(IMAGE)
            last = (len(IMAGE) - 1) // size
            for number in (1, 7, last - 1, last):
                answer = await peer.block(FILE.sha256, number, szx)
                assert answer.payload == IMAGE[number * size : (number + 1) * size]
                assert answer.block(Option.BLOCK2) == Block(number, more=number < last, szx=szx)
                assert [value for option, value in answer.options if option == Option.ETAG] == [
                    bytes.fromhex(FILE.sha256)[:8]
                ]
            assert (await peer.block(FILE.sha256, last + 1, szx)).code == Code.BAD_REQUEST

    asyncio.run(scenario())


def test_a_stranger_gets_no_more_than_three_times_what_it_sends(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (handler, endpoint):
            handler.is_known = False
            peer = _Peer(endpoint.lines.local_address)
            for options in (of(FILE.sha256), [*of(FILE.sha256), (Option.BLOCK2, uint(100 << 4 | 6))]):
                answer, received, sent = await peer.ask(options)
                assert answer.code == Code.CONTENT
                assert received <= 3 * sent
                block = answer.block(Option.BLOCK2)
                assert block is not None
                start = block.number * block.size
                assert answer.payload == IMAGE[start : start + block.size]
                assert start == (0 if len(options) == 2 else 100 * 1024)

    asyncio.run(scenario())


def test_what_cannot_be_answered_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (handler, endpoint):
            peer = _Peer(endpoint.lines.local_address)
            assert (await peer.block("0" * 64)).code == Code.NOT_FOUND
            assert handler.missed == 1
            for odd in ("", "..", FILE.sha256.upper(), FILE.sha256[:-1]):
                assert (await peer.block(odd)).code == Code.NOT_FOUND
            assert handler.missed == 1
            assert (await peer.ask([(Option.URI_PATH, b"files")]))[0].code == Code.NOT_FOUND
            assert (await peer.block(FILE.sha256, 0, 7)).code == Code.BAD_REQUEST
            assert (await peer.block(FILE.sha256, 0, 6, (Option.ACCEPT, uint(50)))).code == Code.NOT_ACCEPTABLE
            assert (await peer.block(FILE.sha256, 0, 6, (Option.ACCEPT, uint(42)))).code == Code.CONTENT
            assert (await peer.ask(of(FILE.sha256), Code.PUT))[0].code == Code.METHOD_NOT_ALLOWED
            assert handler.server.refused == {"not here": 6, "block size": 1, "format": 1}

    asyncio.run(scenario())


def test_who_asks_faster_than_is_served_waits_and_is_served(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, per_second=200.0) as (handler, endpoint):
            peers = [_Peer(endpoint.lines.local_address) for _ in range(40)]
            answers = await asyncio.gather(*(peer.block(FILE.sha256, number) for number, peer in enumerate(peers)))
            for number, answer in enumerate(answers):
                assert answer.payload == IMAGE[number * 1024 : (number + 1) * 1024]
            assert (handler.server.waiting, handler.server.blocks) == (0, 40)
            assert endpoint.server.open_requests == 0

    asyncio.run(scenario())
