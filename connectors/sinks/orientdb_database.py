"""What the OrientDB sink asks of its database: its classes, vertices by what they stand for, transactions.

Owns no connection but uses one, `Client`, and remembers the record ids of servers and objects. Decides nothing.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Mapping, Sequence

from connectors.sinks import orientdb_graph as sql
from connectors.sinks.orientdb_client import Client, OrientRefused

#: How often something that met another writer is tried, and the wait between, at most doubled each time.
ATTEMPTS, PAUSE_S = 8, 0.02
#: Servers and objects whose record ids are remembered.
REMEMBERED = 50_000

NO_ACCESS = frozenset({"OSecurityAccessException", "OSecurityException"})


class Conflict(Exception):
    """Another writer was faster: read again, write again."""


def pause(attempt: int) -> None:
    """Wait, differently for each writer, so that two of them do not meet again and again."""
    time.sleep(random.uniform(0, PAUSE_S * 2**attempt))


class GraphDatabase:
    """An open database. All methods raise `orientdb_client.OrientError`; after an `OrientRefused` open it anew, for
    what became of a transaction that broke off is the server's affair."""

    def __init__(self, client: Client) -> None:
        self._client = client
        #: Identity to record id of servers and objects.
        self._known: dict[str, str] = {}

    def close(self) -> None:
        """Close the connection; never raises."""
        self._client.close()

    def forget(self) -> None:
        """Look servers and objects up again."""
        self._known.clear()

    def prepare(self) -> None:
        """Make the classes, properties and indexes that are missing; others may do the same right now."""
        for attempt in range(ATTEMPTS):
            try:
                for statement in self._missing():
                    self._make(statement)
                return
            except OrientRefused as exc:
                if exc.names & NO_ACCESS or attempt == ATTEMPTS - 1:
                    raise
                pause(attempt)

    def _make(self, statement: str) -> None:
        try:
            self._client.script(statement)
        except OrientRefused as exc:
            # Over HTTP, a user who may not change the schema does not see it either.
            if "already exists" not in str(exc):
                raise

    def _missing(self) -> list[str]:
        classes = self._client.query(
            "SELECT name, properties.name AS fields FROM (SELECT EXPAND(classes) FROM metadata:schema)"
        )
        indexes = self._client.query("SELECT name FROM (SELECT EXPAND(indexes) FROM metadata:indexmanager)")
        return list(
            sql.missing_schema(
                frozenset(str(row["name"]) for row in classes),
                frozenset(f"{row['name']}.{field}" for row in classes for field in row.get("fields") or ()),
                frozenset(str(row["name"]) for row in indexes),
            )
        )

    def endpoints(self, identities: Iterable[str]) -> dict[str, sql.Known]:
        """Those of the endpoints that are there, by identity."""
        rows = self._client.query(sql.select_by_identity(sql.FIELDS, "Endpoints", identities))
        return {str(row["identity"]): sql.Known.from_row(row) for row in rows}

    def edges(self, endpoints: Sequence[str]) -> dict[str, dict[str, tuple[str, int | None]]]:
        """Endpoint to edge to (object, instance), by record ids."""
        found: dict[str, dict[str, tuple[str, int | None]]] = {}
        for row in self._client.query(sql.select_edges(endpoints)) if endpoints else ():
            instance = row.get("instance")
            found.setdefault(sql.record_id(row["ofEndpoint"]), {})[sql.record_id(row["rid"])] = (
                sql.record_id(row["ofObject"]),
                None if instance is None else int(str(instance)),
            )
        return found

    def rid(self, identity: str) -> str:
        """The record id of a server or an object that was made sure of by `ensure`."""
        return self._known[identity]

    def ensure(self, vertex: str, wanted: Mapping[str, Mapping[str, object]]) -> None:
        """Let these vertices (identity to content) of the class ``vertex``, servers or objects, be there.

        Raises:
            Conflict: another writer has removed one right now.
        """
        unknown = {identity: content for identity, content in wanted.items() if identity not in self._known}
        if not unknown:
            return
        rows = self._rows(vertex, unknown)
        statements = []
        for identity, content in unknown.items():
            if identity not in rows:
                statements.append(sql.vertex(vertex, {"identity": identity, **content}))
            elif content.get("name") not in (None, rows[identity].get("name")):
                # A definition has come since.
                statements.append(sql.update(sql.record_id(rows[identity]["rid"]), {"name": content["name"]}))
        if statements:
            self.transact(statements)
            rows = self._rows(vertex, unknown)
        if rows.keys() != unknown.keys():
            raise Conflict
        for identity, row in rows.items():
            self._known[identity] = sql.record_id(row["rid"])

    def _rows(self, vertex: str, identities: Iterable[str]) -> dict[str, dict[str, object]]:
        rows = self._client.query(sql.select_by_identity("@rid AS rid, identity, name", vertex, identities))
        return {str(row["identity"]): row for row in rows}

    def trim(self) -> None:
        """Let what is remembered not grow without end."""
        if len(self._known) > REMEMBERED:
            self._known.clear()

    def transact(self, statements: Iterable[str], changed: Sequence[tuple[str, str, int]] = ()) -> None:
        """See `orientdb_graph.transaction`.

        Raises:
            Conflict: one of the vertices was not in the version that was read.
        """
        match self._client.script(sql.transaction(statements, changed)):
            case sql.DONE:
                return
            case sql.STALE:
                raise Conflict
            case other:
                raise OrientRefused((("strange answer", repr(other)),))

    def remove_objects(self, objects: Iterable[str]) -> None:
        """Remove those of ``objects`` (record ids) that no endpoint has."""
        self._client.script(sql.removal(objects))
        # Which of them are gone is not told.
        self._known.clear()
