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
from collections.abc import Callable, Collection

from gateway.dtls.accepting import Acceptor
from gateway.dtls.events import Closed, Ending, Established, Event, Moved, Received, Send
from gateway.dtls.handshake import Handshake
from gateway.dtls.messages import Alert, HandshakeType, alert, fragments, parse_alert
from gateway.dtls.records import (
    CHANGE_CIPHER_SPEC,
    CID_LENGTH,
    MOST_PLAINTEXT,
    BadRecord,
    ContentType,
    Malformed,
    Opened,
    Record,
    plain_record,
    split,
)
from gateway.dtls.session import Address, Session
from gateway.dtls.sessions import Sessions
from gateway.dtls.settings import Settings

_DATA = int(ContentType.APPLICATION_DATA)


class SessionClosed(Exception):
    """There is no way to the peer any more: the session is over."""


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
        self._settings = settings or Settings()
        self._random = random
        #: What was received and dropped, by reason: records, or the rest of a datagram.
        self.dropped: Counter[str] = Counter()
        self._sessions = Sessions()
        self._acceptor = Acceptor(keys, self._settings, random, self._new_cid, self.dropped)
        self._retransmitted_flights = 0

    @property
    def open_sessions(self) -> int:
        """How many sessions are established."""
        return len(self._sessions)

    @property
    def open_handshakes(self) -> int:
        """How many handshakes have shown a cookie and are not done."""
        return len(self._acceptor)

    @property
    def retransmitted_flights(self) -> int:
        """How often we said a flight again."""
        return self._retransmitted_flights + self._acceptor.retransmitted_flights

    def has(self, address: Address) -> bool:
        """True if there is a handshake with that address, or a session that is known by it."""
        return self._sessions.at(address) is not None or self._acceptor.has(address)

    def at(self, address: Address) -> Session | None:
        """The session that is known by that address; those with a connection id are not."""
        return self._sessions.at(address)

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

    def receive_data(self, datagram: bytes, address: Address, now: float) -> tuple[Session, bytes] | None:
        """The short path of `receive`: application data that came alone, in order, from where its session is.

        None leaves the datagram to `receive`, and then nothing has changed. Never raises.
        """
        session = self._sessions.of_datagram(datagram, address)
        if session is None or session.address != address:
            return None
        data = session.read.open_alone(datagram)
        if data is None:
            return None
        self._sessions.heard(session, now)
        session.final_flight = None
        return session, data

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
        return session.write.protect(_DATA, data)

    def close(self, session: Session) -> bytes:
        """End the session; the datagram with the close_notify is for ``session.address``, and empty if it was over.

        It may still be resumed (RFC 5246 section 7.2.1).
        """
        if not session.open:
            return b""
        self._sessions.remove(session)
        return _close_notify(session)

    def revoke(self, identities: Collection[bytes] | None = None) -> list[tuple[Session, Send]]:
        """End the sessions of identities whose keys are no longer good (None: all), and their handshakes.

        Looks at every session once, so give it all of them together, as a set.
        """
        self._acceptor.forget_identities(identities)
        return [
            (session, Send(self.close(session), session.address))
            for session in self._sessions.all()
            if identities is None or session.identity in identities
        ]

    def deadline(self) -> float | None:
        """When `tick` has something to do next."""
        deadline = self._acceptor.deadline()
        session = self._sessions.longest_silent()
        if session is None:
            return deadline
        silent = session.heard + self._settings.silence
        return silent if deadline is None else min(deadline, silent)

    def tick(self, now: float) -> list[Event]:
        """Send again what is unanswered, and forget what is over by now."""
        events: list[Event] = []
        self._acceptor.tick(now, events)
        session = self._sessions.longest_silent()
        while session is not None and session.heard + self._settings.silence <= now:
            self._end(session, Ending.SILENT, events)
            session = self._sessions.longest_silent()
        return events

    # Sessions that change their server (`gateway.several`)

    def release(self, session: Session) -> None:
        """Know an open session no more, and tell nobody: it goes on elsewhere."""
        self._sessions.remove(session)

    def adopt(self, session: Session, now: float) -> list[Event]:
        """Go on with a session that another server of the same port has released."""
        events: list[Event] = []
        self._take_in(session, now, events)
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
                if fragment.type == HandshakeType.CLIENT_HELLO:
                    self._acceptor.take_client_hello(fragment, record.sequence, address, now, events)
                else:
                    for early in self._acceptor.take_key_exchange(fragment, address, now):
                        self._take(early, address, now, events)
        elif record.type != ContentType.CHANGE_CIPHER_SPEC:
            # An alert in the clear is anybody's. A ChangeCipherSpec says nothing that the epoch of a record does not.
            raise Malformed("unprotected alert" if record.type == ContentType.ALERT else "unprotected data")

    def _take_protected(self, record: Record, address: Address, now: float, events: list[Event]) -> None:
        session = self._sessions.of_record(record, address)
        handshake = self._acceptor.of_record(record, address)
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
        finished = self._acceptor.take_protected(handshake, record, now, events)
        if finished is not None:
            self._establish(handshake, finished, now, events)

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
            self._acceptor.forget_resumable(session.session_id)  # RFC 5246 section 7.2.2
            self._end(session, Ending.ALERT, events)

    def _take_late_handshake(self, session: Session, payload: bytes, events: list[Event]) -> None:
        for fragment in fragments(payload):
            if fragment.type == HandshakeType.FINISHED and session.final_flight is not None:
                # Our last flight was lost: the client said its own again (RFC 6347 section 4.2.4).
                self._retransmitted_flights += 1
                events.append(Send(_final_flight(session, session.final_flight), session.address))
                return
            if fragment.type == HandshakeType.CLIENT_HELLO:
                refusal = session.write.protect(ContentType.ALERT, alert(Alert.NO_RENEGOTIATION))
                events.append(Send(refusal, session.address))
            raise Malformed("handshake message after the handshake")

    # Sessions

    def _establish(self, handshake: Handshake, finished: bytes, now: float, events: list[Event]) -> None:
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
        self._take_in(session, now, events)
        if finished:
            session.plain_sequence = handshake.plain_sequence
            session.final_flight = finished
            events.append(Send(_final_flight(session, finished), session.address))
        events.append(Established(session, handshake.resumed))

    def _take_in(self, session: Session, now: float, events: list[Event]) -> None:
        for replaced in self._sessions.replaced_by(session):
            self._end(replaced, Ending.REPLACED, events)
        self._sessions.add(session, now)
        if len(self._sessions) > self._settings.most_sessions:
            longest_silent = self._sessions.longest_silent()
            assert longest_silent is not None
            self._end(longest_silent, Ending.EVICTED, events)

    def _new_cid(self) -> bytes:
        cid = self._random(CID_LENGTH)
        while self._sessions.has_cid(cid):
            cid = self._random(CID_LENGTH)
        return cid

    def _end(self, session: Session, ending: Ending, events: list[Event]) -> None:
        self._sessions.remove(session)
        events.append(Closed(session, ending))


def _close_notify(session: Session) -> bytes:
    return session.write.protect(ContentType.ALERT, alert(Alert.CLOSE_NOTIFY))


def _final_flight(session: Session, finished: bytes) -> bytes:
    spec = plain_record(ContentType.CHANGE_CIPHER_SPEC, session.plain_sequence, CHANGE_CIPHER_SPEC)
    session.plain_sequence += 1
    return spec + session.write.protect(ContentType.HANDSHAKE, finished)
