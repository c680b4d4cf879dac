"""A DTLS 1.2 server with certificates, without I/O: datagrams and the time in, events and datagrams out.

Follows RFC 6347 in the profile of RFC 7925 section 4.4. OpenSSL makes the handshakes and keeps the sessions; cookies
are ours, so that there is no connection before one came back, and bounds and times are too. A session is known by its
address: OpenSSL has no Connection ID. Who comes from another one resumes it (`gateway.dtls_certificates.greeting`).
Whatever comes in, `receive` does not raise. It never opens a socket or logs; OpenSSL itself looks at the clock, for
dates and for when to say a flight again.
"""

from __future__ import annotations

import os
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

from OpenSSL import SSL

from gateway.certificate_proof import Proof
from gateway.dtls.cookies import Cookies
from gateway.dtls.events import Closed, Ending, Established, Received, Send
from gateway.dtls.messages import ClientHello, fragments, hello_verify_request, parse_client_hello
from gateway.dtls.records import DTLS_1_0, MOST_PLAINTEXT, ContentType, Malformed, plain_record
from gateway.dtls.server import SessionClosed
from gateway.dtls.session import Address
from gateway.dtls_certificates.attempts import Attempt, Attempts
from gateway.dtls_certificates.context import CertificateContext
from gateway.dtls_certificates.datagrams import HEADER, datagrams, is_client_hello, records
from gateway.dtls_certificates.greeting import Greeter
from gateway.dtls_certificates.saying import farewell, said
from gateway.dtls_certificates.session import CertificateEvent, CertificateSession
from gateway.dtls_certificates.settings import Settings

#: TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8 (RFC 7251) and _GCM_SHA256 (RFC 5289).
SUITES: Final = frozenset({0xC0AE, 0xC02B})
#: Of these the peer cannot know by itself; told, it makes another session when it has something to say.
_TOLD: Final = frozenset({Ending.EVICTED, Ending.EXPIRED})


