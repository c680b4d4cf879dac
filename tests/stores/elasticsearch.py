"""Indices of the session's Elasticsearch that begin with a prefix of their own."""

from __future__ import annotations

import base64
import math
import secrets
from pathlib import Path
from typing import Any

from schemas.lwm2m.nodes import ObjectLink, Value
from tests.elasticsearch_server import ElasticsearchServer, shared_server


class ElasticsearchStore:
    """See `tests.stores.store.Store`."""

    def __init__(self, _folder: Path, server: ElasticsearchServer | None = None) -> None:
        self.server = server or shared_server()
        self.prefix = f"test{secrets.token_hex(6)}"

    def options(self) -> dict[str, object]:
        return {"hosts": [self.server.url], "prefix": self.prefix, "replicas": 0, "timeout_s": 60.0}

    def kept(self, value: Value | None) -> Any:
        match value:
            case bytes(data):
                return base64.b64encode(data).decode()
            case float(number) if not math.isfinite(number):
                return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(number, "NaN")
            case ObjectLink():
                return str(value)
        return value

    def found(self, pattern: str = "*-*.*.*", query: dict[str, Any] | None = None, **more: Any) -> list[dict[str, Any]]:
        """All hits, as Elasticsearch has them; at most 10,000."""
        indices = f"{self.prefix}-{pattern}"
        self.server.ask("POST", f"/{indices}/_refresh")
        asked = {"size": 10_000, "query": query or {"match_all": {}}, "version": True, **more}
        told = self.server.ask("POST", f"/{indices}/_search", asked)
        assert told["_shards"]["failed"] == 0, told
        return list(told["hits"]["hits"])

    def rows(self, query: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """The documents of the history."""
        return [hit["_source"] for hit in self.found(query=query)]

    def history(self) -> list[tuple[str, str, Any, int]]:
        return [(row["ep"], row["path"], _value(row), row["@timestamp"]) for row in self.rows()]

    def endpoint(self, name: str) -> dict[str, Any] | None:
        rows = self.found("endpoints*", {"bool": {"filter": [{"term": {"name": name}}]}})
        if not rows:
            return None
        row: dict[str, Any]
        (row,) = (hit["_source"] for hit in rows)
        if row.get("attributes") is not None:
            row["attributes"] = {pair["name"]: pair["value"] for pair in row["attributes"]}
        return dict.fromkeys(("lt", "regDate", "address")) | row | {"server": row["serverId"]}

    def objects(self, name: str) -> set[tuple[int, str, int | None, str | None]]:
        endpoint = self.endpoint(name)
        assert endpoint is not None
        found = [(one["id"], one["version"], one["instance"], one["name"]) for one in endpoint.get("objects", ())]
        assert len(found) == len(set(found))
        return set(found)


def _value(row: dict[str, Any]) -> Any:
    if "ivalue" in row:
        assert row["value"] == float(row["ivalue"])
        return row["ivalue"]
    (value,) = [row[name] for name in ("value", "svalue", "bvalue", "data") if name in row] or [None]
    return value
