"""The journal of updates that were acknowledged before Kafka had them: two files beside the state file.

Owns the layout of the files, when they are cut, and what is still whole in them after a crash. It knows no Kafka: who
writes also says when all of it is there. One write a turn of the event loop, into the system's memory and not onto the
disk: it outlives the process, as what Kafka acknowledges does, and neither of them a power cut.

A file is a row of frames: `_FRAME` (mark, size, CRC-32 of the rest), `_TURN` (number of the turn, its time in epoch
ms), and the entries of a turn: the message id, and then what `form` makes. What follows the last whole frame was never
acknowledged.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from struct import Struct
from typing import Final

import structlog

from gateway.state_file import StateUnavailable
from schemas.avro.compiled import encoded_long

_log = structlog.get_logger("headwater.journal")

NAMES: Final = ("updates-0.journal", "updates-1.journal")
#: Bytes of a file after which the other is used, as soon as Kafka has all that is in that one.
ENOUGH: Final = 1 << 20

_MARK: Final = b"HdU1"
_FRAME: Final = Struct(">4sII")
_TURN: Final = Struct(">QQ")
#: Sizes of the peer, of the key and of the value without its time.
_SIZES: Final = Struct(">BHH")
_MID: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An update: the key and the value of its record, and what tells its request from others."""

    at_ms: int
    mid: bytes
    peer: bytes
    key: bytes
    value: bytes


def form(peer: bytes, key: bytes, head: bytes) -> bytes:
    """All of an entry but its message id; ``head`` is the value without the time at its end."""
    return _SIZES.pack(len(peer), len(key), len(head)) + peer + key + head


class Segment:
    """One of the files. ``size``: bytes that are whole; ``open``: turns in it that Kafka is not known to have."""

    __slots__ = ("_descriptor", "_is_torn", "open", "path", "size", "turn")

    def __init__(self, path: FilePath) -> None:
        """Raises OSError."""
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.open = 0
        self.size = 0
        #: The number of the last turn in it.
        self.turn = 0
        #: True if something that is not whole could not be cut off.
        self._is_torn = False
        try:
            os.fchmod(self._descriptor, 0o600)
            there = self._read(os.fstat(self._descriptor).st_size)
            for self.turn, _, body in _frames(there):
                self.size += _FRAME.size + _TURN.size + len(body)
            if torn := len(there) - self.size:
                _log.warning("the end of the journal of updates is not whole: it is dropped", file=path.name, size=torn)
                os.ftruncate(self._descriptor, self.size)
        except BaseException:
            self.close()
            raise

    def _read(self, size: int) -> bytes:
        return os.pread(self._descriptor, size, 0)

    def entries(self) -> Iterator[Entry]:
        """What is whole. Raises OSError."""
        for _, at_ms, body in _frames(self._read(self.size)):
            time, at = encoded_long(at_ms), 0
            while at < len(body):
                mid = body[at : at + _MID]
                peer, key, head = _SIZES.unpack_from(body, at + _MID)
                at += _MID + _SIZES.size
                ends = at + peer, at + peer + key, at + peer + key + head
                yield Entry(
                    at_ms=at_ms,
                    mid=mid,
                    peer=body[at : ends[0]],
                    key=body[ends[0] : ends[1]],
                    value=body[ends[1] : ends[2]] + time,
                )
                at = ends[2]

    def append(self, frame: bytes) -> None:
        """Write at the end, all or nothing. Raises OSError."""
        if self._is_torn:
            os.ftruncate(self._descriptor, self.size)
            self._is_torn = False
        try:
            written = os.write(self._descriptor, frame)
        except OSError:
            self._is_torn = True
            raise
        if written != len(frame):
            self._is_torn = True
            raise OSError(f"only {written} of {len(frame)} bytes could be written")
        self.size += written

    def clear(self) -> None:
        """Drop all that is in it. Raises OSError."""
        os.ftruncate(self._descriptor, 0)
        self.size = 0
        self._is_torn = False

    def close(self) -> None:
        """Let the file go, as it is."""
        os.close(self._descriptor)


