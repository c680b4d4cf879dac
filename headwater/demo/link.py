"""A TCP link that can be cut: the WAN between edge and cloud, for the demo and the fault tests.

Owns one listening port on 127.0.0.1 and passes bytes on to one other port, both ways, with an event loop in a thread of
its own. It knows nothing of what passes through. Kafka tells clients where to connect to, so a broker behind a link
needs a `headwater.servers.broker.LinkListener`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from enum import Enum
from typing import Any

_CHUNK = 65_536
_CALL = 10.0
#: Chunks at once on one way of a connection: a line holds only so much.
_UNDER_WAY = 64


class Cut(Enum):
    """How a line fails."""

    SILENT = "silent"  # as a cut cable: nothing arrives, nobody is told, and what was open may go on afterwards
    RESET = "reset"  # as a restarted router: what was open is reset, and who comes is turned away


class Link:
    """From ``127.0.0.1:port`` (0: a free one) to ``127.0.0.1:to_port``; carries from construction until `close`.

    ``rate``: bytes a second in each direction, None for no limit. ``delay``: seconds that each byte takes, each way.
    All methods may be called from any thread.

    Raises:
        OSError: the port is taken.
    """

    def __init__(self, port: int, to_port: int, *, rate: float | None = None, delay: float = 0.0) -> None:
        self._to_port = to_port
        self._rate = rate
        self._delay = delay
        self._cut: Cut | None = None
        self._loop = asyncio.new_event_loop()
        self._whole = asyncio.Event()
        self._whole.set()
        self._lines: set[asyncio.Task[None]] = set()
        self._busy_until = {"up": 0.0, "down": 0.0}
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"link-{to_port}", daemon=True)
        self._thread.start()
        try:
            self._server = self._call(self._listen(port))
        except OSError:
            self._end_loop()
            raise
        self.port: int = self._server.sockets[0].getsockname()[1]

    @property
    def is_cut(self) -> bool:
        return self._cut is not None

    def cut(self, how: Cut = Cut.SILENT) -> None:
        """Cut the line; returns when nothing passes any more."""
        self._call(self._set(how))

    def restore(self) -> None:
        """Make the line whole again."""
        self._call(self._set(None))

    def close(self) -> None:
        """End the link and all that goes through it; a second call does nothing."""
        if self._thread.is_alive():
            self._call(self._end())
            self._end_loop()

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_CALL)

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CALL)
        self._loop.close()

    async def _listen(self, port: int) -> asyncio.Server:
        return await asyncio.start_server(self._accept, "127.0.0.1", port, limit=_CHUNK)

    async def _set(self, how: Cut | None) -> None:
        self._cut = how
        if how is None:
            self._whole.set()
            return
        self._whole.clear()
        if how is Cut.RESET:
            await self._hang_up()

    async def _end(self) -> None:
        self._server.close()
        await self._hang_up()

    async def _hang_up(self) -> None:
        lines = list(self._lines)
        for line in lines:
            line.cancel()
        await asyncio.gather(*lines, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = asyncio.current_task()
        assert line is not None
        self._lines.add(line)
        far: asyncio.StreamWriter | None = None
        try:
            if self._cut is Cut.RESET:
                return
            await self._whole.wait()
            async with asyncio.timeout(_CALL):
                far_reader, far = await asyncio.open_connection("127.0.0.1", self._to_port, limit=_CHUNK)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(reader, far, "up"))
                both.create_task(self._pass(far_reader, writer, "down"))
        except* (OSError, _Ended):
            pass  # one side went away, or was never there: the other one learns it below
        except* asyncio.CancelledError:
            pass  # by _hang_up alone; Python 3.11's streams would report a cancelled connection as an error
        finally:
            self._lines.discard(line)
            for side in (writer, far):
                if side is not None:
                    with contextlib.suppress(OSError):
                        side.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
        # What is on its way, with the time of its arrival; None: the sender closed.
        under_way: asyncio.Queue[tuple[float, bytes | None]] = asyncio.Queue(_UNDER_WAY)
        async with asyncio.TaskGroup() as both:
            both.create_task(self._take(reader, under_way, way))
            both.create_task(self._deliver(under_way, writer))

    async def _take(
        self, reader: asyncio.StreamReader, under_way: asyncio.Queue[tuple[float, bytes | None]], way: str
    ) -> None:
        while data := await reader.read(_CHUNK if self._rate is None else max(512, int(self._rate / 20))):
            if self._rate is not None:
                # All connections of one way share the line.
                begins = max(self._loop.time(), self._busy_until[way])
                self._busy_until[way] = begins + len(data) / self._rate
                await asyncio.sleep(self._busy_until[way] - self._loop.time())
            await under_way.put((self._loop.time() + self._delay, data))
        await under_way.put((self._loop.time() + self._delay, None))

    async def _deliver(
        self, under_way: asyncio.Queue[tuple[float, bytes | None]], writer: asyncio.StreamWriter
    ) -> None:
        while True:
            arrives, data = await under_way.get()
            if (left := arrives - self._loop.time()) > 0:
                await asyncio.sleep(left)
            await self._whole.wait()
            if data is None:
                raise _Ended
            writer.write(data)
            await writer.drain()


class _Ended(Exception):
    """One side of a line closed it."""
