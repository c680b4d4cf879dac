"""A database of the session's InfluxDB."""

from __future__ import annotations

import base64
import math
import secrets
from pathlib import Path
from typing import Any

from connectors.influxdb_users import InfluxAdmin, ensure_users
from connectors.store_users import Access, StoreUser
from schemas.lwm2m.nodes import ObjectLink, Value
from security.secrets import Secret
from tests.influxdb_server import InfluxServer, shared_server

_FIELDS: dict[str, type] = {"value": float, "bvalue": bool, "svalue": str}


class InfluxdbStore:
    """See `tests.stores.store.Store`; it keeps history only."""

    def __init__(self, _folder: Path, server: InfluxServer | None = None) -> None:
        self.server = server or shared_server()
        self.database = f"test_{secrets.token_hex(6)}"
        self.server.query(f"CREATE DATABASE {self.database}")

    def options(self) -> dict[str, object]:
        return {"url": self.server.url, "bucket": f"{self.database}/autogen", "token": self.server.token}

    def user(self, access: Access) -> StoreUser:
        """A user of this database alone, which may do this and nothing else."""
        user = StoreUser(name=f"{access.value}_{self.database}", password=Secret(secrets.token_hex(32)), access=access)
        admin = InfluxAdmin(url=self.server.url, token=Secret(self.server.token))
        ensure_users(admin, org="", bucket=self.database, users=[user])
        return user

    def kept(self, value: Value | None) -> Any:
        match value:
            case bytes(data):
                return base64.b64encode(data).decode()
            case float(number) if not math.isfinite(number):
                return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(number, "NaN")
            case int() | float() if not isinstance(value, bool):
                return float(value)
            case ObjectLink():
                return str(value)
        return value

    def rows(self, influxql: str = "SELECT * FROM resources") -> list[dict[str, Any]]:
        """Rows with ``time`` (ns), tags and fields; what a row does not have is None, or not there at all."""
        return self.server.rows(influxql, self.database)

    def history(self) -> list[tuple[str, str, Any, int]]:
        return [
            (
                row["ep"],
                row["path"],
                # JSON has one kind of number: a float without a fraction comes as an integer.
                next((as_it_is(row[name]) for name, as_it_is in _FIELDS.items() if row.get(name) is not None), None),
                row["time"] // 1_000_000,
            )
            for row in self.rows()
        ]

    def endpoint(self, name: str) -> dict[str, Any] | None:
        """None of them: InfluxDB keeps no graph."""
        return None

    def objects(self, name: str) -> set[tuple[int, str, int | None, str | None]]:
        """None of them either."""
        return set()


class LeastInfluxdbStore(InfluxdbStore):
    """The same, with a sink that may do nothing but write there."""

    def __init__(self, folder: Path, server: InfluxServer | None = None) -> None:
        super().__init__(folder, server)
        self._writer = self.user(Access.WRITE)

    def options(self) -> dict[str, object]:
        options = {**super().options(), "user": self._writer.name, "password": self._writer.password.reveal()}
        del options["token"]
        return options
