"""What a sink waits for of Kafka, for its readiness and its log.

Owns which error is told and how often. It polls nothing and ends nothing.
"""

from __future__ import annotations

import math
import time

import structlog

from connectors.kafka import REFUSALS, Consumer, KafkaError, KafkaException, in_words, silence
from connectors.sink_settings import SinkSettings
from schemas.avro.topics import FAMILIES, is_of_job

_log = structlog.get_logger("headwater.sink")

_NOT_CONNECTED = "not connected to Kafka yet"
#: How often Kafka is asked whether it answers, in seconds, and how long that may take.
_PROBE_EVERY_S, _PROBE_S = 5.0, 0.5
#: A connection or all of them are gone. Which of the two librdkafka says, and how often, differs by version.
_DISCONNECTED = frozenset({KafkaError._TRANSPORT, KafkaError._SSL, KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE})
#: A refusal is told again with each look for topics, every five seconds; one that is not is over.
_REFUSED_S = 15.0


class KafkaWaits:
    """Of one sink. `reason` is read from any thread, all else is of its loop."""

    def __init__(self, sink: str, settings: SinkSettings) -> None:
        #: What keeps Kafka from giving records now, or None.
        self.reason: str | None = _NOT_CONNECTED
        self._sink = sink
        self._settings = settings
        self._families = settings.families()
        self._probed = -math.inf
        #: A connection was lost since Kafka was last asked.
        self._doubted = False
        self._refused = -math.inf
        #: The topics that were said to be missing.
        self._told_missing: set[str] = set()

    def over(self) -> None:
        """Kafka answers."""
        self.reason = None

    def missing(self, topic: str) -> None:
        """A topic, or pattern of topics, is not there."""
        kind = self._families.get(topic)
        # Of a job's topics it is normal that nobody runs the job.
        of_job = is_of_job(topic) if kind is None else FAMILIES[kind].of_job
        if topic not in self._told_missing and not of_job:
            self._told_missing.add(topic)
            every = topic.startswith("^")
            _log.warning(
                "waiting for a topic that is not there",
                sink=self._sink,
                topic=f"{FAMILIES[kind].prefix}.*.{FAMILIES[kind].suffix}" if kind and every else topic,
                kafka=self._settings.kafka.bootstrap,
                hint="it comes with the gateway or its replicator"
                + ("; no gateway has one yet" if every else "; is the gateway's id right?"),
            )

    def error(self, error: KafkaError) -> None:
        """librdkafka told of one, by itself or in the place of a record."""
        code = error.code()
        if code in _DISCONNECTED:
            self._doubted = True
        elif code in REFUSALS:
            self._refused = time.monotonic()
            self._waiting(in_words(error, self._settings.kafka))
        elif code == KafkaError._AUTHENTICATION or error.fatal():
            self._waiting(f"Kafka: {error.str()}")
        else:
            # A topic that is not there yet: librdkafka goes on by itself.
            _log.debug("kafka", sink=self._sink, error=error.str())

    def probe(self, reader: Consumer, now: float) -> None:
        """Ask Kafka whether it answers, now and then while that is in doubt; ``now`` is of the monotonic clock."""
        if (self.reason is None and not self._doubted) or now - self._probed <= _PROBE_EVERY_S:
            return
        self._probed = now
        if now - self._refused < _REFUSED_S:
            return
        try:
            reader.list_topics(timeout=_PROBE_S)
        except KafkaException:
            if self._doubted:
                self._waiting(silence(self._settings.kafka))
            return
        self._doubted = False
        self.over()

    def _waiting(self, reason: str) -> None:
        if reason != self.reason:
            _log.warning("waiting for Kafka", sink=self._sink, reason=reason)
        self.reason = reason
