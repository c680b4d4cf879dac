"""The audit of a sensor city: was every outlier found, is every reading judged and stored, once? Pure.

Beside `headwater.demo.audit`, which follows each value from the sensor to the cloud: this one goes on from there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.devices.station import Made
from headwater.demo.journal import Entry
from schemas.avro.analytics_records import AlertState
from schemas.avro.records import Alert, EnrichedReading

#: Endpoint, path, value.
Told = tuple[str, str, Any]
#: Endpoint, path.
Series = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class CityVerdict:
    """What was made, found, raised and stored."""

    #: Outliers that stations made, and those of them that the gateway acknowledged: what a station showed before it
    #: was observed, or replaced before it was told, nobody can find.
    outliers_made: int
    outliers_told: int
    outliers_found: int
    false_alarms: int
    alerts_raised: int
    #: Kinds of sensor: different paths that readings were judged of.
    kinds: int
    #: Acknowledged readings, those that analytics judged, and their rows; None where there is no such store.
    readings_told: int
    readings_judged: int
    readings_stored: int | None
    #: Readings that the statistics in Redis are of; None where there is no such store.
    readings_counted: int | None
    lost_readings: int
    doubled_readings: int
    lost_rows: int
    doubled_rows: int
    lost_counts: int
    doubled_counts: int

    @property
    def outliers_missed(self) -> int:
        return self.outliers_told - self.outliers_found

    @property
    def lost(self) -> int:
        return self.lost_readings + self.lost_rows + self.lost_counts

    @property
    def doubled(self) -> int:
        return self.doubled_readings + self.doubled_rows + self.doubled_counts


def judge_city(
    made: Iterable[Made],
    journal: Iterable[Entry],
    readings: Sequence[EnrichedReading],
    alerts: Iterable[Alert],
    rows: Sequence[Told] | None,
    lengths: Mapping[Series, int] | None,
) -> CityVerdict:
    """Compare what the stations made and told with what was judged and stored.

    ``rows`` of readings and ``lengths`` of statistics are what the stores have; None: there is no such store.
    """
    told = Counter((one.ep, path, value) for one in journal for path, value in one.values)
    judged = Counter((one.ep, one.path, one.value) for one in readings)
    outliers = Counter((one.ep, str(one.path), one.value) for one in made)
    flagged = Counter((one.ep, one.path, one.value) for one in readings if one.outlier)
    known = outliers & told
    stored = None if rows is None else Counter(rows)
    due = Counter((one.ep, one.path) for one in readings)
    # What is of other endpoints was there before.
    counted = None if lengths is None else Counter({series: lengths[series] for series in due if series in lengths})
    return CityVerdict(
        outliers_made=outliers.total(),
        outliers_told=known.total(),
        outliers_found=(known & flagged).total(),
        false_alarms=(flagged - outliers).total(),
        alerts_raised=len({(one.id, one.since) for one in alerts if one.state is AlertState.FIRING}),
        kinds=len({one.path for one in readings}),
        readings_told=told.total(),
        readings_judged=judged.total(),
        readings_stored=None if stored is None else stored.total(),
        readings_counted=None if counted is None else counted.total(),
        lost_readings=(told - judged).total(),
        # What was judged and is not in the journal may be one whose acknowledgement was on its way at the end.
        doubled_readings=sum((judged - told)[one] for one in told),
        lost_rows=0 if stored is None else (judged - stored).total(),
        doubled_rows=0 if stored is None else (stored - judged).total(),
        lost_counts=0 if counted is None else (due - counted).total(),
        doubled_counts=0 if counted is None else (counted - due).total(),
    )
