"""What a join is of: its series, which readings belong to them and meet, and where the results go. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple

from analytics.alignment import Alignment
from analytics.job import JobConfigError
from schemas.lwm2m.path import Path, PathError, PathPattern


class Series(NamedTuple):
    """One input of a join: the paths that match, of one endpoint or of each by itself (None)."""

    pattern: PathPattern
    ep: str | None

    @staticmethod
    def parse(text: str) -> Series:
        """``/3303/0/5700``, ``/3303/*/5700``, or ``station-1:/3303/0/5700``.

        Raises:
            JobConfigError: it is none of these.
        """
        ep, mark, path = text.rpartition(":/")
        try:
            return Series(PathPattern.parse(path if mark else text), ep or None)
        except PathError as exc:
            raise JobConfigError(f"{exc}; a series is /3303/0/5700 or ENDPOINT:/3303/0/5700") from exc

    def open_part(self, ep: str, path: str) -> tuple[int, ...] | None:
        """The ids that the pattern leaves open, or None if the path is not of this series."""
        if self.ep is not None and self.ep != ep:
            return None
        ids, levels = Path.parse(path).ids, self.pattern.levels
        if len(ids) < len(levels):
            return None
        free: list[int] = []
        for level, an_id in zip(levels, ids, strict=False):
            if level is None:
                free.append(an_id)
            elif level != an_id:
                return None
        return (*free, *ids[len(levels) :])


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is joined, and where the results go."""

    series: Sequence[Series]
    alignment: Alignment
    #: Where a plain result of on_join is observed.
    path: Path
    #: Whose observations the results are; None: the first reading's endpoint.
    ep: str | None
    output: str
    #: The topic in which readings of several endpoints come together; None where each endpoint is joined by itself.
    rekeyed: str | None
    #: A reading whose own time is further ahead of the gateway's gets the gateway's, in ms.
    ahead: int
    #: A join that heard nothing for so long (ms) gives out what waits in it; 0: never.
    idle: int

    @staticmethod
    def crosses(series: Sequence[Series]) -> bool:
        """Whether the series are of several endpoints.

        Raises:
            JobConfigError: some name an endpoint and others none, or they leave different things open.
        """
        if len({(len(one.pattern.levels), one.pattern.levels.count(None)) for one in series}) > 1:
            raise JobConfigError(
                "all series must have as many levels and * as the first: readings meet where they agree"
            )
        named = {one.ep for one in series}
        if None in named and len(named) > 1:
            raise JobConfigError("name an endpoint in every series (ENDPOINT:/3303/0/5700), or in none")
        return len(named) > 1


def rekeyed_topic(gateway: str, told: Any) -> str:
    """The topic where readings of several endpoints meet; ``told`` tells one join from another."""
    return f"analytics.{gateway}..join-{sha256(repr(told).encode()).hexdigest()[:12]}"
