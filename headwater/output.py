"""How answers look: tables for people, JSON for programs.

Owns widths and colours. A table that is piped is as wide as it needs to be and has no colours.
"""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headwater.terminal import printable, printable_json
from headwater.values import plain, shown
from schemas.lwm2m.nodes import Resource
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path

#: The width of what is piped: wide enough that nothing is folded.
_PIPED = 400


def console() -> Console:
    """Where tables go: the terminal's width, or wide where it is piped."""
    return Console() if sys.stdout.isatty() else Console(width=_PIPED, no_color=True, highlight=False)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> Table:
    """A plain table; cells are text, never markup or control characters, since devices choose it."""
    made = Table(
        *columns, box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False, show_header=any(columns)
    )
    for row in rows:
        made.add_row(*(Text(printable(cell)) for cell in row))
    return made


def print_json(content: Any) -> None:
    """One JSON document on a line, or indented on a terminal."""
    _write(content, indent=2 if sys.stdout.isatty() else None)


def print_line(content: Any) -> None:
    """One JSON object on one line, at once."""
    _write(content, indent=None)


def _write(content: Any, indent: int | None) -> None:
    # As it is where it can be shown, escaped for a stdout that is not UTF-8.
    escape = codecs.lookup(sys.stdout.encoding or "utf-8").name != "utf-8"
    sys.stdout.write(printable_json(json.dumps(content, ensure_ascii=escape, indent=indent, allow_nan=False)) + "\n")
    sys.stdout.flush()


def name_of(definitions: Definitions, path: Path) -> str:
    """``Temperature / Sensor Value``; empty where no definition knows the path."""
    if path.object_id is None:
        return ""
    definition = definitions.object(path.object_id)
    if definition is None:
        return ""
    resource = definitions.resource(path)
    return f"{definition.name} / {resource.name}" if resource else definition.name


def unit_of(definitions: Definitions, path: Path) -> str:
    """The unit, or nothing."""
    resource = definitions.resource(path)
    return (resource.unit or "") if resource else ""


def value_row(definitions: Definitions, resource: Resource) -> tuple[str, str, str, str]:
    """Path, name, value, unit."""
    path = resource.path
    return str(path), name_of(definitions, path), shown(resource), unit_of(definitions, path)


def value_json(definitions: Definitions, resource: Resource) -> dict[str, Any]:
    """One value as ``--output json`` gives it."""
    return {
        "path": str(resource.path),
        "name": name_of(definitions, resource.path) or None,
        "type": resource.type.value,
        "value": plain(resource),
        "unit": unit_of(definitions, resource.path) or None,
        "timestamp": resource.timestamp,
    }
