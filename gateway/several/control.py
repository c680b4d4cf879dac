"""A process of several and its parent: it shows its metrics and whether it is ready, and ends when the parent is gone.

A question is two bytes, what and which number; an answer repeats the number and has the length in front.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest

from gateway.several.seat import Seat, adopted

READY: Final = ord("r")
METRICS: Final = ord("m")


async def answer_parent(seat: Seat, registry: CollectorRegistry, ready: Callable[[], str | None]) -> None:
    """Answer until the parent is gone, then have this process stop as if it were told to."""
    line = adopted(seat.parent)
    assert line is not None
    reader, writer = await asyncio.open_connection(sock=line)
    try:
        while len(asked := await _question(reader)) == 2:
            body = generate_latest(registry) if asked[0] == METRICS else (ready() or "").encode()
            writer.write(asked[1:] + len(body).to_bytes(4, "big") + body)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()
    os.kill(os.getpid(), signal.SIGTERM)


async def _question(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readexactly(2)
    except asyncio.IncompleteReadError:
        return b""
