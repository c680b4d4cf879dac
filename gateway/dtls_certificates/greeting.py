"""Which handshake a ClientHello begins that brought its cookie: a whole one, or one that resumes a session.

An abbreviated handshake shows no certificate. So a session is resumed only if what its certificates proved would do
today: the store admits it, none of them has run out, and it was not too long ago. Else the handshake is a whole one, in
which the device shows what it has now, and hears what is wrong with it.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime

from OpenSSL import SSL

from gateway.certificate_proof import Proof
from gateway.dtls.messages import ClientHello, Extension
from gateway.dtls.records import Malformed
from gateway.dtls.session import Address
from gateway.dtls_certificates.attempts import Attempt
from gateway.dtls_certificates.context import CertificateContext
from gateway.dtls_certificates.datagrams import session_id
from gateway.dtls_certificates.looking import Look
from gateway.dtls_certificates.resumption import Resumable, Resumables
from gateway.dtls_certificates.saying import said
from gateway.dtls_certificates.settings import Settings


class Greeter:
    """Begins handshakes; ``admits`` and ``wall`` are those of the server, ``dropped`` its counts."""

    def __init__(
        self,
        context: CertificateContext,
        admits: Callable[[Proof], bool],
        settings: Settings,
        wall: Callable[[], datetime],
        dropped: Counter[str],
    ) -> None:
        self._context = context
        self._admits = admits
        self._settings = settings
        self._wall = wall
        self._dropped = dropped
        self._resumables = Resumables(settings.most_resumable)

    @property
    def kept(self) -> int:
        """How many sessions OpenSSL keeps to be resumed."""
        return self._resumables.kept

    def trust(self, anchors: Sequence[bytes]) -> None:
        """Believe from now on what these certificates (DER) signed."""
        if self._context.trust(anchors):
            self._resumables.clear()

    def begin(self, record: bytes, hello: ClientHello, address: Address, now: float) -> tuple[Attempt, bytes]:
        """The handshake that the ClientHello of a ``record`` begins, and our flight.

        Raises:
            Malformed: OpenSSL cannot read it.
        """
        resumed = self._resumables.find(hello.session_id)
        if resumed is not None and not self._may_resume(resumed, hello, now):
            self._dropped["resumption refused"] += 1
            connection, look, flight = _begun(*self._context.begin_whole(), record)
            resumed = None
        else:
            context = None if resumed is None else resumed.context
            connection, look, flight = _begun(*self._context.begin(context), record)
        if resumed is not None and session_id(flight) != hello.session_id:
            # OpenSSL has forgotten it, for instance as a fatal alert came in it.
            connection, look, flight = _begun(*self._context.begin(), record)
            resumed = None
        until = now + self._settings.handshake_for
        return Attempt(address, hello.random, connection, look, session_id(flight), resumed, until), flight

    def keep(self, attempt: Attempt, now: float) -> SSL.Context | None:
        """OpenSSL keeps the session of this whole handshake, so know what it is good for. The context whose sessions
        have to end, if there are too many."""
        proof, expires = attempt.look.proof, attempt.look.expires
        if proof is None or expires is None or not attempt.session_id:
            return None
        until = now + self._settings.resumable_for
        kept = Resumable(attempt.connection.get_context(), proof, expires, until)
        too_old = self._resumables.add(attempt.session_id, kept)
        if self._resumables.is_full(self._context.current):
            self._context.renew()
        return too_old

    def _may_resume(self, resumable: Resumable, hello: ClientHello, now: float) -> bool:
        """Whether its certificates would do today."""
        return (
            now < resumable.until
            and self._wall() < resumable.expires
            # RFC 7627 section 5.3; OpenSSL asks for it only of those who had it.
            and Extension.EXTENDED_MASTER_SECRET in hello.extensions
            and self._admits(resumable.proof)
        )


def _begun(connection: SSL.Connection, look: Look, record: bytes) -> tuple[SSL.Connection, Look, bytes]:
    """A connection that has taken the ClientHello of a ``record``, and its flight.

    Raises:
        Malformed: OpenSSL cannot read it.
    """
    connection.bio_write(record)
    try:
        # It takes the message's number for the second of its client's, and ours go on from there.
        connection.DTLSv1_listen()
    except SSL.Error as exc:
        raise Malformed("ClientHello that OpenSSL does not take") from exc
    with contextlib.suppress(SSL.Error):  # the next call says again what is wrong
        connection.do_handshake()
    return connection, look, said(connection)
