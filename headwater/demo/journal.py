"""The journals of a sensor process: one JSON line for every confirmable notification that the server acknowledged, and
one for every outlier that a station made.

Owns the files. What stands in the first was promised by the gateway, so it is the measure of every audit; the second
is what the search for outliers is measured by. A line is with the
kernel before the next notification is counted, so that a ``kill -9`` of the sensors costs no line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from gateway.devices.sensor import EndpointTally, Tally
from gateway.devices.station import Made
from headwater.values import plain
from schemas.lwm2m.nodes import Node, values
from schemas.lwm2m.path import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One acknowledged notification: its CoAP message id, its Observe number, its values by path."""

    ep: str
    path: str
    mid: int
    observe: int
    values: tuple[tuple[str, Any], ...]


class OutlierJournal:
    """Writes the outliers that stations make to ``file``, which is made anew: one JSON line each.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, file: FilePath) -> None:
        self._descriptor = _anew(file)

    def made(self, outlier: Made) -> None:
        """Note one."""
        line = {"ep": outlier.ep, "path": str(outlier.path), "value": outlier.value, "timestamp": outlier.timestamp}
        os.write(self._descriptor, json.dumps(line).encode() + b"\n")

    def close(self) -> None:
        os.close(self._descriptor)


def read_outliers(file: FilePath) -> Iterator[Made]:
    """The outliers of an `OutlierJournal`, in order; a last line that was cut by a kill is left out.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line other than the last is none.
    """
    for content in _lines(file):
        path = Path.parse(content["path"])
        yield Made(ep=content["ep"], path=path, value=content["value"], timestamp=content["timestamp"])


class JournalTally(Tally):
    """A `Tally` that also writes every acknowledged notification to ``file``, which is made anew.

    Raises:
        OSError: the file cannot be written.
    """

    __slots__ = ("_descriptor",)

    def __init__(self, file: FilePath) -> None:
        super().__init__()
        self._descriptor = _anew(file)

    def of(self, endpoint: str) -> EndpointTally:
        return _JournalListener(self, endpoint, self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


class _JournalListener(EndpointTally):
    def __init__(self, tally: Tally, endpoint: str, descriptor: int) -> None:
        super().__init__(tally, endpoint)
        self._ep = endpoint
        self._descriptor = descriptor

    def acknowledged(self, path: Path, node: Node, message_id: int, number: int) -> None:
        super().acknowledged(path, node, message_id, number)
        line = {
            "ep": self._ep,
            "path": str(path),
            "mid": message_id,
            "observe": number,
            "values": {str(one.path): plain(one) for one in values(node)},
        }
        os.write(self._descriptor, json.dumps(line).encode() + b"\n")


def read_journal(file: FilePath) -> Iterator[Entry]:
    """The entries of a journal, in order; a last line that was cut by a kill is left out.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line other than the last is no entry.
    """
    for content in _lines(file):
        yield Entry(
            ep=content["ep"],
            path=content["path"],
            mid=content["mid"],
            observe=content["observe"],
            values=tuple(sorted(content["values"].items())),
        )


def _anew(file: FilePath) -> int:
    file.parent.mkdir(parents=True, exist_ok=True)
    return os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o644)


def _lines(file: FilePath) -> Iterator[dict[str, Any]]:
    if not file.exists():
        return
    for line in file.read_bytes().split(b"\n")[:-1]:  # what stands after the last line's end was cut
        yield json.loads(line)
