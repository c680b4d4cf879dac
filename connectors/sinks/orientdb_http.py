"""OrientDB's HTTP API, as the other way to the same database.

Owns one connection, with the methods of `connectors.sinks.orientdb_client.BinaryClient` and its failures. Knows nothing
of what is stored.
"""

from __future__ import annotations

import http.client
import json
import re
import ssl
from base64 import b64encode
from typing import Any

from connectors.sinks.orientdb_client import OrientRefused, OrientUnreachable, simple_name

_UNAUTHORIZED, _CONFLICT = 401, 409


class HttpClient:
    """One connection to one database over HTTP (default port 2480), or HTTPS."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        database: str,
        user: str,
        password: str,
        timeout: float,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """``timeout`` is of each wait, in seconds. Nothing is connected yet."""
        self._connection = (
            http.client.HTTPConnection(host, port, timeout=timeout)
            if tls is None
            else http.client.HTTPSConnection(host, port, timeout=timeout, context=tls)
        )
        self._database = database
        self._headers = {
            "Authorization": f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}",
            "Content-Type": "application/json",
        }

    def open(self) -> None:
        """Connect and see that the database is there.

        Raises:
            OrientUnreachable, OrientRefused: see there.
        """
        # A database that is not there is refused like a wrong password, so the list is asked first; a user of the
        # database may not see that.
        try:
            known = self._ask("GET", "/listDatabases")["databases"]
        except OrientRefused:
            known = [self._database]
        if self._database not in known:
            raise OrientRefused((("OStorageDoesNotExistException", f"there is no database {self._database}"),))
        self.query("SELECT 1")

    def create(self) -> None:
        """Create the database, which the server allows its own users only; then open it. Raises as `open`."""
        self._ask("POST", f"/database/{self._database}/plocal")
        self.open()

    def query(self, sql: str) -> list[dict[str, Any]]:
        """The rows of a SELECT. Raises as `open`."""
        return list(self._ask("POST", f"/command/{self._database}/sql/-/-1", {"command": sql})["result"])

    def script(self, sql: str) -> object:
        """Run statements, each ended by a semicolon, one after the other; what they RETURN. Raises as `open`."""
        operation = {"type": "script", "language": "sql", "script": sql}
        answer = self._ask("POST", f"/batch/{self._database}", {"transaction": False, "operations": [operation]})
        rows = answer.get("result") or [None]
        first = rows[0]
        return first.get("value", first) if isinstance(first, dict) else first

    def close(self) -> None:
        """Close the connection; never raises."""
        self._connection.close()

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        # OrientDB decodes a body as if it came from a form, and only then reads it as JSON.
        sent = None if body is None else json.dumps(body).replace("%", r"\u0025").replace("+", r"\u002b").encode()
        try:
            self._connection.request(method, path, sent, self._headers)
            answer = self._connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as exc:
            self.close()
            raise OrientUnreachable(str(exc) or type(exc).__name__) from exc
        if answer.status >= 300:
            # After it has refused somebody, OrientDB at times refuses the next request on that connection too.
            self.close()
            raise OrientRefused((_cause(answer.status, text.decode("utf-8", "replace")),))
        return json.loads(text or b"{}")


def _cause(status: int, text: str) -> tuple[str, str]:
    """The Java exception and what it says, of an answer that is an error."""
    try:
        said = str(json.loads(text)["errors"][0]["content"])
    except (ValueError, LookupError, TypeError):
        said = text
    if status == _UNAUTHORIZED:
        return "OSecurityAccessException", said
    if status == _CONFLICT:
        return "OConcurrentModificationException", said
    named = re.match(r"([\w.$]+): (.*)", said, re.DOTALL)
    return (simple_name(named[1]), named[2]) if named else (f"status {status}", said)
