"""What the gateway knows of one device that speaks OSCORE: its keys, its window, and how far our numbers are reserved.

Owns the rule that no sequence number is used that is not reserved on disk (RFC 8613 section 7.5.1, appendix B.1.1). It
writes nothing itself.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from gateway.coap.peers import OscorePeer
from gateway.oscore.context import SecurityContext
from gateway.oscore.window import SIZE, ReplayWindow
from gateway.state import StoredOscoreContext
from security.credentials.kinds import Oscore

#: Sequence numbers that are reserved at once. A restart leaves out those that were not used.
RESERVED: Final = 256
#: Messages of a device that are being worked on at once; of the oldest it is forgotten.
MOST_PENDING: Final = 64
#: RFC 8613 section 7.2.1.
MOST_NUMBER: Final = (1 << 40) - 1


class Association:
    """One device's; ``peer`` is who it is to the message layer.

    ``digest`` is that of the keys of its credential, by which the state knows it; ``renewed`` the ID Context with which
    those in use were derived instead, if they were.
    """

    __slots__ = ("_next", "_reserved", "context", "digest", "peer", "pending", "renewed", "waits", "wanted", "window")

    def __init__(
        self,
        credential: Oscore,
        peer: OscorePeer,
        *,
        digest: bytes,
        first: int,
        window: ReplayWindow,
        renewed: bytes | None = None,
    ) -> None:
        """``first`` is the first number that was never used."""
        context = SecurityContext(credential, renewed)
        self.digest = digest
        self.renewed = renewed
        self.context = context
        self.peer = peer
        self.window = window
        #: Message ids by sequence number of what is being worked on, oldest first.
        self.pending: OrderedDict[int, int] = OrderedDict()
        self._next = first
        #: Numbers below are on disk as used.
        self._reserved = first
        #: The same, as it was last said to the state.
        self.wanted = first
        #: True while a request of ours waits for a number.
        self.waits = False

    @property
    def durable(self) -> int:
        """Numbers below are on disk as used."""
        return self._reserved

    @property
    def is_short(self) -> bool:
        """True if more numbers should be reserved."""
        return self.wanted - self._next < RESERVED // 2

    def take_number(self) -> int | None:
        """The next number of ours; None if none is reserved."""
        if self._next >= min(self._reserved, MOST_NUMBER):
            return None
        self._next += 1
        return self._next - 1

    def row(self) -> StoredOscoreContext:
        """What is to be durable, with more numbers if they are short."""
        if self.is_short:
            self.wanted = self._next + RESERVED
        return StoredOscoreContext(
            digest=self.digest,
            next_number=self.wanted,
            highest=self.window.highest,
            taken=self.window.taken.to_bytes(SIZE // 8, "big").lstrip(b"\0"),
            id_context=self.renewed,
        )

    def reserved(self, row: StoredOscoreContext) -> None:
        """It is durable."""
        self._reserved = max(self._reserved, row.next_number)

    def begin(self, number: int, mid: int) -> None:
        """A message of the device is being worked on."""
        self.pending[number] = mid
        if len(self.pending) > MOST_PENDING:
            self.pending.popitem(last=False)

    def end(self, mid: int) -> int | None:
        """It is not any more; its number, None if it had none."""
        for number, other in self.pending.items():
            if other == mid:
                del self.pending[number]
                return number
        return None
