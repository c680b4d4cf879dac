"""The link between edge and cloud: it passes bytes, and what is cut passes none."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from headwater.demo.link import Cut, Link


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that sends back what it gets."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(65536):
                connection.sendall(data)

    def accept() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield server.getsockname()[1]
    server.shutdown(socket.SHUT_RDWR)
    server.close()


def _say(connection: socket.socket, data: bytes) -> bytes:
    connection.sendall(data)
    return _take(connection, len(data))


def _take(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += connection.recv(count - len(data))
    return data


def test_link_passes_bytes_both_ways(echo: int) -> None:
    with Link(0, echo) as link, socket.create_connection(("127.0.0.1", link.port), timeout=10) as connection:
        assert _say(connection, b"x" * 300_000) == b"x" * 300_000


def test_delayed_link_passes_everything_in_order(echo: int) -> None:
    data = b"".join(b"%06d" % n for n in range(100_000))
    with (
        Link(0, echo, delay=0.02) as link,
        socket.create_connection(("127.0.0.1", link.port), timeout=10) as connection,
    ):
        connection.settimeout(0.02)
        connection.sendall(b"late")
        with pytest.raises(TimeoutError):
            connection.recv(4)
        connection.settimeout(10)
        assert _take(connection, 4) == b"late"
        sender = threading.Thread(target=connection.sendall, args=(data,))
        sender.start()
        assert _take(connection, len(data)) == data
        sender.join()


def test_silent_cut_holds_bytes_back_and_restoring_lets_them_through(echo: int) -> None:
    with Link(0, echo) as link, socket.create_connection(("127.0.0.1", link.port), timeout=10) as connection:
        assert _say(connection, b"before") == b"before"
        link.cut()
        assert link.is_cut
        connection.sendall(b"during")
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        link.restore()
        connection.settimeout(10)
        assert _take(connection, 6) == b"during"


def test_reset_ends_connections_and_turns_new_ones_away(echo: int) -> None:
    with Link(0, echo) as link, socket.create_connection(("127.0.0.1", link.port), timeout=10) as connection:
        assert _say(connection, b"before") == b"before"
        link.cut(Cut.RESET)
        with pytest.raises(ConnectionError):
            _ended(connection)
        with socket.create_connection(("127.0.0.1", link.port), timeout=10) as late, pytest.raises(ConnectionError):
            _ended(late)
        link.restore()
        with socket.create_connection(("127.0.0.1", link.port), timeout=10) as again:
            assert _say(again, b"after") == b"after"


def test_taken_port_is_refused_and_a_closed_link_frees_it(echo: int) -> None:
    link = Link(0, echo)
    with pytest.raises(OSError):
        Link(link.port, echo)
    link.close()
    link.close()
    Link(link.port, echo).close()


def _ended(connection: socket.socket) -> None:
    if connection.recv(1) == b"":
        raise ConnectionError("closed")