class Journal:
    """Both files, in a directory that this process has locked (`gateway.state_file`)."""

    def __init__(self, directory: FilePath) -> None:
        """Open them, or make them; only the owner can read them.

        Raises:
            StateUnavailable: they cannot be opened, read or cut.
        """
        opened: list[Segment] = []
        try:
            for name in NAMES:
                opened.append(Segment(directory / name))
        except OSError as exc:
            for one in opened:
                one.close()
            raise StateUnavailable(f"{directory / name} cannot be used: {exc.strerror or exc}") from exc
        #: The one that is written, last.
        self._segments = sorted(opened, key=lambda one: one.turn)
        self._turn = self._segments[-1].turn
        self._is_refused = False
        #: Turns that the disk did not take.
        self.failed = 0

    @property
    def size(self) -> int:
        """Bytes that are in it."""
        return sum(one.size for one in self._segments)

    def entries(self) -> list[Entry]:
        """All that is in it, in order.

        Raises:
            StateUnavailable: it cannot be read.
        """
        try:
            return [entry for one in self._segments for entry in one.entries()]
        except OSError as exc:
            raise StateUnavailable(f"the journal of updates cannot be read: {exc.strerror or exc}") from exc

    def write(self, at_ms: int, pieces: Sequence[bytes]) -> Segment | None:
        """Keep a turn: of each update the message id and its `form`. Returns where it is, to be confirmed once Kafka
        has it; None: the disk refuses, and nothing of it is kept."""
        self._turn += 1
        body = _TURN.pack(self._turn, at_ms) + b"".join(pieces)
        try:
            last = self._segments[-1]
            if last.size >= ENOUGH and not self._segments[0].open:
                self._segments[0].clear()
                self._segments.reverse()
                last = self._segments[-1]
            last.append(_FRAME.pack(_MARK, len(body), zlib.crc32(body)) + body)
        except OSError as exc:
            self.failed += 1
            if not self._is_refused:
                self._is_refused = True
                _log.error(
                    "updates cannot be kept on the disk, so each waits for Kafka: is it full?",
                    file=str(last.path),
                    reason=exc.strerror or str(exc),
                )
            return None
        self._is_refused = False
        last.turn = self._turn
        last.open += 1
        return last

    def take_over(self, entries: Iterable[Entry]) -> None:
        """Keep what was in other journals, in the order of time.

        Raises:
            StateUnavailable: the disk refuses.
        """
        for entry in sorted(entries, key=lambda one: one.at_ms):
            head = entry.value.removesuffix(encoded_long(entry.at_ms))
            if self.write(entry.at_ms, [entry.mid + form(entry.peer, entry.key, head)]) is None:
                raise StateUnavailable("the journal of updates cannot be written")

    def said_again(self) -> list[Segment]:
        """All that is in it goes to Kafka once more: the files to be confirmed in place of all their turns."""
        there = [one for one in self._segments if one.size]
        for one in there:
            one.open = 1
        return there

    def confirm(self, segment: Segment) -> None:
        """Kafka has a turn of this file."""
        segment.open -= 1

    def trim(self) -> None:
        """Drop what Kafka has, a whole file at a time; to be called about every second."""
        try:
            for one in self._segments:
                if one.size and not one.open:
                    one.clear()
        except OSError as exc:
            _log.warning("the journal of updates cannot be cut, trying again", reason=exc.strerror or str(exc))

    def close(self) -> None:
        """Let the files go; what is in them is there for the next process."""
        for one in self._segments:
            one.close()


def _frames(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The whole frames at the beginning: number of the turn, epoch ms, entries."""
    at = 0
    while at + _FRAME.size + _TURN.size <= len(data):
        mark, size, checksum = _FRAME.unpack_from(data, at)
        at += _FRAME.size
        body = data[at : at + size]
        if mark != _MARK or size < _TURN.size or len(body) != size or zlib.crc32(body) != checksum:
            return
        yield *_TURN.unpack_from(body), body[_TURN.size :]
        at += size
