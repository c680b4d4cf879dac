"""The gateway's short path: the records that it writes most, as bytes in one step.

Written for speed: what does not change from one record to the next (of an Observation, of a registration, of all
replies with a value of one path) is encoded once. It gives up checks of types and the choice of version: a compiled
notification is version 1, CONTENT, of kind observe, with one single value and no device time; all else goes through
:mod:`schemas.avro.serde`. Tests hold every byte equal to what ``serde.encode`` writes.

Avro 1.11 binary: a long is zig-zag, then 7 bits a byte, least first; a double 8 bytes, little-endian; text its length
and UTF-8.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from struct import Struct
from struct import error as StructError
from typing import Any

from schemas.avro.errors import InvalidRecord
from schemas.avro.records import (
    Binding,
    Link,
    Notification,
    ReadBody,
    Registration,
    RegistrationKind,
    RegistrationNew,
    RegistrationUpdate,
    RequestKind,
    Response,
    ResponseCode,
    ResponsePayload,
)
from schemas.avro.registry import schema_of
from schemas.avro.serde import encode
from schemas.lwm2m.nodes import ObjectLink, Resource, ResourceType, Value
from schemas.lwm2m.path import Path

#: The bytes of the times that were written last; many records of a batch share one. Bounded: see _time.
_times: dict[int, bytes] = {}
_MAX_TIMES = 4096

#: What packing says of a value that is not of the resource's type.
BAD_VALUES = (StructError, TypeError, AttributeError, OverflowError, ValueError)


#: The longs that take one byte and are not negative: most lengths.
_SMALL = tuple(bytes((number << 1,)) for number in range(64))


def encoded_long(number: int) -> bytes:
    """Avro's long (Avro 1.11, "Binary encoding"): zigzag, seven bits a byte, the lowest first.

    Raises:
        InvalidRecord: beyond 64 bits.
    """
    if 0 <= number < 64:
        return _SMALL[number]
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


def encoded_text(text: str) -> bytes:
    """Avro's string: its length in bytes (a long), and UTF-8."""
    data = text.encode()
    size = len(data)
    return (_SMALL[size] if size < 64 else encoded_long(size)) + data


def _base64(value: bytes) -> bytes:
    data = b64encode(value)
    return encoded_long(len(data)) + data


def _object_link(value: ObjectLink) -> bytes:
    return encoded_text(str(value))


def _boolean(value: bool) -> bytes:
    return b"\x01" if value else b"\x00"


#: How the value is written, by its type; FLOAT is packed together with the rest.
_VALUE: dict[ResourceType, Callable[[Any], bytes]] = {
    ResourceType.STRING: encoded_text,
    ResourceType.INTEGER: encoded_long,
    ResourceType.TIME: encoded_long,
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


def encoded_time(epoch_ms: int) -> bytes:
    """`encoded_long` of a time; that of the moment is remembered."""
    return _times.get(epoch_ms) or _time(epoch_ms)


def _time(epoch_ms: int) -> bytes:
    """The bytes of a time that is not in ``_times``."""
    if len(_times) >= _MAX_TIMES:
        _times.clear()
    return _times.setdefault(epoch_ms, encoded_long(epoch_ms))


class CompiledNotification:
    """The record of one Observation of one single value, ready but for the time and the value.

    Small, as there is one for every observation: what is the same for all observations of a path is shared.
    ``path`` is that of a resource or of an instance of a multiple resource.
    """

    __slots__ = ("_join", "head", "tail")

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
        texts = b"".join(map(encoded_text, (ticket, observation_id, server_id, ep, where)))
        #: What stands before the time (`encoded_long`), and between it and the value: of a FLOAT, eight bytes, the
        #: lowest first. Who has both at hand need not encode.
        self.head, self.tail = _around(where, resource_type)
        self.head += texts
        self._join = _joiner(resource_type, len(self.head), len(self.tail))

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
            return self._join(self.head, when, self.tail, value)
        except BAD_VALUES as exc:
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
            path="",
            timestamp=_MODEL_TIME,
            rep=ResponsePayload(
                code=ResponseCode.CONTENT,
                kind=RequestKind.OBSERVE,
                body=ReadBody(content=Resource(path=Path.parse(path), type=resource_type, value=value)),
            ),
        )
    )
    return _cut(model, texts=5, width=width)


def _cut(model: bytes, *, texts: int, width: int) -> tuple[bytes, bytes]:
    """The frame, and what stands between time and value; the texts are empty, the value takes ``width`` bytes."""
    return model[:_FRAME], model[_FRAME + texts + len(encoded_long(_MODEL_TIME)) : -width]


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


def update_head(update: RegistrationUpdate) -> bytes:
    """The record of a registration update in Confluent's wire format, but for its end: lastUp, epoch ms by
    `encoded_long`. What ``update`` itself has as ``last_up`` does not matter.

    Raises:
        InvalidRecord: as ``serde.encode`` does.
    """
    record = Registration(kind=RegistrationKind.UPDATE, body=replace(update, last_up=0))
    return encode(record)[:-1]  # lastUp is the record's last field, and 0 is one byte