class CertificateServer:
    """All sessions with certificates of one UDP port."""

    def __init__(
        self,
        context: CertificateContext,
        admits: Callable[[Proof], bool],
        settings: Settings | None = None,
        *,
        random: Callable[[int], bytes] = os.urandom,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """``admits`` says whether the store knows a proof; ``wall`` is the time in UTC, for certificates."""
        self._admits = admits
        self._settings = settings or Settings()
        self._wall = wall
        self._cookies = Cookies(random(32))
        self._attempts = Attempts(self._settings.most_handshakes)
        #: By address, the longest silent first.
        self._sessions: OrderedDict[Address, CertificateSession] = OrderedDict()
        #: No session runs out before it.
        self._soonest = float("inf")
        #: What was received and came to nothing, by reason.
        self.dropped: Counter[str] = Counter()
        self._greeter = Greeter(context, admits, self._settings, wall, self.dropped)

    @property
    def open_sessions(self) -> int:
        """How many sessions are established."""
        return len(self._sessions)

    @property
    def open_handshakes(self) -> int:
        """How many handshakes have shown a cookie and are not done."""
        return len(self._attempts)

    @property
    def resumable_sessions(self) -> int:
        """How many sessions OpenSSL keeps to be resumed."""
        return self._greeter.kept

    def has(self, address: Address) -> bool:
        """True if there is a session or a handshake with that address."""
        return address in self._sessions or self._attempts.at(address) is not None

    def at(self, address: Address) -> CertificateSession | None:
        """The session with that address."""
        return self._sessions.get(address)

    @staticmethod
    def wants(offered: Sequence[int]) -> bool:
        """True for the suites of a ClientHello that one of ours is among."""
        return not SUITES.isdisjoint(offered)

    # What the owner of the socket calls

    def receive(self, datagram: bytes, address: Address, now: float) -> list[CertificateEvent]:
        """Take one datagram; ``now`` is monotonic, in seconds. Never raises: what is wrong is counted in `dropped`."""
        events: list[CertificateEvent] = []
        try:
            for record in records(datagram):
                if is_client_hello(record):
                    self._take_client_hello(record, address, now, events)
                else:
                    self._take(record, address, now, events)
        except Malformed as exc:
            self.dropped[str(exc)] += 1
        return events

    def send(self, session: CertificateSession, data: bytes) -> bytes:
        """The datagram with ``data``, for ``session.address``.

        Raises:
            SessionClosed: the session is over.
            ValueError: more than 16,384 bytes (RFC 6347 section 4.1).
        """
        if not session.open:
            raise SessionClosed
        if len(data) > MOST_PLAINTEXT:
            raise ValueError(f"{len(data)} bytes are more than a record takes")
        try:
            session.connection.send(data)
        except SSL.Error as exc:
            raise SessionClosed from exc
        return said(session.connection)

    def close(self, session: CertificateSession) -> bytes:
        """End the session; the datagram with the close_notify is for ``session.address``, and empty if it was over."""
        if not session.open:
            return b""
        self._forget(session)
        return farewell(session.connection)

    def trust(self, anchors: Sequence[bytes]) -> None:
        """Believe in handshakes that begin from now on what these certificates (DER) signed."""
        self._greeter.trust(anchors)

    def revoke(self, is_revoked: Callable[[str], bool]) -> list[tuple[CertificateSession, Send]]:
        """End the sessions of identities that are no longer good."""
        return [
            (session, Send(self.close(session), session.address))
            for session in list(self._sessions.values())
            if is_revoked(session.identity.decode("utf-8"))
        ]

    def deadline(self) -> float | None:
        """When `tick` has something to do next."""
        deadline = self._attempts.deadline()
        session = next(iter(self._sessions.values()), None)
        if session is None:
            return deadline
        over = min(session.heard + self._settings.silence, self._soonest)
        return over if deadline is None else min(deadline, over)

    def tick(self, now: float) -> list[CertificateEvent]:
        """Have OpenSSL say again what is unanswered, and forget what is over by now."""
        events: list[CertificateEvent] = []
        for attempt in self._attempts.due(now):
            if now >= attempt.expires:
                self._attempts.remove(attempt)
                self.dropped["handshake expired"] += 1
                continue
            try:
                attempt.connection.DTLSv1_handle_timeout()
            except SSL.Error:
                # It said its flight twelve times.
                self._attempts.remove(attempt)
                self.dropped["handshake unanswered"] += 1
                continue
            self._flush(attempt.connection, attempt.address, events)
            self._wait(attempt, now)
        while (session := next(iter(self._sessions.values()), None)) and session.heard + self._settings.silence <= now:
            self._end(session, Ending.SILENT, events)
        if self._soonest <= now:
            for session in [one for one in self._sessions.values() if one.expires <= now]:
                self._end(session, Ending.EXPIRED, events)
            self._soonest = min((one.expires for one in self._sessions.values()), default=float("inf"))
        return events

    # Records

    def _take_client_hello(self, record: bytes, address: Address, now: float, events: list[CertificateEvent]) -> None:
        fragment = next(fragments(record[HEADER:]))
        if not fragment.whole:
            # There is nothing of it that could be kept before a cookie.
            raise Malformed("ClientHello in pieces")
        hello = parse_client_hello(fragment.body)
        sequence = int.from_bytes(record[5:11], "big")
        if not self._cookies.check(hello.cookie, address, hello.parameters, now):
            # RFC 6347 section 4.2.1 takes the record's sequence number and DTLS 1.0 for it.
            request = hello_verify_request(self._cookies.make(address, hello.parameters, now))
            events.append(Send(plain_record(ContentType.HANDSHAKE, sequence, request, DTLS_1_0), address))
            return
        before = self._attempts.at(address)
        if before is not None and before.client_random == hello.random:
            return  # OpenSSL says its flight again by itself
        self._begin(record, hello, address, now, events)

    def _begin(
        self, record: bytes, hello: ClientHello, address: Address, now: float, events: list[CertificateEvent]
    ) -> None:
        attempt, flight = self._greeter.begin(record, hello, address, now)
        if not self._attempts.add(attempt):
            self.dropped["handshake evicted"] += 1
        events.extend(Send(one, address) for one in datagrams(flight))
        self._go_on(attempt, now, events)

    def _take(self, record: bytes, address: Address, now: float, events: list[CertificateEvent]) -> None:
        session, attempt = self._sessions.get(address), self._attempts.at(address)
        if session is None and attempt is None:
            raise Malformed("no session")
        # A handshake that is to replace a session: what does not authenticate changes neither.
        if session is not None:
            session.connection.bio_write(record)
            self._read(session, now, events)
        if attempt is not None:
            attempt.connection.bio_write(record)
            self._go_on(attempt, now, events)

    def _go_on(self, attempt: Attempt, now: float, events: list[CertificateEvent]) -> None:
        connection = attempt.connection
        try:
            connection.do_handshake()
        except SSL.WantReadError:
            self._flush(connection, attempt.address, events)
            self._wait(attempt, now)
        except SSL.Error:
            # Its alert, if there is one. Anybody's message can end a handshake of OpenSSL: the device begins anew.
            self._flush(connection, attempt.address, events)
            self._attempts.remove(attempt)
            self.dropped[attempt.look.refusal or "handshake failed"] += 1
        else:
            self._flush(connection, attempt.address, events)
            self._attempts.remove(attempt)
            self._establish(attempt, now, events)

    def _wait(self, attempt: Attempt, now: float) -> None:
        timeout = attempt.connection.DTLSv1_get_timeout()
        attempt.deadline = attempt.expires if timeout is None else min(now + timeout, attempt.expires)

    def _read(self, session: CertificateSession, now: float, events: list[CertificateEvent]) -> None:
        while session.open:
            try:
                data = session.connection.recv(MOST_PLAINTEXT)
            except SSL.WantReadError:
                self._flush(session.connection, session.address, events)
                return
            except SSL.ZeroReturnError:
                events.append(Send(farewell(session.connection), session.address))
                self._end(session, Ending.CLOSE_NOTIFY, events)
            except SSL.Error:
                self._flush(session.connection, session.address, events)
                self._end(session, Ending.ALERT, events)
            else:
                session.heard = now
                self._sessions.move_to_end(session.address)
                events.append(Received(session, data))

    # Sessions

    def _establish(self, attempt: Attempt, now: float, events: list[CertificateEvent]) -> None:
        if attempt.resumed is None:
            proof, expires = attempt.look.proof, attempt.look.expires
            self._make_room(self._greeter.keep(attempt, now), events)
        else:
            proof, expires = attempt.resumed.proof, attempt.resumed.expires
        # It may have been revoked since the certificate was looked at.
        if proof is None or expires is None or not self._admits(proof):
            events.append(Send(farewell(attempt.connection), attempt.address))
            self.dropped["certificate of nobody"] += 1
            return
        # The look holds the certificates.
        attempt.connection.set_app_data(None)
        if (before := self._sessions.get(attempt.address)) is not None:
            self._end(before, Ending.REPLACED, events)
        left = (expires - self._wall()).total_seconds()
        session = CertificateSession(
            attempt.address, proof.text.encode("utf-8"), attempt.connection, heard=now, expires=now + left
        )
        self._sessions[attempt.address] = session
        self._soonest = min(self._soonest, session.expires)
        if len(self._sessions) > self._settings.most_sessions:
            longest_silent = next(iter(self._sessions.values()))
            self._end(longest_silent, Ending.EVICTED, events)
        events.append(Established(session, resumed=attempt.resumed is not None))

    def _make_room(self, context: SSL.Context | None, events: list[CertificateEvent]) -> None:
        """End the sessions by a ``context``: each holds it, and with it all that it keeps to be resumed."""
        if context is not None:
            for session in [one for one in self._sessions.values() if one.connection.get_context() is context]:
                self._end(session, Ending.EVICTED, events)

    def _end(self, session: CertificateSession, ending: Ending, events: list[CertificateEvent]) -> None:
        if ending in _TOLD:
            events.append(Send(farewell(session.connection), session.address))
        if ending is not Ending.ALERT:
            # As if it were said: otherwise OpenSSL would resume it no more, which its device may want to.
            session.connection.set_shutdown(SSL.SENT_SHUTDOWN | SSL.RECEIVED_SHUTDOWN)
        self._forget(session)
        events.append(Closed(session, ending))

    def _forget(self, session: CertificateSession) -> None:
        session.open = False
        del self._sessions[session.address]

    def _flush(self, connection: SSL.Connection, address: Address, events: list[CertificateEvent]) -> None:
        events.extend(Send(one, address) for one in datagrams(said(connection)))
