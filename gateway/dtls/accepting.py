"""Handshakes, from the ClientHello to the client's Finished: takes the client's messages, and says and repeats ours.

Owns the half-open handshakes and what may be resumed, not the sessions: a handshake that is complete is handed back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection

from gateway.dtls.events import Event, Send, Unproven
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
    parse_client_hello,
    parse_client_key_exchange,
)
from gateway.dtls.records import DTLS_1_0, BadRecord, ContentType, Malformed, Record, plain_record
from gateway.dtls.resumption import Resumable, Resumables
from gateway.dtls.session import Address
from gateway.dtls.settings import Settings
from gateway.dtls.suites import KEY_LENGTH

#: The longest time between two transmissions (RFC 6347 section 4.2.4.1).
MOST_INTERVAL = 60.0


class Acceptor:
    """All that is not yet a session. Its methods append what is to be sent to ``events``.

    What is wrong with a message is raised as Malformed, and changes nothing.
    """

    def __init__(
        self,
        keys: Callable[[bytes], bytes | None],
        settings: Settings,
        random: Callable[[int], bytes],
        new_cid: Callable[[], bytes],
        dropped: Counter[str],
    ) -> None:
        """``new_cid`` has a connection id that nobody has; ``dropped`` counts what comes to nothing, by reason."""
        self._keys = keys
        self._settings = settings
        self._new_cid = new_cid
        self._dropped = dropped
        #: Stands in for the key of an identity that nobody has.
        self._no_key = random(KEY_LENGTH)
        self._handshakes = Handshakes(settings.most_handshakes)
        self._resumables = Resumables(settings.most_resumable)
        self._greeter = Greeter(keys, self._resumables, random)
        self.retransmitted_flights = 0

    def __len__(self) -> int:
        return len(self._handshakes)

    def of_record(self, record: Record, address: Address) -> Handshake | None:
        """The handshake that a protected record may be of."""
        handshake = self._handshakes.at(address)
        return handshake if handshake is not None and handshake.cid == record.cid else None

    def has(self, address: Address) -> bool:
        """True if there is a handshake with that address."""
        return self._handshakes.at(address) is not None

    def deadline(self) -> float | None:
        """When `tick` has something to do next."""
        return self._handshakes.deadline()

    def tick(self, now: float, events: list[Event]) -> None:
        """Say unanswered flights again, tell clients that their key is wrong, forget what took too long."""
        for handshake in self._handshakes.due(now):
            if now >= handshake.expires:
                self._handshakes.remove(handshake)
                self._dropped["handshake expired"] += 1
            elif handshake.unanswered:
                self._send_flight(handshake, now, 2 * handshake.interval, events)
            else:
                # The same for a wrong key and for an identity that nobody has (RFC 4279 section 2).
                refusal = handshake.plain(ContentType.ALERT, alert(Alert.DECRYPT_ERROR))
                events.append(Send(refusal, handshake.address))
                self._wait(handshake, handshake.expires)

    def forget_resumable(self, session_id: bytes) -> None:
        """The session shall not be resumed."""
        self._resumables.forget(session_id)

    def forget_identities(self, identities: Collection[bytes] | None) -> None:
        """The handshakes of identities (None: all) come to nothing: their keys are no longer good."""
        self._handshakes.forget(lambda one: identities is None or one.identity in identities)

    # The client's messages in the clear

    def take_key_exchange(self, fragment: Fragment, address: Address, now: float) -> list[Record]:
        """A message in the clear that is no ClientHello; the protected records that came before it, to take now."""
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
            return []
        identity = parse_client_key_exchange(body)
        key = self._keys(identity)
        if not key:  # nor is an empty key one
            # RFC 4279 section 2: go on as if the key were wrong, so that nobody learns which identities there are.
            self._dropped["unknown identity"] += 1
        handshake.take_key_exchange(body, identity, key or self._no_key)
        if not handshake.doubted:
            self._wait(handshake, handshake.expires)
        early, handshake.early = handshake.early, []
        return early

    def take_client_hello(
        self, fragment: Fragment, sequence: int, address: Address, now: float, events: list[Event]
    ) -> None:
        """A ClientHello in a record of this sequence number."""
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
            self._dropped["handshake evicted"] += 1
        self._send_flight(handshake, now, self._settings.flight_timeout, events)

    # The client's protected messages

    def take_protected(self, handshake: Handshake, record: Record, now: float, events: list[Event]) -> bytes | None:
        """A record of epoch 1; if it completes the handshake, our Finished to say now (empty if it was said)."""
        if handshake.read is None:
            if not handshake.keep_early(record):
                raise Malformed("protected record before its key")
            return None
        try:
            opened = handshake.read.open(record)
        except BadRecord:
            self._doubt(handshake, now, events)
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
                return self._finish(handshake, body, now, events)
        return None

    def _finish(self, handshake: Handshake, body: bytes, now: float, events: list[Event]) -> bytes:
        finished = handshake.take_finished(body)
        if finished is None:
            self._doubt(handshake, now, events)
            raise Malformed("wrong Finished")
        self._handshakes.remove(handshake)
        if finished and handshake.session_id:
            until = now + self._settings.resumable_for
            self._resumables.add(
                handshake.session_id,
                Resumable(handshake.master_secret, handshake.identity, handshake.key, handshake.suite, until),
            )
        return finished

    def _doubt(self, handshake: Handshake, now: float, events: list[Event]) -> None:
        """The client's key is wrong, or somebody else sent this: one with the right key goes on meanwhile."""
        if not handshake.unanswered and not handshake.doubted:
            handshake.doubted = True
            events.append(Unproven(handshake.identity, handshake.address))
            self._wait(handshake, min(now + self._settings.doubt, handshake.expires))

    # Times

    def _send_flight(self, handshake: Handshake, now: float, interval: float, events: list[Event]) -> None:
        if handshake.interval:
            self.retransmitted_flights += 1
        events.append(Send(handshake.flight(), handshake.address))
        handshake.interval = min(interval, MOST_INTERVAL)
        self._wait(handshake, min(now + handshake.interval, handshake.expires))

    def _wait(self, handshake: Handshake, deadline: float) -> None:
        handshake.deadline = deadline
        self._handshakes.wait(handshake)
