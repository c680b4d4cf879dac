"""The cipher suites that are spoken here, and which one a ClientHello gets. Pure.

All take their key from a pre-shared key alone, have SHA-256 as the hash of the PRF and 12 bytes of nonce, of which four
are the salt of the key block (RFC 6655 section 3, RFC 5288 section 3). A ClientHello in which `choose` finds nothing is
one for somebody else: suites with certificates are not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM

#: Bytes of an AES-128 key, and of the part of the nonce that is not sent.
KEY_LENGTH: Final = 16
SALT_LENGTH: Final = 4


class Aead(Protocol):
    """An AEAD with its key, as `cryptography` has them."""

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes, /) -> bytes:
        """Ciphertext and tag."""

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes, /) -> bytes:
        """The plaintext.

        Raises:
            cryptography.exceptions.InvalidTag: the key, the nonce, or any of the bytes is another.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """One cipher suite: its number on the wire, its name, its AEAD from a key of 16 bytes, and the tag's bytes."""

    number: int
    name: str
    aead: Callable[[bytes], Aead]
    tag_length: int


def _ccm_8(key: bytes) -> Aead:
    return AESCCM(key, tag_length=8)


#: In the order of our preference. RFC 7925 section 4.2 makes the first the one that every device has.
SUITES: Final = (
    Suite(number=0xC0A8, name="TLS_PSK_WITH_AES_128_CCM_8", aead=_ccm_8, tag_length=8),
    Suite(number=0xC0A4, name="TLS_PSK_WITH_AES_128_CCM", aead=AESCCM, tag_length=16),
    Suite(number=0x00A8, name="TLS_PSK_WITH_AES_128_GCM_SHA256", aead=AESGCM, tag_length=16),
)


def choose(offered: Sequence[int]) -> Suite | None:
    """The suite for a ClientHello that offers these numbers; None if it wants none of ours."""
    return next((suite for suite in SUITES if suite.number in offered), None)
