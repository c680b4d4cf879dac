"""A state of a job in a dict, a list for what it puts out, and counters: to try jobs without Kafka."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from analytics.job import WHEN_PUT_OUT, Headers


@dataclass
class DictState:
    """Values are bytes, as in the real one."""

    held: dict[bytes, bytes] = field(default_factory=dict)

    def get(self, key: bytes) -> Any:
        found = self.held.get(key)
        return None if found is None else json.loads(found)

    def set(self, key: bytes, value: Any) -> None:
        self.held[key] = json.dumps(value).encode()

    def get_bytes(self, key: bytes) -> bytes | None:
        return self.held.get(key)

    def set_bytes(self, key: bytes, value: bytes) -> None:
        assert type(value) is bytes
        self.held[key] = value

    def delete(self, key: bytes) -> None:
        self.held.pop(key, None)


@dataclass
class Emitted:
    records: list[tuple[str, bytes | None, bytes, int]] = field(default_factory=list)

    def __call__(
        self, topic: str, key: bytes | None, value: bytes, timestamp: int = WHEN_PUT_OUT, headers: Headers = ()
    ) -> None:
        self.records.append((topic, key, value, timestamp))


@dataclass
class Counts:
    late_: int = 0
    ahead_: int = 0
    skipped_: int = 0
    crowded_: int = 0
    put_back_: int = 0

    def late(self) -> None:
        self.late_ += 1

    def ahead(self) -> None:
        self.ahead_ += 1

    def skipped(self, readings: int) -> None:
        self.skipped_ += readings

    def clock_put_back(self) -> None:
        self.put_back_ += 1

    def crowded(self) -> None:
        self.crowded_ += 1