# Replies

#: Kinds whose reply with a value is a record of version 1.
_VALUE_KINDS = frozenset((RequestKind.READ, RequestKind.OBSERVE))


def encode_reply(reply: Response) -> bytes:
    """As ``serde.encode``; in one step where the device gave one single value, without a time of its own.

    Raises:
        InvalidRecord: a value is not of its type or does not fit.
    """
    payload = reply.rep
    content = payload.body.content if type(payload.body) is ReadBody else None
    if type(content) is not Resource or content.timestamp is not None or payload.kind not in _VALUE_KINDS:
        return encode(reply)
    texts = reply.ticket, reply.server_id, reply.ep, reply.path
    return encode_value(texts, reply.timestamp, payload.code, payload.kind, content.path, content.type, content.value)


def encode_value(
    texts: tuple[str, str, str, str],
    timestamp: int,
    code: ResponseCode,
    kind: RequestKind,
    path: Path,
    resource_type: ResourceType,
    value: Value,
) -> bytes:
    """A reply with one single value, of a kind that has it in version 1 (read, observe).

    ``texts`` are its ticket, server id, endpoint and path, ``timestamp`` is epoch ms.

    Raises:
        InvalidRecord: the value is not of its type or does not fit.
    """
    frame, tail, write = _around_reply(code, kind, path, resource_type)
    try:
        return b"".join((frame, *map(encoded_text, texts), encoded_time(timestamp), tail, write(value)))
    except BAD_VALUES as exc:
        raise InvalidRecord(f"{value!r:.80} is no {resource_type.name} value: {exc}") from exc


def around_read(path: Path, resource_type: ResourceType) -> tuple[bytes, bytes, Callable[[Any], bytes]]:
    """Of the reply to a read with one single value: what stands before the texts and between the time and the value,
    and how the value is written (raises one of BAD_VALUES, or InvalidRecord)."""
    return _around_reply(ResponseCode.CONTENT, RequestKind.READ, path, resource_type)


@lru_cache(maxsize=1024)
def _around_reply(
    code: ResponseCode, kind: RequestKind, path: Path, resource_type: ResourceType
) -> tuple[bytes, bytes, Callable[[Any], bytes]]:
    """What stands before the texts and between the time and the value of a reply, and how the value is written."""
    value, width = _MODEL[resource_type]
    body = ReadBody(content=Resource(path=path, type=resource_type, value=value))
    rep = ResponsePayload(code=code, kind=kind, body=body)
    model = encode(Response(ticket="", server_id="", ep="", path="", timestamp=_MODEL_TIME, rep=rep))
    return *_cut(model, texts=4, width=width), _VALUE.get(resource_type, _DOUBLE.pack)


# Registrations

_BINDINGS = {binding: encoded_long(number) for number, binding in enumerate(Binding)}
#: The frame, the kind (NEW) and the branch of the body (the first), a byte each.
_NEW_FRAME = schema_of("registration.AvroRegistrationResponse", 1).frame + b"\x00\x00"


def encode_links(links: Iterable[Link]) -> bytes:
    """The links of a registration as `encode_new` takes them: many devices announce the same."""
    items = [encoded_text(link.url) + _map(link.at) for link in links]
    return _blocks(items)


def encode_new(new: RegistrationNew, links: bytes) -> bytes:
    """A registration in Confluent's wire format; ``links`` are ``encode_links(new.links)``.

    Raises:
        InvalidRecord: a text or a number does not fit.
    """
    try:
        parts = (
            _NEW_FRAME,
            encoded_text(new.ep),
            encoded_text(new.server_id),
            encoded_time(new.reg_date),
            encoded_text(new.address),
            encoded_long(new.port),
            encoded_text(new.reg_addr),
            encoded_long(new.reg_port),
            encoded_long(new.lt),
            _NULL if new.sms is None else _SECOND + encoded_text(new.sms),
            encoded_text(new.ver),
            _BINDINGS[new.bnd],
            encoded_text(new.reg_id),
            links,
            _NULL if new.attributes is None else _SECOND + _map(new.attributes),
            encoded_text(new.root),
            encoded_time(new.last_up),
        )
    except BAD_VALUES as exc:
        raise InvalidRecord(f"the registration of {new.ep!r:.80} fits no record: {exc}") from exc
    return b"".join(parts)


#: The branches of a union with null: null comes first.
_NULL, _SECOND = b"\x00", b"\x02"


def _map(entries: Mapping[str, str]) -> bytes:
    return _blocks([encoded_text(key) + encoded_text(value) for key, value in entries.items()])


def _blocks(items: list[bytes]) -> bytes:
    """An array or a map: one block of all items, then the empty one."""
    return encoded_long(len(items)) + b"".join(items) + b"\x00" if items else b"\x00"
