"""The Parquet sink's folder, as a notebook reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.dataset as ds

from schemas.lwm2m.nodes import ObjectLink, Value


class ParquetStore:
    """See `tests.stores.store.Store`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "made" / "history"

    def options(self) -> dict[str, object]:
        return {"folder": str(self.folder), "publish_s": 0}

    def kept(self, value: Value | None) -> Any:
        # It is NaN in the file as well; here, two of them have to be the same.
        if isinstance(value, float) and value != value:
            return "NaN"
        return str(value) if isinstance(value, ObjectLink) else value

    def rows(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = ds.dataset(self.folder, partitioning="hive").to_table().to_pylist()
        return found

    def history(self) -> list[tuple[str, str, Any, int]]:
        return [
            (row["ep"], row["path"], _value(row), round(row["gateway_time"].timestamp() * 1000)) for row in self.rows()
        ]

    def endpoint(self, name: str) -> dict[str, Any] | None:
        raise AssertionError(f"the graph is not kept here, nor {name}")

    def objects(self, name: str) -> set[tuple[int, str, int | None, str | None]]:
        raise AssertionError(f"the graph is not kept here, nor the objects of {name}")


def _value(row: dict[str, Any]) -> Any:
    set_there = [row[name] for name in ("integer", "number", "text", "bool", "blob") if row[name] is not None]
    if row["integer"] is not None:
        assert set_there[1] == float(row["integer"])
    else:
        assert len(set_there) <= 1
    value = set_there[0] if set_there else None
    return "NaN" if isinstance(value, float) and value != value else value
