"""What came and was dropped, by reason, and the words about it in the log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import structlog

from gateway.coap.peers import Address

_log = structlog.get_logger("headwater.coap")

#: Why a message is dropped that has an option nobody here knows (RFC 7252 section 5.4.1).
UNRECOGNISED = "unrecognised critical option"
#: Seconds between two lines of the log: what peers send must not fill it.
_QUIET = 10.0


class Drops:
    """The count of one endpoint. ``now`` is monotonic seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        #: `gateway.metrics` shows it.
        self.by_reason: Counter[str] = Counter()
        self._complained_at = float("-inf")

    def drop(self, reason: str, address: Address) -> None:
        """Count a datagram that cannot be taken."""
        self.by_reason[reason] += 1
        if self._may_complain():
            _log.warning("datagrams are dropped", reason=reason, address=address, dropped=self.by_reason.total())

    def failed(self, datagram: bytes, address: Address) -> None:
        """Count a datagram at which we failed; to be called where the exception is handled."""
        self.by_reason["internal error"] += 1
        if self._may_complain():
            _log.exception("a datagram could not be handled", address=address, datagram=datagram.hex())

    def _may_complain(self) -> bool:
        now = self._now()
        if now - self._complained_at < _QUIET:
            return False
        self._complained_at = now
        return True
