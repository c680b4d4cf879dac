"""The client's side of one handshake, from its ClientHello to both Finished (RFC 6347 section 4.2).

Owns the transcript, the keys as they come to be, our flight, and the server's messages in pieces and out of order.
Sends nothing and looks at no clock; `gateway.dtls.client` does the first and is told the time.

Somebody who forges the server's address can make a handshake come to nothing, never to a session: the server's Finished
shows that it has the key.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Final, NamedTuple

from gateway.dtls import key_schedule
from gateway.dtls.client_events import Failure
from gateway.dtls.client_messages import (
    ServerHello,
    client_hello,
    client_key_exchange,
    parse_hello_verify_request,
    parse_server_hello,
    parse_server_key_exchange,
)
from gateway.dtls.handshake import Pieces
from gateway.dtls.key_schedule import VERIFY_DATA_LENGTH, Side
from gateway.dtls.messages import (
    NULL_COMPRESSION,
    RANDOM_LENGTH,
    RENEGOTIATION_SCSV,
    Extension,
    Fragment,
    HandshakeType,
    message,
)
from gateway.dtls.records import (
    CHANGE_CIPHER_SPEC,
    DTLS_1_2,
    ContentType,
    Malformed,
    ReadState,
    Record,
    WriteState,
    plain_record,
)
from gateway.dtls.resumption import Resumable
from gateway.dtls.suites import SUITES

#: What a server may say, and how many of its messages are kept; a flight has three.
_SERVERS: Final = (HandshakeType.SERVER_HELLO, HandshakeType.SERVER_KEY_EXCHANGE, HandshakeType.SERVER_HELLO_DONE)
_MOST_KEPT: Final = 8
#: Cookies that are answered in one handshake: a server that restarts meanwhile gives another.
_MOST_COOKIES: Final = 8
#: Protected records that may come before the ServerHello, and the bytes of each.
_MOST_EARLY: Final = 4
_MOST_EARLY_BYTES: Final = 256
_NO_RENEGOTIATION_BEFORE: Final = b"\0"
#: We have one session and one server, so that its records need no connection id (RFC 9146 section 3).
_OUR_CID: Final = b"\0"


class Contradiction(Malformed):
    """The server says what cannot be, or somebody else does: without a better answer the handshake fails for it."""

    def __init__(self, failure: Failure, what: str) -> None:
        super().__init__(what)
        self.failure = failure


class Ticket(NamedTuple):
    """A session that may be resumed, and the id by which the server knows it (RFC 5246 section 7.3)."""

    session_id: bytes
    resumable: Resumable


class ClientHandshake:
    """One attempt. ``ticket`` is offered to the server, which need not take it."""

    def __init__(self, identity: bytes, key: bytes, ticket: Ticket | None, random: Callable[[int], bytes]) -> None:
        self.identity = identity
        self._key = key
        self._ticket = ticket
        self._random = random(RANDOM_LENGTH)
        self._cookies: list[bytes] = []
        self.hello: ServerHello | None = None
        self.resumed = False
        self.master_secret = b""
        self.read: ReadState | None = None
        self.write: WriteState | None = None
        self.early: list[Record] = []
        #: Why it fails, if nothing better comes.
        self.failure = Failure.SILENT
        self.alert: int | None = None
        self.deadline = self.expires = self.interval = 0.0
        self._plain_sequence = 0
        self._next_sequence = 0
        #: The sequence number of the server's next message, once it has one.
        self._expected = 0
        self._pieces: dict[int, Pieces] = {}
        self._whole: dict[int, tuple[int, bytes]] = {}
        #: Of its own, so that nothing that came in the clear is in it.
        self._finished = Pieces()
        #: (epoch, content type, fragment) of each record of our flight.
        self._flight: list[tuple[int, int, bytes]] = []
        self._transcript = hashlib.sha256()
        self._greet(b"")

    # Our side

    def _greet(self, cookie: bytes) -> None:
        extensions: dict[int, bytes] = {Extension.EXTENDED_MASTER_SECRET: b"", Extension.CONNECTION_ID: _OUR_CID}
        offered = (*(suite.number for suite in SUITES), RENEGOTIATION_SCSV)
        session_id = self._ticket.session_id if self._ticket is not None else b""
        # RFC 6347 section 4.2.1: what was said before the cookie is not in the transcript.
        self._transcript = hashlib.sha256()
        self._flight.clear()
        self._say(HandshakeType.CLIENT_HELLO, client_hello(self._random, session_id, cookie, offered, extensions))

    def _say(self, type_: int, body: bytes, epoch: int = 0) -> None:
        said = message(type_, self._next_sequence, body)
        self._next_sequence += 1
        self._transcript.update(said)
        self._flight.append((epoch, ContentType.HANDSHAKE, said))

    def flight(self) -> bytes:
        """The datagram of our flight as it stands, with new sequence numbers each time (RFC 6347 section 4.2.4)."""
        records = bytearray()
        for epoch, type_, fragment in self._flight:
            if epoch:
                assert self.write is not None
                records += self.write.protect(type_, fragment)
            else:
                records += plain_record(type_, self._plain_sequence, fragment)
                self._plain_sequence += 1
        return bytes(records)

    # The server's side, in the clear

    def keep_early(self, record: Record) -> bool:
        """Keep a protected record until the keys are there; False if there is no room for it."""
        if len(self.early) >= _MOST_EARLY or len(record.fragment) > _MOST_EARLY_BYTES:
            return False
        self.early.append(record)
        return True

    def take(self, fragment: Fragment) -> bool:
        """A message of the server in the clear; True if our flight is to be said now.

        Raises:
            Malformed: it is none that may come now; Contradiction: and the server may mean it.
        """
        if fragment.type == HandshakeType.HELLO_VERIFY_REQUEST:
            return self._take_cookie(fragment)
        if fragment.type not in _SERVERS:
            raise Malformed("unexpected handshake message")
        if self.read is not None:
            # The server has not seen our flight (RFC 6347 section 4.2.4).
            return fragment.type == HandshakeType.SERVER_HELLO_DONE and not self.resumed
        if fragment.sequence not in self._pieces and len(self._pieces) == _MOST_KEPT:
            raise Malformed("too many handshake messages")
        body = self._pieces.setdefault(fragment.sequence, Pieces()).add(fragment)
        if body is None:
            return False
        self._whole.setdefault(fragment.sequence, (fragment.type, body))
        if self.hello is None:
            if fragment.type != HandshakeType.SERVER_HELLO:
                return False
            self._expected = fragment.sequence
        return self._go_on()

    def _take_cookie(self, fragment: Fragment) -> bool:
        if self.hello is not None or not fragment.whole:
            raise Malformed("unexpected HelloVerifyRequest")
        cookie = parse_hello_verify_request(fragment.body)
        if cookie in self._cookies:
            return False
        if len(self._cookies) == _MOST_COOKIES:
            raise Malformed("too many cookies")
        self._cookies.append(cookie)
        self._greet(cookie)
        return True

    def _go_on(self) -> bool:
        """Take what is there in its order; True at the end of the server's flight."""
        while self.read is None and self._expected in self._whole:
            type_, body = self._whole[self._expected]
            try:
                self._take_next(type_, body)
            except Malformed:
                # The server's own may still come.
                del self._whole[self._expected], self._pieces[self._expected]
                raise
            self._expected += 1
        return self.read is not None and not self.resumed

    def _take_next(self, type_: int, body: bytes) -> None:
        heard = message(type_, self._expected, body)
        if self.hello is None:
            hello = parse_server_hello(body)
            self.resumed = self._accept(hello)
            self.hello = hello
            self._transcript.update(heard)
            if self.resumed:
                assert self._ticket is not None
                self.master_secret = self._ticket.resumable.master_secret
                self._make_keys(hello)
        elif type_ == HandshakeType.SERVER_KEY_EXCHANGE:
            # A hint at which identity it wants; we have one only (RFC 4279 section 5.2).
            parse_server_key_exchange(body)
            self._transcript.update(heard)
        elif type_ == HandshakeType.SERVER_HELLO_DONE and not body:
            self._transcript.update(heard)
            self._exchange_keys(self.hello)
        else:
            raise Malformed("unexpected handshake message")

    def _accept(self, hello: ServerHello) -> bool:
        """True if the server resumes the session; raises Contradiction if the hello is none for what we offered."""
        extensions = hello.extensions
        if hello.version != DTLS_1_2:
            raise Contradiction(Failure.FOREIGN, "version of the ServerHello")
        if hello.suite not in (suite.number for suite in SUITES) or hello.compression != NULL_COMPRESSION:
            raise Contradiction(Failure.FOREIGN, "suite of the ServerHello")
        # RFC 5246 section 7.4.1.4, and RFC 5746 section 3.4.
        if not extensions.keys() <= {*Extension}:
            raise Contradiction(Failure.FOREIGN, "extension of the ServerHello")
        if extensions.get(Extension.RENEGOTIATION_INFO, _NO_RENEGOTIATION_BEFORE) != _NO_RENEGOTIATION_BEFORE:
            raise Contradiction(Failure.FOREIGN, "renegotiation_info of the ServerHello")
        if self._ticket is None or hello.session_id != self._ticket.session_id:
            return False
        # RFC 7627 section 5.3, and RFC 5246 section 7.4.1.3.
        if Extension.EXTENDED_MASTER_SECRET not in extensions or hello.suite != self._ticket.resumable.suite.number:
            raise Contradiction(Failure.FOREIGN, "another session under the id of the resumed one")
        return True

    def _exchange_keys(self, hello: ServerHello) -> None:
        self._flight.clear()
        self._say(HandshakeType.CLIENT_KEY_EXCHANGE, client_key_exchange(self.identity))
        premaster = key_schedule.premaster_secret(self._key)
        if Extension.EXTENDED_MASTER_SECRET in hello.extensions:
            self.master_secret = key_schedule.extended_master_secret(premaster, self._transcript.digest())
        else:
            self.master_secret = key_schedule.master_secret(premaster, self._random, hello.random)
        self._make_keys(hello)
        self._finish()
        # Who answered, and then says nothing any more, most likely cannot read our Finished.
        self.failure = Failure.KEY

    def _make_keys(self, hello: ServerHello) -> None:
        suite = next(suite for suite in SUITES if suite.number == hello.suite)
        keys = key_schedule.key_block(self.master_secret, self._random, hello.random)
        self.read = ReadState(suite, keys.server_key, keys.server_salt)
        cid = hello.extensions.get(Extension.CONNECTION_ID, b"\0")[1:]
        self.write = WriteState(suite, keys.client_key, keys.client_salt, cid)

    def _finish(self) -> None:
        self._flight.append((0, ContentType.CHANGE_CIPHER_SPEC, CHANGE_CIPHER_SPEC))
        self._say(HandshakeType.FINISHED, self._verify_data(Side.CLIENT), epoch=1)

    # The server's side, protected

    def take_finished(self, fragment: Fragment) -> bool:
        """True once the server's Finished is there and right; in a resumed session our own is then to be said.

        Raises:
            Malformed: it is another message; Contradiction: it is not right.
        """
        if (
            fragment.type != HandshakeType.FINISHED
            or fragment.sequence != self._expected
            or fragment.length != VERIFY_DATA_LENGTH
        ):
            raise Malformed("unexpected handshake message")
        body = self._finished.add(fragment)
        if body is None:
            return False
        if not hmac.compare_digest(body, self._verify_data(Side.SERVER)):
            raise Contradiction(Failure.KEY, "wrong Finished")
        if self.resumed:
            self._transcript.update(message(HandshakeType.FINISHED, self._expected, body))
            self._flight.clear()
            self._finish()
        return True

    def ticket(self, until: float) -> Ticket | None:
        """What the session may be resumed with; only one with the extended master secret (RFC 7627 section 5.3)."""
        if self.resumed:
            return self._ticket
        assert self.hello is not None
        session_id = self.hello.session_id
        if not 0 < len(session_id) <= RANDOM_LENGTH or Extension.EXTENDED_MASTER_SECRET not in self.hello.extensions:
            return None
        suite = next(suite for suite in SUITES if suite.number == self.hello.suite)
        return Ticket(session_id, Resumable(self.master_secret, self.identity, self._key, suite, until))

    def _verify_data(self, side: Side) -> bytes:
        return key_schedule.verify_data(self.master_secret, side, self._transcript.digest())
