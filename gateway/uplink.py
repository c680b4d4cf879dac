"""The way from the gateway into the edge Kafka: what is reported here as durable, Kafka has (acks=all, idempotent).

Owns the producer, its back-pressure and its renewal after a fatal error. It never drops a record by itself and never
reports one early. Delivery reports are served on the event loop, by polling while anything is under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import structlog

from connectors.kafka import Cluster, KafkaError, KafkaException, Message, Producer, in_words, producer, refusal_of
from gateway.coap.incoming import PATIENCE
from schemas.avro.topics import Topics

_log = structlog.get_logger("headwater.uplink")

#: Called once a record is durable (True), or is known never to become so (False).
Done = Callable[[bool], None]
Headers = list[tuple[str, bytes]]

#: The largest record, with its headers: Kafka takes a million bytes unless it is told otherwise, and framing is extra.
MOST_RECORD_BYTES = 900_000
MOST_QUEUED_RECORDS = 40_000
MOST_QUEUED_KBYTES = 24 << 10
#: The queue is full with so many records: what is left is room for the batch that is being taken.
_FULL = MOST_QUEUED_RECORDS * 9 // 10
#: Kafka is taken for dead when records are under way and none was reported for so many seconds.
STALLED_AFTER = 3.0
_POLL_BUSY = 0.001
#: Where nobody waits who can do nothing meanwhile.
_POLL_PATIENT = 0.005
_POLL_STALLED = 0.05
_RENEW_AGAIN = 1.0
_LOOK_UP = 1.0
#: Between two attempts of a gateway that Kafka's access control refuses.
_REFUSED = 3.0


class Uplink:
    """The producer of the edge, for one event loop."""

    def __init__(self, cluster: Cluster, topics: Topics, partitions: dict[str, int]) -> None:
        self._cluster = cluster
        self.topics = topics
        #: Partitions by topic name, as Kafka has them.
        self.partitions = partitions
        #: Those of the topics that a device's records go to: observations, registrations, replies.
        self.device_partitions = (
            partitions[topics.observations],
            partitions[topics.registrations],
            partitions[topics.replies],
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._producer: Producer = self._new_producer()
        #: Reports that are awaited.
        self.under_way = 0
        #: Of those, how many may come a little later.
        self._patient = 0
        self._progress_at = 0.0
        self._renewing = False
        #: When at the earliest, after a refusal; and what was said of it, until a record is taken.
        self._renew_at = 0.0
        self._refused = ""
        self._closed = False
        #: Set while the gateway must not take anything new, with the reason for people.
        self.closed_because: str | None = "the gateway is starting"
        self._closed_at = 0.0
        self.sent = 0
        self.failed = 0
        #: Which of the producers it has: the first, the second, …
        self.lives = 1
        #: Called after a fatal error with nothing under way any more; it must call `reopen` in the end.
        self.on_fatal: Callable[[], None] | None = None

    def _new_producer(self) -> Producer:
        return producer(
            self._cluster,
            queue_buffering_max_messages=MOST_QUEUED_RECORDS,
            queue_buffering_max_kbytes=MOST_QUEUED_KBYTES,
            linger_ms=1,
            batch_num_messages=5000,
        )

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Serve delivery reports on ``loop``."""
        self._loop = loop
        self._closed_at = loop.time()

    def look_up(self) -> None:
        """Find out who leads the topics of devices: else their first records wait for that. Blocks, for a thread."""
        with suppress(KafkaException):  # then they do wait
            for topic in (self.topics.observations, self.topics.registrations, self.topics.replies):
                self._producer.list_topics(topic, timeout=_LOOK_UP)

    @property
    def accepting(self) -> bool:
        """False while Kafka does not answer, the queue is full, or the gateway starts or stops."""
        return self.refusal() is None

    def refusal(self) -> str | None:
        """Why nothing new can be made durable now; None if it can."""
        if self.closed_because is not None:
            return self.closed_because
        if self.under_way:
            assert self._loop is not None
            if self._loop.time() - self._progress_at > STALLED_AFTER:
                return "the edge Kafka does not answer"
        if len(self._producer) > _FULL:
            return "the edge Kafka does not keep up"
        return None

    def refuses_briefly(self) -> bool:
        """Whether nothing new can be made durable, and that for less than PATIENCE."""
        assert self._loop is not None
        now = self._loop.time()
        if self.closed_because is not None:
            return now - self._closed_at < PATIENCE
        silent = now - self._progress_at
        return self.under_way > 0 and STALLED_AFTER < silent < STALLED_AFTER + PATIENCE

    @property
    def produce(self) -> Callable[..., None]:
        """The producer's own, for a batch in a hurry: whatever it raises, `send` is to be tried with that record; what
        it took is counted in ``sent``, and vouched for as a record of `send` without ``done``."""
        return self._producer.produce  # type: ignore[no-any-return]  # confluent_kafka has no types

    def send(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        done: Done | None,
        *,
        patient: bool = False,
    ) -> bool:
        """Queue one record; False if it was not taken (``done`` is then not called). ``patient``: the report may come
        some milliseconds later.

        Without ``done`` the record is vouched for by the next one with ``done`` on the same partition: delivery is in
        order and gapless, so that one's report covers it.
        """
        try:
            if done is None:
                self._producer.produce(topic, value, key, partition, headers=headers)
            else:
                self._producer.produce(
                    topic, value, key, partition, headers=headers, on_delivery=self._reporter(done, patient)
                )
        except (BufferError, KafkaException) as exc:
            self.failed += 1
            # Here the client tells a fatal error by its code alone: `fatal()` is never set.
            if isinstance(exc, KafkaException) and exc.args[0].code() == KafkaError._FATAL:
                self._fatal(exc.args[0])
            return False
        self.sent += 1
        if done is not None:
            self._begin(patient)
        return True

    def _reporter(self, done: Done, patient: bool) -> Callable[[KafkaError | None, Message], None]:
        def report(error: KafkaError | None, _: Message) -> None:
            self.under_way -= 1
            self._patient -= patient
            assert self._loop is not None
            self._progress_at = self._loop.time()
            if error is not None:
                self.failed += 1
                # With the gapless guarantee no record fails alone.
                self._fatal(error)
            else:
                self._refused = ""
            done(error is None)

        return report

    def _begin(self, patient: bool) -> None:
        assert self._loop is not None
        if not self.under_way:
            self._progress_at = self._loop.time()
        self.under_way += 1
        self._patient += patient
        wait = _POLL_PATIENT if patient else _POLL_BUSY
        if self._timer is not None and self.under_way - self._patient == 1 and not patient:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_later(wait, self._tick)

    def poll(self) -> None:
        """Serve the delivery reports that are there."""
        try:
            self._producer.poll(0)
        except Exception as exc:  # noqa: BLE001  # of one report's `done`; those behind it must still be served
            if isinstance(exc, KafkaException) and exc.args[0].fatal():
                self._fatal(exc.args[0])  # the client raises here what it can tell nowhere else
            else:
                _log.exception("a delivery report could not be handled")

    def _tick(self) -> None:
        assert self._loop is not None
        self._timer = None
        self.poll()
        if self.under_way:
            stalled = self._loop.time() - self._progress_at > 1.0
            busy = _POLL_PATIENT if self.under_way == self._patient else _POLL_BUSY
            self._timer = self._loop.call_later(_POLL_STALLED if stalled else busy, self._tick)
        elif self._renewing and self._loop.time() < self._renew_at:
            self._timer = self._loop.call_later(_POLL_STALLED, self._tick)
        elif self._renewing:
            try:
                self._renew()
            except KafkaException as exc:
                _log.error("no new Kafka producer could be made, trying again", error=str(exc))
                self._timer = self._loop.call_later(_RENEW_AGAIN, self._tick)

    # An idempotent producer that failed for good cannot go on. All that was under way is then reported as failed,
    # though some of it may be in Kafka all the same: the owner (on_fatal) looks there before anything new is taken.

    def _fatal(self, error: KafkaError) -> None:
        if self._renewing:
            return
        self._renewing = True
        if refusal_of(error) is not None:
            # Until the right comes back each attempt ends as this one did: not at once again, and not told again.
            words = in_words(error, self._cluster, "wrote what devices said")
            if words != self._refused:
                _log.error("Kafka takes no records of this gateway", reason=words)
            self._refused = words
            self._shut(words)
            self._renew_at = 0.0 if self._loop is None else self._loop.time() + _REFUSED
        else:
            _log.error("the Kafka producer failed for good and is made anew", error=error.str())
            self._shut("the Kafka producer is being made anew")
        self._producer.purge()
        if self._timer is None and self._loop is not None:
            self._timer = self._loop.call_later(_POLL_BUSY, self._tick)

    def _renew(self) -> None:
        self._producer = self._new_producer()
        self.lives += 1
        self._renewing = False
        if self.on_fatal is not None:
            self.on_fatal()

    def reopen(self) -> None:
        """Take records from now on, unless it is closed."""
        if not self._closed:
            self.closed_because = None

    def close(self, reason: str) -> None:
        """Take no new records any more; those under way go on."""
        self._closed = True
        self._shut(reason)

    def _shut(self, reason: str) -> None:
        if self.closed_because is None and self._loop is not None:
            self._closed_at = self._loop.time()
        self.closed_because = reason

    async def drained(self, timeout: float) -> bool:
        """Wait until nothing is under way; False if it still was after ``timeout`` seconds."""
        assert self._loop is not None
        end = self._loop.time() + timeout
        while self.under_way and self._loop.time() < end:  # noqa: ASYNC110  # reports are polled for, so is their end
            await asyncio.sleep(0.005)
        return not self.under_way
