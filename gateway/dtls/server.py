"""A DTLS 1.2 server with pre-shared keys, without I/O: datagrams and the time in, events and datagrams out.

Follows RFC 6347 in the profile of RFC 7925 section 4.2, with the extended master secret (RFC 7627), Connection ID
(RFC 9146), resumption by session id (RFC 5246 section 7.3) and renegotiation refused (RFC 5746).

It keeps no state for an address that has not shown a cookie, and no datagram that does not authenticate changes a
session: not a forged alert, not a ClientHello, not a record from elsewhere. Whatever comes in, `receive` does not
raise. It never opens a socket, looks at a clock, or logs.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from gateway.dtls.events import Closed, Ending, Established, Event, Moved, Received, Send
from gateway.dtls.greeting import Greeter, Refused
from gateway.dtls.handshake import Handshake
from gateway.dtls.handshakes import Handshakes
from gateway.dtls.key_schedule import VERIFY_DATA_LENGTH
from gateway.dtls.messages import (
    Alert,
    Fragment,
    HandshakeType,
    alert,
    fragments,
    parse_alert,
    parse_client_hello,
    parse_client_key_exchange,
)
from gateway.dtls.records import (
    CHANGE_CIPHER_SPEC,
    CID_LENGTH,
    DTLS_1_0,
    MOST_PLAINTEXT,
    BadRecord,
    ContentType,
    Malformed,
    Opened,
    Record,
    plain_record,
    split,
)
from gateway.dtls.resumption import Resumable, Resumables
from gateway.dtls.session import Address, Session
from gateway.dtls.sessions import Sessions
from gateway.dtls.suites import KEY_LENGTH

#: How often one handshake is told that its key is wrong: every telling could be an answer to a forgery.
_MOST_REFUSALS = 3


class SessionClosed(Exception):
    """There is no way to the peer any more: the session is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Bounds, and times in seconds."""

    most_sessions: int = 100_000
    most_handshakes: int = 4_096
    most_resumable: int = 100_000
    #: A session that is silent for so long is forgotten; a device may sleep for days.
    silence: float = 7 * 86_400.0
    #: RFC 5246 section F.1.4 suggests 24 hours as the most.
    resumable_for: float = 86_400.0
    #: A handshake that is not done by then is forgotten.
    handshake_for: float = 90.0
    #: The first retransmission of a flight; doubled each time. RFC 7925 section 11 has 9 s for networks of things.
    flight_timeout: float = 9.0


class Server:
    """All sessions of one UDP port."""

    def __init__(
        self,
        keys: Callable[[bytes], bytes | None],
        settings: Settings | None = None,
        *,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """``keys`` has the pre-shared key of an identity, or None; it must neither raise nor block."""
        self._keys = keys
        self._settings = settings or Settings()
        self._random = random
        #: Stands in for the key of an identity that nobody has.
        self._no_key = random(KEY_LENGTH)
        self._handshakes = Handshakes(self._settings.most_handshakes)
        self._sessions = Sessions()
        self._resumables = Resumables(self._settings.most_resumable)
        self._greeter = Greeter(keys, self._resumables, random)
        #: What was received and dropped, by reason: records, or the rest of a datagram.
        self.dropped: Counter[str] = Counter()
        self.retransmitted_flights = 0

    @property
    def open_sessions(self) -> int:
        """How many sessions are established."""
        return len(self._sessions)

    @property
    def open_handshakes(self) -> int:
        """How many handshakes have shown a cookie and are not done."""
        return len(self._handshakes)

    # What the owner of the socket calls

    def receive(self, datagram: bytes, address: Address, now: float) -> list[Event]:
        """Take one datagram; ``now`` is monotonic, in seconds. Never raises: what is wrong is counted in `dropped`."""
        events: list[Event] = []
        try:
            for record in split(datagram):
                self._take(record, address, now, events)
        except Malformed as exc:
            self.dropped[str(exc)] += 1
        return events

    def send(self, session: Session, data: bytes) -> bytes:
        """The datagram with ``data``, for ``session.address``.

        Raises:
            SessionClosed: the session is over.
            ValueError: more than 16,384 bytes (RFC 6347 section 4.1).
        """
        if not session.open:
            raise SessionClosed
        if len(data) > MOST_PLAINTEXT:
            raise ValueError(f"{len(data)} bytes are more than a record takes")
        return session.write.protect(ContentType.APPLICATION_DATA, data)

    def close(self, session: Session) -> bytes:
        """End the session; the datagram with the close_notify is for ``session.address``, and empty if it was over.

        It may still be resumed (RFC 5246 section 7.2.1).
        """
        if not session.open:
            return b""
        self._sessions.remove(session)
        return _close_notify(session)

    def revoke(self, identity: bytes) -> list[Send]:
        """End the sessions of an identity whose key is no longer good."""
        return [Send(self.close(session), session.address) for session in self._sessions.of_identity(identity)]

    def deadline(self) -> float | None:
        """When `tick` has something to do next."""
        deadline = self._handshakes.deadline()
        session = self._sessions.longest_silent()
        if session is None:
            return deadline
        silent = session.heard + self._settings.silence
        return silent if deadline is None else min(deadline, silent)

    def tick(self, now: float) -> list[Event]:
        """Send again what is unanswered, and forget what is over by now."""
        events: list[Event] = []
        for handshake in self._handshakes.due(now):
            if now >= handshake.expires:
                self._handshakes.remove(handshake)
                self.dropped["handshake expired"] += 1
            else:
                self._send_flight(handshake, now, 2 * handshake.interval, events)
        session = self._sessions.longest_silent()
        while session is not None and session.heard + self._settings.silence <= now:
            self._end(session, Ending.SILENT, events)
            session = self._sessions.longest_silent()
        return events

    # Records

    def _take(self, record: Record, address: Address, now: float, events: list[Event]) -> None:
        try:
            self._take_well_formed(record, address, now, events)
        except Malformed as exc:
            # RFC 6347 section 4.1.2.7: the record alone is discarded.
            self.dropped[str(exc)] += 1

    def _take_well_formed(self, record: Record, address: Address, now: float, events: list[Event]) -> None:
        epoch = record.epoch
        if epoch == 1:
            self._take_protected(record, address, now, events)
        elif epoch != 0:
            raise Malformed("unknown epoch")
        elif record.type == ContentType.HANDSHAKE:
            for fragment in fragments(record.fragment):
                self._take_plain_fragment(fragment, record, address, now, events)
        elif record.type != ContentType.CHANGE_CIPHER_SPEC:
            # An alert in the clear is anybody's. A ChangeCipherSpec says nothing that the epoch of a record does not.
            raise Malformed("unprotected alert" if record.type == ContentType.ALERT else "unprotected data")

    def _take_protected(self, record: Record, address: Address, now: float, events: list[Event]) -> None:
        session = self._sessions.of_record(record, address)
        handshake = self._handshakes.at(address)
        if handshake is not None and handshake.cid != record.cid:
            handshake = None
        if session is not None:
            try:
                opened = session.read.open(record)
            except BadRecord:
                # It may be of the handshake that is to replace the session.
                if handshake is None:
                    raise
            else:
                self._take_of_session(session, opened, address, now, events)
                return
        if handshake is None:
            raise Malformed("no session")
        if handshake.read is None:
            if not handshake.keep_early(record):
                raise Malformed("protected record before its key")
            return
        self._take_of_handshake(handshake, record, now, events)

    def _take_of_session(
        self, session: Session, opened: Opened, address: Address, now: float, events: list[Event]
    ) -> None:
        self._sessions.heard(session, now)
        # RFC 9146 section 6; an older record may be one that overtook the move, or was held back by an attacker.
        if address != session.address and opened.newest:
            before, session.address = session.address, address
            events.append(Moved(session, before))
        if opened.type == ContentType.APPLICATION_DATA:
            session.final_flight = None
            events.append(Received(session, opened.plaintext))
        elif opened.type == ContentType.ALERT:
            self._take_alert(session, opened.plaintext, events)
        elif opened.type == ContentType.HANDSHAKE:
            self._take_late_handshake(session, opened.plaintext, events)
        else:
            raise Malformed("content type of a protected record")

    def _take_alert(self, session: Session, payload: bytes, events: list[Event]) -> None:
        fatal, description = parse_alert(payload)
        if description == Alert.CLOSE_NOTIFY:
            events.append(Send(_close_notify(session), session.address))
            self._end(session, Ending.CLOSE_NOTIFY, events)
        elif fatal:
            self._resumables.forget(session.session_id)  # RFC 5246 section 7.2.2
            self._end(session, Ending.ALERT, events)

    def _take_late_handshake(self, session: Session, payload: bytes, events: list[Event]) -> None:
        for fragment in fragments(payload):
            if fragment.type == HandshakeType.FINISHED and session.final_flight is not None:
                # Our last flight was lost: the client said its own again (RFC 6347 section 4.2.4).
                self.retransmitted_flights += 1
                events.append(Send(_final_flight(session, session.final_flight), session.address))
                return
            if fragment.type == HandshakeType.CLIENT_HELLO:
                refusal = session.write.protect(ContentType.ALERT, alert(Alert.NO_RENEGOTIATION))
                events.append(Send(refusal, session.address))
            raise Malformed("handshake message after the handshake")

    # The handshake

    def _take_plain_fragment(
        self, fragment: Fragment, record: Record, address: Address, now: float, events: list[Event]
    ) -> None:
        if fragment.type == HandshakeType.CLIENT_HELLO:
            self._take_client_hello(fragment, record.sequence, address, now, events)
            return
        handshake = self._handshakes.at(address)
        if handshake is None:
            raise Malformed("no handshake")
        if (
            handshake.resumed
            or fragment.type != HandshakeType.CLIENT_KEY_EXCHANGE
            or fragment.sequence != handshake.expected
        ):
            raise Malformed("unexpected handshake message")
        body = handshake.collect(fragment)
        if body is None:
            return
        identity = parse_client_key_exchange(body)
        key = self._keys(identity)
        if key is None:
            # RFC 4279 section 2: go on as if the key were wrong, so that nobody learns which identities there are.
            self.dropped["unknown identity"] += 1
        handshake.take_key_exchange(body, identity, key if key is not None else self._no_key)
        handshake.deadline = handshake.expires
        self._handshakes.wait(handshake)
        early, handshake.early = handshake.early, []
        for kept in early:
            self._take(kept, address, now, events)

    def _take_client_hello(
        self, fragment: Fragment, sequence: int, address: Address, now: float, events: list[Event]
    ) -> None:
        if not fragment.whole:
            # There is nothing of it that could be kept before a cookie.
            raise Malformed("ClientHello in pieces")
        hello = parse_client_hello(fragment.body)
        request = self._greeter.ask_for_cookie(hello, address, now)
        if request is not None:
            # RFC 6347 section 4.2.1 takes the record's sequence number and DTLS 1.0 for it.
            events.append(Send(plain_record(ContentType.HANDSHAKE, sequence, request, DTLS_1_0), address))
            return
        handshake = self._handshakes.at(address)
        if handshake is not None and handshake.client_random == hello.random:
            if handshake.unanswered:
                self._send_flight(handshake, now, handshake.interval, events)
            return
        try:
            handshake = self._greeter.begin(hello, fragment, sequence, address, self._new_cid(), now)
        except Refused as exc:
            events.append(Send(plain_record(ContentType.ALERT, sequence, alert(exc.alert)), address))
            raise
        handshake.expires = now + self._settings.handshake_for
        if not self._handshakes.add(handshake):
            self.dropped["handshake evicted"] += 1
        self._send_flight(handshake, now, self._settings.flight_timeout, events)

    def _new_cid(self) -> bytes:
        cid = self._random(CID_LENGTH)
        while self._sessions.has_cid(cid):
            cid = self._random(CID_LENGTH)
        return cid

    def _take_of_handshake(self, handshake: Handshake, record: Record, now: float, events: list[Event]) -> None:
        assert handshake.read is not None
        try:
            opened = handshake.read.open(record)
        except BadRecord:
            if record.type in (ContentType.HANDSHAKE, ContentType.TLS12_CID):
                self._refuse_key(handshake, events)
            raise
        if opened.type == ContentType.APPLICATION_DATA and handshake.resumed:
            # The client is done, so its Finished was lost; seeing our flight again, it says it again.
            self._send_flight(handshake, now, handshake.interval, events)
        if opened.type != ContentType.HANDSHAKE:
            raise Malformed("protected record before the Finished")
        for fragment in fragments(opened.plaintext):
            if (
                fragment.type != HandshakeType.FINISHED
                or fragment.sequence != handshake.finished_sequence
                or fragment.length != VERIFY_DATA_LENGTH
            ):
                raise Malformed("unexpected handshake message")
            body = handshake.collect(fragment)
            if body is not None:
                self._finish(handshake, body, now, events)
                return

    def _refuse_key(self, handshake: Handshake, events: list[Event]) -> None:
        """Tell the client that its key is wrong, or its identity unknown (the same); and wait on for a right one."""
        if handshake.refusals < _MOST_REFUSALS:
            handshake.refusals += 1
            refusal = handshake.plain(ContentType.ALERT, alert(Alert.DECRYPT_ERROR))
            events.append(Send(refusal, handshake.address))

    def _finish(self, handshake: Handshake, body: bytes, now: float, events: list[Event]) -> None:
        finished = handshake.take_finished(body)
        if finished is None:
            self._refuse_key(handshake, events)
            raise Malformed("wrong Finished")
        assert handshake.read is not None
        assert handshake.write is not None
        session = Session(
            handshake.address,
            handshake.identity,
            handshake.suite,
            handshake.cid,
            handshake.session_id,
            handshake.read,
            handshake.write,
        )
        self._handshakes.remove(handshake)
        for replaced in self._sessions.replaced_by(session):
            self._end(replaced, Ending.REPLACED, events)
        self._sessions.add(session, now)
        if len(self._sessions) > self._settings.most_sessions:
            longest_silent = self._sessions.longest_silent()
            assert longest_silent is not None
            self._end(longest_silent, Ending.EVICTED, events)
        if finished:
            session.plain_sequence = handshake.plain_sequence
            session.final_flight = finished
            events.append(Send(_final_flight(session, finished), session.address))
            if session.session_id:
                until = now + self._settings.resumable_for
                secrets = Resumable(handshake.master_secret, session.identity, handshake.key, session.suite, until)
                self._resumables.add(session.session_id, secrets)
        events.append(Established(session, handshake.resumed))

    def _end(self, session: Session, ending: Ending, events: list[Event]) -> None:
        self._sessions.remove(session)
        events.append(Closed(session, ending))

    def _send_flight(self, handshake: Handshake, now: float, interval: float, events: list[Event]) -> None:
        if handshake.interval:
            self.retransmitted_flights += 1
        events.append(Send(handshake.flight(), handshake.address))
        handshake.wait(now, interval)
        self._handshakes.wait(handshake)


def _close_notify(session: Session) -> bytes:
    return session.write.protect(ContentType.ALERT, alert(Alert.CLOSE_NOTIFY))


def _final_flight(session: Session, finished: bytes) -> bytes:
    spec = plain_record(ContentType.CHANGE_CIPHER_SPEC, session.plain_sequence, CHANGE_CIPHER_SPEC)
    session.plain_sequence += 1
    return spec + session.write.protect(ContentType.HANDSHAKE, finished)
