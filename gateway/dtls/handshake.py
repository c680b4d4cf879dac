"""One handshake that is under way, from the verified ClientHello to the client's Finished (RFC 6347 section 4.2).

Owns the transcript, the keys as they come to be, our flight and its retransmission times, and the client's messages in
pieces. Sends nothing and decides nothing about sessions; `gateway.dtls.server` does.

What is not authenticated cannot end it: a forged ClientKeyExchange is made good by the client's next one, and a record
that does not authenticate is answered, never obeyed.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from gateway.dtls import key_schedule
from gateway.dtls.key_schedule import Side
from gateway.dtls.messages import (
    RENEGOTIATION_SCSV,
    ClientHello,
    Extension,
    Fragment,
    HandshakeType,
    message,
    server_hello,
)
from gateway.dtls.records import CHANGE_CIPHER_SPEC, ContentType, Malformed, ReadState, Record, WriteState, plain_record
from gateway.dtls.resumption import Resumable
from gateway.dtls.session import Address
from gateway.dtls.suites import Suite

#: Bytes of the longest message that is taken: a ClientKeyExchange with an identity of 128 (RFC 4279 section 5.3) and
#: room for those who need more.
MOST_MESSAGE: Final = 512
#: Records of epoch 1 that may come before the ClientKeyExchange, and the bytes of each.
_MOST_EARLY: Final = 4
_MOST_EARLY_BYTES: Final = 256


class Pieces:
    """One handshake message as it comes, in any order and with overlaps (RFC 6347 section 4.2.3)."""

    __slots__ = ("_body", "_missing")

    def __init__(self) -> None:
        self._body = bytearray()
        #: Bit n is set if byte n has not come.
        self._missing = 0

    def add(self, fragment: Fragment) -> bytes | None:
        """The whole body once it is there; then the next fragment begins anew.

        Raises:
            Malformed: the message is longer than any that is expected.
        """
        if fragment.length > MOST_MESSAGE:
            raise Malformed("handshake message too long")
        if fragment.whole:
            return fragment.body
        if len(self._body) != fragment.length or not self._missing:
            self._body = bytearray(fragment.length)
            self._missing = (1 << fragment.length) - 1
        end = fragment.offset + len(fragment.body)
        self._body[fragment.offset : end] = fragment.body
        self._missing &= ~(((1 << len(fragment.body)) - 1) << fragment.offset)
        return None if self._missing else bytes(self._body)


class Handshake:
    """Half open: the address is verified, the client is not."""

    __slots__ = (
        "_flight",
        "_hello_transcript",
        "_key_exchange",
        "_pieces",
        "_transcript",
        "address",
        "cid",
        "client_random",
        "deadline",
        "doubted",
        "early",
        "expected",
        "expires",
        "extended",
        "identity",
        "interval",
        "key",
        "master_secret",
        "next_sequence",
        "peer_cid",
        "plain_sequence",
        "read",
        "resumed",
        "server_random",
        "session_id",
        "suite",
        "timer",
        "write",
    )

    def __init__(
        self,
        address: Address,
        fragment: Fragment,
        hello: ClientHello,
        suite: Suite,
        *,
        record_sequence: int,
        server_random: bytes,
        session_id: bytes,
        cid: bytes,
    ) -> None:
        """After a verified ``hello``, which came as ``fragment`` in the record of this sequence number.

        ``cid`` is ours for the peer; it is used if the hello asks for connection ids.
        """
        self.address = address
        self.suite = suite
        self.client_random = hello.random
        self.server_random = server_random
        self.session_id = session_id
        self.extended = Extension.EXTENDED_MASTER_SECRET in hello.extensions
        offered_cid = hello.extensions.get(Extension.CONNECTION_ID)
        self.cid = cid if offered_cid is not None else b""
        self.peer_cid = offered_cid[1:] if offered_cid is not None else b""
        # RFC 6347 sections 4.2.1 and 4.2.2: both series go on from those of the ClientHello.
        self.plain_sequence = record_sequence
        self.next_sequence = fragment.sequence
        self.expected = fragment.sequence + 1
        self.identity = b""
        self.key = b""
        self.master_secret = b""
        self.resumed = False
        self.read: ReadState | None = None
        self.write: WriteState | None = None
        self.early: list[Record] = []
        #: Something of the client did not authenticate, though the keys are there.
        self.doubted = False
        self.deadline = self.expires = self.interval = 0.0
        #: Which of the timers that were set for it counts.
        self.timer = 0
        self._pieces: dict[int, Pieces] = {}
        self._key_exchange = b""
        #: (epoch, content type, fragment) of each record of our flight.
        self._flight: list[tuple[int, int, bytes]] = []
        self._transcript = hashlib.sha256(message(fragment.type, fragment.sequence, fragment.body))
        self._say(
            HandshakeType.SERVER_HELLO,
            server_hello(server_random, session_id, suite.number, self._extensions(hello)),
        )
        self._hello_transcript = self._transcript

    def _extensions(self, hello: ClientHello) -> dict[int, bytes]:
        extensions: dict[int, bytes] = {}
        if Extension.RENEGOTIATION_INFO in hello.extensions or RENEGOTIATION_SCSV in hello.suites:
            extensions[Extension.RENEGOTIATION_INFO] = b"\0"
        if self.extended:
            extensions[Extension.EXTENDED_MASTER_SECRET] = b""
        if self.cid:
            extensions[Extension.CONNECTION_ID] = bytes((len(self.cid),)) + self.cid
        return extensions

    def _say(self, type_: int, body: bytes, epoch: int = 0) -> bytes:
        said = message(type_, self.next_sequence, body)
        self.next_sequence += 1
        self._transcript.update(said)
        self._flight.append((epoch, ContentType.HANDSHAKE, said))
        return said

    # Our side

    def ask_for_key(self) -> None:
        """Go the full way (RFC 5246 section 7.3): the ServerHelloDone ends our flight. No identity hint is given."""
        self._say(HandshakeType.SERVER_HELLO_DONE, b"")
        self._hello_transcript = self._transcript

    def resume(self, resumable: Resumable) -> None:
        """Go the abbreviated way: our Finished ends our flight, the client's ends the handshake."""
        self.resumed = True
        self.identity, self.key, self.master_secret = resumable.identity, resumable.key, resumable.master_secret
        self._make_keys()
        self._finish()

    def _finish(self) -> bytes:
        self._flight.append((0, ContentType.CHANGE_CIPHER_SPEC, CHANGE_CIPHER_SPEC))
        return self._say(HandshakeType.FINISHED, self._verify_data(Side.SERVER), epoch=1)

    def flight(self) -> bytes:
        """The datagram of our flight as it stands, with new sequence numbers each time (RFC 6347 section 4.2.4)."""
        records = bytearray()
        for epoch, type_, fragment in self._flight:
            if epoch:
                assert self.write is not None
                records += self.write.protect(type_, fragment)
            else:
                records += self.plain(type_, fragment)
        return bytes(records)

    def plain(self, type_: int, fragment: bytes) -> bytes:
        """A record of epoch 0 of this handshake."""
        record = plain_record(type_, self.plain_sequence, fragment)
        self.plain_sequence += 1
        return record

    # The client's side

    def collect(self, fragment: Fragment) -> bytes | None:
        """The body of the client's message that ``fragment`` completes.

        Raises:
            Malformed: too long.
        """
        return self._pieces.setdefault(fragment.type, Pieces()).add(fragment)

    def keep_early(self, record: Record) -> bool:
        """Keep a protected record until the keys are there; False if there is no room for it."""
        if len(self.early) >= _MOST_EARLY or len(record.fragment) > _MOST_EARLY_BYTES:
            return False
        self.early.append(record)
        return True

    def take_key_exchange(self, body: bytes, identity: bytes, key: bytes) -> None:
        """Make the keys. The last ClientKeyExchange counts, so that a forged one is no harm; a copy changes nothing."""
        if self.read is not None and body == self._key_exchange:
            return
        self._key_exchange = body
        self._transcript = self._hello_transcript.copy()
        self._transcript.update(message(HandshakeType.CLIENT_KEY_EXCHANGE, self.expected, body))
        self.identity, self.key = identity, key
        premaster = key_schedule.premaster_secret(key)
        if self.extended:
            self.master_secret = key_schedule.extended_master_secret(premaster, self._transcript.digest())
        else:
            self.master_secret = key_schedule.master_secret(premaster, self.client_random, self.server_random)
        self._make_keys()

    def _make_keys(self) -> None:
        keys = key_schedule.key_block(self.master_secret, self.client_random, self.server_random)
        self.read = ReadState(self.suite, keys.client_key, keys.client_salt)
        self.write = WriteState(self.suite, keys.server_key, keys.server_salt, self.peer_cid)

    @property
    def unanswered(self) -> bool:
        """True as long as nothing that the client sent shows that it has our flight."""
        return self.resumed or self.read is None

    @property
    def finished_sequence(self) -> int:
        """The message sequence number of the client's Finished."""
        return self.expected if self.resumed else self.expected + 1

    def take_finished(self, body: bytes) -> bytes | None:
        """None if the client's Finished is wrong; else ours that follows, empty in an abbreviated handshake."""
        if not hmac.compare_digest(body, self._verify_data(Side.CLIENT)):
            return None
        if self.resumed:
            return b""
        self._transcript.update(message(HandshakeType.FINISHED, self.finished_sequence, body))
        self._flight.clear()
        return self._finish()

    def _verify_data(self, side: Side) -> bytes:
        return key_schedule.verify_data(self.master_secret, side, self._transcript.digest())
