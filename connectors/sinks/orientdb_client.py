"""pyorient 1.5.5 against OrientDB 3: what that library needs to speak with a server that is newer than itself.

Owns the connection and how its failures are told apart: `OrientUnreachable`, `OrientRefused`. Knows nothing of what is
stored. pyorient is imported when the first connection is made.

pyorient was last released in 2017, for the protocol 36; OrientDB 3.2 speaks 38 and still answers a client that calls
itself 36 in the old way. Changed here, each in its place below:

 1. the version check       it refuses a server whose protocol is above `pyorient.orient.SUPPORTED_PROTOCOL`
 2. token sessions          it must ask for one before it connects; without, OrientDB 3 forgets who is speaking
 3. error replies           in a token session they carry the token too; pyorient does not read it, takes its length for
                            the error, and waits for ever for the rest
 4. sockets                 its read has no end (``while True`` around a ``select`` of 30 s, of low descriptors only)
 5. its debugging           ``DEBUG=1`` in the environment prints every message, the password among them
"""

from __future__ import annotations

import socket
import warnings
from functools import cache
from typing import Any, Protocol

from connectors.sinks.sink import SinkConfigError

#: Of OrientDB 3.2; see "Network-Binary-Protocol" of its manual, history.
_PROTOCOL = 38
#: First byte of a reply.
_ERROR = 1
#: What is told of a message, in characters.
_WORDS = 300


class Client(Protocol):
    """One connection to one database, over whichever protocol. All but `close` raise `OrientError`."""

    def open(self) -> None:
        """Connect and open the database."""
        ...

    def create(self) -> None:
        """Create the database, which the server allows its own users only; then open it."""
        ...

    def query(self, sql: str) -> list[dict[str, Any]]:
        """The rows of a SELECT."""
        ...

    def script(self, sql: str) -> object:
        """Run statements, each ended by a semicolon, one after the other; what they RETURN."""
        ...

    def close(self) -> None:
        """Close the connection; never raises."""
        ...


class OrientError(Exception):
    """Root of what a client raises: OrientUnreachable, OrientRefused."""


class OrientUnreachable(OrientError):
    """No server, or it went away or silent in the middle: what was asked may have been done or not."""


class OrientRefused(OrientError):
    """The server said no. ``causes`` are its Java exceptions, the outermost first: (simple class name, message)."""

    def __init__(self, causes: tuple[tuple[str, str], ...]) -> None:
        # It repeats the statement, and lists all that it would have understood.
        said = (f"{name}: {message.splitlines()[0][:_WORDS]}" if message else name for name, message in causes)
        super().__init__("; ".join(said) or "refused without a reason")
        self.causes = causes

    @property
    def names(self) -> frozenset[str]:
        """The class names of all causes, such as ``OConcurrentModificationException``."""
        return frozenset(name for name, _ in self.causes)


def simple_name(java_class: str) -> str:
    """``com.orientechnologies.orient.core.exception.OValidationException`` to ``OValidationException``."""
    return java_class.rpartition(".")[2].rpartition("$")[2]


