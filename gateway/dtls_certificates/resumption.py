"""Sessions with certificates that may be resumed by their id (RFC 5246 section 7.3): bounded in number and time.

OpenSSL keeps the sessions themselves, in a cache of each `SSL.Context` that lives as long as this or a connection made
by it. Here is what OpenSSL does not know of them: whom their certificates proved, and for how long.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple
from weakref import WeakKeyDictionary

from gateway.certificate_proof import Proof

if TYPE_CHECKING:
    from OpenSSL import SSL

#: A context whose cache has this part of the most sessions takes no more; the next one begins.
_PART: Final = 4


class Resumable(NamedTuple):
    """What an abbreviated handshake needs to know of the whole one. ``expires`` is when the first of the certificates
    runs out, ``until`` is in seconds of the owner's clock."""

    context: SSL.Context
    proof: Proof
    expires: datetime
    until: float


class Resumables:
    """By session id. All that a cache of OpenSSL's may have is here, or is not resumed."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._by_id: dict[bytes, Resumable] = {}
        #: How many sessions the cache of each context has, the oldest context first.
        self._kept: WeakKeyDictionary[SSL.Context, int] = WeakKeyDictionary()

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def kept(self) -> int:
        """How many sessions OpenSSL keeps at most, those that can not be resumed any more among them."""
        return sum(self._kept.values())

    def find(self, session_id: bytes) -> Resumable | None:
        """What is known of it, in whatever state."""
        return self._by_id.get(session_id) if session_id else None

    def add(self, session_id: bytes, resumable: Resumable) -> SSL.Context | None:
        """Keep it; the context that has to go for it, with all of its sessions, if there are too many."""
        self._by_id[session_id] = resumable
        self._kept[resumable.context] = self._kept.get(resumable.context, 0) + 1
        if self.kept <= self._most:
            return None
        oldest = next(iter(self._kept))
        del self._kept[oldest]
        self._by_id = {one: resumable for one, resumable in self._by_id.items() if resumable.context is not oldest}
        return oldest

    def is_full(self, context: SSL.Context) -> bool:
        """True if another context should make the next sessions."""
        return self._kept.get(context, 0) >= max(1, self._most // _PART)

    def clear(self) -> None:
        """Resume none of them."""
        self._by_id.clear()
