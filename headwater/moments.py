"""Points in time as people give them to a command.

Owns the one form for all commands: ISO 8601, seconds or milliseconds since 1970, or so long ago (``-2h``).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

#: In milliseconds.
_UNITS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_AGO = re.compile(r"-(\d+(?:\.\d+)?)([smhdw])", re.ASCII)
_NUMBER = re.compile(r"\d{1,15}(\.\d+)?", re.ASCII)
#: A number from here on is milliseconds: as seconds it is the year 5138, as milliseconds 1973.
_MILLISECONDS = 1e11

FORMS = "2026-03-01T12:00:00Z, 2026-03-01, 1772366400 (seconds or milliseconds since 1970), -2h (s, m, h, d, w) or now"


def parse_moment(text: str, now_ms: int) -> int:
    """Epoch milliseconds of ``text``; a time without a zone is UTC, ``-2h`` is two hours before ``now_ms``.

    Raises:
        ValueError: it is no time; says which forms there are.
    """
    given = text.strip()
    if given == "now":
        return now_ms
    if ago := _AGO.fullmatch(given):
        then = now_ms - round(float(ago[1]) * _UNITS[ago[2]])
    elif _NUMBER.fullmatch(given):
        number = float(given)
        then = round(number if number >= _MILLISECONDS else number * 1000)
    else:
        try:
            told = datetime.fromisoformat(given)
        except ValueError:
            raise ValueError(f"{text!r} is no time; give it as {FORMS}") from None
        then = round((told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp() * 1000)
    if then < 0:
        raise ValueError(f"{text!r} is before 1970; nothing in Kafka is as old")
    return then
