"""A `RawDevice` over DTLS with a pre-shared key, by the tests' own client: it shares no code with the gateway."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from security.credentials.key_bytes import KeyBytes
from security.credentials.kinds import Psk
from security.credentials.sqlite import SqliteCredentials
from security.credentials.store import Put
from tests.gateway.dtls.dtls_client import Client, Ticket
from tests.raw_device import RawDevice

#: What the gateway puts in front of its records to us: a Connection ID of no bytes, as most devices have it.
NO_CID = b""


def new_store(path: Path, keys: Mapping[str, bytes]) -> Path:
    """Make a store of credentials with a key for each endpoint; returns ``path``."""
    store = SqliteCredentials(path, make=True)
    now = datetime.now(UTC)
    made = [Psk(endpoint=ep, created=now, identity=ep.encode(), key=KeyBytes(key)) for ep, key in keys.items()]
    store.put(made, Put.NEW)
    store.close()
    return path


class SecureDevice(RawDevice):
    """Makes its session at once. ``cid`` None: none is negotiated, so its records are known by its address alone."""

    def __init__(
        self,
        server: tuple[str, int],
        ep: str,
        key: bytes,
        *,
        identity: str = "",
        cid: bytes | None = NO_CID,
        first_mid: int = 1,
        patience: float = 30.0,
    ) -> None:
        """
        Raises:
            AssertionError: there was no session after ``patience`` seconds.
        """
        self._identity = (identity or ep).encode()
        self._key = key
        self._cid = cid
        self.client: Client | None = None
        super().__init__(server, ep, first_mid=first_mid)
        try:
            self.connect(patience=patience)
        except BaseException:
            self.close()
            raise

    def connect(self, *, ticket: Ticket | None = None, patience: float = 30.0) -> None:
        """Make a session; with ``ticket`` go on with an earlier one, if the gateway does."""
        client = Client(identity=self._identity, key=self._key, cid=self._cid, ticket=ticket)
        end = time.monotonic() + patience
        with self._changed:
            self.client = client
            self._say(client.start())
            while not client.established and not client.alerts and time.monotonic() < end:
                if not self._changed.wait(1.0):
                    self._say(client.again())
        assert client.established, f"no session for {self.ep}; alerts: {client.alerts}"

    @property
    def was_told_to_end(self) -> bool:
        """True if the gateway has closed the session."""
        return self.client is not None and (1, 0) in self.client.alerts

    def send(self, datagram: bytes) -> None:
        with self._changed:
            assert self.client is not None
            self._say([self.client.send(datagram)])

    def _say(self, datagrams: list[bytes]) -> None:
        for datagram in datagrams:
            self._socket.sendto(datagram, self._server)

    def _opened(self, datagram: bytes) -> list[bytes]:
        assert self.client is not None
        self._say(self.client.hear(datagram))
        messages, self.client.received = self.client.received, []
        return messages
