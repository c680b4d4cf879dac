"""The notifications of an observation as a template: bytes that stay, and the places of id, number and value.

Pure. A template is made once for an observation and filled by one call of `struct` for each notification; `build` and
the codecs would take some ten times that.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from struct import Struct
from typing import NamedTuple

from gateway.coap.message import Code
from gateway.devices.load.content import Content

#: Content-Format is option 12, six after Observe.
_FORMAT_DELTA = 0x60
#: Observe is option 6, here always of three bytes.
_OBSERVE = 0x63000000
_NON = 0x10


class Template(NamedTuple):
    """The datagram is ``pack(first, code, mid, token, observe, before, value, after)``."""

    pack: Callable[..., bytes]
    #: The first byte of the header, of a CON.
    first: int
    before: bytes
    after: bytes

    def fill(self, mid: int, token: bytes, number: int, value: float, *, confirmable: bool) -> bytes:
        """The notification ``number`` (24 bits) of this value."""
        first = self.first if confirmable else self.first | _NON
        return self.pack(first, Code.CONTENT, mid, token, _OBSERVE | number, self.before, value, self.after)


def template(content: Content, token_length: int, content_format: bytes) -> Template:
    """For an observation with such a token, in the format of the option ``content_format``."""
    number = int.from_bytes(content_format, "big")
    option = bytes((_FORMAT_DELTA | len(content_format),)) + content_format + b"\xff"
    frame = content.frame(number)
    if frame is not None:
        before, after = option + frame[0], frame[1]
        pack = _layout(token_length, len(before), len(after)).pack
        return Template(pack, 0x40 | token_length, before, after)
    head, payload = Struct(f">BBH{token_length}sI"), content.payload(number)

    def plainly(
        first: int, code: int, mid: int, token: bytes, observe: int, before: bytes, value: float, after: bytes
    ) -> bytes:
        return head.pack(first, code, mid, token, observe) + before + payload(value) + after

    return Template(plainly, 0x40 | token_length, option, b"")


@lru_cache(maxsize=64)
def _layout(token_length: int, before: int, after: int) -> Struct:
    """Header, token, Observe, what stands before the value, the value, and what stands behind it."""
    return Struct(f">BBH{token_length}sI{before}sd{after}s")
