"""One HTTP exchange that ends in time whatever the server does, and the words for one that came to nothing.

Owns the time limit of a whole exchange. It opens and closes no connection, and knows no address: that may be a secret.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, RemoteDisconnected


@contextmanager
def deadline(connection: HTTPConnection, seconds: float) -> Iterator[Callable[[], None]]:
    """An exchange on ``connection``, which is shut down after ``seconds``.

    What it gives is called once the answer was read: http.client takes a head that was cut off for a whole one.

    Raises:
        TimeoutError: it took longer; with words for people.
        HTTPException, OSError: as http.client raises them in the block.
    """
    late = threading.Event()

    def end() -> None:
        late.set()
        if isinstance(connection.sock, socket.socket):
            with suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def in_time() -> None:
        if late.is_set():
            raise HTTPException

    # The timeout of a socket is for each of its steps: a server that sends a byte a second would hold us for ever.
    limit = threading.Timer(seconds, end)
    limit.daemon = True
    limit.start()
    try:
        yield in_time
    except (HTTPException, OSError) as exc:
        if late.is_set() or isinstance(exc, TimeoutError):
            raise TimeoutError(f"no answer within {seconds:g} s") from exc
        raise
    finally:
        limit.cancel()


def no_answer(exc: Exception) -> str:
    """Why there is no answer, in words that name no address."""
    if isinstance(exc, TimeoutError):
        return str(exc)
    if isinstance(exc, RemoteDisconnected):
        return "no answer: the connection was ended"
    if isinstance(exc, HTTPException):
        return f"no HTTP: {type(exc).__name__}"
    return str(exc.strerror or exc) if isinstance(exc, OSError) else type(exc).__name__
