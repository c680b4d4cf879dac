"""What the jobs that keep each series for ever have as options in common."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from analytics.durations import Duration
from analytics.job import JobOptions
from analytics.jobs.window_options import Pattern
from analytics.series import SeriesPattern
from schemas.lwm2m.path import PathPattern


class SeriesOptions(JobOptions):
    """Spans in milliseconds, given as ``30s``, ``5m``, ``1h``."""

    IDENTITY: ClassVar[tuple[str, ...]] = ("path", "endpoint")

    path: Pattern | None = Field(default=None, description="Only paths at or below this, such as '/3303/*/5700'.")
    endpoint: str = Field(default="*", description="Only endpoints with such names, as a shell's pattern: 'sensor-*'.")
    ahead: Duration = Field(
        default=60_000,
        description="A reading whose own time is further ahead of the gateway's gets the gateway's: 1m.",
    )
    max_series: int = Field(
        default=1000, ge=1, description="So many series of an endpoint are kept; readings of others are counted: 1000."
    )

    @property
    def only(self) -> SeriesPattern:
        return SeriesPattern(path=PathPattern.parse(self.path) if self.path else None, endpoint=self.endpoint)


#: The part of a sample that is the same for all.
SAMPLE = """\
# Only paths at or below this; * stands for any id. Default: all.
# path = "/3303/*/5700"
# Only endpoints with such names, as a shell's pattern.
# endpoint = "*"
# A device whose clock is further ahead of the gateway's than this: the gateway's time is taken, and it is counted.
ahead = "1m"
# So many series of an endpoint are kept. Readings of others are counted and left out.
max_series = 1000
"""
