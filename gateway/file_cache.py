"""The files that the gateway has for its devices: each by its SHA-256 in one folder, all of them within a bound.

Owns how pieces become a file: written under another name, checked by the hash, on disk, then renamed; so what is there
under its hash is whole, whatever was killed when. Pieces come from one thread (`take`); what is there is read from the
event loop, a block at a time and never a whole file. Files that were not used for the longest make room, for others and
for whatever else is on that disk.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import structlog

from schemas.files import MOST_BYTES, PIECE, File, Piece, is_hash

_log = structlog.get_logger("headwater.files")

#: The folder, in the gateway's state directory.
FOLDER = "files"
#: All files together, in bytes.
MOST_CACHED = 4 * MOST_BYTES
#: Of the disk so much is left to others: the edge's Kafka ends when it cannot write.
SPARE = 128 << 20
#: Files that may be on their way at once; the one that began first goes.
_MOST_PARTS = 8
_MOST_OPEN = 16
_PART = ".part"


class Taken(Enum):
    """What became of a piece."""

    MORE = "more"
    WHOLE = "whole"
    KNOWN = "known"
    WRONG = "wrong"
    NO_ROOM = "no room"


@dataclass(slots=True, kw_only=True)
class _Part:
    file: File
    #: The numbers that are still missing.
    missing: set[int] = field(default_factory=set)


class FileCache:
    """The folder and what is in it; ``free`` tells how many bytes its disk has left.

    Raises:
        OSError: the folder cannot be used.
    """

    def __init__(self, folder: Path, *, most_bytes: int = MOST_CACHED, free: Callable[[], int] | None = None) -> None:
        self.folder = folder
        self._most_bytes = most_bytes
        self._free = free or (lambda: shutil.disk_usage(folder).free)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = threading.RLock()
        #: Sizes by hash, the one that was used last at the end.
        self._sizes: OrderedDict[str, int] = OrderedDict()
        #: By hash and size: who says another size of the same hash is wrong, and spoils nobody else's.
        self._parts: OrderedDict[tuple[str, int], _Part] = OrderedDict()
        self._open: OrderedDict[str, int] = OrderedDict()
        #: Those that are gone and may be open still: the event loop, which reads them, closes them.
        self._gone: list[str] = []
        #: Files that came whole, and that were dropped, by reason.
        self.completed = 0
        self.dropped: Counter[str] = Counter()
        found = []
        for path in folder.iterdir():
            if path.name.endswith(_PART):
                # Its pieces are read again.
                path.unlink(missing_ok=True)
            elif is_hash(path.name):
                facts = path.stat()
                found.append((facts.st_mtime, path.name, facts.st_size))
        for _, name, size in sorted(found):
            self._sizes[name] = size

    @property
    def size(self) -> int:
        """Bytes of all whole files."""
        with self._lock:
            return sum(self._sizes.values())

    def __len__(self) -> int:
        return len(self._sizes)

    def __contains__(self, sha256: str) -> bool:
        return sha256 in self._sizes

    def hashes(self) -> list[str]:
        """Of all whole files, that which was used last at the end."""
        with self._lock:
            return list(self._sizes)

    def size_of(self, sha256: str) -> int | None:
        """The file's size in bytes; None if it is not here."""
        self._close_gone()
        return self._sizes.get(sha256)

    # Written from the intake's thread

    def take(self, piece: Piece) -> Taken:
        """Take one piece.

        Raises:
            OSError: the disk did not take it.
        """
        file = piece.file
        if file.sha256 in self._sizes:
            return Taken.KNOWN
        part = self._parts.get((file.sha256, file.size))
        if part is None:
            if not self._make_room(file.size):
                self._drop("no room", file)
                return Taken.NO_ROOM
            if len(self._parts) >= _MOST_PARTS:
                self._give_up(next(iter(self._parts.values())), "too many at once")
            part = _Part(file=file, missing=set(range(file.pieces)))
            self._parts[file.sha256, file.size] = part
        path = self._part(file)
        with path.open("r+b" if path.exists() else "w+b") as out:
            out.seek(piece.number * PIECE)
            out.write(piece.data)
        part.missing.discard(piece.number)
        return self._finish(part) if not part.missing else Taken.MORE

    def _finish(self, part: _Part) -> Taken:
        file, path = part.file, self._part(part.file)
        with path.open("rb") as written:
            if hashlib.file_digest(written, "sha256").hexdigest() != file.sha256:
                self._give_up(part, "wrong hash")
                return Taken.WRONG
            os.fsync(written.fileno())
        path.rename(self.folder / file.sha256)
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        with self._lock:
            del self._parts[file.sha256, file.size]
            self._sizes[file.sha256] = file.size
        self.completed += 1
        _log.info("a file for devices is here", name=file.name, sha256=file.sha256, bytes=file.size)
        return Taken.WHOLE

    def _make_room(self, size: int) -> bool:
        """True if there is room for one more, of which nothing is there; files make some only if that is of use."""
        with self._lock:
            coming = sum(size for _, size in self._parts)
            bound = min(self._most_bytes, self.size + self._free() - SPARE)
            if coming + size > bound:
                return False
            while self._sizes and self.size + coming + size > bound:
                name, _ = self._sizes.popitem(last=False)
                (self.folder / name).unlink(missing_ok=True)
                self._gone.append(name)
                self.dropped["made room"] += 1
            return True

    def _give_up(self, part: _Part, reason: str) -> None:
        with self._lock:
            del self._parts[part.file.sha256, part.file.size]
        self._part(part.file).unlink(missing_ok=True)
        self._drop(reason, part.file)

    def _drop(self, reason: str, file: File) -> None:
        self.dropped[reason] += 1
        _log.warning("a file for devices was dropped", reason=reason, name=file.name, sha256=file.sha256)

    def _part(self, file: File) -> Path:
        return self.folder / f"{file.sha256}.{file.size}{_PART}"

    # Read from the event loop

    def read(self, sha256: str, offset: int, length: int) -> bytes | None:
        """Up to ``length`` bytes from ``offset`` on; None if the file is not here (any more)."""
        self._close_gone()
        descriptor = self._open.get(sha256)
        if descriptor is None:
            descriptor = self._opened(sha256)
            if descriptor is None:
                return None
        with self._lock:
            if sha256 in self._sizes:
                self._sizes.move_to_end(sha256)
        return os.pread(descriptor, length, offset)

    def _opened(self, sha256: str) -> int | None:
        if sha256 not in self._sizes:
            return None
        try:
            descriptor = os.open(self.folder / sha256, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            # Somebody removed it: it comes again when it is asked for.
            with self._lock:
                self._sizes.pop(sha256, None)
            return None
        # So that a start knows which were used last.
        os.utime(descriptor)
        if len(self._open) >= _MOST_OPEN:
            os.close(self._open.popitem(last=False)[1])
        self._open[sha256] = descriptor
        return descriptor

    def _close_gone(self) -> None:
        """Let go of what made room: its blocks are free only then."""
        while self._gone:
            descriptor = self._open.pop(self._gone.pop(), None)
            if descriptor is not None:
                os.close(descriptor)

    def close(self) -> None:
        """Let go of the files."""
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()
