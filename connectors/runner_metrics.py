"""What a running sink counts. Names and labels are public: dashboards and alarms are built on them."""

from __future__ import annotations

from contextlib import suppress

from prometheus_client import Counter, Gauge, Histogram

_LABELS = ("sink", "group")

_RECORDS = Counter("headwater_sink_records", "Records written to the store (again, where they came again).", _LABELS)
_BATCHES = Counter("headwater_sink_batches", "Batches written and handed to commit.", _LABELS)
_DEAD_LETTERS = Counter(
    "headwater_sink_dead_letters", "Records put into the dead-letter topic, by stage.", (*_LABELS, "stage")
)
_RETRIES = Counter("headwater_sink_retries", "Times that the store asked to be left alone for a while.", _LABELS)
_COMMIT_FAILURES = Counter("headwater_sink_commit_failures", "Offset commits that Kafka did not take.", _LABELS)
_WRITE_SECONDS = Histogram("headwater_sink_write_seconds", "Time of one write of a batch into the store.", _LABELS)
_LAG = Gauge(
    "headwater_sink_lag_records",
    "Records between the reading position and the end, transaction markers counted, by partition.",
    (*_LABELS, "topic", "partition"),
)
_WAITING = Gauge("headwater_sink_waiting", "1 while the store takes nothing, else 0.", _LABELS)


class RunnerMetrics:
    """The metrics of one runner: those above with its labels."""

    def __init__(self, sink: str, group: str) -> None:
        self._labels = (sink, group)
        self.records = _RECORDS.labels(sink, group)
        self.batches = _BATCHES.labels(sink, group)
        self.retries = _RETRIES.labels(sink, group)
        self.commit_failures = _COMMIT_FAILURES.labels(sink, group)
        self.write_seconds = _WRITE_SECONDS.labels(sink, group)
        self.waiting = _WAITING.labels(sink, group)
        # From 0 on: Prometheus takes a series that begins with 1 for one that has not risen.
        for stage in ("decode", f"sink:{sink}"):
            _DEAD_LETTERS.labels(*self._labels, stage)

    def dead_letter(self, stage: str) -> None:
        _DEAD_LETTERS.labels(*self._labels, stage).inc()

    def lag(self, topic: str, partition: int, records: int) -> None:
        _LAG.labels(*self._labels, topic, str(partition)).set(records)

    def lag_gone(self, topic: str, partition: int) -> None:
        """The partition is another instance's now."""
        with suppress(KeyError):
            _LAG.remove(*self._labels, topic, str(partition))
