"""What a join remembers between two records, as bytes: its buffers, when it last heard something, and its alarm. Pure.

Owns the form in the state. It is written and read for every record, so it is packed numbers, and a reading stays the
bytes that it is until it is matched.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from struct import Struct
from struct import error as StructError

from analytics.alignment import AlignmentError, Buffers, Kept
from analytics.user_code import Reading

_FORM = 1
#: The form and the number of series.
_FRONT = Struct("<BH")
#: Of a reading: the type of its value, and the lengths of endpoint, path and server id; a float is behind it.
_READING = Struct("<cIHI")
_FLOAT = Struct("<cIHId")
_EARLIEST = -(2**63)
#: Of a reading in the columns: time, number of arrival, length.
_COLUMNS = 20
#: No reading of a number takes less than about this, with names as short as these: ``a``, ``/1/0/1``, ``g``.
LEAST_BYTES = _COLUMNS + _FLOAT.size + 8


@dataclass(slots=True)
class JoinState:
    """One join; the values in ``buffers`` are bytes of `packed_reading`."""

    buffers: Buffers
    #: The gateway's clock when the last reading came.
    heard: int
    #: Whether an alarm is set for it.
    alarmed: bool


@lru_cache(maxsize=64)
def _head(series: int) -> Struct:
    """The front; alarm, whether there is a watermark, the watermark less one, arrivals, heard.

    Then of each series: whether anything came, the latest time, readings kept.
    """
    return Struct("<BH??qqq" + "?qI" * series)


@lru_cache(maxsize=4096)
def _columns(count: int) -> Struct:
    """Of the readings of a series: times, numbers of arrival, lengths."""
    return Struct(f"<{2 * count}q{count}I")


def packed(state: JoinState) -> bytes:
    """The state as bytes; `unpacked` is the way back."""
    buffers = state.buffers
    mark = buffers.watermark
    # Nothing is older than the earliest time there is: such a watermark is none. The latest there may be is 2^63.
    marked = mark is not None and mark > _EARLIEST
    parts: list[bytes] = []
    told: list[int] = []
    for latest, kept in zip(buffers.latest, buffers.kept, strict=True):
        told += (latest is not None, latest or 0, len(kept))
        if kept:
            times, numbers, values = zip(*kept, strict=True)
            parts += (_columns(len(kept)).pack(*times, *numbers, *map(len, values)), *values)
    count = len(buffers.kept)
    less = mark - 1 if marked and mark is not None else 0
    head = _head(count).pack(_FORM, count, state.alarmed, marked, less, buffers.arrivals, state.heard, *told)
    return head + b"".join(parts)


def size_of(kept: Kept) -> int:
    """The bytes that a reading takes in `packed`."""
    return _COLUMNS + len(kept[2])


def unpacked(data: bytes, series: int) -> JoinState:
    """The state of a join of so many series.

    Raises:
        AlignmentError: it is of another number of them, or none of these states.
    """
    form, count = _FRONT.unpack_from(data)
    if form != _FORM:
        raise AlignmentError("the state is none of this version's joins: give it a new name")
    if count != series:
        raise AlignmentError(f"the state is of {count} series, the join of {series}: give it a new name")
    head = _head(series)
    _, _, alarmed, marked, mark, arrivals, heard, *told = head.unpack_from(data)
    latest = [time if seen else None for seen, time in zip(told[::3], told[1::3], strict=True)]
    every: list[list[Kept]] = []
    at = head.size
    for length in told[2::3]:
        kept: list[Kept] = []
        every.append(kept)
        if length:
            columns = _columns(length)
            numbers = columns.unpack_from(data, at)
            at += columns.size
            for time, arrival, size in zip(
                numbers[:length], numbers[length : 2 * length], numbers[2 * length :], strict=True
            ):
                kept.append((time, arrival, data[at : at + size]))
                at += size
    buffers = Buffers(watermark=mark + 1 if marked else None, arrivals=arrivals, latest=latest, kept=every)
    return JoinState(buffers, heard, alarmed)


def packed_reading(reading: Reading) -> bytes:
    """The reading without its time."""
    try:
        ep, path, server_id = reading.ep.encode(), reading.path.encode(), reading.server_id.encode()
        value = reading.value
        if type(value) is float:
            return b"".join((_FLOAT.pack(b"d", len(ep), len(path), len(server_id), value), ep, path, server_id))
        rest = json.dumps(value).encode()
        return b"".join((_READING.pack(b"j", len(ep), len(path), len(server_id)), ep, path, server_id, rest))
    except (AttributeError, UnicodeEncodeError, StructError):
        # What only a user's own function makes: an odd server id, half a character. It is told when it is put out.
        return b"o" + json.dumps([reading.ep, reading.path, reading.value, reading.server_id]).encode()


def unpacked_reading(data: bytes, time: int) -> Reading:
    """The reading of ``time``."""
    if data[:1] == b"o":
        ep, path, value, server_id = json.loads(data[1:])
        return Reading(ep, path, value, time, server_id)
    number: float | None = None
    if data[:1] == b"d":
        _, ep_size, path_size, server_size, number = _FLOAT.unpack_from(data)
        at = _FLOAT.size
    else:
        _, ep_size, path_size, server_size = _READING.unpack_from(data)
        at = _READING.size
    behind_ep, behind_path = at + ep_size, at + ep_size + path_size
    end = behind_path + server_size
    return Reading(
        data[at:behind_ep].decode(),
        data[behind_ep:behind_path].decode(),
        json.loads(data[end:]) if number is None else number,
        time,
        data[behind_path:end].decode(),
    )