@cache
def _pyorient() -> Any:
    """pyorient with the changes that this module is about.

    Raises:
        SinkConfigError: it is not installed.
    """
    try:
        with warnings.catch_warnings():
            # It compares numbers with ``is``; that works in CPython, which warns of it when it compiles the files.
            warnings.simplefilter("ignore", SyntaxWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            import pyorient
            import pyorient.orient
            from pyorient.constants import FIELD_BOOLEAN, FIELD_BYTE, FIELD_INT, FIELD_STRING
            from pyorient.messages.base import BaseMessage
    except ImportError as exc:
        raise SinkConfigError("the sink orientdb needs pyorient: pip install 'headwater[orientdb]'") from exc
    pyorient.orient.SUPPORTED_PROTOCOL = _PROTOCOL
    original = BaseMessage._decode_header

    def decode_header(message: Any) -> None:
        connection = message._orientSocket
        if not hasattr(connection, "peek") or connection.peek() != _ERROR:
            original(message)
            return
        message._decode_field(FIELD_BYTE)
        message._decode_field(FIELD_INT)
        if message._need_token and message._request_token is True:
            message._decode_field(FIELD_STRING)
        causes = []
        while message._decode_field(FIELD_BOOLEAN):
            name, text = message._decode_field(FIELD_STRING), message._decode_field(FIELD_STRING)
            causes.append((simple_name(name.decode("utf-8", "replace")), text.decode("utf-8", "replace")))
        message._decode_field(FIELD_STRING)  # the exception as Java serializes it
        raise OrientRefused(tuple(causes))

    BaseMessage._decode_header = decode_header
    BaseMessage.dump_streams = lambda _message: None
    return pyorient


def _socket(host: str, port: int, timeout: float) -> Any:
    """An `OrientSocket` whose every wait ends after ``timeout`` seconds, and that reads more than a field at a time."""
    base: Any = _pyorient().orient.OrientSocket

    class TimedSocket(base):  # type: ignore[misc]  # pyorient has no types
        def __init__(self) -> None:
            super().__init__(host, port)
            self._socket.close()
            self._file: Any = None

        def connect(self) -> None:
            self._socket = socket.create_connection((host, port), timeout)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._file = self._socket.makefile("rb", buffering=65536)
            self.protocol = int.from_bytes(self.read(2), "big")
            self.connected = True

        def write(self, buff: bytes) -> int:
            self._socket.sendall(buff)
            return len(buff)

        def read(self, count: int) -> bytes:
            got: bytes = self._file.read(count)
            if len(got) < count:
                raise OrientUnreachable("the server closed the connection")
            return got

        def peek(self) -> int:
            if not (ahead := self._file.peek(1)):
                raise OrientUnreachable("the server closed the connection")
            return int(ahead[0])

        def close(self) -> None:
            self.connected = False
            if self._file is not None:
                self._file.close()
            self._socket.close()

    return TimedSocket()


class BinaryClient:
    """One connection to one database over the binary protocol (default port 2424). It is no use after an error of its
    own (`OrientUnreachable`): make another one."""

    def __init__(self, *, host: str, port: int, database: str, user: str, password: str, timeout: float) -> None:
        """``timeout`` is of each wait, in seconds. Nothing is connected yet."""
        self._where = (host, port, timeout)
        self._database = database
        self._login = (user, password)
        self._client: Any = None

    def open(self) -> None:
        """Connect and open the database.

        Raises:
            OrientUnreachable, OrientRefused: see there. SinkConfigError: pyorient is missing.
        """
        self._client = self._connected()
        self._call("db_open", self._database, *self._login)

    def create(self) -> None:
        """Create the database, which the server allows its own users only; then open it. Raises as `open`."""
        pyorient = _pyorient()
        self._client = self._connected()
        try:
            self._call("connect", *self._login)
            self._call("db_create", self._database, pyorient.DB_TYPE_GRAPH, pyorient.STORAGE_TYPE_PLOCAL)
        finally:
            self.close()
        self.open()

    def query(self, sql: str) -> list[dict[str, Any]]:
        """The rows of a SELECT. Raises as `open`."""
        return [record.oRecordData for record in self._call("query", sql, -1) or []]

    def script(self, sql: str) -> object:
        """Run statements, each ended by a semicolon, one after the other; what they RETURN. Raises as `open`."""
        answer = self._call("batch", sql)
        return answer[0] if isinstance(answer, list) and answer else answer

    def close(self) -> None:
        """Close the connection; never raises."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _connected(self) -> Any:
        client = _pyorient().OrientDB(_socket(*self._where))
        client.set_session_token(True)
        return client

    def _call(self, name: str, *arguments: object) -> Any:
        if self._client is None:
            raise OrientUnreachable("the connection is closed")
        try:
            return getattr(self._client, name)(*arguments)
        except (OrientRefused, SinkConfigError):
            raise
        except OrientUnreachable:
            self.close()
            raise
        except OSError as exc:
            self.close()
            raise OrientUnreachable(str(exc) or type(exc).__name__) from exc
        except Exception as exc:
            # Whatever pyorient stumbles over, its place in the stream is lost.
            self.close()
            raise OrientUnreachable(f"pyorient cannot read the answer: {type(exc).__name__}: {exc}") from exc
