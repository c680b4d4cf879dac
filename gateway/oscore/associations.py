"""Who is who among the devices that speak OSCORE: their associations, the peers they are, and where they were heard.

Owns which security contexts are in use. Looks for credentials where a device is not known yet, and again when they have
changed; what a restart left of a context is in the state. Opens and closes no message.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final
from weakref import WeakValueDictionary

from gateway.access import Access
from gateway.coap.peers import OscorePeer, UdpAddress
from gateway.oscore.association import Association
from gateway.oscore.context import SecurityContext
from gateway.oscore.numbers import Numbers
from gateway.oscore.requests import Requests
from gateway.oscore.window import ReplayWindow
from gateway.state import StoredState
from security.credentials.kinds import Oscore
from security.errors import CredentialStoreError

#: Devices that speak OSCORE at once: as many as may be registered. Who has no key takes none of them.
MOST_ASSOCIATIONS: Final = 100_000
#: Where a context begins whose state is not here: above all that was ever sent, if it was less than this a second since
#: the credential was made.
NUMBERS_A_SECOND: Final = 8

#: What a request says of itself: kid and kid context (RFC 8613 section 6.1).
Name = tuple[bytes, bytes | None]


class Associations:
    """By credential. ``wall`` is epoch seconds; ``refused`` counts, by reason, what came to nothing."""

    def __init__(
        self,
        access: Access,
        stored: StoredState,
        requests: Requests,
        numbers: Numbers,
        wall: Callable[[], float],
        refused: Counter[str],
    ) -> None:
        self._access = access
        self._stored = {row.digest: row for row in stored.oscore_contexts}
        self._requests = requests
        self._numbers = numbers
        self._wall = wall
        self._refused = refused
        self._known: dict[str, Association] = {}
        #: As the credentials were when they were asked last.
        self._named: dict[Name, Association] = {}
        self._at: dict[UdpAddress, OscorePeer] = {}
        self._peers: WeakValueDictionary[str, OscorePeer] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._known)

    def adopt(self, peers: Iterable[OscorePeer]) -> dict[OscorePeer, OscorePeer]:
        """The peers of registrations that were read back; gives those that stand for them from now on."""
        instead = {}
        for peer in peers:
            instead[peer] = known = self._peers.setdefault(peer.credential, peer)
            if known is peer:
                self._at.setdefault(peer.udp, peer)
            try:
                # Numbers are reserved now, so that the first request need not wait.
                if (association := self.of(known)) is not None:
                    self._numbers.reserve(association)
            except CredentialStoreError:
                continue
        return instead

    def peer_at(self, address: UdpAddress) -> OscorePeer | None:
        """Who was heard last from this address."""
        return self._at.get(address)

    def known(self, peer: OscorePeer) -> Association | None:
        """Of a peer that was heard, or spoken to."""
        return self._known.get(peer.credential)

    def of(self, peer: OscorePeer) -> Association | None:
        """Of a peer that is to be spoken to.

        Raises:
            CredentialStoreError: the credentials cannot be read.
        """
        if (found := self._known.get(peer.credential)) is not None:
            return found
        credential = self._access.oscore(peer.credential)
        if credential is None:
            return None
        made = self._made(credential, peer)
        return made if self._keep(made) else None

    def named(self, name: Name) -> Association | None:
        """Who has said this of itself, and had the key."""
        return self._named.get(name)

    def met(self, credential: Oscore, address: UdpAddress) -> Association:
        """Who has this credential, as far as is known; one that is not takes no memory until `keep`."""
        credential_name = credential.id.name
        known = self._known.get(credential_name)
        return known or self._made(credential, self._peers.get(credential_name) or OscorePeer(credential_name, address))

    def is_known(self, credential: Oscore) -> bool:
        """Whether there is an association with it."""
        return credential.id.name in self._known

    def keep(self, association: Association, name: Name) -> bool:
        """Have one from now on that has shown its key. False: there are too many."""
        if self._known.get(association.peer.credential) is not association and not self._begin(association):
            return False
        self._named.setdefault(name, association)
        return True

    def _begin(self, made: Association) -> bool:
        """Have it from now on, also in the place of one with keys of before."""
        old = self._known.get(made.peer.credential)
        if old is not None:
            self._known[made.peer.credential] = made
            self._requests.forget(old)
            self._named = {key: one for key, one in self._named.items() if one is not old}
        elif not self._keep(made):
            return False
        if made.renewed is not None:
            # At once: the device uses these keys alone from now on.
            self._numbers.write(made)
        return True

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

    def _keep(self, made: Association) -> bool:
        peer = made.peer
        if len(self._known) >= MOST_ASSOCIATIONS:
            self._refused["too many contexts"] += 1
            return False
        self._known[peer.credential] = made
        self._peers[peer.credential] = peer
        self._at.setdefault(peer.udp, peer)
        self._requests.restore(made)
        return True

    def heard(self, association: Association, number: int, address: UdpAddress, now: float) -> None:
        """Only the newest message says where the device is, so that no copy of an older one moves it."""
        peer = association.peer
        if number <= max(association.window.highest, *association.pending, -1):
            return
        if address != peer.udp:
            if self._at.get(peer.udp) is peer:
                del self._at[peer.udp]
            peer.udp, peer.proven, peer.moved_at = address, False, now
        self._at[address] = peer

    def look_again(self, identities: Iterable[str] | None) -> None:
        """The credentials of these have changed (None: of any): who has other keys now, or none, is not known."""
        self._named.clear()
        chosen = None if identities is None else frozenset(identities)
        for credential_name, association in list(self._known.items()):
            if chosen is not None and association.peer.identity not in chosen:
                continue
            try:
                credential = self._access.oscore(credential_name)
            except CredentialStoreError:
                continue  # nobody is ended by a store that fails
            if credential is None or SecurityContext(credential).digest != association.digest:
                self._drop(credential_name, association)

    def _drop(self, credential_name: str, association: Association) -> None:
        self._stored[association.digest] = association.row()
        del self._known[credential_name]
        if self._at.get(association.peer.udp) is association.peer:
            del self._at[association.peer.udp]
        self._requests.forget(association)
