"""A DTLS 1.2 client with a pre-shared key, without I/O: datagrams and the time in, events and datagrams out.

Follows RFC 6347 in the profile of RFC 7925 section 4.2, as `gateway.dtls.server` does: extended master secret (RFC
7627), Connection ID towards the server (RFC 9146), resumption by session id (RFC 5246 section 7.3), renegotiation
refused (RFC 5746). One client has one server and at most one session.

Whatever comes in, `receive` does not raise, and what does not authenticate ends no session. It never opens a socket,
looks at a clock, or logs; when to try again after a failure is its owner's.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable

from gateway.dtls.client_events import Arrived, ClientEvent, Connected, Ended, Failed, Failure, Transmit
from gateway.dtls.client_handshake import ClientHandshake, Contradiction, Ticket
from gateway.dtls.events import Ending
from gateway.dtls.messages import Alert, HandshakeType, alert, fragments, parse_alert
from gateway.dtls.records import (
    MOST_PLAINTEXT,
    BadRecord,
    ContentType,
    Malformed,
    Opened,
    ReadState,
    Record,
    WriteState,
    split,
)
from gateway.dtls.server import SessionClosed
from gateway.dtls.settings import Settings

#: The longest time between two transmissions (RFC 6347 section 4.2.4.1).
_MOST_INTERVAL = 60.0
#: With these a server says that identity and key do not fit (RFC 4279 section 2).
_ALERTS_ON_KEYS = (Alert.BAD_RECORD_MAC, Alert.DECRYPT_ERROR, Alert.UNKNOWN_PSK_IDENTITY)


class _Session:
    """An open session. ``handshake`` is kept as long as the server may ask for our last flight again."""

    __slots__ = ("handshake", "read", "write")

    def __init__(self, handshake: ClientHandshake, read: ReadState, write: WriteState) -> None:
        self.handshake = handshake if handshake.resumed else None
        self.read = read
        self.write = write


class Client:
    """One device's side towards one server."""

    def __init__(
        self,
        identity: bytes,
        key: bytes,
        settings: Settings | None = None,
        *,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """``identity`` is the PSK identity (UTF-8 by RFC 4279 section 5.1), at most 128 bytes for every server to take.

        Of ``settings`` the times of handshakes and of what may be resumed are used.
        """
        self._identity = identity
        self._key = key
        self._settings = settings or Settings()
        self._random = random
        self._handshake: ClientHandshake | None = None
        self._session: _Session | None = None
        #: The session before, while a handshake for the next is under way: answers may still come in it.
        self._before: _Session | None = None
        self._ticket: Ticket | None = None
        #: What was received and dropped, by reason: records, or the rest of a datagram.
        self.dropped: Counter[str] = Counter()
        self.retransmitted_flights = 0

    @property
    def is_open(self) -> bool:
        """True while there is a session."""
        return self._session is not None

    @property
    def is_connecting(self) -> bool:
        """True while a handshake is under way."""
        return self._handshake is not None

    # What the owner of the socket calls

    def connect(self, now: float) -> list[ClientEvent]:
        """Begin a handshake, in place of a session or handshake that there is; ``now`` is monotonic, in seconds.

        It resumes the last session if the server agrees. `Connected` or `Failed` tells the end; until then data of the
        session before still arrives.
        """
        ticket = self._ticket
        if ticket is not None and now >= ticket.resumable.until:
            ticket = self._ticket = None
        self._before, self._session = self._session or self._before, None
        self._handshake = ClientHandshake(self._identity, self._key, ticket, self._random)
        self._handshake.expires = now + self._settings.handshake_for
        events: list[ClientEvent] = []
        self._say(self._handshake, now, self._settings.flight_timeout, events)
        return events

    def receive(self, datagram: bytes, now: float) -> list[ClientEvent]:
        """Take one datagram of the server. Never raises: what is wrong is counted in `dropped`."""
        events: list[ClientEvent] = []
        try:
            for record in split(datagram):
                self._take(record, now, events)
        except Malformed as exc:
            self.dropped[str(exc)] += 1
        return events

    def send(self, data: bytes) -> bytes:
        """The datagram with ``data``.

        Raises:
            SessionClosed: there is no session.
            ValueError: more than 16,384 bytes (RFC 6347 section 4.1).
        """
        if self._session is None:
            raise SessionClosed
        if len(data) > MOST_PLAINTEXT:
            raise ValueError(f"{len(data)} bytes are more than a record takes")
        return self._session.write.protect(ContentType.APPLICATION_DATA, data)

    def close(self) -> bytes:
        """End the session or the handshake; returns the close_notify to send, empty if there was no session.

        The session may still be resumed (RFC 5246 section 7.2.1).
        """
        session, self._session, self._before, self._handshake = self._session, None, None, None
        return b"" if session is None else _close_notify(session)

    def deadline(self) -> float | None:
        """When `tick` has something to do next."""
        return None if self._handshake is None else self._handshake.deadline

    def tick(self, now: float) -> list[ClientEvent]:
        """Say an unanswered flight again (RFC 6347 section 4.2.4), or give the handshake up."""
        events: list[ClientEvent] = []
        handshake = self._handshake
        if handshake is None or now < handshake.deadline:
            return events
        if now >= handshake.expires:
            self._handshake = self._before = None
            if handshake.hello is not None:
                # Should the server have taken what we resumed for something else, the next one is a whole handshake.
                self._ticket = None
            events.append(Failed(handshake.failure, handshake.alert))
        else:
            self.retransmitted_flights += 1
            self._say(handshake, now, 2 * handshake.interval, events)
        return events

    # Records

    def _take(self, record: Record, now: float, events: list[ClientEvent]) -> None:
        try:
            self._take_well_formed(record, now, events)
        except Contradiction as exc:
            self.dropped[str(exc)] += 1
            if self._handshake is not None:
                self._doubt(self._handshake, exc.failure, None, now)
        except Malformed as exc:
            # RFC 6347 section 4.1.2.7: the record alone is discarded.
            self.dropped[str(exc)] += 1

    def _take_well_formed(self, record: Record, now: float, events: list[ClientEvent]) -> None:
        epoch = record.epoch
        if record.cid or epoch > 1:
            raise Malformed("unknown epoch" if epoch > 1 else "unknown connection id")
        if epoch == 0:
            self._take_plain(record, now, events)
        elif self._session is not None:
            self._take_of_session(self._session, self._session.read.open(record), events)
        elif self._handshake is None:
            raise Malformed("no session")
        elif self._before is not None and (data := _data_of(self._before, record)) is not None:
            events.append(Arrived(data))
        elif self._handshake.read is None:
            if not self._handshake.keep_early(record):
                raise Malformed("protected record before its key")
        else:
            self._take_finished(self._handshake, self._handshake.read.open(record), now, events)

    def _take_plain(self, record: Record, now: float, events: list[ClientEvent]) -> None:
        handshake = self._handshake
        if handshake is None:
            raise Malformed("no handshake")
        if record.type == ContentType.HANDSHAKE:
            for fragment in fragments(record.fragment):
                if handshake.take(fragment):
                    self._say(handshake, now, self._settings.flight_timeout, events)
                early, handshake.early = (handshake.early, []) if handshake.read is not None else ([], handshake.early)
                for one in early:
                    self._take(one, now, events)
        elif record.type == ContentType.ALERT:
            fatal, description = parse_alert(record.fragment)
            if fatal or description == Alert.CLOSE_NOTIFY:
                of_key = description in _ALERTS_ON_KEYS
                self._doubt(handshake, Failure.KEY if of_key else Failure.REFUSED, description, now)
        elif record.type != ContentType.CHANGE_CIPHER_SPEC:
            # A ChangeCipherSpec says nothing that the epoch of a record does not.
            raise Malformed("unprotected data")

    def _take_finished(self, handshake: ClientHandshake, opened: Opened, now: float, events: list[ClientEvent]) -> None:
        if opened.type != ContentType.HANDSHAKE:
            raise Malformed("protected record before the Finished")
        for fragment in fragments(opened.plaintext):
            if handshake.take_finished(fragment):
                assert handshake.read is not None
                assert handshake.write is not None
                self._handshake = self._before = None
                self._session = _Session(handshake, handshake.read, handshake.write)
                self._ticket = handshake.ticket(now + self._settings.resumable_for)
                if handshake.resumed:
                    events.append(Transmit(handshake.flight()))
                events.append(Connected(handshake.resumed))
                return

    def _take_of_session(self, session: _Session, opened: Opened, events: list[ClientEvent]) -> None:
        if opened.type == ContentType.APPLICATION_DATA:
            session.handshake = None
            events.append(Arrived(opened.plaintext))
        elif opened.type == ContentType.ALERT:
            fatal, description = parse_alert(opened.plaintext)
            if description == Alert.CLOSE_NOTIFY:
                events.append(Transmit(_close_notify(session)))
                self._session = None
                events.append(Ended(Ending.CLOSE_NOTIFY))
            elif fatal:
                self._session = self._ticket = None  # RFC 5246 section 7.2.2
                events.append(Ended(Ending.ALERT))
        elif opened.type == ContentType.HANDSHAKE:
            self._take_late_handshake(session, opened.plaintext, events)
        else:
            raise Malformed("content type of a protected record")

    def _take_late_handshake(self, session: _Session, payload: bytes, events: list[ClientEvent]) -> None:
        for fragment in fragments(payload):
            if fragment.type == HandshakeType.FINISHED and session.handshake is not None:
                # Our last flight was lost: the server said its own again (RFC 6347 section 4.2.4).
                self.retransmitted_flights += 1
                events.append(Transmit(session.handshake.flight()))
                return
            if fragment.type == HandshakeType.HELLO_REQUEST:
                refusal = session.write.protect(ContentType.ALERT, alert(Alert.NO_RENEGOTIATION))
                events.append(Transmit(refusal))
            raise Malformed("handshake message after the handshake")

    # Times

    def _say(self, handshake: ClientHandshake, now: float, interval: float, events: list[ClientEvent]) -> None:
        events.append(Transmit(handshake.flight()))
        handshake.interval = min(interval, _MOST_INTERVAL)
        handshake.deadline = min(now + handshake.interval, handshake.expires)

    def _doubt(self, handshake: ClientHandshake, failure: Failure, alert: int | None, now: float) -> None:
        """It fails, but somebody else may have said so: the server has a moment to go on."""
        handshake.failure, handshake.alert = failure, alert
        handshake.expires = min(handshake.expires, now + self._settings.doubt)
        handshake.deadline = min(handshake.deadline, handshake.expires)


def _data_of(session: _Session, record: Record) -> bytes | None:
    """The application data of a record; None if it holds something else, or is not of this session."""
    if record.type != ContentType.APPLICATION_DATA:
        return None
    try:
        return session.read.open(record).plaintext
    except BadRecord:
        return None


def _close_notify(session: _Session) -> bytes:
    return session.write.protect(ContentType.ALERT, alert(Alert.CLOSE_NOTIFY))
