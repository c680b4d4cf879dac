"""What comes of a protected message (RFC 8613 section 8): the message layer's part of `gateway.oscore.line`."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.coap.message import Code
from gateway.coap.peers import OscorePeer


@dataclass(frozen=True, slots=True)
class Opened:
    """A message as if it had come in the clear from ``peer``. ``is_new`` is False for a copy of one that is being
    worked on."""

    datagram: bytes
    peer: OscorePeer
    is_new: bool


@dataclass(frozen=True, slots=True)
class Again:
    """An authentic message that was answered or acknowledged before; ``is_here``: from where the device is now."""

    peer: OscorePeer
    is_here: bool
    #: False for a response that is known by its request alone: whether it was acknowledged, its message id tells.
    is_taken: bool = True


@dataclass(frozen=True, slots=True)
class Renewing:
    """A request that begins the derivation of new keys; ``datagram`` is its answer, protected."""

    datagram: bytes


@dataclass(frozen=True, slots=True)
class Stray:
    """A response to nothing that we asked."""


@dataclass(frozen=True, slots=True)
class Unverified:
    """A request that is refused in the clear (section 8.2); None: it is better dropped."""

    code: Code
    words: bytes
