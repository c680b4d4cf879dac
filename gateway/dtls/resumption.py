"""Sessions that may be resumed by their id (RFC 5246 section 7.3): kept here, bounded in number and time.

Only such as have the extended master secret (RFC 7627 section 5.3 asks for it in both handshakes).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from gateway.dtls.suites import Suite


class Resumable(NamedTuple):
    """What an abbreviated handshake needs. ``key`` is the pre-shared key: a session does not outlive a change of it."""

    master_secret: bytes
    identity: bytes
    key: bytes
    suite: Suite
    until: float

    def __repr__(self) -> str:
        return f"Resumable(identity={self.identity!r}, suite={self.suite.name})"


class Resumables:
    """By session id, the newest of each identity; when full, the one that was made first goes first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._by_id: OrderedDict[bytes, Resumable] = OrderedDict()
        self._ids: dict[bytes, bytes] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, session_id: bytes, resumable: Resumable) -> None:
        """Keep it, in place of an earlier one of its identity: a device that comes often takes no more room for it."""
        before = self._ids.get(resumable.identity)
        if before is not None:
            del self._by_id[before]
        self._ids[resumable.identity] = session_id
        self._by_id[session_id] = resumable
        if len(self._by_id) > self._most:
            _, first = self._by_id.popitem(last=False)
            del self._ids[first.identity]

    def find(self, session_id: bytes, now: float) -> Resumable | None:
        """The session with this id, if its time is not over."""
        resumable = self._by_id.get(session_id)
        return resumable if resumable is not None and now < resumable.until else None

    def forget(self, session_id: bytes) -> None:
        """Never resume it again; harmless when it is not there."""
        resumable = self._by_id.pop(session_id, None)
        if resumable is not None:
            del self._ids[resumable.identity]
