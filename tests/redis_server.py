"""A real Redis, or its fork Valkey, in a test's hands: on a free port, gone with pytest.

How it comes here and is started is `headwater.servers.redis`'s.
"""

from __future__ import annotations

import atexit
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from redis import Redis

from headwater.servers.redis import Brand as Brand
from headwater.servers.redis import binary, command
from tests.installed_server import ANSWER_S, Server
from tests.ports import held_port

PASSWORD = "s3cret é ☃"


def binaries() -> None:
    """Both, fetched if need be."""
    for brand in Brand:
        binary(brand)


@dataclass(slots=True, kw_only=True)
class RedisServer(Server):
    """One real Redis: it writes its log before it answers, so a kill loses nothing."""

    port: int
    brand: Brand = Brand.REDIS
    password: str | None = None
    #: More of its command line.
    more: Sequence[str] = ()

    def start(self) -> None:
        """Start it, on the same port and data as before; returns when it answers and has its data."""
        self.directory.mkdir(parents=True, exist_ok=True)
        login = ("--requirepass", self.password) if self.password else ()
        started = command(binary(self.brand), port=self.port, directory=self.directory, more=[*login, *self.more])
        self.run(started, self._answers, env={"HOME": str(self.directory), "PATH": os.defpath})

    def _answers(self) -> None:
        from redis.exceptions import BusyLoadingError, ConnectionError

        try:
            with self.client() as client:
                client.ping()
        except (BusyLoadingError, ConnectionError) as exc:
            raise OSError(str(exc)) from exc

    def client(self, database: int = 0) -> Any:
        """A client of the tests' own; untyped, as its answers are what each command makes of them."""
        return Redis(
            host="127.0.0.1", port=self.port, db=database, password=self.password, socket_timeout=ANSWER_S, protocol=2
        )


@cache
def shared_server(brand: Brand = Brand.REDIS) -> RedisServer:
    """The one of this session: it asks for a password, and ends with this process. Never kill it."""
    directory = Path(tempfile.mkdtemp(prefix=f"headwater-{brand.name.lower()}-"))
    server = RedisServer(directory=directory, port=held_port(), brand=brand, password=PASSWORD)
    atexit.register(server.remove)
    server.start()
    return server
