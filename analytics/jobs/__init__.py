"""The analytics jobs: one file a job, one row of `JOBS` each.

A job is one module here (its options, how it is made, its sample) on operators of `analytics`, and a row below;
`analytics.app` runs it.
"""

from __future__ import annotations

from collections.abc import Mapping

from analytics.job import JobKind
from analytics.jobs import aggregate, filter, join, max_temperature, outliers, statistics

JOBS: Mapping[str, JobKind] = {
    kind.name: kind
    for kind in (aggregate.KIND, max_temperature.KIND, join.KIND, filter.KIND, statistics.KIND, outliers.KIND)
}
