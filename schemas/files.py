"""Files on their way to the edge: images of firmware and software as records of ``iot.<gw>.files``. Pure.

A file is known by the SHA-256 of its bytes and travels in pieces of `PIECE` bytes: the key is the hash in hex, the
value the bytes, and Kafka headers say what they are a piece of. Pieces may come more than once, and of several files in
turn.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

#: Small enough that a command has never long to wait for the piece before it on a thin line.
PIECE = 64 << 10
#: The largest file: CoAP counts 2 ** 20 blocks (RFC 7959 section 2.2), and the smallest here are of 64 bytes.
MOST_BYTES = 64 << 20
_MOST_NAME = 255
_HASH = re.compile(r"[0-9a-f]{64}")


class NoPiece(ValueError):
    """The record is no piece of a file; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """What there is to know of a file: ``sha256`` in hex, ``size`` in bytes, ``name`` for people."""

    sha256: str
    size: int
    name: str

    @property
    def pieces(self) -> int:
        """In how many pieces it travels."""
        return -(-self.size // PIECE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """The piece of ``file`` with this number, from 0 on."""

    file: File
    number: int
    data: bytes

    @property
    def key(self) -> bytes:
        return self.file.sha256.encode()

    @property
    def headers(self) -> list[tuple[str, bytes]]:
        return [
            ("name", self.file.name.encode()),
            ("size", b"%d" % self.file.size),
            ("piece", b"%d" % self.number),
        ]


def is_hash(text: str) -> bool:
    """True for a SHA-256 in small hex."""
    return _HASH.fullmatch(text) is not None


def describe(data: bytes, name: str) -> File:
    """The file that these bytes are.

    Raises:
        NoPiece: it is empty, too large, or its name is none.
    """
    return checked(File(sha256=hashlib.sha256(data).hexdigest(), size=len(data), name=name))


def pieces(file: File, data: bytes) -> Iterator[Piece]:
    """All pieces of a file, in order."""
    for number in range(file.pieces):
        yield Piece(file=file, number=number, data=data[number * PIECE : (number + 1) * PIECE])


def piece_of(key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes | None]] | None) -> Piece:
    """The piece that a record is.

    Raises:
        NoPiece: it is none.
    """
    said = dict(headers or ())
    try:
        size, number = (int((said.get(name) or b"").decode("ascii")) for name in ("size", "piece"))
        name = (said.get("name") or b"").decode()
        sha256 = (key or b"").decode("ascii")
    except ValueError as exc:
        raise NoPiece("the record has no headers size, piece and name, or no hash as its key") from exc
    file = checked(File(sha256=sha256, size=size, name=name))
    data = value or b""
    if not 0 <= number < file.pieces or len(data) != min(PIECE, size - number * PIECE):
        raise NoPiece(f"a file of {size} bytes has no piece {number} of {len(data)} bytes")
    return Piece(file=file, number=number, data=data)


def checked(file: File) -> File:
    """The file, if there can be such a one.

    Raises:
        NoPiece: it is empty, too large, or its hash or its name is none.
    """
    if not 0 < file.size <= MOST_BYTES:
        raise NoPiece(f"a file has 1 to {MOST_BYTES >> 20} MiB, this one has {file.size} bytes")
    if not is_hash(file.sha256):
        raise NoPiece(f"{file.sha256[:80]!r} is no SHA-256 in hex")
    if not 0 < len(file.name) <= _MOST_NAME:
        raise NoPiece(f"a file's name has 1 to {_MOST_NAME} characters")
    return file
