"""The handshakes with certificates that are under way: bounded, each with its deadline."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from gateway.dtls.session import Address

if TYPE_CHECKING:
    from OpenSSL import SSL

    from gateway.dtls_certificates.looking import Look
    from gateway.dtls_certificates.resumption import Resumable


class Attempt:
    """One handshake, after its cookie. Times are seconds of the owner's clock.

    ``session_id`` is that of the session to come, empty if it cannot be resumed; ``resumed`` the one before, if this
    handshake is abbreviated.
    """

    __slots__ = (
        "address",
        "client_random",
        "connection",
        "deadline",
        "expires",
        "look",
        "resumed",
        "session_id",
    )

    def __init__(
        self,
        address: Address,
        client_random: bytes,
        connection: SSL.Connection,
        look: Look,
        session_id: bytes,
        resumed: Resumable | None,
        expires: float,
    ) -> None:
        self.address = address
        self.client_random = client_random
        self.connection = connection
        self.look = look
        self.session_id = session_id
        self.resumed = resumed
        self.expires = expires
        #: When it has to be looked at: OpenSSL says its flight again, or it is given up.
        self.deadline = expires


class Attempts:
    """All of them by address, the oldest first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._by_address: OrderedDict[Address, Attempt] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_address)

    def at(self, address: Address) -> Attempt | None:
        """The one at an address."""
        return self._by_address.get(address)

    def add(self, attempt: Attempt) -> bool:
        """Take it in, in place of the one at its address; False if the oldest had to go for it."""
        self._by_address.pop(attempt.address, None)
        self._by_address[attempt.address] = attempt
        if len(self._by_address) <= self._most:
            return True
        self._by_address.popitem(last=False)
        return False

    def remove(self, attempt: Attempt) -> None:
        """Forget it, if it is there."""
        if self._by_address.get(attempt.address) is attempt:
            del self._by_address[attempt.address]

    def deadline(self) -> float | None:
        """The first deadline of all."""
        return min((one.deadline for one in self._by_address.values()), default=None)

    def due(self, now: float) -> list[Attempt]:
        """Those whose deadline has come."""
        return [one for one in self._by_address.values() if one.deadline <= now]
