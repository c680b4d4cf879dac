"""The content formats of payloads, in one table, and the two doors through which payloads go in and out.

Pure: bytes and nodes, no I/O and no clock. Whatever the bytes are, nothing but a `CodecError` is raised, and the time
is in proportion to their number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum

from schemas.lwm2m import cbor, json_old, link, lwm2m_cbor, opaque, senml_cbor, senml_json, text, tlv, tree
from schemas.lwm2m.errors import (
    CodecError,
    MalformedPayload,
    NotInThisFormat,
    UnknownFormat,
    WrongPath,
    WrongValue,
)
from schemas.lwm2m.nodes import Node
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path


class ContentFormat(IntEnum):
    """CoAP Content-Format numbers (OMA LwM2M Core 1.1, table 7.4.-1); the old ones are of drafts of LwM2M 1.0."""

    TEXT = 0
    LINK = 40
    OPAQUE = 42
    CBOR = 60
    SENML_JSON = 110
    SENML_CBOR = 112
    #: SenML of a request that names paths, or changes values (RFC 8790).
    SENML_ETCH_JSON = 320
    SENML_ETCH_CBOR = 322
    TLV_OLD = 1542
    JSON_OLD = 1543
    TLV = 11542
    JSON = 11543
    #: From LwM2M 1.2 on.
    LWM2M_CBOR = 11544


@dataclass(frozen=True, slots=True, kw_only=True)
class Codec:
    """One row of `FORMATS`."""

    media_type: str
    decode: Callable[[bytes, Path, Definitions], Node]
    encode: Callable[[Node, Definitions], bytes]
    #: Where the format names its paths: one node a time, or at the root an object, given the moment of reception in
    #: epoch milliseconds.
    decode_series: Callable[[bytes, Path, Definitions, int | None], list[Node]] | None = None
    #: Where the format carries times: as ``decode``, given that moment.
    decode_newest: Callable[[bytes, Path, Definitions, int | None], Node] | None = None
    #: True if it carries one value, never an object, an instance or a multiple resource.
    single_value: bool = False


_TLV = Codec(media_type="application/vnd.oma.lwm2m+tlv", decode=tlv.decode, encode=tlv.encode)
_JSON = Codec(
    media_type="application/vnd.oma.lwm2m+json",
    decode=json_old.decode,
    encode=json_old.encode,
    decode_series=json_old.decode_series,
    decode_newest=json_old.decode,
)

FORMATS: Mapping[int, Codec] = {
    ContentFormat.TEXT: Codec(media_type="text/plain", decode=text.decode, encode=text.encode, single_value=True),
    ContentFormat.LINK: Codec(
        media_type="application/link-format", decode=link.decode, encode=link.encode, single_value=True
    ),
    ContentFormat.OPAQUE: Codec(
        media_type="application/octet-stream", decode=opaque.decode, encode=opaque.encode, single_value=True
    ),
    ContentFormat.CBOR: Codec(media_type="application/cbor", decode=cbor.decode, encode=cbor.encode, single_value=True),
    ContentFormat.SENML_JSON: Codec(
        media_type="application/senml+json",
        decode=senml_json.decode,
        encode=senml_json.encode,
        decode_series=senml_json.decode_series,
        decode_newest=senml_json.decode,
    ),
    ContentFormat.SENML_CBOR: Codec(
        media_type="application/senml+cbor",
        decode=senml_cbor.decode,
        encode=senml_cbor.encode,
        decode_series=senml_cbor.decode_series,
        decode_newest=senml_cbor.decode,
    ),
    ContentFormat.TLV: _TLV,
    ContentFormat.TLV_OLD: _TLV,
    ContentFormat.JSON: _JSON,
    ContentFormat.JSON_OLD: _JSON,
    ContentFormat.LWM2M_CBOR: Codec(
        media_type="application/vnd.oma.lwm2m+cbor",
        decode=lwm2m_cbor.decode,
        encode=lwm2m_cbor.encode,
        decode_series=lwm2m_cbor.decode_series,
    ),
}


def decode(
    content_format: int, payload: bytes, path: Path, definitions: Definitions, received_ms: int | None = None
) -> Node:
    """The node at ``path``: Object (depth 1), Instance (2), Resource or MultipleResource (3), Resource (4).

    Types come from ``definitions`` (`Definitions.with_versions` for a device's object versions); what they do not know
    is carried as it came. Where the payload has values of several times, the newest of each resource is given, with its
    time as its timestamp (a relative one only with ``received_ms``, epoch milliseconds, to which it is relative); a
    history of values is read with `decode_series`.

    Raises:
        CodecError: unknown format, malformed, about another path, or a value that does not fit its type.
    """
    codec = _codec(content_format)
    if codec.decode_newest is None:
        return codec.decode(payload, path, definitions)
    return codec.decode_newest(payload, path, definitions, received_ms)


def decode_series(
    content_format: int, payload: bytes, path: Path, definitions: Definitions, received_ms: int | None = None
) -> list[Node]:
    """One node at ``path`` for each distinct time that the device gave, oldest first; usually one.

    ``received_ms`` (epoch milliseconds) is what relative times are relative to; without it they order the nodes but are
    left out of them. In SenML and LwM2M CBOR ``path`` may be the root: the nodes are then Objects, one for each time
    and object.

    Raises:
        CodecError: as `decode`.
    """
    codec = _codec(content_format)
    if codec.decode_series is None:
        return [codec.decode(payload, path, definitions)]
    return codec.decode_series(payload, path, definitions, received_ms)


def encode(content_format: int, node: Node, definitions: Definitions) -> bytes:
    """The payload of a node, each value in the type of its definition.

    Raises:
        CodecError: unknown format, one that cannot carry the node, or a value that does not fit its type.
    """
    tree.check(node)
    return _codec(content_format).encode(node, definitions)


def _codec(content_format: int) -> Codec:
    codec = FORMATS.get(content_format)
    if codec is None:
        raise UnknownFormat(f"content format {content_format} is none that LwM2M payloads have here")
    return codec


__all__ = [
    "FORMATS",
    "Codec",
    "CodecError",
    "ContentFormat",
    "MalformedPayload",
    "NotInThisFormat",
    "UnknownFormat",
    "WrongPath",
    "WrongValue",
    "decode",
    "decode_series",
    "encode",
]
