"""The value of the OSCORE option (RFC 8613 section 6.1): bytes to fields and back. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: Bytes of the longest Partial IV (RFC 8613 section 5).
MOST_PARTIAL_IV: Final = 5
_LENGTH, _KID, _KID_CONTEXT, _RESERVED = 0x07, 0x08, 0x10, 0xE0


class Undecodable(ValueError):
    """The option's value is none of RFC 8613; the text is safe to use as a metric label."""


@dataclass(frozen=True, slots=True)
class Compressed:
    """What the option says; None where it does not. ``kid`` and ``kid_context`` may be empty."""

    partial_iv: bytes | None = None
    kid: bytes | None = None
    kid_context: bytes | None = None


def decode(value: bytes) -> Compressed:
    """The fields of an option.

    Raises:
        Undecodable: reserved bits or lengths, something missing, or a number that is not written as it has to be.
    """
    if not value:
        return Compressed()
    flags = value[0]
    length = flags & _LENGTH
    if flags & _RESERVED or length > MOST_PARTIAL_IV or not flags:
        raise Undecodable("OSCORE flags")
    at = 1 + length
    partial_iv = value[1:at] if length else None
    if len(value) < at:
        raise Undecodable("OSCORE Partial IV")
    if length > 1 and value[1] == 0:
        # Section 5: without leading zeros, so that a number has one spelling.
        raise Undecodable("OSCORE Partial IV")
    kid_context = None
    if flags & _KID_CONTEXT:
        end = at + 1 + (value[at] if at < len(value) else 256)
        if end > len(value):
            raise Undecodable("OSCORE kid context")
        kid_context, at = value[at + 1 : end], end
    if flags & _KID:
        return Compressed(partial_iv, value[at:], kid_context)
    if at != len(value):
        raise Undecodable("OSCORE option is too long")
    return Compressed(partial_iv, None, kid_context)


def encode(fields: Compressed) -> bytes:
    """The value of the option that says this."""
    flags = 0
    out = bytearray((0,))
    if fields.partial_iv is not None:
        flags |= len(fields.partial_iv)
        out += fields.partial_iv
    if fields.kid_context is not None:
        flags |= _KID_CONTEXT
        out.append(len(fields.kid_context))
        out += fields.kid_context
    if fields.kid is not None:
        flags |= _KID
        out += fields.kid
    out[0] = flags
    return bytes(out) if flags else b""


def partial_iv(number: int) -> bytes:
    """A sequence number as it is sent: the shortest, and one byte for zero."""
    return number.to_bytes(max(1, (number.bit_length() + 7) // 8), "big")
