"""What the jobs of windows have as options in common."""

from __future__ import annotations

from pydantic import Field

from analytics.durations import Duration
from analytics.jobs import common_options


class WindowOptions(common_options.ChosenSeries):
    """Spans in milliseconds, given as ``30s``, ``5m``, ``1h``."""

    grace: Duration = Field(
        default=10_000, description="How much later than its window's end, in event time, a reading may come: 10s."
    )
    ahead: Duration = Field(
        default=600_000,
        description="A reading whose own time is further ahead of the gateway's gets the gateway's: 10m.",
    )
    idle: Duration = Field(
        default=60_000,
        description="Where no device says anything for so long, open windows end by the wall clock: 60s; 0 never.",
    )


#: The part of a sample that is the same for all.
SAMPLE = (
    common_options.SAMPLE
    + """\
# How much later than the end of its window a reading may come, in event time. What is later is counted, and left out.
grace = "10s"
# A device whose clock is further ahead of the gateway's than this: the gateway's time is taken, and it is counted.
ahead = "10m"
# Where no device said anything for so long, open windows are closed by the wall clock. 0: they wait for a record.
idle = "60s"
"""
)
