"""Alertmanager keeps neither history nor a graph: of the contract, what is asked of every sink."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from schemas.lwm2m.nodes import Value
from tests.alertmanager_server import shared_server


class AlertmanagerStore:
    """See `tests.stores.store.Store`."""

    def __init__(self, _folder: Path) -> None:
        pass

    def options(self) -> dict[str, object]:
        return {"url": shared_server().url}

    def kept(self, value: Value | None) -> Any:
        return value

    def history(self) -> list[tuple[str, str, Any, int]]:
        return []

    def endpoint(self, _name: str) -> dict[str, Any] | None:
        return None

    def objects(self, _name: str) -> set[tuple[int, str, int | None, str | None]]:
        return set()
