"""A database of the session's OrientDB, which the sink makes itself."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from schemas.lwm2m.nodes import Value
from tests.orientdb_server import ADMIN, PASSWORD, OrientServer, shared_server


class OrientdbStore:
    """See `tests.stores.store.Store`; it keeps the graph only."""

    def __init__(self, _folder: Path, server: OrientServer | None = None, protocol: str = "binary") -> None:
        self.server = server or shared_server()
        self.protocol = protocol
        self.database = f"test-{secrets.token_hex(6)}"

    def options(self) -> dict[str, object]:
        return {
            "host": "127.0.0.1",
            "protocol": self.protocol,
            "port": self.server.port if self.protocol == "binary" else self.server.http_port,
            "database": self.database,
            "user": ADMIN,
            "password": PASSWORD,
            "timeout_s": 60.0,
        }

    def kept(self, value: Value | None) -> Any:
        """It keeps none."""
        return value

    def sql(self, command: str, **parameters: object) -> list[dict[str, Any]]:
        """The rows of ``command``, over OrientDB's HTTP API and not over what the sink uses."""
        return self.server.sql(self.database, command, **parameters)

    def history(self) -> list[tuple[str, str, Any, int]]:
        """None of it: OrientDB keeps the graph."""
        return []

    def endpoint(self, name: str) -> dict[str, Any] | None:
        rows = self.sql("SELECT *, in('hasEndpoint').serverId AS servers FROM Endpoints WHERE name = :name", name=name)
        if not rows:
            return None
        (row,) = rows
        (row["server"],) = row.pop("servers")
        if row.get("attributes") is not None:
            row["attributes"] = {unquote(key): value for key, value in row["attributes"].items()}
        # A property that is null may be left out of an answer.
        return dict.fromkeys(("lt", "regDate", "address", "regId", "ver", "bnd", "sms", "attributes")) | row

    def objects(self, name: str) -> set[tuple[int, str, int | None, str | None]]:
        rows = self.sql(
            "SELECT in.id AS id, in.version AS version, instance, in.name AS name FROM"
            " (SELECT EXPAND(outE('hasObject')) FROM Endpoints WHERE name = :name)",
            name=name,
        )
        found = {(row["id"], row["version"], row.get("instance"), row.get("name")) for row in rows}
        assert len(rows) == len(found)
        return found
