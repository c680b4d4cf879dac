"""Our requests to devices that speak OSCORE, and the observations among them: by token, as long as answers may come.

Owns the Partial IV that the answers to a request are bound to (RFC 8613 section 5.4), also of the observations that are
in the state from before a restart. Whether an answer is new is not known here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.coap.exchanges import EXCHANGE_LIFETIME
from gateway.coap.message import Message, Option
from gateway.oscore import messages
from gateway.oscore.association import Association
from gateway.oscore.context import Unauthentic
from gateway.state import State, StateError, StoredOscoreObservation, StoredState

#: Requests of ours whose answers can still be opened, and observations; with more, those that are over go sooner.
MOST_ASKED: Final = 100_000
_SWEEP_SECONDS: Final = 30.0


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

    def open(self, message: Message, own_iv: bytes | None) -> tuple[bytes, bool]:
        """An answer, opened, and whether it is one to this request; ``own_iv`` is its own Partial IV, if it has one.

        Raises:
            Unauthentic: it is none of this device to this request, nor to the one before.
        """
        context = self.association.context
        try:
            return messages.open_response(context, message, self.partial_iv, own_iv), True
        except Unauthentic:
            if self.before is None or own_iv is None:
                raise
            # A notification of before the device heard that it is to observe again.
            return messages.open_response(context, message, self.before, own_iv), False


class Requests:
    """Of all devices; ``refused`` counts, by reason, what came to nothing. Times are monotonic."""

    def __init__(self, state: State, stored: StoredState, refused: Counter[str]) -> None:
        self._state = state
        self._refused = refused
        self._asked: dict[bytes, Asked] = {}
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
        self._swept_at = 0.0

    def asked(self, token: bytes) -> Asked | None:
        """The request with this token, if it is known."""
        return self._asked.get(token)

    def is_kept(self, token: bytes) -> bool:
        """Whether it is that of an observation whose device is not known yet."""
        return token in self._kept

    def add(self, association: Association, message: Message, partial_iv: bytes, now: float) -> None:
        """A request of ours goes, with this Partial IV."""
        before = self._asked.get(message.token)
        self._asked[message.token] = Asked(
            association,
            partial_iv,
            now,
            before=before.partial_iv if before is not None and before.observes and before.answered else None,
            observes=message.uint(Option.OBSERVE) == 0,
        )

    def answered(self, token: bytes, asked: Asked, *, is_observed: bool) -> None:
        """Its first answer is there; an observation is kept over a restart."""
        asked.answered, asked.before = True, None
        if asked.observes and is_observed:
            row = StoredOscoreObservation(token=token, digest=asked.association.digest, partial_iv=asked.partial_iv)
            try:
                self._state.put_oscore_observation(row)
            except StateError:
                # It lives as long as the process; after a restart its notifications are answered with a reset.
                self._refused["observation not stored"] += 1
        else:
            asked.observes = False

    def restore(self, association: Association) -> None:
        """The observations of one that is known from now on."""
        for one in self._observations.pop(association.digest, ()):
            self._kept.discard(one.token)
            self._asked[one.token] = Asked(association, one.partial_iv, 0.0, answered=True, observes=True)

    def forget_stored(self, digest: bytes) -> None:
        """Those of before a restart, of keys that are used no more."""
        self._kept.difference_update(one.token for one in self._observations.pop(digest, ()))

    def forget(self, association: Association) -> None:
        """All of an association that is no more."""
        for token in [token for token, asked in self._asked.items() if asked.association is association]:
            if self._asked.pop(token).observes:
                self._stale.append(token)

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
