"""The message layer of one device of a load (RFC 7252 section 4): the exchange that is open, one at a time.

Owns message ids and tokens, retransmission and giving up, and which answers are to what is open. What an exchange is
about, and what follows from its end, is `Device`'s. It reads no clock: times are monotonic seconds that are passed in.
"""

from __future__ import annotations

import socket
from struct import Struct
from typing import Final

from gateway.coap.exchanges import (
    ACK_RANDOM_FACTOR,
    ACK_TIMEOUT,
    EXCHANGE_LIFETIME,
    MAX_RETRANSMIT,
    MAX_TRANSMIT_WAIT,
)
from gateway.coap.message import Message, Type, empty
from gateway.devices.load.session import SecureSession
from gateway.devices.load.shared import EXPECTED, LABELS, Doing, Load

#: Message ids that are used in a row between two looks at when they were used before.
BLOCK: Final = 4096
#: So many ids a second can be used without one coming back within EXCHANGE_LIFETIME (RFC 7252 section 4.4).
_IDS_A_SECOND: Final = 265
#: Sent so often in vain, a message is said again in a new DTLS session.
_IN_VAIN: Final = 3
#: Between ACK_TIMEOUT and the longest first wait.
SPREAD: Final = ACK_TIMEOUT * (ACK_RANDOM_FACTOR - 1.0)
_NEVER: Final = float("inf")
_REQUEST: Final = Struct(">BBHI")


class Exchange:
    """Of thread ``number``. ``awaited`` is the one datagram that says that it went well; at ``deadline`` it is said
    again or given up. `Device._notify` begins that of a notification by itself, for speed.
    """

    __slots__ = (
        "_left",
        "_load",
        "_separate",
        "_sock",
        "acknowledged",
        "awaited",
        "began",
        "datagram",
        "deadline",
        "doing",
        "expected",
        "interval",
        "label",
        "mid",
        "next_mid",
        "session",
        "token",
        "tries",
    )  # fmt: skip

    def __init__(self, number: int, load: Load, sock: socket.socket, now: float) -> None:
        self._load = load
        self._sock = sock
        #: What makes the messages secure, if anything does.
        self.session: SecureSession | None = None
        # They follow the clock, so that another run from the same port uses others (RFC 7252 section 4.4).
        self.next_mid = int((now + load.offset) * _IDS_A_SECOND) & 0xFFFF
        #: When ids were used, by their block.
        self._left: dict[int, float] = {}
        self.token = number << 16 & 0xFFFF0000
        #: The message id of the last separate response, in case it comes again.
        self._separate = -1
        # What is open.
        self.doing = Doing.NOTHING
        self.label = ""
        self.began = self.interval = 0.0
        self.deadline = _NEVER
        self.datagram = b""
        self.awaited: bytes | None = None
        self.mid = -1
        self.expected = 0
        self.tries = 0
        self.acknowledged = False

    def open(self, doing: Doing, now: float, deadline: float = _NEVER) -> None:
        """Begin one without a request of the device's own; it is given up at ``deadline``."""
        self.doing = doing
        self.label = LABELS.get(doing, "")
        self.began = now
        self.tries = 0
        self.acknowledged = False
        self.datagram = b""
        self.deadline = deadline

    def request(self, doing: Doing, code: int, body: bytes, now: float) -> None:
        """Begin one with a confirmable request; ``body`` is what stands behind its token."""
        self.open(doing, now)
        self.mid = mid = self.new_mid()
        self.new_token()
        self.expected = EXPECTED[doing]
        self.datagram = datagram = _REQUEST.pack(0x44, code, mid, self.token) + body
        # That of a registration has its location.
        self.awaited = None if doing is Doing.REGISTER else _REQUEST.pack(0x64, self.expected, mid, self.token)
        self.interval = ACK_TIMEOUT + SPREAD * self._load.random.random()
        self.deadline = now + self.interval
        self.transmit(datagram, now)

    def close(self) -> None:
        """It is over, or given up."""
        self.doing = Doing.NOTHING
        self.awaited = None
        self.deadline = _NEVER

    def new_mid(self) -> int:
        """The next message id."""
        mid = self.next_mid
        self.next_mid = mid + 1 & 0xFFFF
        return mid

    def new_token(self) -> int:
        """Go on to the next token; gives the number of the last one."""
        number = self.token & 0xFFFF
        self.token = (self.token & 0xFFFF0000) | (self.token + 1 & 0xFFFF)
        return number

    def free_at(self, now: float) -> float:
        """At the beginning of a block: when its message ids may be used again. Those of the last one were used now."""
        block = self.next_mid // BLOCK
        self._left[(block - 1) % (0x10000 // BLOCK)] = now
        return self._left.get(block, -EXCHANGE_LIFETIME) + EXCHANGE_LIFETIME

    def transmit(self, datagram: bytes, now: float) -> None:
        """Say something, also what belongs to no exchange."""
        if self.session is not None:
            self.session.send(datagram, now)
            return
        try:
            self._sock.send(datagram)
        except OSError:
            # Like a datagram that got lost: it is said again.
            self._load.counts["not sent"] += 1

    def say_again(self, now: float) -> bool:
        """``deadline`` is over: say it again; False: it is to be given up (RFC 7252 section 4.2)."""
        if not self.datagram or self.acknowledged or self.tries >= MAX_RETRANSMIT:
            return False
        self.tries += 1
        self.interval *= 2
        self.deadline = now + self.interval
        self._load.counts["retransmitted"] += 1
        if self.session is not None and self.tries >= _IN_VAIN:
            self.session.again(self.datagram, now)
        else:
            self.transmit(self.datagram, now)
        return True

    def why_in_vain(self) -> str:
        """Why it is given up, in words."""
        if self.acknowledged:
            return f"acknowledged, and not answered within {MAX_TRANSMIT_WAIT:g} s"
        failed = "" if self.session is None or not self.session.failed else f" ({self.session.failed})"
        return f"no answer to {MAX_RETRANSMIT + 1} transmissions{failed}"

    def is_about(self, mid: int) -> bool:
        """Whether an empty ACK or RST is about what is open."""
        return mid == self.mid and (bool(self.awaited) or self.doing is Doing.REGISTER)

    def acknowledge(self, now: float) -> None:
        """It was acknowledged, and is answered later (section 5.2.2)."""
        self.acknowledged = True
        self.deadline = now + MAX_TRANSMIT_WAIT

    def is_answered_by(self, message: Message, now: float) -> bool:
        """Whether a response is to what is open. One that is confirmable is acknowledged, each time it comes."""
        is_open = self.doing in EXPECTED and message.token == self.token.to_bytes(4, "big")
        if message.type == Type.ACK and message.mid != self.mid:
            is_open = False
        if message.type == Type.CON:
            known = is_open or message.mid == self._separate
            self.transmit(empty(Type.ACK if known else Type.RST, message.mid), now)
            self._separate = message.mid if is_open else self._separate
        if not is_open:
            self.stray(message.mid if message.type == Type.ACK else self.next_mid)
        return is_open

    def stray(self, mid: int) -> None:
        """What answers nothing that is open: a copy, if it answers what was said last or before."""
        self._load.counts["copies" if (self.next_mid - mid & 0xFFFF) < BLOCK else "strays"] += 1
