"""What a sink's series are in the session's Prometheus: a label that no other test has tells them apart."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from schemas.lwm2m.nodes import Value
from tests.prometheus_server import PrometheusServer, shared_server


class PrometheusStore:
    """See `tests.stores.store.Store`; it keeps numbers only."""

    def __init__(self, _folder: Path, server: PrometheusServer | None = None) -> None:
        self.server = server or shared_server()
        self.test = f"test-{secrets.token_hex(6)}"

    def options(self) -> dict[str, object]:
        return {"url": self.server.write_url, "labels": {"test": self.test}}

    def kept(self, value: Value | None) -> Any:
        match value:
            case float() if value != value:
                return "NaN"
            case int() | float():
                return float(value)
        return value

    def series(self, more: str = "") -> list[tuple[dict[str, str], list[tuple[int, Any]]]]:
        """The labels of each series without the test's own, and its samples: epoch ms and value."""
        return [
            (
                {name: text for name, text in one["metric"].items() if name != "test"},
                [(round(at * 1000), self.kept(float(value))) for at, value in one["values"]],
            )
            for one in self.server.series(f'{{test="{self.test}"{more}}}')
        ]

    def history(self) -> list[tuple[str, str, Any, int]]:
        return [
            (labels["endpoint"], labels["path"], value, at)
            for labels, samples in self.series(',path!=""')
            for at, value in samples
        ]

    def endpoint(self, name: str) -> dict[str, Any] | None:
        raise AssertionError(f"the graph is not kept here, nor {name}")

    def objects(self, name: str) -> set[tuple[int, str, int | None, str | None]]:
        raise AssertionError(f"the graph is not kept here, nor the objects of {name}")
