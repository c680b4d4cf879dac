"""What a ClientHello is answered: a cookie to bring, an alert, or a handshake (RFC 6347 section 4.2.1).

The one place where a suite is chosen. It keeps no state but what may be resumed; not before the cookie is right does
anything here remember the client.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable

from gateway.dtls.cookies import Cookies
from gateway.dtls.handshake import Handshake
from gateway.dtls.messages import (
    NULL_COMPRESSION,
    RANDOM_LENGTH,
    Alert,
    ClientHello,
    Extension,
    Fragment,
    HandshakeType,
    fragments,
    hello_verify_request,
    parse_client_hello,
)
from gateway.dtls.records import DTLS_1_2, ContentType, Malformed, split
from gateway.dtls.resumption import Resumable, Resumables
from gateway.dtls.session import Address
from gateway.dtls.suites import Suite, choose

_SESSION_ID_LENGTH = 32
#: Where a record's content begins, and what a ClientHello in the clear has there and before.
_BODY = 13
_HANDSHAKE, _EPOCH_0 = bytes((ContentType.HANDSHAKE,)), b"\0\0"
_CLIENT_HELLO = bytes((HandshakeType.CLIENT_HELLO,))
_NO_RENEGOTIATION_BEFORE = b"\0"
#: The second ClientHello is message 1, in one of the first records. Far from the ends, no series of ours overflows.
_MOST_MESSAGE_SEQUENCE = 1 << 8
_MOST_RECORD_SEQUENCE = 1 << 32


def suites_offered(datagram: bytes) -> tuple[int, ...] | None:
    """The suites of the ClientHello in the clear that a datagram begins with; None if it begins with something else."""
    if datagram[:1] != _HANDSHAKE or datagram[3:5] != _EPOCH_0 or datagram[_BODY : _BODY + 1] != _CLIENT_HELLO:
        return None
    try:
        record = next(split(datagram))
        fragment = next(fragments(record.fragment))
        return parse_client_hello(fragment.body).suites
    except Malformed:
        return None


class Refused(Malformed):
    """There can be no handshake with this ClientHello; ``alert`` says why."""

    def __init__(self, alert: Alert) -> None:
        super().__init__(f"ClientHello refused: {alert.name.lower()}")
        self.alert = alert


class Greeter:
    """Answers ClientHellos."""

    def __init__(
        self,
        keys: Callable[[bytes], bytes | None],
        resumables: Resumables,
        random: Callable[[int], bytes],
    ) -> None:
        self._keys = keys
        self._resumables = resumables
        self._random = random
        self._cookies = Cookies(random(32))

    def ask_for_cookie(self, hello: ClientHello, address: Address, now: float) -> bytes | None:
        """The HelloVerifyRequest for a ``hello`` that has no right cookie; None if it has."""
        if self._cookies.check(hello.cookie, address, hello.parameters, now):
            return None
        return hello_verify_request(self._cookies.make(address, hello.parameters, now))

    def begin(
        self, hello: ClientHello, fragment: Fragment, sequence: int, address: Address, cid: bytes, now: float
    ) -> Handshake:
        """The handshake with our flight ready, full or abbreviated, after a ``hello`` with a right cookie.

        ``sequence`` is that of its record, ``cid`` an unused connection id.

        Raises:
            Refused: the client wants what there is not.
            Malformed: its sequence numbers are those of no first handshake.
        """
        if fragment.sequence > _MOST_MESSAGE_SEQUENCE or sequence > _MOST_RECORD_SEQUENCE:
            raise Malformed("sequence number of a ClientHello")
        resumable = self._resumable(hello, now)
        suite = _suite(hello) if resumable is None else resumable.suite
        handshake = Handshake(
            address,
            fragment,
            hello,
            suite,
            record_sequence=sequence,
            server_random=self._random(RANDOM_LENGTH),
            session_id=hello.session_id if resumable is not None else self._new_session_id(hello),
            cid=cid,
        )
        if resumable is not None:
            handshake.resume(resumable)
        else:
            handshake.ask_for_key()
        return handshake

    def _resumable(self, hello: ClientHello, now: float) -> Resumable | None:
        resumable = self._resumables.find(hello.session_id, now) if hello.session_id else None
        if (
            resumable is None
            or resumable.suite.number not in hello.suites
            # RFC 7627 section 5.3 would have us abort; a full handshake is as safe, and the device goes on.
            or Extension.EXTENDED_MASTER_SECRET not in hello.extensions
        ):
            return None
        key = self._keys(resumable.identity)
        return resumable if key and hmac.compare_digest(key, resumable.key) else None

    def _new_session_id(self, hello: ClientHello) -> bytes:
        """Empty if the session shall not be resumed."""
        return self._random(_SESSION_ID_LENGTH) if Extension.EXTENDED_MASTER_SECRET in hello.extensions else b""


def _suite(hello: ClientHello) -> Suite:
    # Versions count downwards, and a client of a later one takes ours (RFC 6347 section 4.1).
    if hello.version[0] != DTLS_1_2[0] or hello.version[1] > DTLS_1_2[1]:
        raise Refused(Alert.PROTOCOL_VERSION)
    if NULL_COMPRESSION not in hello.compression:
        raise Refused(Alert.ILLEGAL_PARAMETER)
    # RFC 5746 section 3.6: there is no renegotiation to be secured.
    if hello.extensions.get(Extension.RENEGOTIATION_INFO, _NO_RENEGOTIATION_BEFORE) != _NO_RENEGOTIATION_BEFORE:
        raise Refused(Alert.HANDSHAKE_FAILURE)
    suite = choose(hello.suites)
    if suite is None:
        raise Refused(Alert.HANDSHAKE_FAILURE)
    return suite
