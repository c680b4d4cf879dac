"""OSCORE between the socket and the message layer (RFC 8613 section 8): protected datagrams to plain ones, and back.

Owns the security contexts in use, and the order in which a message holds. A number of a device counts as taken once
its message was answered or acknowledged; that is on disk before the answer or the acknowledgement leaves. So a
gateway that was killed takes no message twice that it said anything to, and needs no Echo (appendix B.1.2) to
know; what it had not answered may come again. Numbers of ours are on disk before they are used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final
from weakref import WeakValueDictionary

import structlog

from gateway.access import Access
from gateway.coap.exchanges import EXCHANGE_LIFETIME
from gateway.coap.message import Code, Message, Option, Type, parse_any_size
from gateway.coap.peers import OscorePeer, UdpAddress
from gateway.oscore import messages
from gateway.oscore.association import Association
from gateway.oscore.context import SecurityContext, Unauthentic
from gateway.oscore.found import Again, Opened, Renewing, Stray, Unverified
from gateway.oscore.option import Compressed, Undecodable, decode, partial_iv
from gateway.oscore.renewal import Renewals, unwrapped
from gateway.oscore.window import ReplayWindow
from gateway.state import (
    State,
    StateError,
    StoredOscoreObservation,
    StoredState,
)
from security.credentials.kinds import Oscore
from security.errors import CredentialStoreError

_log = structlog.get_logger("headwater.oscore")

#: Devices that speak OSCORE at once: as many as may be registered. Who has no key takes none of them.
MOST_ASSOCIATIONS: Final = 100_000
#: Requests of ours whose answers can still be opened, and observations; with more, those that are over go sooner.
MOST_ASKED: Final = 100_000
#: Answers in the clear to what cannot be opened, a second.
MOST_REFUSALS: Final = 100
#: Where a context begins whose state is not here: above all that was ever sent, if it was less than this a second since
#: the credential was made.
NUMBERS_A_SECOND: Final = 8
_SWEEP_SECONDS: Final = 30.0
#: Outer options that would change what the message is (RFC 8613 sections 4.1.3.3 and 4.1.3.4.2); blocks are inner.
_NOT_OUTSIDE: Final = frozenset(map(int, (Option.BLOCK1, Option.BLOCK2, Option.PROXY_URI, Option.PROXY_SCHEME)))


@dataclass(slots=True)
class Asked:
    """A request of ours, whose answers are bound to its Partial IV."""

    association: Association
    partial_iv: bytes
    at: float
    #: The Partial IV of the observation that had the token before, until this one is answered.
    before: bytes | None = None
    answered: bool = False
    observes: bool = False


class OscoreLine:
    """All devices that speak OSCORE. Times are monotonic, ``wall`` is epoch seconds."""

    def __init__(self, access: Access, state: State, stored: StoredState, wall: Callable[[], float]) -> None:
        self._access = access
        self._state = state
        self._wall = wall
        self._stored = {row.digest: row for row in stored.oscore_contexts}
        self._observations: dict[bytes, list[StoredOscoreObservation]] = {}
        observed = stored.oscore_observed
        #: Rows of observations that are no more.
        self._stale = [one.token for one in stored.oscore_observations if one.token not in observed]
        for one in stored.oscore_observations:
            if one.token in observed:
                self._observations.setdefault(one.digest, []).append(one)
        #: The tokens of those that belong to no association yet: a device may notify before its registration is read
        #: back, or while the credentials cannot be read.
        self._kept = {one.token for rows in self._observations.values() for one in rows}
        self._associations: dict[str, Association] = {}
        #: By what a message says of itself, as the credentials were when it was asked last.
        self._named: dict[tuple[bytes, bytes | None], Association] = {}
        self._at: dict[UdpAddress, OscorePeer] = {}
        self._peers: WeakValueDictionary[str, OscorePeer] = WeakValueDictionary()
        self._asked: dict[bytes, Asked] = {}
        self._renewals = Renewals()
        self._swept_at = 0.0
        self._refusals_until = 0.0
        self._refusals = 0
        #: What came and was not taken, by reason.
        self.refused: Counter[str] = Counter()
        self.opened = 0
        #: Keys that were derived anew.
        self.renewed = 0
        #: Told of whom there are numbers for that a request waited for.
        self.on_numbers: Callable[[OscorePeer], None] = lambda _: None

    def __len__(self) -> int:
        return len(self._associations)

    # Who is who

    def adopt(self, peers: Iterable[OscorePeer]) -> dict[OscorePeer, OscorePeer]:
        """The peers of registrations that were read back; gives those that stand for them from now on."""
        instead = {}
        for peer in peers:
            instead[peer] = known = self._peers.setdefault(peer.credential, peer)
            if known is peer:
                self._at.setdefault(peer.udp, peer)
            try:
                # Numbers are reserved now, so that the first request need not wait.
                if (association := self._of(known)) is not None:
                    self._reserve(association)
            except CredentialStoreError:
                continue
        return instead

    def peer_at(self, address: UdpAddress) -> OscorePeer | None:
        """Who was heard last from this address: acknowledgements and resets are not protected."""
        return self._at.get(address)

    def _of(self, peer: OscorePeer) -> Association | None:
        """Of a peer that is to be spoken to.

        Raises:
            CredentialStoreError: the credentials cannot be read.
        """
        if (found := self._associations.get(peer.credential)) is not None:
            return found
        credential = self._access.oscore(peer.credential)
        return None if credential is None else self._keep(self._made(credential, peer))

    def _made(self, credential: Oscore, peer: OscorePeer) -> Association:
        """As the state has it."""
        digest = SecurityContext(credential).digest
        row = self._stored.get(digest)
        if row is None:
            # Unknown, or the state was lost: then none of these was used either.
            age = max(0.0, self._wall() - credential.created.timestamp())
            return Association(
                credential, peer, digest=digest, first=int(age) * NUMBERS_A_SECOND, window=ReplayWindow()
            )
        window = ReplayWindow(row.highest, int.from_bytes(row.taken, "big"))
        return Association(
            credential, peer, digest=digest, first=row.next_number, window=window, renewed=row.id_context
        )

    def _keep(self, made: Association) -> Association | None:
        peer = made.peer
        if len(self._associations) >= MOST_ASSOCIATIONS:
            self.refused["too many contexts"] += 1
            return None
        self._associations[peer.credential] = made
        self._peers[peer.credential] = peer
        self._at.setdefault(peer.udp, peer)
        for one in self._observations.pop(made.digest, ()):
            self._kept.discard(one.token)
            self._asked[one.token] = Asked(made, one.partial_iv, 0.0, answered=True, observes=True)
        return made

    def look_again(self, identities: Iterable[str] | None) -> None:
        """The credentials of these have changed (None: of any): who has other keys now, or none, is not known."""
        self._named.clear()
        chosen = None if identities is None else frozenset(identities)
        for name, association in list(self._associations.items()):
            if chosen is not None and association.peer.identity not in chosen:
                continue
            try:
                credential = self._access.oscore(name)
            except CredentialStoreError:
                continue  # nobody is ended by a store that fails
            if credential is None or SecurityContext(credential).digest != association.digest:
                self._drop(name, association)

    def _drop(self, name: str, association: Association) -> None:
        self._stored[association.digest] = association.row()
        del self._associations[name]
        if self._at.get(association.peer.udp) is association.peer:
            del self._at[association.peer.udp]
        self._forget_asked(association)

    def _forget_asked(self, association: Association) -> None:
        for token in [token for token, asked in self._asked.items() if asked.association is association]:
            if self._asked.pop(token).observes:
                self._stale.append(token)

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
        known = self._named.get((fields.kid, fields.kid_context))
        if known is None:
            credential = self._access.oscore_context(fields.kid, fields.kid_context)
            found = (
                self._renewing(message, fields, address, now) if credential is None else self._met(credential, address)
            )
            if not isinstance(found, Association):
                return found
            known = found
        try:
            datagram = messages.open_request(known.context, message, fields.partial_iv)
        except Unauthentic:
            return self._refuse("OSCORE decryption failed", Code.BAD_REQUEST, b"Decryption failed", now)
        # Only who has the key takes memory.
        if self._associations.get(known.peer.credential) is not known and not self._begin(known):
            return None
        self._named.setdefault((fields.kid, fields.kid_context), known)
        return self._sort(known, datagram, message, int.from_bytes(fields.partial_iv, "big"), address, now)

    def _met(self, credential: Oscore, address: UdpAddress) -> Association:
        """Who has this credential, as far as is known."""
        name = credential.id.name
        known = self._associations.get(name)
        return known or self._made(credential, self._peers.get(name) or OscorePeer(name, address))

    def _begin(self, made: Association) -> bool:
        """Have it from now on, also in the place of one with keys of before."""
        old = self._associations.get(made.peer.credential)
        if old is not None:
            self._associations[made.peer.credential] = made
            self._forget_asked(old)
            self._named = {key: one for key, one in self._named.items() if one is not old}
        elif self._keep(made) is None:
            return False
        if made.renewed is not None:
            # At once: the device uses these keys alone from now on.
            self._write(made, lambda _: None)
        return True

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
        known = self._met(credential, address)
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
            if self._associations.get(credential.id.name) is None:
                # One that was read back, perhaps: its numbers are of other keys.
                self._kept.difference_update(one.token for one in self._observations.pop(known.digest, ()))
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
        self._heard(association, number, address, now)
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

    def _heard(self, association: Association, number: int, address: UdpAddress, now: float) -> None:
        """Only the newest message says where the device is, so that no copy of an older one moves it."""
        peer = association.peer
        if number <= max(association.window.highest, *association.pending, -1):
            return
        if address != peer.udp:
            if self._at.get(peer.udp) is peer:
                del self._at[peer.udp]
            peer.udp, peer.proven, peer.moved_at = address, False, now
        self._at[address] = peer

    def _take_response(
        self, message: Message, value: bytes | None, address: UdpAddress, now: float
    ) -> Opened | Again | Stray | None:
        asked = self._asked.get(message.token)
        if asked is None and message.token in self._kept:
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
            datagram, is_current = self._opened_response(asked, message, fields.partial_iv)
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
            self._heard(association, number, address, now)
        if number is not None and message.type == Type.CON:
            association.begin(number, message.mid)
        elif number is not None:
            # Nothing is going to acknowledge it.
            association.window.take(number)
            self._write(association, lambda _: None)
        datagram, is_observed = messages.numbered(datagram, number_shown)
        if is_current and not asked.answered:
            self._answered(message.token, asked, is_observed=is_observed)
        self.opened += 1
        return Opened(datagram, association.peer, is_new)

    @staticmethod
    def _opened_response(asked: Asked, message: Message, own_iv: bytes | None) -> tuple[bytes, bool]:
        context = asked.association.context
        try:
            return messages.open_response(context, message, asked.partial_iv, own_iv), True
        except Unauthentic:
            if asked.before is None or own_iv is None:
                raise
            # A notification of before the device heard that it is to observe again.
            return messages.open_response(context, message, asked.before, own_iv), False

    def _answered(self, token: bytes, asked: Asked, *, is_observed: bool) -> None:
        asked.answered, asked.before = True, None
        if asked.observes and is_observed:
            row = StoredOscoreObservation(token=token, digest=asked.association.digest, partial_iv=asked.partial_iv)
            try:
                self._state.put_oscore_observation(row)
            except StateError:
                # It lives as long as the process; after a restart its notifications are answered with a reset.
                self.refused["observation not stored"] += 1
        else:
            asked.observes = False

    # What goes

    def close_request(self, peer: OscorePeer, datagram: bytes, now: float) -> bytes | None:
        """A request of ours, protected; None if there is no number for it yet (`on_numbers`), or no key any more."""
        try:
            association = self._of(peer)
        except CredentialStoreError:
            association = None
        if association is None:
            self.refused["request without a context"] += 1
            return None
        number = association.take_number()
        if association.is_short:
            self._reserve(association)
        if number is None:
            association.waits = True
            return None
        own = partial_iv(number)
        message = parse_any_size(datagram)
        before = self._asked.get(message.token)
        self._asked[message.token] = Asked(
            association,
            own,
            now,
            before=before.partial_iv if before is not None and before.observes and before.answered else None,
            observes=message.uint(Option.OBSERVE) == 0,
        )
        return messages.close_request(association.context, datagram, own)

    def is_asked(self, peer: OscorePeer, token: bytes) -> bool:
        """Whether a request of ours to the peer has this token."""
        asked = self._asked.get(token)
        return asked is not None and asked.association.peer is peer

    def answer(self, peer: OscorePeer, mid: int, datagram: bytes, send: Callable[[bytes | None], None]) -> None:
        """Protect the answer to the request ``mid``, and give it to ``send`` when it may leave; None: never, and the
        request may come again."""
        association = self._associations.get(peer.credential)
        number = None if association is None else association.end(mid)
        if association is None or number is None:
            self.refused["answer without a request"] += 1
            send(None)
            return
        # Under the request's nonce: there is one answer, as the number is taken now.
        protected = messages.close_response(association.context, datagram, partial_iv(number))
        self._hold(association, number, lambda is_durable: send(protected if is_durable else None))

    def acknowledge(self, peer: OscorePeer, mid: int, send: Callable[[], None]) -> None:
        """Call ``send`` when the acknowledgement (or reset) of ``mid`` may leave."""
        association = self._associations.get(peer.credential)
        number = None if association is None else association.end(mid)
        if association is None or number is None:
            send()
        else:
            self._hold(association, number, lambda is_durable: send() if is_durable else None)

    def dropped(self, peer: OscorePeer, mid: int) -> None:
        """The request is not answered, so it may come again."""
        if (association := self._associations.get(peer.credential)) is not None:
            association.end(mid)

    def _hold(self, association: Association, number: int, done: Callable[[bool], None]) -> None:
        association.window.take(number)

        def written(is_durable: bool) -> None:
            if not is_durable:
                association.window.give_back(number)
            done(is_durable)

        self._write(association, written)

    def _reserve(self, association: Association) -> None:
        if association.is_short:
            self._write(association, lambda _: None)

    def _write(self, association: Association, done: Callable[[bool], None]) -> None:
        row = association.row()
        try:
            self._state.put_oscore_context(row)
        except StateError as exc:
            self._complain(exc)
            done(False)
            return

        def written(error: StateError | None) -> None:
            if error is None:
                association.reserved(row)
            else:
                self._complain(error)
                association.wanted = association.durable
            done(error is None)
            if error is None and association.waits:
                association.waits = False
                self.on_numbers(association.peer)

        self._state.on_durable(written)

    def _complain(self, error: StateError) -> None:
        self.refused["state not written"] += 1
        if self.refused["state not written"] == 1:
            _log.warning("OSCORE devices are not answered while the state cannot be written", reason=str(error))

    # Housekeeping

    def sweep(self, now: float, is_observed: Callable[[bytes], bool]) -> None:
        """Forget requests that nobody answers any more, each half minute."""
        if now - self._swept_at < _SWEEP_SECONDS and len(self._asked) < MOST_ASKED:
            return
        self._swept_at = now
        for token, asked in list(self._asked.items()):
            if now - asked.at > EXCHANGE_LIFETIME and not is_observed(token):
                del self._asked[token]
                if asked.observes:
                    self._stale.append(token)
        try:
            while self._stale:
                self._state.delete_oscore_observation(self._stale[-1])
                self._stale.pop()
        except StateError:
            return  # once more next time
