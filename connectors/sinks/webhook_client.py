"""One HTTP connection to one address, and what a POST on it comes to (RFC 9110, RFC 9112).

Owns time limits, TLS and the reading of answers. It decides nothing about records, follows no redirect and uses no
proxy. Whatever it raises names the server only: the address itself may be a secret.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from urllib.parse import SplitResult

from connectors.sinks.http_deadline import deadline, no_answer

#: More of an answer is not read; the connection is given up instead.
_ANSWER_BYTES = 64 * 1024
_SHOWN = 200


class NoAnswer(Exception):
    """Nobody is there, or no whole answer came in time; whether it was taken is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the server said."""

    status: int
    #: The beginning of the body as one line, for people.
    words: str
    #: As much of it as was read.
    body: bytes = field(repr=False)
    #: ``Retry-After`` as it came.
    retry_after: str | None
    #: Where a redirect leads: the server only.
    location: str | None


class Poster:
    """Posts to ``url``, on one connection as long as the server keeps it."""

    def __init__(
        self, url: SplitResult, timeout_s: float, ca_file: Path | None, answer_bytes: int = _ANSWER_BYTES
    ) -> None:
        """No more of an answer is read than ``answer_bytes``.

        Raises OSError if ``ca_file`` holds no certificates that can be read.
        """
        self.server = f"{url.scheme}://{url.netloc}"
        self._target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        self._timeout_s = timeout_s
        self._answer_bytes = answer_bytes
        # `create_default_context` verifies the certificate and the name.
        self._tls = ssl.create_default_context(cafile=ca_file and str(ca_file)) if url.scheme == "https" else None
        self._host, self._port = url.hostname or "", url.port
        self._connection: HTTPConnection | None = None

    def post(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Raises NoAnswer: after ``timeout_s`` for the whole request, once it is connected."""
        kept = self._connection is not None
        try:
            return self._post(body, headers)
        except (HTTPException, OSError) as exc:
            if kept and isinstance(exc, ConnectionError):
                # The server has ended a connection on which nothing was under way, as it may (RFC 9112, section 9.3.1).
                with suppress(HTTPException, OSError):
                    return self._post(body, headers)
            raise NoAnswer(no_answer(exc)) from exc

    def close(self) -> None:
        """End the connection; the next post opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _connected(self) -> HTTPConnection:
        if self._tls is None:
            connection = HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        else:
            connection = HTTPSConnection(self._host, self._port, timeout=self._timeout_s, context=self._tls)
        connection.connect()
        self._connection = connection
        return connection

    def _post(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        connection = self._connection or self._connected()
        try:
            with deadline(connection, self._timeout_s) as in_time:
                connection.request("POST", self._target, body, dict(headers))
                response = connection.getresponse()
                told = response.read(self._answer_bytes)
                in_time()
        except (HTTPException, OSError):
            self.close()
            raise
        if response.will_close or not response.isclosed():
            self.close()
        location = response.getheader("Location")
        return Answer(
            status=response.status,
            words=" ".join(told.decode("utf-8", "replace").split())[:_SHOWN],
            body=told,
            retry_after=response.getheader("Retry-After"),
            location=location and _server(location),
        )


def seconds(retry_after: str | None, now: datetime) -> float | None:
    """``Retry-After`` in seconds from ``now``: a number of them or a date (RFC 9110, section 10.2.3), or None."""
    text = (retry_after or "").strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return float(text)
    try:
        until = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, ((until if until.tzinfo else until.replace(tzinfo=UTC)) - now).total_seconds())


def _server(location: str) -> str:
    found = re.match(r"https?://[^/?#@\s]+", location)
    return found[0] if found else "elsewhere on the same server"
