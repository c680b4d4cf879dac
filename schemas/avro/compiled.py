"""The gateway's short path: records that differ from one another in a time and a value only, as bytes in one step.

Written for speed: everything of a record that does not change is encoded once, when the Observation or the registration
is made. It gives up checks of types and the choice of version: a compiled notification is version 1, CONTENT, of kind
observe, with one single value and no device time; all else goes through :mod:`schemas.avro.serde`.
Tests hold every byte equal to what ``serde.encode`` writes.

Avro 1.11 binary: a long is zig-zag, then 7 bits a byte, least first; a double 8 bytes, little-endian; text its length
and UTF-8.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from struct import Struct
from struct import error as StructError
from typing import Any

from schemas.avro.errors import InvalidRecord
from schemas.avro.records import (
    Notification,
    ReadBody,
    Registration,
    RegistrationKind,
    RegistrationUpdate,
    RequestKind,
    ResponseCode,
    ResponsePayload,
)
from schemas.avro.serde import encode
from schemas.lwm2m.nodes import ObjectLink, Resource, ResourceType, Value
from schemas.lwm2m.path import Path

#: The bytes of the times that were written last; many records of a batch share one. Bounded: see _time.
_times: dict[int, bytes] = {}
_MAX_TIMES = 4096

#: What packing says of a value that is not of the resource's type.
_BAD_VALUES = (StructError, TypeError, AttributeError, OverflowError, ValueError)


def _long(number: int) -> bytes:
    """Any long.

    Raises:
        InvalidRecord: beyond 64 bits.
    """
    if not -(1 << 63) <= number < 1 << 63:
        raise InvalidRecord(f"{number} does not fit into 64 bits")
    left = number << 1 ^ number >> 63
    if left < 0x80:
        return bytes((left,))
    out = bytearray()
    while left > 0x7F:
        out.append(left & 0x7F | 0x80)
        left >>= 7
    out.append(left)
    return bytes(out)


def _text(text: str) -> bytes:
    data = text.encode()
    return _long(len(data)) + data


def _base64(value: bytes) -> bytes:
    data = b64encode(value)
    return _long(len(data)) + data


def _object_link(value: ObjectLink) -> bytes:
    return _text(str(value))


def _boolean(value: bool) -> bytes:
    return b"\x01" if value else b"\x00"


#: How the value is written, by its type; FLOAT is packed together with the rest.
_VALUE: dict[ResourceType, Callable[[Any], bytes]] = {
    ResourceType.STRING: _text,
    ResourceType.INTEGER: _long,
    ResourceType.TIME: _long,
    ResourceType.BOOLEAN: _boolean,
    ResourceType.OPAQUE: _base64,
    ResourceType.OBJLNK: _object_link,
}

#: A value of each type, to make the model of a notification from, and the bytes that it has in it.
_MODEL: dict[ResourceType, tuple[Value, int]] = {
    ResourceType.STRING: ("", 1),
    ResourceType.FLOAT: (0.0, 8),
    ResourceType.INTEGER: (0, 1),
    ResourceType.TIME: (0, 1),
    ResourceType.BOOLEAN: (False, 1),
    ResourceType.OPAQUE: (b"", 1),
    ResourceType.OBJLNK: (ObjectLink(0, 0), 4),
}

#: The time that models are made with. It takes six bytes, as every time from 1970-07-18 to 2039-09-07 does.
_MODEL_TIME = 1_600_000_000_000


def _time(epoch_ms: int) -> bytes:
    """The bytes of a time that is not in ``_times``."""
    if len(_times) >= _MAX_TIMES:
        _times.clear()
    return _times.setdefault(epoch_ms, _long(epoch_ms))


class CompiledNotification:
    """The record of one Observation of one single value, ready but for the time and the value.

    Small, as there is one for every observation: what is the same for all observations of a path is shared.
    ``path`` is that of a resource or of an instance of a multiple resource.
    """

    __slots__ = ("_head", "_join", "_tail")

    def __init__(
        self,
        *,
        ticket: str,
        observation_id: str,
        server_id: str,
        ep: str,
        path: Path | str,
        resource_type: ResourceType,
    ) -> None:
        """Raises InvalidRecord when ``path`` is too short, PathError when it is none."""
        where = str(path)
        # The record's first fields, in the order of the schema; the time follows.
        texts = b"".join(map(_text, (ticket, observation_id, server_id, ep, where)))
        frame, self._tail = _around(where, resource_type)
        self._head = frame + texts
        self._join = _joiner(resource_type, len(self._head), len(self._tail))

    def encode(self, timestamp_ms: int, value: Any) -> bytes:
        """The bytes in Confluent's wire format.

        ``timestamp_ms`` is epoch milliseconds, ``value`` as ``schemas.lwm2m.nodes.Value`` says for the type.

        Raises:
            InvalidRecord: the value does not fit.
        """
        try:
            when = _times[timestamp_ms]
        except KeyError:
            when = _time(timestamp_ms)
        try:
            return self._join(self._head, when, self._tail, value)
        except _BAD_VALUES as exc:
            raise InvalidRecord(f"{value!r:.80} is not of the observation's type: {exc}") from exc


@lru_cache(maxsize=1024)
def _around(path: str, resource_type: ResourceType) -> tuple[bytes, bytes]:
    """What stands before the texts and between the time and the value of a notification."""
    value, width = _MODEL[resource_type]
    model = encode(
        Notification(
            ticket="",
            observation_id="",
            server_id="",
            ep="",
            path=path,
            timestamp=_MODEL_TIME,
            rep=ResponsePayload(
                code=ResponseCode.CONTENT,
                kind=RequestKind.OBSERVE,
                body=ReadBody(content=Resource(path=Path.parse(path), type=resource_type, value=value)),
            ),
        )
    )
    empty_texts = 4
    until_time = _FRAME + empty_texts + len(_text(path))
    return model[:_FRAME], model[until_time + len(_long(_MODEL_TIME)) : -width]


_FRAME = 5
_Join = Callable[[bytes, bytes, bytes, Any], bytes]


@lru_cache(maxsize=1024)
def _joiner(resource_type: ResourceType, head_size: int, tail_size: int) -> _Join:
    """Puts head, time, tail and value together."""
    if resource_type is not ResourceType.FLOAT:
        write = _VALUE[resource_type]
        return lambda head, when, tail, value: head + when + tail + write(value)
    # One call of struct is faster than joining parts. A time takes six bytes, see _MODEL_TIME.
    pack = Struct(f"<{head_size}s6s{tail_size}sd").pack

    def join_float(head: bytes, when: bytes, tail: bytes, value: float) -> bytes:
        return pack(head, when, tail, value) if len(when) == 6 else head + when + tail + _DOUBLE.pack(value)

    return join_float


_DOUBLE = Struct("<d")


class CompiledUpdate:
    """The record of a registration update that changes nothing but lastUp, ready but for that.

    ``encode(last_up)`` gives the bytes in Confluent's wire format; ``last_up`` is epoch milliseconds. What ``update``
    itself has as ``last_up`` does not matter.
    """

    __slots__ = ("encode",)

    encode: Callable[[int], bytes]

    def __init__(self, update: RegistrationUpdate) -> None:
        """Raises InvalidRecord as ``serde.encode`` does."""
        record = Registration(kind=RegistrationKind.UPDATE, body=replace(update, last_up=0))
        head = encode(record)[:-1]  # lastUp is the record's last field, and 0 is one byte
        times = _times

        def encode_update(last_up: int) -> bytes:
            try:
                return head + times[last_up]
            except KeyError:
                return head + _time(last_up)

        self.encode = encode_update
