"""What the jobs that keep each series for ever have as options in common."""

from __future__ import annotations

from pydantic import Field

from analytics.durations import Duration
from analytics.jobs import common_options


class SeriesOptions(common_options.ChosenSeries):
    """Spans in milliseconds, given as ``30s``, ``5m``, ``1h``."""

    ahead: Duration = Field(
        default=60_000,
        description="A reading whose own time is further ahead of the gateway's gets the gateway's: 1m.",
    )
    max_series: int = Field(
        default=1000, ge=1, description="So many series of an endpoint are kept; readings of others are counted: 1000."
    )


#: The part of a sample that is the same for all.
SAMPLE = (
    common_options.SAMPLE
    + """\
# A device whose clock is further ahead of the gateway's than this: the gateway's time is taken, and it is counted.
ahead = "1m"
# So many series of an endpoint are kept. Readings of others are counted and left out.
max_series = 1000
"""
)
