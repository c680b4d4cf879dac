"""The body of a remote-write request: ``prometheus.WriteRequest`` 1.0 in protobuf's wire format.

Pure. Only the three messages that a sample needs are written, by hand: the general library takes several times as long.

    WriteRequest  1: repeated TimeSeries
    TimeSeries    1: repeated Label (sorted by name), 2: repeated Sample (in order of time)
    Label         1: string name, 2: string value
    Sample        1: double value, 2: int64 timestamp (epoch ms)
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from functools import lru_cache

#: Field numbers with their wire types: 2 is length-delimited, 1 are eight bytes, 0 is a varint.
_FIRST_BYTES, _SECOND_BYTES, _FIRST_DOUBLE, _SECOND_VARINT = b"\x0a", b"\x12", b"\x09", b"\x10"

#: Prometheus takes other NaNs for its marks, one of them for "this series has ended".
_NAN = struct.pack("<Q", 0x7FF8000000000001)

#: Bytes of a varint that have others behind them.
_MORE = tuple(bytes((digits | 0x80,)) for digits in range(0x80))
#: The beginnings of samples, by how many bytes the time has.
_HEADS = tuple(_SECOND_BYTES + bytes((10 + length,)) + _FIRST_DOUBLE for length in range(11))

_DOUBLE = struct.Struct("<d").pack


def labels(pairs: Mapping[str, str]) -> bytes:
    """The labels of a series: the beginning of a TimeSeries. Surrogates, which are no Unicode, become escapes."""
    made = b""
    for name, value in sorted(pairs.items()):
        label = _delimited(_FIRST_BYTES, name.encode()) + _delimited(
            _SECOND_BYTES, value.encode("utf-8", "backslashreplace")
        )
        made += _delimited(_FIRST_BYTES, label)
    return made


def sample(value: float, time_ms: int) -> bytes:
    """One sample of a TimeSeries; ``time_ms`` is in the range of an int64."""
    double = _NAN if value != value else _DOUBLE(value)
    if time_ms >= 0x4000:
        # Millions of times have their higher digits in common.
        time = _MORE[time_ms & 0x7F] + _MORE[time_ms >> 7 & 0x7F] + _varint_again(time_ms >> 14)
        return _HEADS[len(time)] + double + _SECOND_VARINT + time
    # A negative int64 is written as its two's complement, in ten bytes.
    body = _FIRST_DOUBLE + double + _SECOND_VARINT + _varint(time_ms & 0xFFFFFFFFFFFFFFFF)
    return _SECOND_BYTES + bytes((len(body),)) + body


def series(labels_and_samples: bytes) -> bytes:
    """One TimeSeries of a WriteRequest."""
    return _delimited(_FIRST_BYTES, labels_and_samples)


def request(every: Iterable[bytes]) -> bytes:
    """A WriteRequest of what `series` made."""
    return b"".join(every)


def _delimited(field: bytes, content: bytes) -> bytes:
    return field + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    if number < 0x80:
        return bytes((number,))
    made = bytearray()
    while number >= 0x80:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    made.append(number)
    return bytes(made)


_varint_again = lru_cache(maxsize=1024)(_varint)
