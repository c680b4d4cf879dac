"""CoAP messages in OSCORE, and out of it (RFC 8613 sections 4 and 8): datagrams to datagrams. Pure.

What is closed is the code, all options and the payload; blocks are inner. In the clear are the OSCORE option, and
Observe for whoever stands in between. A message that was opened looks like one that came in the clear.
"""

from __future__ import annotations

from gateway.coap.message import Code, Malformed, Message, Option, Options, build, parse_any_size, uint
from gateway.oscore.context import SecurityContext, Unauthentic
from gateway.oscore.option import Compressed, encode

_EMPTY_OBSERVE = Option.OBSERVE << 4


def option_of(message: Message) -> bytes | None:
    """The value of the OSCORE option; None if there is none, or not one alone."""
    values = [value for number, value in message.options if number == Option.OSCORE]
    return values[0] if len(values) == 1 else None


def close_request(
    context: SecurityContext, datagram: bytes, partial_iv: bytes, kid_context: bytes | None = None
) -> bytes:
    """A request of ours, with a Partial IV that was not used before; ``kid_context`` is said in place of the context's
    own ID Context."""
    message = parse_any_size(datagram)
    observe = [one for one in message.options if one[0] == Option.OBSERVE]
    kid = context.sender_id
    ciphertext = context.seal(_inner(datagram), context.nonce(kid, partial_iv), kid, partial_iv)
    options: Options = [
        *observe,
        (
            Option.OSCORE,
            encode(Compressed(partial_iv, kid, context.id_context if kid_context is None else kid_context)),
        ),
    ]
    code = Code.FETCH if observe else Code.POST
    return build(message.type, code, message.mid, message.token, options, ciphertext)


def close_response(context: SecurityContext, datagram: bytes, partial_iv: bytes) -> bytes:
    """Our response to the device's request with this Partial IV, under the request's nonce: so there may be one."""
    kid = context.recipient_id
    ciphertext = context.seal(_inner(datagram), context.nonce(kid, partial_iv), kid, partial_iv)
    head = datagram[: 4 + (datagram[0] & 15)]
    return build(head[0] >> 4 & 3, Code.CHANGED, head[2] << 8 | head[3], head[4:], [(Option.OSCORE, b"")], ciphertext)


def close_numbered_response(context: SecurityContext, datagram: bytes, request_iv: bytes, partial_iv: bytes) -> bytes:
    """Our response to the request with ``request_iv``, with a Partial IV of its own, so that there may be more: the
    notifications of an observation (section 8.3). Its inner Observe is empty (section 4.1.3.5.2)."""
    message = parse_any_size(datagram)
    observe = [one for one in message.options if one[0] == Option.OBSERVE]
    options = [(number, b"" if number == Option.OBSERVE else value) for number, value in message.options]
    plain = build(message.type, message.code, message.mid, message.token, options, message.payload)
    nonce = context.nonce(context.sender_id, partial_iv)
    ciphertext = context.seal(_inner(plain), nonce, context.recipient_id, request_iv)
    code = Code.CONTENT if observe else Code.CHANGED
    outer: Options = [*observe, (Option.OSCORE, encode(Compressed(partial_iv)))]
    return build(message.type, code, message.mid, message.token, outer, ciphertext)


def open_request(context: SecurityContext, message: Message, partial_iv: bytes) -> bytes:
    """A device's request.

    Raises:
        Unauthentic: it is none of this device.
    """
    kid = context.recipient_id
    plaintext = context.open(message.payload, context.nonce(kid, partial_iv), kid, partial_iv)
    if not 0 < plaintext[0] < 0x20:
        raise Unauthentic
    return _outer(message, plaintext)


def open_response(context: SecurityContext, message: Message, request_iv: bytes, partial_iv: bytes | None) -> bytes:
    """A device's response to our request with ``request_iv``; ``partial_iv`` is its own, if it has one.

    Raises:
        Unauthentic: it is none of this device to this request.
    """
    kid = context.sender_id
    nonce = context.nonce(kid, request_iv) if partial_iv is None else context.nonce(context.recipient_id, partial_iv)
    plaintext = context.open(message.payload, nonce, kid, request_iv)
    if plaintext[0] < 0x40:
        raise Unauthentic
    return _outer(message, plaintext)


def numbered(datagram: bytes, number: int) -> tuple[bytes, bool]:
    """A response that was opened, with ``number`` in place of its empty Observe; and whether it has an Observe at all.

    Section 4.1.3.5.2: notifications are put in order by their Partial IV, of which Observe has the last three bytes.
    """
    at = 4 + (datagram[0] & 15)
    value = uint(number & 0xFFFFFF)
    if len(datagram) > at and datagram[at] == _EMPTY_OBSERVE:
        return datagram[:at] + bytes((_EMPTY_OBSERVE | len(value),)) + value + datagram[at + 1 :], True
    try:
        message = parse_any_size(datagram)
    except Malformed:
        return datagram, False  # the endpoint says so
    if message.uint(Option.OBSERVE) is None:
        return datagram, False
    options = [(key, value if key == Option.OBSERVE else old) for key, old in message.options]
    return build(message.type, message.code, message.mid, message.token, options, message.payload), True


def _inner(datagram: bytes) -> bytes:
    return datagram[1:2] + datagram[4 + (datagram[0] & 15) :]


def _outer(message: Message, plaintext: bytes) -> bytes:
    return (
        bytes((0x40 | message.type << 4 | len(message.token), plaintext[0], message.mid >> 8, message.mid & 255))
        + message.token
        + plaintext[1:]
    )
