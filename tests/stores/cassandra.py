"""A keyspace of the session's Cassandra, which the sink makes itself."""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from schemas.lwm2m.nodes import ObjectLink, Value
from tests.cassandra_server import ADMIN, PASSWORD, CassandraServer, shared_server


class CassandraStore:
    """See `tests.stores.store.Store`."""

    def __init__(self, _folder: Path, server: CassandraServer | None = None) -> None:
        self.server = server or shared_server()
        self.keyspace = f"test_{secrets.token_hex(6)}"

    def options(self) -> dict[str, object]:
        return {
            "contact_points": [self.server.contact_point],
            "keyspace": self.keyspace,
            "user": ADMIN,
            "password": PASSWORD,
            "timeout_s": 60.0,
        }

    def kept(self, value: Value | None) -> Any:
        if isinstance(value, float) and value != value:
            return "NaN"
        return str(value) if isinstance(value, ObjectLink) else value

    def cql(self, statement: str, *parameters: object) -> list[dict[str, Any]]:
        """The rows of ``statement``, in which ``{}`` is the keyspace."""
        return self.server.cql(statement.format(self.keyspace), *parameters)

    def history(self) -> list[tuple[str, str, Any, int]]:
        return [
            (row["ep"], row["path"], value_of(row), epoch_ms(row["gateway_time"]))
            for row in self.cql("SELECT * FROM {}.history")
        ]

    def endpoint(self, name: str) -> dict[str, Any] | None:
        rows = self.cql("SELECT * FROM {}.endpoints WHERE ep = %s ALLOW FILTERING", name)
        if not rows:
            return None
        (row,) = rows
        told = {re.sub("_(.)", lambda found: found[1].upper(), column): value for column, value in row.items()}
        for time in ("regDate", "regLastUpdate"):
            told[time] = told[time] and epoch_ms(told[time])
        attributes = told["attributes"]
        return told | {
            "name": told["ep"],
            "server": told["gateway"],
            "attributes": None if attributes is None else dict(attributes),
        }

    def objects(self, name: str) -> set[tuple[int, str, int | None, str | None]]:
        rows = self.cql("SELECT * FROM {}.endpoint_objects WHERE ep = %s ALLOW FILTERING", name)
        return {
            (row["object_id"], row["version"], row["instance"] if row["instance"] >= 0 else None, row["name"])
            for row in rows
        }


def value_of(row: dict[str, Any]) -> Any:
    """The value of a row of ``history`` or ``latest``."""
    columns = ("integer", "number", "text", "bool", "blob")
    value = next((row[name] for name in columns if row[name] is not None), None)
    return "NaN" if value != value else value


def epoch_ms(time: datetime) -> int:
    """A time as the driver tells it, which is UTC without saying so."""
    return round(time.replace(tzinfo=UTC).timestamp() * 1000)
