"""The SQLite sink's file."""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path
from typing import Any

from schemas.lwm2m.nodes import ObjectLink, Value


class SqliteStore:
    """See `tests.stores.store.Store`."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "made" / "headwater.db"

    def options(self) -> dict[str, object]:
        return {"file": str(self.file)}

    def kept(self, value: Value | None) -> Any:
        if isinstance(value, float) and value != value:
            return "NaN"
        return str(value) if isinstance(value, ObjectLink) else value

    def query(self, sql: str, *args: object) -> list[dict[str, Any]]:
        db = sqlite3.connect(self.file)
        db.row_factory = sqlite3.Row
        try:
            return [dict(row) for row in db.execute(sql, args)]
        finally:
            db.close()

    def history(self) -> list[tuple[str, str, Any, int]]:
        return [
            (row["ep"], row["path"], row["value"], row["gateway_time_ms"])
            for row in self.query("SELECT * FROM history")
        ]

    def endpoint(self, name: str) -> dict[str, Any] | None:
        rows = self.query("SELECT * FROM endpoints WHERE name = ?", name)
        if not rows:
            return None
        (row,) = rows
        row["attributes"] = row["attributes"] and json.loads(row["attributes"])
        row["online"], row["expired"] = bool(row["online"]), bool(row["expired"])
        return {re.sub("_(.)", lambda found: found[1].upper(), column): value for column, value in row.items()}

    def objects(self, name: str) -> set[tuple[int, str, int | None, str | None]]:
        rows = self.query(
            "SELECT o.id, o.version, e.instance, o.name FROM has_object e"
            " JOIN objects o ON o.id = e.object_id AND o.version = e.object_version WHERE e.endpoint = ?",
            name,
        )
        assert len(rows) == len({tuple(row.values()) for row in rows})
        return {(row["id"], row["version"], row["instance"], row["name"]) for row in rows}
