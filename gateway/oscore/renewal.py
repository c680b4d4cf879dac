"""Keys derived anew for a device that has forgotten its sequence numbers (RFC 8613 appendix B.2; LwM2M Transport 1.1,
section 5.5.3 has each client do so that keeps none).

The device sends a random ID Context in its first request; the answer, 4.01, has a random part of ours (R2), and only a
second request under an ID Context that begins with R2 counts. R2 is good once, so nobody brings back keys that were
used. Knows no association; what is offered is in memory alone, and bounded.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from typing import Final

from gateway.coap.message import Code, Message, Option, Type, build
from gateway.oscore import messages
from gateway.oscore.context import SecurityContext
from gateway.oscore.option import Compressed, encode
from security.credentials.kinds import MOST_CONTEXT, Oscore

_R2_BYTES: Final = 16
#: Devices that have an R2 and have not come back with it; of each so many, since anybody can repeat a first request.
_MOST_DEVICES: Final = 4096
_MOST_OF_ONE: Final = 4


def unwrapped(kid_context: bytes) -> bytes | None:
    """What is in the kid context of this procedure: one CBOR byte string; None where it is something else."""
    head = kid_context[:1]
    if b"\x41" <= head <= b"\x57":
        length, inner = head[0] - 0x40, kid_context[1:]
    elif head == b"\x58" and len(kid_context) > 1:
        length, inner = kid_context[1], kid_context[2:]
    else:
        return None
    return inner if len(inner) == length and length <= MOST_CONTEXT - _R2_BYTES else None


def wrapped(value: bytes) -> bytes:
    """The kid context that says this; up to 23 bytes stand in it with one byte before them, more with two."""
    if len(value) > 23:
        return bytes((0x58, len(value))) + value
    return bytes((0x40 + len(value),)) + value


class Renewals:
    """The R2 that are on their way, by the name of the credential."""

    def __init__(self) -> None:
        self._offered: OrderedDict[str, list[bytes]] = OrderedDict()

    def is_second(self, credential: Oscore, id_context: bytes) -> bool:
        """True if the ID Context begins with what was offered, and has something of the device behind it."""
        return any(
            id_context.startswith(r2) and len(id_context) > len(r2) for r2 in self._offered.get(credential.id.name, ())
        )

    def done(self, credential: Oscore) -> None:
        """The device has come back: what was offered is good no more."""
        self._offered.pop(credential.id.name, None)

    def first_answer(self, credential: Oscore, message: Message, partial_iv: bytes, id_context: bytes) -> bytes:
        """The answer to a first request, with an R2.

        Raises:
            Unauthentic: it is none of this device.
        """
        asked_by = SecurityContext(credential, id_context)
        messages.open_request(asked_by, message, partial_iv)
        r2 = secrets.token_bytes(_R2_BYTES)
        offered = self._offered.setdefault(credential.id.name, [])
        offered.append(r2)
        del offered[:-_MOST_OF_ONE]
        self._offered.move_to_end(credential.id.name)
        if len(self._offered) > _MOST_DEVICES:
            self._offered.popitem(last=False)
        # Under the new keys, and the nonce of the request: R2 is new, so these keys close this alone.
        kid = asked_by.recipient_id
        ciphertext = SecurityContext(credential, r2 + id_context).seal(
            bytes((Code.UNAUTHORIZED,)), asked_by.nonce(kid, partial_iv), kid, partial_iv
        )
        type_ = Type.ACK if message.type == Type.CON else Type.NON
        option = encode(Compressed(kid_context=wrapped(r2)))
        return build(type_, Code.CHANGED, message.mid, message.token, [(Option.OSCORE, option)], ciphertext)
