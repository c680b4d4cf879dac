"""Which series a rule speaks of: a pattern of paths and a glob of endpoint names. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from schemas.lwm2m.path import Path, PathError, PathPattern


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesPattern:
    """The series at or below ``path`` (None: every path) of the endpoints whose names ``endpoint`` matches."""

    path: PathPattern | None = None
    #: As in a shell: ``*``, ``?`` and ``[...]``.
    endpoint: str = "*"

    def matches(self, ep: str, path: str) -> bool:
        """Whether the series at ``path`` of ``ep`` is meant; what is no path matches no pattern of paths."""
        if self.endpoint != "*" and not fnmatchcase(ep, self.endpoint):
            return False
        if self.path is None:
            return True
        try:
            ids = Path.parse(path).ids
        except PathError:
            return False
        levels = self.path.levels
        return len(ids) >= len(levels) and all(
            level in (None, an_id) for level, an_id in zip(levels, ids, strict=False)
        )


EVERY_SERIES = SeriesPattern()
