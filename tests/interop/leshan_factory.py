"""A gateway that nobody reaches in the clear, and Eclipse Leshan's devices with a key each."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from pathlib import Path

from connectors.kafka import Cluster
from security.credentials.key_bytes import KeyBytes
from security.credentials.kinds import Psk
from security.credentials.sqlite import SqliteCredentials
from security.credentials.store import Put
from tests.interop.gateway_process import GatewayProcess, start_gateway
from tests.interop.leshan_device import LeshanDevice


class Factory:
    """The gateway, its store of credentials, and devices; ``more`` are arguments of the gateway besides."""

    def __init__(self, kafka: Cluster, folder: Path, class_path: list[str], *more: str) -> None:
        self.class_path = class_path
        self._folder, self._kafka, self._more = folder, kafka, more
        self._id = f"factory-{secrets.token_hex(4)}"
        self.store = SqliteCredentials(folder / "credentials.db", make=True)
        self.gateway = self._start()

    def _start(self, coaps_port: int | None = None) -> GatewayProcess:
        return start_gateway(
            self._kafka,
            self._id,
            self._folder,
            observe=("/3303/*/5700",),
            credentials=self._folder / "credentials.db",
            coaps_port=coaps_port,
            more=("--no-insecure", *self._more),
        )

    def restart(self) -> None:
        """On the same port."""
        assert self.gateway.stop() == 0, self.gateway.said()
        self.gateway = self._start(self.gateway.coaps_port)

    def device_with_a_key(self, *, key: bytes | None = None, queue_mode: bool = False) -> LeshanDevice:
        """A device with a key of its own in the store, started; ``key`` is what it has instead."""
        ep = f"leshan-{secrets.token_hex(4)}"
        good = secrets.token_bytes(16)
        credential = Psk(endpoint=ep, created=datetime.now(UTC), identity=f"id-{ep}".encode(), key=KeyBytes(good))
        self.store.put([credential], Put.NEW)
        psk = (f"id-{ep}", key or good)
        return LeshanDevice(self.class_path, ep, self.gateway.coaps, psk=psk, queue_mode=queue_mode)

    def end(self) -> None:
        self.store.close()
        assert self.gateway.stop() == 0, self.gateway.said()
