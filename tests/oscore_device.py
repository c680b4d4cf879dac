"""A `RawDevice` that speaks OSCORE by aiocoap's own implementation: it shares no code with the gateway."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiocoap import Message, oscore
from aiocoap.message import Direction
from aiocoap.numbers.codes import Code

from security.credentials.key_bytes import KeyBytes
from security.credentials.kinds import Oscore
from security.credentials.sqlite import SqliteCredentials
from security.credentials.store import Put
from tests.raw_device import Answer, RawDevice, polite

SECRET = bytes(range(1, 17))


def credential(
    ep: str,
    recipient_id: bytes,
    *,
    sender_id: bytes = b"\x7f",
    secret: bytes = SECRET,
    id_context: bytes | None = None,
    created: datetime | None = None,
) -> Oscore:
    """As the gateway has it: ``recipient_id`` is the device's own."""
    return Oscore(
        endpoint=ep,
        created=created or datetime.now(UTC),
        master_secret=KeyBytes(secret),
        sender_id=sender_id,
        recipient_id=recipient_id,
        id_context=id_context,
    )


def oscore_store(path: Path, credentials: Iterable[Oscore]) -> Path:
    """Make a store of credentials; returns ``path``."""
    store = SqliteCredentials(path, make=True)
    store.put(list(credentials), Put.NEW)
    store.close()
    return path


class DeviceContext(oscore.CanProtect, oscore.CanUnprotect, oscore.SecurityContextUtils):  # type: ignore[misc]  # aiocoap publishes no types
    """A security context in memory. ``numbers`` are those that its peer has used, in the order in which they came."""

    echo_recovery = None
    is_signing = False
    responses_send_kid = False
    external_aad_is_group = False

    def __init__(self, of: Oscore, *, secret: bytes | None = None, first: int = 0) -> None:
        self.sender_id, self.recipient_id = of.recipient_id, of.sender_id
        self.id_context = of.id_context
        self.alg_aead = oscore.algorithms[oscore.DEFAULT_ALGORITHM]
        self.hashfun = oscore.hashfunctions[oscore.DEFAULT_HASHFUNCTION]
        self.sender_sequence_number = first
        self.derive_keys(of.master_salt.reveal(), secret or of.master_secret.reveal())
        self.recipient_replay_window = oscore.ReplayWindow(64, lambda: None)
        self.recipient_replay_window.initialize_empty()

    def post_seqnoincrease(self) -> None:
        """It lives as long as the test."""


class OscoreDevice(RawDevice):
    """Retransmits the very bytes that it protected once, as RFC 8613 section 4.1.3.5 has it for the message layer."""

    def __init__(
        self,
        server: tuple[str, int],
        of: Oscore,
        *,
        answer: Answer = polite,
        secret: bytes | None = None,
        first: int = 0,
        first_mid: int = 1,
    ) -> None:
        self.context = DeviceContext(of, secret=secret, first=first)
        #: Sequence numbers of the gateway's requests, in the order in which they came.
        self.numbers: list[int] = []
        #: What came and what went, as on the wire.
        self.heard: list[bytes] = []
        self.said: list[bytes] = []
        #: Codes of answers in the clear.
        self.refusals: list[Any] = []
        self._protected: dict[bytes, bytes] = {}
        self._own: dict[bytes, Any] = {}
        self._theirs: dict[bytes, Any] = {}
        self._opened_requests: dict[bytes, bytes] = {}
        super().__init__(server, of.endpoint, answer=answer, first_mid=first_mid)

    def send(self, datagram: bytes) -> None:
        with self._changed:
            self.transmit(self.protect(datagram))

    def transmit(self, datagram: bytes) -> None:
        """Send bytes as they are."""
        self.said.append(datagram)
        super().send(datagram)

    def protect(self, datagram: bytes) -> bytes:
        """What goes over the wire for a message."""
        if len(datagram) == 4:
            return datagram
        if datagram not in self._protected:
            plain = Message.decode(datagram)
            plain.direction = Direction.OUTGOING
            request_id = None if plain.code.is_request() else self._theirs[plain.token]
            outer, own = self.context.protect(plain, request_id)
            if plain.code.is_request():
                self._own[plain.token] = own
            outer.mtype, outer.mid, outer.token = plain.mtype, plain.mid, plain.token
            self._protected[datagram] = outer.encode()
        return self._protected[datagram]

    def _opened(self, datagram: bytes) -> list[bytes]:
        self.heard.append(datagram)
        outer = Message.decode(datagram)
        if outer.code is Code.EMPTY:
            return [datagram]
        if outer.opt.oscore is None:
            self.refusals.append(outer.code)
            return []
        if datagram in self._opened_requests:  # a retransmission
            return [self._opened_requests[datagram]]
        outer.direction = Direction.INCOMING
        if outer.code.is_request():
            plain, request_id = self.context.unprotect(outer)
            # A notification may come while the answer of the request was lost, so the first answer has a number too.
            self._theirs[outer.token] = request_id
            self.numbers.append(int.from_bytes(request_id.partial_iv, "big"))
        else:
            plain, _ = self.context.unprotect(outer, self._own[outer.token])
        plain.direction = Direction.OUTGOING
        plain.mtype, plain.mid, plain.token = outer.mtype, outer.mid, outer.token
        self._opened_requests[datagram] = plain.encode()
        return [self._opened_requests[datagram]]
