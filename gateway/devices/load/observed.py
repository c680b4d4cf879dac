"""Reads the values out of records of the observations topic, cheaply enough to follow a load from within its process.

A record of one number, as almost all of a load are, is taken apart by hand: endpoint, path and the double near its end.
What stands between time and value (code, kind, ids, path, type) and behind the value is compared, byte by byte, with
that of a record of the same schema and path that `serde.decode` has read. Every other record goes to `serde.decode`.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

from schemas.avro.records import Notification, values_told
from schemas.avro.serde import SerdeError, decode

#: A frame, three texts, the endpoint, the path.
_FRAME, _TEXTS = 5, 3
_DOUBLE = Struct("<d")
_MOST_SHAPES = 10_000
#: Bytes behind the value: the device's time, or that there is none.
_MOST_BEHIND = 12

Observed = tuple[str, str, float]


class Observations:
    """`read` gives (endpoint, path, value) of each number of a record. Keeps what it knows of shapes, bounded."""

    def __init__(self) -> None:
        #: Records that could not be read.
        self.unreadable = 0
        #: What stands between time and value and behind the value, by the frame and the path.
        self._shapes: dict[tuple[bytes, bytes], tuple[bytes, bytes]] = {}
        self._names: dict[bytes, str] = {}

    def read(self, data: bytes | None) -> list[Observed]:
        """The numbers of a record; none if it holds none or is no notification."""
        if data is None:
            return []
        place = _FRAME
        try:
            # Lengths are zigzag varints; with more than one byte the plain way takes it.
            for _ in range(_TEXTS):
                place += 1 + (data[place] >> 1) if data[place] < 0x80 else len(data)
            start = place + 1
            place += 1 + (data[place] >> 1) if data[place] < 0x80 else len(data)
            endpoint = data[start:place]
            start = place + 1
            place += 1 + (data[place] >> 1) if data[place] < 0x80 else len(data)
            path = data[start:place]
            while data[place] >= 0x80:  # the time
                place += 1
        except IndexError:
            return self._plainly(data)
        shape = self._shapes.get((data[:_FRAME], path))
        if shape is not None:
            between, behind = shape
            value = place + 1 + len(between)
            if data[place + 1 : value] == between and data[value + 8 :] == behind and len(data) >= value + 8:
                return [(self._name(endpoint), self._name(path), _DOUBLE.unpack_from(data, value)[0])]
        found = self._plainly(data)
        if len(found) == 1 and found[0][0].encode() == endpoint and found[0][1].encode() == path:
            self._learn(data, path, place + 1, found[0][2])
        return found

    def _learn(self, data: bytes, path: bytes, between: int, value: float) -> None:
        """The shape of a record whose only number is ``value``, if there is one place alone where that can stand."""
        last = len(data) - 8
        raw = _DOUBLE.pack(value)
        places = [
            place for place in range(max(between, last - _MOST_BEHIND), last + 1) if data[place : place + 8] == raw
        ]
        if len(places) == 1:
            if len(self._shapes) >= _MOST_SHAPES:
                self._shapes.clear()
            self._shapes[data[:_FRAME], path] = (data[between : places[0]], data[places[0] + 8 :])

    def _plainly(self, data: bytes) -> list[Observed]:
        try:
            record = decode(data)
        except SerdeError:
            self.unreadable += 1
            return []
        return list(_numbers(record)) if isinstance(record, Notification) else []

    def _name(self, raw: bytes) -> str:
        try:
            return self._names[raw]
        except KeyError:
            if len(self._names) >= 4 * _MOST_SHAPES:
                self._names.clear()
            name = self._names[raw] = raw.decode()
            return name


def _numbers(record: Notification) -> Iterator[Observed]:
    for resource in values_told(record.rep.body):
        value = resource.value
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield record.ep, str(resource.path), float(value)
