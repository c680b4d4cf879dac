"""Spans of time as people write them in options: ``500ms``, ``30s``, ``5m``, ``1h``, ``1d``. Pure."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator

_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_TEXT = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)?")
#: A hundred years.
_MOST = 36_525 * 86_400_000


def milliseconds(given: Any) -> int:
    """A span in ms; a number without a unit is in seconds.

    Raises:
        ValueError: it is none, or longer than a century.
    """
    match = _TEXT.fullmatch(str(given).strip()) if isinstance(given, str | int | float) else None
    if match is None or isinstance(given, bool):
        raise ValueError(f"{given!r} is no span of time, such as 500ms, 30s, 5m, 1h or 1d")
    found = round(float(match[1]) * _UNITS[match[2] or "s"])
    if found > _MOST:
        raise ValueError(f"{given!r} is longer than a century")
    return found


#: A field of options: milliseconds, from what people write.
Duration = Annotated[int, BeforeValidator(milliseconds)]


def spoken(span: int) -> str:
    """``30s`` for 30000 ms: the largest unit that fits."""
    for unit in ("d", "h", "m", "s"):
        if span and span % _UNITS[unit] == 0:
            return f"{span // _UNITS[unit]}{unit}"
    return f"{span}ms"
