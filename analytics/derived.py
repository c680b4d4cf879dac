"""What ``on_join`` made → ordinary observations, as bytes. Pure.

The plain way is `observation` and ``serde.encode``. Written for speed is that of numbers, which is nearly all: results
of one resource differ in their time and their double alone, so the bytes around these are made once. A test holds the
two equal.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct

from analytics.user_code import Derived
from schemas.avro import serde
from schemas.avro.compiled import encoded_long
from schemas.avro.records import Notification, ReadBody, RequestKind, ResponseCode, ResponsePayload
from schemas.lwm2m.nodes import Resource, ResourceType
from schemas.lwm2m.path import Path

_DOUBLE = Struct("<d")
_INT64 = range(-(2**63), 2**63)
#: Longer names are not remembered.
_LONGEST_NAMES = 400


def observation(derived: Derived, *, ep: str, server_id: str, ticket: str, time: int) -> Notification:
    """The result as an observation, as if the endpoint had the resource."""
    value = Resource(path=derived.path, type=derived.type, value=derived.value)
    return Notification(
        ticket=ticket,
        observation_id="join",
        server_id=server_id,
        ep=ep,
        path=str(derived.path),
        timestamp=time,
        rep=ResponsePayload(code=ResponseCode.CONTENT, kind=RequestKind.OBSERVE, body=ReadBody(content=value)),
    )


def encoded(derived: Derived, *, ep: str, server_id: str, ticket: str, time: int) -> bytes:
    """`observation` in Confluent's wire format.

    Raises:
        InvalidRecord: as ``serde.encode``.
    """
    value = derived.value
    # A user's function may have given any names.
    plain_names = type(ep) is str and type(server_id) is str and len(ep) + len(server_id) <= _LONGEST_NAMES
    if plain_names and type(value) is float and derived.type is ResourceType.FLOAT and time in _INT64:
        before, between = _around(derived.path, ep, server_id, ticket)
        return before + encoded_long(time) + between + _DOUBLE.pack(value)
    return serde.encode(observation(derived, ep=ep, server_id=server_id, ticket=ticket, time=time))


@lru_cache(maxsize=4096)
def _around(path: Path, ep: str, server_id: str, ticket: str) -> tuple[bytes, bytes]:
    """What is before the time, and between it and the double at the end."""
    zero = Derived(path, ResourceType.FLOAT, 0.0)
    one, other = (
        serde.encode(observation(zero, ep=ep, server_id=server_id, ticket=ticket, time=time)) for time in (0, -1)
    )
    # These two are told apart by the one byte of their time.
    [at] = [place for place, (byte, its) in enumerate(zip(one, other, strict=True)) if byte != its]
    return one[:at], one[at + 1 : -_DOUBLE.size]
