"""From a pre-shared key to the keys of records: RFC 5246 sections 5, 6.3, 7.4.9 and 8.1, RFC 4279, RFC 7627. Pure."""

from __future__ import annotations

import hmac
from enum import Enum
from typing import NamedTuple

from gateway.dtls.suites import KEY_LENGTH, SALT_LENGTH

MASTER_SECRET_LENGTH = 48
VERIFY_DATA_LENGTH = 12


class Side(Enum):
    """Whose Finished it is, as the label of its PRF."""

    CLIENT = b"client finished"
    SERVER = b"server finished"


class KeyBlock(NamedTuple):
    """The keys of both directions: 16 bytes of key and 4 of salt each."""

    client_key: bytes
    server_key: bytes
    client_salt: bytes
    server_salt: bytes


def prf(secret: bytes, label: bytes, seed: bytes, length: int) -> bytes:
    """``length`` bytes of P_SHA256 (RFC 5246 section 5)."""
    seed = label + seed
    out, a = b"", seed
    while len(out) < length:
        a = hmac.digest(secret, a, "sha256")
        out += hmac.digest(secret, a + seed, "sha256")
    return out[:length]


def premaster_secret(key: bytes) -> bytes:
    """Of a plain pre-shared key: as many zeros as the key is long, and the key (RFC 4279 section 2)."""
    length = len(key).to_bytes(2, "big")
    return length + bytes(len(key)) + length + key


def master_secret(premaster: bytes, client_random: bytes, server_random: bytes) -> bytes:
    """The 48 bytes for peers without the extended master secret (RFC 5246 section 8.1)."""
    return prf(premaster, b"master secret", client_random + server_random, MASTER_SECRET_LENGTH)


def extended_master_secret(premaster: bytes, session_hash: bytes) -> bytes:
    """The 48 bytes bound to the handshake up to and with the ClientKeyExchange (RFC 7627 section 4)."""
    return prf(premaster, b"extended master secret", session_hash, MASTER_SECRET_LENGTH)


def key_block(master: bytes, client_random: bytes, server_random: bytes) -> KeyBlock:
    """The keys of the records (RFC 5246 section 6.3); an AEAD has no MAC keys."""
    block = prf(master, b"key expansion", server_random + client_random, 2 * (KEY_LENGTH + SALT_LENGTH))
    salts = 2 * KEY_LENGTH
    return KeyBlock(
        block[:KEY_LENGTH],
        block[KEY_LENGTH:salts],
        block[salts : salts + SALT_LENGTH],
        block[salts + SALT_LENGTH :],
    )


def verify_data(master: bytes, side: Side, transcript_hash: bytes) -> bytes:
    """The 12 bytes of a Finished (RFC 5246 section 7.4.9)."""
    return prf(master, side.value, transcript_hash, VERIFY_DATA_LENGTH)
