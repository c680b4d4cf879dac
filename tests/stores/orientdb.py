"""A database of the session's OrientDB, which the sink makes itself."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from connectors.orientdb_users import OrientAdmin, ensure_users
from connectors.store_users import Access, StoreUser
from schemas.lwm2m.nodes import Value
from security.secrets import Secret
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

    def user(self, access: Access) -> StoreUser:
        """A user of this database alone, which may do this and nothing else; makes the database with its classes."""
        user = StoreUser(name=f"{access.value}-{self.database}", password=Secret(secrets.token_hex(32)), access=access)
        admin = OrientAdmin(host="127.0.0.1", port=self.server.http_port, password=Secret(PASSWORD), timeout=60.0)
        ensure_users(admin, database=self.database, users=[user])
        return user

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


class LeastOrientdbStore(OrientdbStore):
    """The same, with a sink that may do nothing but keep the graph there."""

    def __init__(self, folder: Path, server: OrientServer | None = None, protocol: str = "binary") -> None:
        super().__init__(folder, server, protocol)
        self._writer = self.user(Access.WRITE)

    def options(self) -> dict[str, object]:
        return {**super().options(), "user": self._writer.name, "password": self._writer.password.reveal()}
