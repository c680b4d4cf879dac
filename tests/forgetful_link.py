"""A TCP link in front of a real Kafka that can make it tell of no brokers, as one does that has only just come up.

A node that the controller still counts as fenced answers Metadata with its topics and an empty list of brokers, for as
long as a busy machine lets it. Here a test says when. Frames and the flexible versions of Metadata (9 and later, which
today's clients ask for) are those of https://kafka.apache.org/protocol.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType

_METADATA = 3
_FIRST_FLEXIBLE = 9


class ForgetfulLink:
    """Listens on ``port`` and carries to ``behind``, both of 127.0.0.1, while it is open as a context."""

    def __init__(self, port: int, behind: int) -> None:
        #: While it is set, no answer tells of a broker.
        self.forgets = threading.Event()
        #: How many answers told of none.
        self.forgotten = 0
        self._behind = behind
        self._server = socket.create_server(("127.0.0.1", port))
        self._open: list[socket.socket] = [self._server]

    def __enter__(self) -> ForgetfulLink:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in self._open:
            _hang_up(one)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._behind), timeout=10)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            self._open += [client, server]
            # By correlation id: the version in which Metadata was asked for.
            asked: dict[int, int] = {}
            threading.Thread(target=_carry, args=(client, server, _noting(asked)), daemon=True).start()
            threading.Thread(target=_carry, args=(server, client, self._forgetting(asked)), daemon=True).start()

    def _forgetting(self, asked: dict[int, int]) -> Callable[[bytes], bytes]:
        def change(frame: bytes) -> bytes:
            version = asked.pop(struct.unpack_from(">i", frame)[0], None)
            if version is None or not self.forgets.is_set():
                return frame
            assert version >= _FIRST_FLEXIBLE
            self.forgotten += 1
            return _without_brokers(frame)

        return change


def _noting(asked: dict[int, int]) -> Callable[[bytes], bytes]:
    def note(frame: bytes) -> bytes:
        api, version, correlation = struct.unpack_from(">hhi", frame)
        if api == _METADATA:
            asked[correlation] = version
        return frame

    return note


def _without_brokers(frame: bytes) -> bytes:
    start = 4 + 1 + 4  # correlation id, the header's (no) tagged fields, throttle time
    count, at = _varint(frame, start)
    for _ in range(count - 1):
        host, at = _varint(frame, at + 4)
        rack, at = _varint(frame, at + host - 1 + 4)
        at += max(rack - 1, 0)
        tags, at = _varint(frame, at)
        assert tags == 0
    return frame[:start] + b"\x01" + frame[at:]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
        if byte < 0x80:
            return value, at


def _carry(source: socket.socket, target: socket.socket, change: Callable[[bytes], bytes]) -> None:
    try:
        with source.makefile("rb") as frames:
            while len(size := frames.read(4)) == 4:
                frame = change(frames.read(struct.unpack(">i", size)[0]))
                target.sendall(struct.pack(">i", len(frame)) + frame)
    except OSError:
        pass
    finally:
        _hang_up(source)
        _hang_up(target)


def _hang_up(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
