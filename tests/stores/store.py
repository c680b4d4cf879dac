"""What the contract suite must be able to see of a store, whichever it is."""

from __future__ import annotations

from enum import Enum
from typing import Any, Protocol

from schemas.lwm2m.nodes import Value


class Keeps(Enum):
    """What a store is there for; the suite asks for it only what it keeps."""

    HISTORY = "history"
    #: Of history, numbers by path and time.
    NUMBERS = "numbers"
    GRAPH = "graph"


class Store(Protocol):
    """A store of one test, empty at first. It is on the real server, which all tests of the session may share."""

    def options(self) -> dict[str, object]:
        """The sink's options that lead here."""
        ...

    def kept(self, value: Value | None) -> Any:
        """``value`` as `history` tells it: a store may have fewer types than LwM2M."""
        ...

    def history(self) -> list[tuple[str, str, Any, int]]:
        """(ep, path, value, gateway time) of everything, in any order."""
        ...

    def endpoint(self, name: str) -> dict[str, Any] | None:
        """The endpoint's properties by the contract's names, ``attributes`` as a mapping, and ``server``."""
        ...

    def objects(self, name: str) -> set[tuple[int, str, int | None, str | None]]:
        """(object id, version, instance, object name) that the endpoint has."""
        ...
