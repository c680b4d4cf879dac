"""Decoders of one number for the short path: payload bytes to the value, or None for the plain path to judge.

What they take is known by the bytes in front of the number, which are always the same for one observation; a property
test holds each equal to the strict reader of its content format (`schemas.lwm2m.formats`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from math import isfinite
from struct import Struct

from gateway.observations import Decoder
from schemas.lwm2m.formats import ContentFormat
from schemas.lwm2m.nodes import ResourceType
from schemas.lwm2m.path import Path

_DOUBLE = Struct(">d")
_FLOAT = Struct(">f")
_HALF = Struct(">e")
_NUMERIC = b"0123456789.-"


@lru_cache(maxsize=1024)
def decoders_for(path: Path, resource_type: ResourceType) -> dict[int, Decoder]:
    """The short path's decoders by content format for a single-instance resource; empty where it does not apply.

    All observations of a path share them.
    """
    if resource_type is ResourceType.FLOAT:
        return {
            ContentFormat.TLV: _tlv_float(path),
            ContentFormat.TEXT: _text_float,
            ContentFormat.SENML_CBOR: _senml_cbor_float(path),
            ContentFormat.SENML_JSON: _senml_json_float(path),
        }
    return {}


@lru_cache(maxsize=1024)
def fronts(path: Path) -> dict[int, frozenset[bytes]]:
    """By content format what may stand in front of a double, the eight last bytes of a payload: what their decoders
    take so, with nothing else to be looked at."""
    tlv, _ = _tlv_heads(path)
    return {
        ContentFormat.TLV: frozenset((tlv,)),
        ContentFormat.SENML_CBOR: frozenset(head + b"\xfb" for head in _cbor_heads(path)),
    }


def _tlv_heads(path: Path) -> tuple[bytes, bytes]:
    """What stands in front of a double, and of a single."""
    resource_id = path.ids[-1]
    wide = resource_id > 255
    name = resource_id.to_bytes(2 if wide else 1, "big")
    # Type bits 11: resource with value; bit 5: two-byte id; bits 4-3: 01, one length byte; or length in bits 2-0.
    return bytes((0xE8 if wide else 0xC8,)) + name + b"\x08", bytes((0xE4 if wide else 0xC4,)) + name


def _tlv_float(path: Path) -> Decoder:
    double, single = _tlv_heads(path)
    double_size, single_size = len(double) + 8, len(single) + 4

    def decode(payload: bytes) -> float | None:
        size = len(payload)
        if size == double_size and payload.startswith(double):
            value: float = _DOUBLE.unpack_from(payload, size - 8)[0]
        elif size == single_size and payload.startswith(single):
            value = _FLOAT.unpack_from(payload, size - 4)[0]
        else:
            return None
        return value if isfinite(value) else None

    return decode


def _text_float(payload: bytes) -> float | None:
    # No double needs more digits than that to be told; the plain path knows what to do with longer text.
    if len(payload) > 64 or payload.translate(None, _NUMERIC):
        return None
    try:
        value = float(payload)
    except ValueError:
        return None
    return value if isfinite(value) else None


def _names(path: Path) -> list[tuple[str | None, str | None]]:
    """The usual (base name, name) of the one record that is about ``path``; None is a field that is not there."""
    text = str(path)
    cuts = [at for at, letter in enumerate(text) if letter == "/"]
    cuts = sorted({*cuts, *(at + 1 for at in cuts), len(text)})
    return [(None, text), (text, None), *((text[:at], text[at:]) for at in cuts)]


# SenML is known by the bytes in front of the value, which are always the same for one observation: so nothing is let
# through that the strict readers of the plain path refuse (labels twice, tags, bytes behind the pack).


def _cbor_heads(path: Path) -> frozenset[bytes]:
    """What stands in front of the value. RFC 8428 section 6: labels -2 base name, 0 name, 2 value."""
    heads = set()
    for base, name in _names(path):
        fields = b"" if base is None else b"\x21" + _cbor_text(base)
        fields += b"" if name is None else b"\x00" + _cbor_text(name)
        heads.add(bytes((0x81, 0xA1 + (base is not None) + (name is not None))) + fields + b"\x02")
    return frozenset(heads)


def _senml_cbor_float(path: Path) -> Decoder:
    heads = _cbor_heads(path)

    def decode(payload: bytes) -> float | None:
        for size, numbers in _CBOR_NUMBERS:
            unpack = numbers.get(payload[-size]) if len(payload) > size else None
            if unpack is not None and payload[:-size] in heads:
                value = float(unpack(payload[1 - size :] if size > 1 else payload[-1:]))
                return value if isfinite(value) else None
        return None

    return decode


def _cbor_text(text: str) -> bytes:
    assert len(text) < 24  # a path of three ids has at most 18 characters
    return bytes((0x60 + len(text),)) + text.encode()


def _unsigned(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _negative(data: bytes) -> int:
    return -1 - int.from_bytes(data, "big")


#: (bytes that the number takes, the reader of what follows its first byte, by that first byte), usual ones first.
_CBOR_NUMBERS: tuple[tuple[int, dict[int, Callable[[bytes], float]]], ...] = (
    (9, {0xFB: lambda data: _DOUBLE.unpack(data)[0], 0x1B: _unsigned, 0x3B: _negative}),
    (5, {0xFA: lambda data: _FLOAT.unpack(data)[0], 0x1A: _unsigned, 0x3A: _negative}),
    (3, {0xF9: lambda data: _HALF.unpack(data)[0], 0x19: _unsigned, 0x39: _negative}),
    (2, {0x18: _unsigned, 0x38: _negative}),
    (1, {**dict.fromkeys(range(0x18), _unsigned), **dict.fromkeys(range(0x20, 0x38), lambda data: 0x1F - data[0])}),
)

_JSON_NUMBER = re.compile(rb"(?!-0\Z)-?(?:0|[1-9][0-9]{0,20})(?:\.[0-9]{1,40})?(?:[eE][+-]?[0-9]{1,3})?")


def _senml_json_float(path: Path) -> Decoder:
    heads = []
    for comma, colon in ((",", ":"), (", ", ": ")):
        for base, name in _names(path):
            fields = [f'"{label}"{colon}"{text}"' for label, text in (("bn", base), ("n", name)) if text is not None]
            heads.append(("[{" + comma.join(fields) + f'{comma}"v"{colon}').encode())
    usual, known = tuple(heads), frozenset(heads)

    def decode(payload: bytes) -> float | None:
        if not (payload.startswith(usual) and payload.endswith(b"}]")):
            return None
        number = payload[payload.rindex(b":") + 1 : -2].lstrip(b" ")
        head = payload[: len(payload) - len(number) - 2]
        if head not in known or _JSON_NUMBER.fullmatch(number) is None:
            return None
        value = float(number)
        return value if isfinite(value) else None

    return decode
