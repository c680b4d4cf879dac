"""docs/metrics.md as values: its table of our own metrics."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/metrics.md"
_ROW = re.compile(r"^\| `(headwater_\w+)` \| (\w+) \| ([^|]*) \| ([^|]*) \| (.+) \|$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One metric. ``only_some``: it is there in some cases only, which its words name."""

    type: str
    labels: frozenset[str]
    processes: frozenset[str]
    only_some: bool


def page_rows() -> dict[str, Row]:
    """The rows of the table by the metric's name."""
    found: dict[str, Row] = {}
    for name, kind, labels, processes, words in _ROW.findall(PAGE.read_text()):
        assert name not in found, f"{name} is there twice"
        found[name] = Row(
            type=kind,
            labels=frozenset(re.findall(r"`(\w+)`", labels)),
            processes=frozenset(re.split(r",\s*", processes.strip())),
            only_some="*" in words,
        )
    return found
