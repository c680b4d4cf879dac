"""What OpenSSL has to say, taken out of its memory."""

from __future__ import annotations

import contextlib
from typing import Final

from OpenSSL import SSL

_AT_ONCE: Final = 1 << 16


def said(connection: SSL.Connection) -> bytes:
    """All that a connection has to say now, records one behind the other; empty if it has nothing."""
    found = []
    with contextlib.suppress(SSL.Error):  # WantReadError: that was all
        while True:
            found.append(connection.bio_read(_AT_ONCE))
    return b"".join(found)


def farewell(connection: SSL.Connection) -> bytes:
    """The close_notify, and what was to be said before; empty if the connection cannot say it any more."""
    with contextlib.suppress(SSL.Error):
        connection.shutdown()
    return said(connection)
