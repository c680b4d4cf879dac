"""What a running job counts. Names and labels are public: dashboards and alarms are built on them."""

from __future__ import annotations

from contextlib import suppress

from prometheus_client import Counter, Gauge

#: `name` is the job's. Prometheus has a label `job` of its own, which it would not give up to ours.
_LABELS = ("name", "group")

_RECORDS = Counter("headwater_analytics_records", "Records taken in (again, where the job began anew).", _LABELS)
_RESULTS = Counter("headwater_analytics_results", "Records put out (again, where the job began anew).", _LABELS)
_LATE = Counter("headwater_analytics_late", "Readings left out as they came after their window's grace.", _LABELS)
_AHEAD = Counter(
    "headwater_analytics_ahead", "Readings whose own time was too far ahead; the gateway's was taken.", _LABELS
)
_SKIPPED = Counter("headwater_analytics_skipped", "Readings left out as they are no finite numbers.", _LABELS)
_CROWDED = Counter(
    "headwater_analytics_crowded", "Readings left out as their endpoint has more series than are kept.", _LABELS
)
_TOO_LARGE = Counter("headwater_analytics_too_large", "Results left out as they are too large for Kafka.", _LABELS)
_PUT_BACK = Counter(
    "headwater_analytics_clock_put_back", "Times that a partition's clock was far ahead of its records.", _LABELS
)
_DEAD_LETTERS = Counter(
    "headwater_analytics_dead_letters", "Records put into the dead-letter topic, by stage.", (*_LABELS, "stage")
)
_STARTS = Counter("headwater_analytics_starts", "Times that the job began, the first and after each trouble.", _LABELS)
_IDLE_FAILURES = Counter(
    "headwater_analytics_idle_failures",
    "Times that what waited in a silent partition could not be put out, by partition.",
    (*_LABELS, "topic", "partition"),
)
_LOST = Counter(
    "headwater_analytics_lost_records",
    "About how many records Kafka deleted before they were read: markers and aborted ones are counted too.",
    _LABELS,
)
_LAG = Gauge(
    "headwater_analytics_lag_records",
    "Records between the reading position and the end, transaction markers counted, by partition.",
    (*_LABELS, "topic", "partition"),
)


class JobMetrics:
    """The metrics of one job: those above with its labels. It is `analytics.job.Metrics`, and what the app counts."""

    def __init__(self, job: str, group: str) -> None:
        self._labels = (job, group)
        self.records = _RECORDS.labels(job, group)
        self.results = _RESULTS.labels(job, group)
        self.starts = _STARTS.labels(job, group)
        #: Called with how many.
        self.lost = _LOST.labels(job, group).inc
        self._late = _LATE.labels(job, group)
        self._ahead = _AHEAD.labels(job, group)
        self._skipped = _SKIPPED.labels(job, group)
        self._crowded = _CROWDED.labels(job, group)
        self._put_back = _PUT_BACK.labels(job, group)
        self.too_large = _TOO_LARGE.labels(job, group).inc
        # From 0 on: Prometheus takes a series that begins with 1 for one that has not risen.
        for stage in ("decode", f"analytics:{job}"):
            _DEAD_LETTERS.labels(*self._labels, stage)

    def late(self) -> None:
        self._late.inc()

    def ahead(self) -> None:
        self._ahead.inc()

    def skipped(self, readings: int) -> None:
        self._skipped.inc(readings)

    def clock_put_back(self) -> None:
        self._put_back.inc()

    def crowded(self) -> None:
        self._crowded.inc()

    def dead_letter(self, stage: str) -> None:
        _DEAD_LETTERS.labels(*self._labels, stage).inc()

    def idle_failure(self, topic: str, partition: int) -> None:
        _IDLE_FAILURES.labels(*self._labels, topic, str(partition)).inc()

    def lag(self, topic: str, partition: int, records: int) -> None:
        _LAG.labels(*self._labels, topic, str(partition)).set(records)

    def lag_gone(self, topic: str, partition: int) -> None:
        """The partition is another instance's now."""
        with suppress(KeyError):
            _LAG.remove(*self._labels, topic, str(partition))
