"""A registration server and client on a plain aiocoap context: the real peer that the device tests speak with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiocoap
from aiocoap import Context, Message, resource
from aiocoap.numbers import codes

from schemas.lwm2m import formats
from schemas.lwm2m.nodes import Node
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path

DEFINITIONS = Definitions.builtin()


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A message of the registration interface as it arrived."""

    code: str
    path: tuple[str, ...]
    query: dict[str, str]
    payload: str
    port: int


class Directory(resource.Resource):  # type: ignore[misc]  # aiocoap publishes no types
    """The whole site: answers /rd; each answer may be replaced by one from ``answers``, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: asyncio.Queue[Seen] = asyncio.Queue()
        self.answers: list[Message] = []
        self._count = 0

    async def render(self, request: Message) -> Message:
        port = int(request.remote.hostinfo.rpartition(":")[2])
        query = {part.partition("=")[0]: part.partition("=")[2] for part in request.opt.uri_query}
        self.seen.put_nowait(
            Seen(
                code=str(request.code),
                path=tuple(request.opt.uri_path[1:]),
                query=query,
                payload=request.payload.decode(),
                port=port,
            )
        )
        if self.answers:
            return self.answers.pop(0)
        if request.code is codes.DELETE:
            return Message(code=codes.DELETED)
        if len(request.opt.uri_path) > 1:
            return Message(code=codes.CHANGED)
        self._count += 1
        created = Message(code=codes.CREATED)
        created.opt.location_path = ("rd", f"r{self._count}")
        return created

    async def next(self) -> Seen:
        """The next message that arrived, waited for."""
        async with asyncio.timeout(20):
            return await self.seen.get()


@dataclass(slots=True)
class Server:
    """The server: its port, what it saw, and requests to a device at a port."""

    context: Context
    port: int
    directory: Directory

    async def ask(self, port: int, code: codes.Code, path: str, payload: bytes = b"", **options: Any) -> Message:
        """Send one request to the device and return its answer."""
        message = Message(code=code, uri=f"coap://127.0.0.1:{port}{path}", payload=payload, **options)
        async with asyncio.timeout(20):
            return await self.context.request(message).response

    async def read(self, port: int, path: str, content_format: int) -> Node:
        """Read and decode, asserting 2.05 and the format that was asked for."""
        response = await self.ask(port, codes.GET, path, accept=content_format)
        assert response.code is codes.CONTENT, (response.code, response.payload)
        assert int(response.opt.content_format) == content_format
        return formats.decode(content_format, response.payload, Path.parse(path), DEFINITIONS)

    def observe(self, port: int, path: str, content_format: int = 11542, query: tuple[str, ...] = ()) -> Observing:
        """Start to observe; iterate for the values."""
        uri = "?".join(filter(None, (f"coap://127.0.0.1:{port}{path}", "&".join(query))))
        message = Message(code=codes.GET, uri=uri, observe=0, accept=content_format)
        return Observing(self.context.request(message), Path.parse(path), content_format)


class Observing:
    """An observation of the server's, giving decoded nodes."""

    def __init__(self, request: Any, path: Path, content_format: int) -> None:
        self.request = request
        self._path = path
        self._format = content_format
        self._notifications = request.observation.__aiter__()

    async def first(self) -> Node:
        """The node of the answer to the Observe itself."""
        async with asyncio.timeout(20):
            response = await self.request.response
        assert response.opt.observe is not None
        return self.decode(response)

    async def next(self) -> Node:
        """The node of the next notification."""
        async with asyncio.timeout(20):
            return self.decode(await self._notifications.__anext__())

    def decode(self, message: Message) -> Node:
        """The node that a response or notification carries."""
        return formats.decode(self._format, message.payload, self._path, DEFINITIONS)


@asynccontextmanager
async def serve(port: int | None = None) -> AsyncIterator[Server]:
    """A server on ``port`` or a free one of 127.0.0.1, its own requests coming from the same socket."""
    directory = Directory()
    chosen = await _free_port() if port is None else port
    context = await aiocoap.Context.create_server_context(directory, bind=("127.0.0.1", chosen), transports=["udp6"])
    try:
        yield Server(context, chosen, directory)
    finally:
        await context.shutdown()


async def _free_port() -> int:
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
    )
    port: int = transport.get_extra_info("sockname")[1]
    transport.close()
    return port
