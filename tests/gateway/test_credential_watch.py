"""When a gateway begins to speak OSCORE; the store, the state file and the sockets are real ones.

What ends with its credentials is tested at whole gateways (`tests/integration/test_coaps.py`, `test_oscore.py`).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from structlog.testing import capture_logs

from gateway.access import Access
from gateway.coap.endpoint import Endpoint
from gateway.coap.incoming import Busy
from gateway.coap.secure import SecureLine
from gateway.credential_watch import CredentialWatch
from gateway.metrics import GatewayMetrics
from gateway.parts import Parts
from gateway.registry import Registry
from gateway.state import State
from security.credentials.sqlite import SqliteCredentials
from security.credentials.store import Put
from tests.oscore_device import credential

OF = credential("press-1", b"\x01")
PARTS = cast(Parts, SimpleNamespace(registry=Registry()))


@asynccontextmanager
async def _watch(
    folder: Path, coap: tuple[str, int], *, is_alone: bool = True
) -> AsyncIterator[tuple[CredentialWatch, Endpoint, SqliteCredentials]]:
    """Of a gateway that listens to nobody in the clear, and whose store is empty."""
    store = SqliteCredentials(folder / "credentials.db", make=True)
    access = Access(SqliteCredentials(folder / "credentials.db"))
    secure = SecureLine("127.0.0.1", 0, access.key, access.only_endpoint)
    endpoint = Endpoint(None, Busy(), secure=secure)
    endpoint.start(asyncio.get_running_loop())
    state = State.open(folder / "state")
    stored = state.load()
    try:
        yield CredentialWatch(access, secure, endpoint, state, lambda: stored, coap, is_alone=is_alone), endpoint, store
    finally:
        endpoint.close()
        await state.close()
        access.close()
        store.close()


def test_oscore_begins_with_its_first_credential_and_its_port_is_tried_until_it_is_free(tmp_path: Path) -> None:
    async def run() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind(("127.0.0.1", 0))
            coap = taken.getsockname()
            async with _watch(tmp_path, coap) as (watch, endpoint, store):
                metrics = GatewayMetrics("gw")
                watch.begin_oscore()
                await watch.look(PARTS, metrics)
                assert endpoint.lines.plain_address is None
                store.put([OF], Put.NEW)
                with capture_logs() as said:
                    await watch.look(PARTS, metrics)
                    await watch.look(PARTS, metrics)
                    assert endpoint.lines.plain_address is None
                    taken.close()
                    await watch.look(PARTS, metrics)
                assert endpoint.lines.plain_address == coap
                assert [one["event"].partition(":")[0] for one in said] == [
                    "devices with OSCORE are not heard",
                    "OSCORE is spoken from now on",
                ]

    asyncio.run(run())


def test_one_of_several_processes_speaks_no_oscore_and_says_so_once(tmp_path: Path) -> None:
    async def run() -> None:
        async with _watch(tmp_path, ("127.0.0.1", 0), is_alone=False) as (watch, endpoint, store):
            store.put([OF], Put.NEW)
            with capture_logs() as said:
                watch.begin_oscore()
                await watch.look(PARTS, GatewayMetrics("gw"))
            assert endpoint.lines.plain_address is None
            assert [(one["log_level"], "--processes" in one["event"]) for one in said] == [("error", True)]

    asyncio.run(run())
