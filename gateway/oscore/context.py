"""An OSCORE security context: the keys of one credential, and what they open and close (RFC 8613 sections 3 and 5).

Pure but for the ciphers. It counts no messages: who calls gives each Partial IV, and never one twice.
"""

from __future__ import annotations

import hashlib
from typing import Final

import cbor2
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from security.credentials.kinds import Aead, Hkdf, Oscore

#: Bytes of the key, and of the tag, by algorithm (RFC 9053 section 4).
_SIZES: Final = {
    Aead.AES_CCM_16_64_128: (16, 8),
    Aead.AES_CCM_16_64_256: (32, 8),
    Aead.AES_CCM_64_64_128: (16, 8),
    Aead.AES_CCM_16_128_128: (16, 16),
    Aead.AES_CCM_16_128_256: (32, 16),
    Aead.AES_GCM_128: (16, 16),
    Aead.AES_GCM_192: (24, 16),
    Aead.AES_GCM_256: (32, 16),
    Aead.CHACHA20_POLY1305: (32, 16),
}
_HASHES: Final = {Hkdf.SHA_256: hashes.SHA256, Hkdf.SHA_512: hashes.SHA512}


class Unauthentic(Exception):
    """It was not made with this context, or was changed on the way."""


class SecurityContext:
    """The keys by which the gateway speaks with one device."""

    __slots__ = (
        "_aead",
        "_common_iv",
        "_recipient_key",
        "_sender_key",
        "digest",
        "id_context",
        "recipient_id",
        "sender_id",
    )

    def __init__(self, credential: Oscore, renewed: bytes | None = None) -> None:
        """Derive them (section 3.2.1); ``renewed`` is the ID Context that took the place of the credential's (appendix
        B.2), which is never said in requests."""
        derived_with = credential.id_context if renewed is None else renewed
        self._aead = credential.aead
        self.sender_id = credential.sender_id
        self.recipient_id = credential.recipient_id
        self.id_context = credential.id_context
        length = _SIZES[credential.aead][0]
        self._sender_key = _derive(credential, derived_with, credential.sender_id, "Key", length)
        self._recipient_key = _derive(credential, derived_with, credential.recipient_id, "Key", length)
        self._common_iv = _derive(credential, derived_with, b"", "IV", credential.aead.value[1])
        #: Tells these keys from others, and says nothing of them.
        self.digest = hashlib.sha256(b"headwater oscore" + self._sender_key + self._recipient_key).digest()[:16]

    def __repr__(self) -> str:
        return f"SecurityContext({self.recipient_id.hex() or '-'})"

    def nonce(self, id_: bytes, partial_iv: bytes) -> bytes:
        """Section 5.2; ``id_`` is of whom the Partial IV comes."""
        size = len(self._common_iv)
        padded = bytes((len(id_),)) + id_.rjust(size - 6, b"\0") + partial_iv.rjust(5, b"\0")
        return (int.from_bytes(padded, "big") ^ int.from_bytes(self._common_iv, "big")).to_bytes(size, "big")

    def seal(self, plaintext: bytes, nonce: bytes, kid: bytes, partial_iv: bytes) -> bytes:
        """Close; ``kid`` and ``partial_iv`` are the request's (section 5.4)."""
        return self._cipher(self._sender_key).encrypt(nonce, plaintext, self._aad(kid, partial_iv))

    def open(self, ciphertext: bytes, nonce: bytes, kid: bytes, partial_iv: bytes) -> bytes:
        """Open what the device closed; ``kid`` and ``partial_iv`` are the request's.

        Raises:
            Unauthentic: it is not the device's, or not to this request.
        """
        try:
            plaintext = self._cipher(self._recipient_key).decrypt(nonce, ciphertext, self._aad(kid, partial_iv))
        except (InvalidTag, ValueError) as exc:
            raise Unauthentic from exc
        if not plaintext:
            raise Unauthentic
        return bytes(plaintext)

    def _cipher(self, key: bytes) -> AESCCM | AESGCM | ChaCha20Poly1305:
        # Made each time: that takes less than a microsecond, and keeping two a device most of a kilobyte.
        if self._aead is Aead.CHACHA20_POLY1305:
            return ChaCha20Poly1305(key)
        if self._aead in (Aead.AES_GCM_128, Aead.AES_GCM_192, Aead.AES_GCM_256):
            return AESGCM(key)
        return AESCCM(key, tag_length=_SIZES[self._aead][1])

    def _aad(self, kid: bytes, partial_iv: bytes) -> bytes:
        external = cbor2.dumps([1, [self._aead.value[0]], kid, partial_iv, b""])
        return cbor2.dumps(["Encrypt0", b"", external])


def _derive(credential: Oscore, id_context: bytes | None, id_: bytes, what: str, length: int) -> bytes:
    info = cbor2.dumps([id_, id_context, credential.aead.value[0], what, length])
    return HKDF(
        algorithm=_HASHES[credential.hkdf](), length=length, salt=credential.master_salt.reveal(), info=info
    ).derive(credential.master_secret.reveal())
