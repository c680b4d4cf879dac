"""Cookies of the HelloVerifyRequest (RFC 6347 section 4.2.1): proof that a ClientHello's address can be reached.

Nothing is kept: a cookie is a MAC over the address, the ClientHello's parameters and the time. The secret needs no
change, since the time ends each cookie's life (what the RFC changes the secret for).
"""

from __future__ import annotations

import hmac
from typing import Final

from gateway.dtls.session import Address

#: Seconds in which a cookie is made the same; it is good for one to two of them.
PERIOD: Final = 60.0
#: A HelloVerifyRequest with it is shorter than any ClientHello, so nobody is made to amplify.
COOKIE_LENGTH: Final = 16


class Cookies:
    """Makes and checks cookies with one secret of 32 bytes."""

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def make(self, address: Address, parameters: bytes, now: float) -> bytes:
        """The cookie for a ClientHello with these ``parameters`` (`ClientHello.parameters`), ``now`` in seconds."""
        return self._of_period(address, parameters, int(now // PERIOD))

    def check(self, cookie: bytes, address: Address, parameters: bytes, now: float) -> bool:
        """True if it was made here for this address and these parameters in this period or the last."""
        if len(cookie) != COOKIE_LENGTH:
            return False
        period = int(now // PERIOD)
        # Both are always computed: the time tells nothing.
        this = hmac.compare_digest(cookie, self._of_period(address, parameters, period))
        last = hmac.compare_digest(cookie, self._of_period(address, parameters, period - 1))
        return this or last

    def _of_period(self, address: Address, parameters: bytes, period: int) -> bytes:
        # No two addresses have the same repr, and none has a zero byte in it.
        of = b"%d\0%b\0%b" % (period, repr(address).encode(), parameters)
        return hmac.digest(self._secret, of, "sha256")[:COOKIE_LENGTH]
