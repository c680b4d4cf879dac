"""OSCORE between the socket and the message layer (RFC 8613 section 8): protected datagrams to plain ones, and back.

Owns the order in which a message holds. A number of a device counts as taken once its message was answered or
acknowledged; that is on disk before the answer or the acknowledgement leaves. So a gateway that was killed takes no
message twice that it said anything to, and needs no Echo (appendix B.1.2) to know; what it had not answered may come
again. Who is who is known to `associations`, what we asked to `requests`, and `numbers` writes what has to be on disk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from gateway.access import Access
from gateway.coap.message import Code, Message, Option, Type, parse_any_size
from gateway.coap.peers import OscorePeer, UdpAddress
from gateway.oscore import messages
from gateway.oscore.association import Association
from gateway.oscore.associations import Associations
from gateway.oscore.context import Unauthentic
from gateway.oscore.found import Again, Opened, Renewing, Stray, Unverified
from gateway.oscore.numbers import Numbers
from gateway.oscore.option import Compressed, Undecodable, decode, partial_iv
from gateway.oscore.renewal import Renewals, unwrapped
from gateway.oscore.requests import Requests
from gateway.oscore.window import ReplayWindow
from gateway.state import State, StoredState
from security.errors import CredentialStoreError

#: Answers in the clear to what cannot be opened, a second.
MOST_REFUSALS: Final = 100
#: Outer options that would change what the message is (RFC 8613 sections 4.1.3.3 and 4.1.3.4.2); blocks are inner.
_NOT_OUTSIDE: Final = frozenset(map(int, (Option.BLOCK1, Option.BLOCK2, Option.PROXY_URI, Option.PROXY_SCHEME)))


class OscoreLine:
    """All devices that speak OSCORE. Times are monotonic, ``wall`` is epoch seconds."""

    def __init__(self, access: Access, state: State, stored: StoredState, wall: Callable[[], float]) -> None:
        self._access = access
        #: What came and was not taken, by reason.
        self.refused: Counter[str] = Counter()
        #: Told of whom there are numbers for that a request waited for.
        self.on_numbers: Callable[[OscorePeer], None] = lambda _: None
        self._numbers = Numbers(state, lambda peer: self.on_numbers(peer), self.refused)
        self._requests = Requests(state, stored, self.refused)
        self._associations = Associations(access, stored, self._requests, self._numbers, wall, self.refused)
        self._renewals = Renewals()
        self._refusals_until = 0.0
        self._refusals = 0
        self.opened = 0
        #: Keys that were derived anew.
        self.renewed = 0

    def __len__(self) -> int:
        return len(self._associations)

    # Who is who

    def adopt(self, peers: Iterable[OscorePeer]) -> dict[OscorePeer, OscorePeer]:
        """The peers of registrations that were read back; gives those that stand for them from now on."""
        return self._associations.adopt(peers)

    def peer_at(self, address: UdpAddress) -> OscorePeer | None:
        """Who was heard last from this address: acknowledgements and resets are not protected."""
        return self._associations.peer_at(address)

    def look_again(self, identities: Iterable[str] | None) -> None:
        """The credentials of these have changed (None: of any): who has other keys now, or none, is not known."""
        self._associations.look_again(identities)

    # What comes

    def take(
        self, message: Message, address: UdpAddress, now: float
    ) -> Opened | Again | Renewing | Stray | Unverified | None:
        """A message with the OSCORE option; None: it is dropped, and counted. Never raises."""
        value = messages.option_of(message)
        if message.is_request and message.type in (Type.CON, Type.NON):
            return self._take_request(message, value, address, now)
        if message.is_response and message.type != Type.RST:
            return self._take_response(message, value, address, now)
        self.refused["OSCORE message of no such type"] += 1
        return None

    def _take_request(
        self, message: Message, value: bytes | None, address: UdpAddress, now: float
    ) -> Opened | Again | Renewing | Unverified | None:
        try:
            fields = decode(value or b"")
        except Undecodable as exc:
            return self._refuse(str(exc), Code.BAD_OPTION, b"Failed to decode COSE", now)
        if fields.partial_iv is None or fields.kid is None or not message.payload:
            return self._refuse("OSCORE request without kid, number or payload", Code.BAD_OPTION, b"", now)
        if any(number in _NOT_OUTSIDE for number, _ in message.options):
            return self._refuse("outer block or proxy option", Code.BAD_OPTION, b"blocks are inside of OSCORE", now)
        name = fields.kid, fields.kid_context
        known = self._associations.named(name)
        if known is None:
            credential = self._access.oscore_context(*name)
            found = (
                self._renewing(message, fields, address, now)
                if credential is None
                else self._associations.met(credential, address)
            )
            if not isinstance(found, Association):
                return found
            known = found
        try:
            datagram = messages.open_request(known.context, message, fields.partial_iv)
        except Unauthentic:
            return self._refuse("OSCORE decryption failed", Code.BAD_REQUEST, b"Decryption failed", now)
        # Only who has the key takes memory.
        if not self._associations.keep(known, name):
            return None
        return self._sort(known, datagram, message, int.from_bytes(fields.partial_iv, "big"), address, now)

    def _renewing(
        self, message: Message, fields: Compressed, address: UdpAddress, now: float
    ) -> Association | Renewing | Unverified | None:
        """One that says an ID Context which no credential has (appendix B.2): its association, if it is the second."""
        assert fields.kid is not None
        assert fields.partial_iv is not None
        id_context = None if fields.kid_context is None else unwrapped(fields.kid_context)
        credential = None if id_context is None else self._access.oscore_context(fields.kid, None)
        if id_context is None or credential is None or credential.id_context is not None:
            return self._refuse("unknown OSCORE context", Code.UNAUTHORIZED, b"Security context not found", now)
        known = self._associations.met(credential, address)
        if known.renewed == id_context:
            return known
        if self._renewals.is_second(credential, id_context):
            made = Association(
                credential, known.peer, digest=known.digest, first=0, window=ReplayWindow(), renewed=id_context
            )
            try:
                messages.open_request(made.context, message, fields.partial_iv)
            except Unauthentic:
                return self._refuse("OSCORE decryption failed", Code.BAD_REQUEST, b"Decryption failed", now)
            self._renewals.done(credential)
            if not self._associations.is_known(credential):
                # One that was read back, perhaps: its numbers are of other keys.
                self._requests.forget_stored(known.digest)
            self.renewed += 1
            return made
        try:
            return Renewing(self._renewals.first_answer(credential, message, fields.partial_iv, id_context))
        except Unauthentic:
            return self._refuse("OSCORE decryption failed", Code.BAD_REQUEST, b"Decryption failed", now)

    def _sort(
        self,
        association: Association,
        datagram: bytes,
        message: Message,
        number: int,
        address: UdpAddress,
        now: float,
    ) -> Opened | Again | Unverified | None:
        peer = association.peer
        if association.window.has(number):
            return Again(peer, address == peer.udp)
        if number in association.pending:
            # It is being worked on; under another message id it is somebody else's copy.
            self.refused["OSCORE request under way"] += 1
            return None
        self._associations.heard(association, number, address, now)
        association.begin(number, message.mid)
        self.opened += 1
        return Opened(datagram, peer, is_new=True)

    def replayed(self, now: float) -> Unverified | None:
        """A request whose number was taken, and whose answer is not known any more."""
        return self._refuse("OSCORE replay", Code.UNAUTHORIZED, b"Replay detected", now)

    def unprotected(self, now: float) -> Unverified | None:
        """A request in the clear where OSCORE alone is spoken."""
        return self._refuse("unprotected request", Code.UNAUTHORIZED, b"only with OSCORE, or over coaps", now)

    def _refuse(self, reason: str, code: Code, words: bytes, now: float) -> Unverified | None:
        self.refused[reason] += 1
        if now >= self._refusals_until:
            self._refusals_until, self._refusals = now + 1.0, 0
        self._refusals += 1
        return Unverified(code, words) if self._refusals <= MOST_REFUSALS else None

    def _take_response(
        self, message: Message, value: bytes | None, address: UdpAddress, now: float
    ) -> Opened | Again | Stray | None:
        asked = self._requests.asked(message.token)
        if asked is None and self._requests.is_kept(message.token):
            # It comes again; a reset would end the observation (RFC 7641 section 3.6).
            self.refused["OSCORE notification before its device is known"] += 1
            return None
        if asked is None:
            self.refused["OSCORE response to nothing"] += 1
            return Stray()
        association = asked.association
        try:
            fields = decode(value or b"")
            number = None if fields.partial_iv is None else int.from_bytes(fields.partial_iv, "big")
            datagram, is_current = asked.open(message, fields.partial_iv)
        except (Undecodable, Unauthentic):
            self.refused["OSCORE response not authentic"] += 1
            return None
        if number is None:
            if asked.answered:
                return Again(association.peer, is_here=address == association.peer.udp, is_taken=False)
            number_shown = max(association.window.highest, 0)
        elif association.pending.get(number, message.mid) != message.mid:
            self.refused["OSCORE replay"] += 1
            return None
        elif number in association.pending:
            number_shown = number
        elif association.window.is_too_old(number):
            # It may never have been recorded, so it is not acknowledged.
            self.refused["OSCORE number too old"] += 1
            return None
        elif association.window.has(number):
            return Again(association.peer, is_here=address == association.peer.udp)
        else:
            number_shown = number
        is_new = number not in association.pending
        if number is not None and is_new:
            self._associations.heard(association, number, address, now)
        if number is not None and message.type == Type.CON:
            association.begin(number, message.mid)
        elif number is not None:
            # Nothing is going to acknowledge it.
            association.window.take(number)
            self._numbers.write(association)
        datagram, is_observed = messages.numbered(datagram, number_shown)
        if is_current and not asked.answered:
            self._requests.answered(message.token, asked, is_observed=is_observed)
        self.opened += 1
        return Opened(datagram, association.peer, is_new)

    # What goes

    def close_request(self, peer: OscorePeer, datagram: bytes, now: float) -> bytes | None:
        """A request of ours, protected; None if there is no number for it yet (`on_numbers`), or no key any more."""
        try:
            association = self._associations.of(peer)
        except CredentialStoreError:
            association = None
        if association is None:
            self.refused["request without a context"] += 1
            return None
        number = association.take_number()
        self._numbers.reserve(association)
        if number is None:
            association.waits = True
            return None
        own = partial_iv(number)
        self._requests.add(association, parse_any_size(datagram), own, now)
        return messages.close_request(association.context, datagram, own)

    def is_asked(self, peer: OscorePeer, token: bytes) -> bool:
        """Whether a request of ours to the peer has this token."""
        asked = self._requests.asked(token)
        return asked is not None and asked.association.peer is peer

    def answer(self, peer: OscorePeer, mid: int, datagram: bytes, send: Callable[[bytes | None], None]) -> None:
        """Protect the answer to the request ``mid``, and give it to ``send`` when it may leave; None: never, and the
        request may come again."""
        association = self._associations.known(peer)
        number = None if association is None else association.end(mid)
        if association is None or number is None:
            self.refused["answer without a request"] += 1
            send(None)
            return
        # Under the request's nonce: there is one answer, as the number is taken now.
        protected = messages.close_response(association.context, datagram, partial_iv(number))
        self._numbers.take(association, number, lambda is_durable: send(protected if is_durable else None))

    def acknowledge(self, peer: OscorePeer, mid: int, send: Callable[[], None]) -> None:
        """Call ``send`` when the acknowledgement (or reset) of ``mid`` may leave."""
        association = self._associations.known(peer)
        number = None if association is None else association.end(mid)
        if association is None or number is None:
            send()
        else:
            self._numbers.take(association, number, lambda is_durable: send() if is_durable else None)

    def dropped(self, peer: OscorePeer, mid: int) -> None:
        """The request is not answered, so it may come again."""
        if (association := self._associations.known(peer)) is not None:
            association.end(mid)

    # Housekeeping

    def sweep(self, now: float, is_observed: Callable[[bytes], bool]) -> None:
        """Forget requests that nobody answers any more, each half minute."""
        self._requests.sweep(now, is_observed)
