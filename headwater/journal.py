"""The journal of a sensor process: one JSON line for every confirmable notification that the server acknowledged.

Owns the file. What stands in it was promised by the gateway, so it is the measure of every audit. A line is with the
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


class JournalTally(Tally):
    """A `Tally` that also writes every acknowledged notification to ``file``, which is made anew.

    Raises:
        OSError: the file cannot be written.
    """

    __slots__ = ("_descriptor",)

    def __init__(self, file: FilePath) -> None:
        super().__init__()
        file.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o644)

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
    if not file.exists():
        return
    lines = file.read_bytes().split(b"\n")
    for line in lines[:-1]:  # what stands after the last line's end was cut
        content = json.loads(line)
        yield Entry(
            ep=content["ep"],
            path=content["path"],
            mid=content["mid"],
            observe=content["observe"],
            values=tuple(sorted(content["values"].items())),
        )
