"""A lane: some topics, one way, exactly once.

Owns one producer, one consumer and the order of their steps. A *session* lasts until anything goes wrong; then all is
thrown away and the next one goes on from what the target holds. It never looks into a record, and it never decides by
itself that it may stay: that is what the ledger says.

A session begins with

 1. ask     both sides who they are and which topics they have, and the ledger whether the lane is still ours
 2. fence   ``init_transactions``: an older producer of the lane can commit nothing from here on
 3. read    the ledger to its end, and look again whose lane it is
 4. claim   the lane, in a transaction of its own
 5. assign  the source's partitions at the ledger's positions

and then repeats, one transaction after the other

 6. read    what the source has, committed records only
 7. write   each record as it is: key, value, headers, time stamp, partition
 8. tell    the ledger the new positions, in the same transaction
 9. settle  wait until the target has it all
10. commit

A transaction ends as soon as the source has no more, so a lone record is not kept waiting; under load it ends by time
and bytes. On *any* error or timeout of 7 to 10 the outcome is unknown, and librdkafka (without KIP-890) cannot rule out
that a delayed end of a transaction ends a later one. So nothing is repeated on the same producer: the next session's
step 2 settles the old transaction one way or the other, and its step 3 tells which.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog

from connectors import kafka
from connectors.replicator.bandwidth import Bandwidth, Urgency
from connectors.replicator.errors import Fenced, SameCluster
from connectors.replicator.ledger import Ledger, Position, Progress, Unreadable
from connectors.replicator.metrics import Metrics
from connectors.replicator.survey import LogShorter, Partition, Route, place, survey

_log = structlog.get_logger("headwater.replicator")

# Seconds.
_CALL = 5.0  # a question to a broker
_COMMIT = 4.0  # the end of a transaction whose records have all arrived
_STALL = 10.0  # without a single record arriving at the target
_LONGEST_TRANSACTION = 40.0  # the broker aborts it after 60
_FULL_TRANSACTION = 0.25  # under load
_PACE = 0.04  # between two commits under light load; the first after a pause does not wait
_SURVEY = 3.0
_HEARTBEAT = 5.0
_IDLE = 0.2
_TELL_SOURCE = 1.0
_LAST_TRANSACTION = 3.0  # for what is open when the process is asked to stop
_BACKOFF = (0.5, 5.0)
_PATIENCE = 15.0  # with a source that says that its log is shorter than it was; one that just came up may err

# Bytes of one transaction: at least, at first, at most. In between: what the line takes in half a second.
_BUDGET = (16_384, 262_144, 4_194_304)
_BATCH = 1000
_OVERHEAD = 24  # bytes of a record beside its payload, for the budget and the cap


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneSpec:
    """What a lane carries from where to where."""

    name: str
    number: int  # its partition of the ledger
    lanes: int
    gateway: str
    urgency: Urgency
    source: kafka.Cluster
    target: kafka.Cluster
    topics: tuple[str, ...]
    compression: str
    tell_source: bool  # commit the positions to a group of the source as well, for people and for the retention alarm

    @property
    def transactional_id(self) -> str:
        return f"headwater-replicator.{self.gateway}.{self.name}"

    @property
    def group(self) -> str:
        return f"headwater-replicator.{self.gateway}"


@dataclass(slots=True)
class _Session:
    """What one session knows; gone with it."""

    topic_ids: dict[str, str]
    positions: dict[Partition, Position]
    assigned: tuple[Partition, ...] = ()
    surveyed: float = 0.0
    committed: float = 0.0
    told_source: float = 0.0


@dataclass(slots=True)
class _Transaction:
    """What one transaction carries; counted only once it is committed."""

    began: float
    ahead: dict[Partition, Position]
    size: int = 0
    records: Counter[str] = field(default_factory=Counter)
    payload: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)


class _Stopped(Exception):
    """The process is asked to stop."""


class Lane:
    """Runs in one thread; other threads may read its public attributes."""

    def __init__(
        self,
        spec: LaneSpec,
        *,
        instance: str,
        where: str,
        metrics: Metrics,
        stop: threading.Event,
        bandwidth: Bandwidth | None,
    ) -> None:
        self.spec = spec
        self.trouble: str | None = "not connected yet"
        self.routes: Mapping[str, Route] = {}
        self.progress: Mapping[Partition, Position] | None = None
        self.turned = time.monotonic()  # when the loop last came round
        self._instance = instance
        self._where = where
        self._metrics = metrics
        self._stop = stop
        self._bandwidth = bandwidth
        self._claimed = False
        self._short_since: float | None = None
        self._too_large: set[tuple[str, int, int]] = set()
        self._budget = _BUDGET[1]
        self._average = 0.0  # bytes of a record
        self._source = kafka.admin(spec.source)
        self._target = kafka.admin(spec.target)
        self._ledger = Ledger(cluster=spec.target, gateway=spec.gateway, partition=spec.number, partitions=spec.lanes)
        self._log = _log.bind(gateway=spec.gateway, lane=spec.name)

    def run(self) -> None:
        """Carry until the stop event is set.

        Raises:
            Fenced: another replicator claimed the lane.
            SameCluster: source and target are one cluster.
        """
        pause, longest = _BACKOFF
        while not self._stop.is_set():
            try:
                self._session()
            except _Stopped:
                return
            except (kafka.KafkaException, kafka.Unreachable, Unreadable) as exc:
                if self.trouble is None:
                    pause = _BACKOFF[0]
                    self._metrics.connected.labels(self.spec.name).set(0)
                    self._metrics.restarts.labels(self.spec.name).inc()
                    self._log.warning("interrupted", reason=str(exc))
                elif str(exc) != self.trouble:  # a cut of days must not fill the disk with one line
                    self._log.info("not connected", reason=str(exc))
                self.trouble = str(exc)
                self.turned = time.monotonic()
                self._stop.wait(pause)
                pause = min(pause * 2, longest)

    # A session.

    def _session(self) -> None:
        spec = self.spec
        self._refuse_one_cluster()
        self.routes = self._look(self.routes)
        self._ledger.ensure(_CALL)
        self._check_claim(self._ledger.read(_CALL, settled=False))
        self._go_on()
        batch_bytes = _batch_bytes(self.routes)
        producer = kafka.producer(
            spec.target,
            transactional_id=spec.transactional_id,
            transaction_timeout_ms=60_000,
            message_timeout_ms=50_000,
            request_timeout_ms=10_000,
            socket_timeout_ms=12_000,
            socket_keepalive_enable=True,
            # A transaction is the stronger promise: what fails in it fails all of it.
            enable_gapless_guarantee=False,
            delivery_report_only_error=True,
            linger_ms=5,
            compression_type=spec.compression,
            partitioner="murmur2_random",  # as Java's producers do, where the partition counts differ
            queue_buffering_max_kbytes=8192,
            batch_size=batch_bytes,
            # Whether a record is too large is for the target to say: it may compress well.
            message_max_bytes=100_000_000,
        )
        consumer: kafka.Consumer | None = None
        try:
            self._go_on()
            producer.init_transactions(_CALL)
            word = self._ledger.read(_CALL, settled=True)
            self._check_claim(word)
            session = _Session(dict(word.topic_ids) if word else {}, dict(word.positions) if word else {})
            self._say_only(producer, session)
            self._claimed = True
            self._go_on()
            consumer = kafka.consumer(
                spec.source,
                spec.group,
                # What the source lost before it was replicated has to be counted, so an error is wanted.
                auto_offset_reset="error",
                queued_max_messages_kbytes=4096,
                queued_min_messages=20_000,
                fetch_message_max_bytes=524_288,
                fetch_max_bytes=2_097_152,
                fetch_wait_max_ms=500,
                socket_timeout_ms=12_000,
                socket_keepalive_enable=True,
            )
            self._assign(session, consumer)
            if self.trouble is not None:
                self._log.info("connected", topics=sorted(self.routes))
            self.trouble = None
            self._metrics.connected.labels(spec.name).set(1)
            while not self._stop.is_set():
                self._carry(session, producer, consumer, batch_bytes)
        finally:
            if consumer is not None:
                consumer.close()
            producer.purge(blocking=False)

    def _go_on(self) -> None:
        self.turned = time.monotonic()
        if self._stop.is_set():
            raise _Stopped

    def _refuse_one_cluster(self) -> None:
        if kafka.cluster_id(self._source, timeout=_CALL) == kafka.cluster_id(self._target, timeout=_CALL):
            raise SameCluster(
                f"{self.spec.source.bootstrap} and {self.spec.target.bootstrap} are one Kafka cluster; "
                f"--edge and --cloud have to be two"
            )

    def _look(self, known: Mapping[str, Route]) -> dict[str, Route]:
        spec = self.spec
        return survey(self._source, self._target, (spec.source, spec.target), spec.topics, known, timeout=_CALL)

    def _check_claim(self, word: Progress | None) -> None:
        if self._claimed and word is not None and word.instance != self._instance:
            raise Fenced(
                f"another replicator of gateway {self.spec.gateway} took over lane {self.spec.name} ({word.where}); "
                f"this one ({self._where}) gives way"
            )

    def _assign(self, session: _Session, consumer: kafka.Consumer) -> None:
        """Read every partition of every route from where the ledger says, as far as the source still has that."""
        session.surveyed = time.monotonic()
        try:
            believe = self._short_since is not None and session.surveyed - self._short_since > _PATIENCE
            session.positions = place(
                self._source,
                self.routes,
                session.topic_ids,
                session.positions,
                self._metrics,
                timeout=_CALL,
                believe_short=believe,
            )
        except LogShorter:
            self._short_since = self._short_since or session.surveyed
            raise
        self._short_since = None
        session.topic_ids = {name: route.topic_id for name, route in self.routes.items()}
        session.assigned = tuple(session.positions)
        self.progress = dict(session.positions)
        consumer.assign([kafka.TopicPartition(*key, at.offset) for key, at in session.positions.items()])

    # Its transactions.

    def _carry(self, session: _Session, producer: kafka.Producer, consumer: kafka.Consumer, batch_bytes: int) -> None:
        """One turn: what the source has now, or a look around."""
        self.turned = now = time.monotonic()
        if now - session.surveyed > _SURVEY:
            session.surveyed = now
            routes = self._look(self.routes)
            if routes != self.routes:
                self.routes = routes
                if _batch_bytes(routes) < batch_bytes:
                    raise kafka.Unreachable("a topic wants smaller batches")
                self._assign(session, consumer)
        waiting = self._next(consumer, _IDLE)
        while waiting:
            waiting = self._transaction(session, producer, consumer, waiting)
            self._tell_source(session, consumer)
            self._go_on()
        if time.monotonic() - session.committed > _HEARTBEAT:
            # Finds out about a line that is cut and a lane that was taken over; keeps the id from expiring.
            self._say_only(producer, session)

    def _next(self, consumer: kafka.Consumer, wait: float) -> list[kafka.Message]:
        """Records, at most about one transaction's worth; waits for the first only."""
        count = max(1, min(_BATCH, int(self._budget / self._average))) if self._average else _BATCH
        messages = consumer.consume(count, 0)
        if not messages and wait > 0:
            first = consumer.poll(wait)
            messages = [] if first is None else [first, *consumer.consume(count, 0)]
        records = []
        for message in messages:
            error = message.error()
            if error is None:
                records.append(message)
            elif error.fatal() or error.code() in _ASSIGN_ANEW:
                raise kafka.KafkaException(error)
            else:
                self._log.debug("the source reports", error=str(error))
        return records

    def _transaction(
        self, session: _Session, producer: kafka.Producer, consumer: kafka.Consumer, waiting: list[kafka.Message]
    ) -> list[kafka.Message]:
        """One transaction, begun with ``waiting``; returns what was read and has to go with the next."""
        while (pause := self._held_back(_size(waiting[0]))) > 0:
            self._go_on()
            self._stop.wait(min(pause, _IDLE))
        transaction = _Transaction(time.monotonic(), dict(session.positions))
        producer.begin_transaction()
        rest = self._write(producer, transaction, waiting, paid=1)
        while not rest and transaction.size < self._budget and not self._stop.is_set():
            now = time.monotonic()
            if now - transaction.began >= _FULL_TRANSACTION:
                break
            wait = min(session.committed + _PACE, transaction.began + _FULL_TRANSACTION) - now
            more = self._next(consumer, wait)
            if not more:
                break
            rest = self._write(producer, transaction, more, paid=0)
        written = time.monotonic()
        session.positions = transaction.ahead  # a failure from here on ends the session, and them with it
        self._say(producer, session)
        self._settle(producer, transaction)
        producer.commit_transaction(_COMMIT)
        session.committed = time.monotonic()
        self.progress = transaction.ahead
        self._count(transaction, written, session.committed)
        return rest

    def _write(
        self, producer: kafka.Producer, transaction: _Transaction, messages: list[kafka.Message], *, paid: int
    ) -> list[kafka.Message]:
        """Hand the records to the producer; returns those that are beyond the transaction's budget or the cap.

        The cap has been asked already for the first ``paid`` of them.
        """
        routes, ahead, records, payload = self.routes, transaction.ahead, transaction.records, transaction.payload
        for index, message in enumerate(messages):
            size = _size(message)
            if index and transaction.size + size > self._budget:
                return messages[index:]
            if index >= paid and self._held_back(size) > 0:
                return messages[index:]
            topic, partition, offset = message.topic(), message.partition(), message.offset()
            assert topic is not None and partition is not None and offset is not None  # it is a record, not an event
            route = routes[topic]
            timestamp = message.timestamp()[1]
            ahead[topic, partition] = Position(offset + 1, timestamp)
            if (topic, partition, offset) in self._too_large:
                transaction.left_out[topic] += 1
                continue
            report = self._report(topic, partition, offset) if size > route.largest // 2 else None
            while True:
                try:
                    producer.produce(
                        topic,
                        message.value(),
                        message.key(),
                        partition if route.same_partitions else -1,
                        report,
                        # librdkafka takes 0 for "now"; the first millisecond of 1970 is nearer.
                        timestamp=max(timestamp, 1),
                        headers=message.headers(),
                    )
                    break
                except BufferError:
                    self._make_room(producer, transaction)
            transaction.size += size
            records[topic] += 1
            payload[topic] += size - _OVERHEAD
        return []

    def _held_back(self, size: int) -> float:
        return 0.0 if self._bandwidth is None else self._bandwidth.take(size, self.spec.urgency)

    def _report(self, topic: str, partition: int, offset: int) -> Callable[[kafka.KafkaError | None, object], None]:
        """Note a record that the target will never take, so that the next session leaves it out."""

        def note(error: kafka.KafkaError | None, _message: object) -> None:
            if error is not None and error.code() == kafka.KafkaError.MSG_SIZE_TOO_LARGE:
                self._too_large.add((topic, partition, offset))
                self._log.error(
                    "a record is left out: it is larger than the target's max.message.bytes",
                    topic=topic,
                    partition=partition,
                    offset=offset,
                )

        return note

    def _make_room(self, producer: kafka.Producer, transaction: _Transaction) -> None:
        before = len(producer)
        until = time.monotonic() + _STALL
        while len(producer) >= before:
            producer.poll(0.01)
            self._not_too_long(transaction, until)

    def _settle(self, producer: kafka.Producer, transaction: _Transaction) -> None:
        """Wait until the target has all that was written, as long as it goes on arriving."""
        least = len(producer)
        until = time.monotonic() + _STALL
        stopped: float | None = None
        while (now_open := producer.flush(0.25)) > 0:
            if now_open < least:
                least, until = now_open, time.monotonic() + _STALL
            if self._stop.is_set():
                stopped = stopped or time.monotonic()
                until = min(until, stopped + _LAST_TRANSACTION)
            self._not_too_long(transaction, until)

    def _not_too_long(self, transaction: _Transaction, until: float) -> None:
        now = time.monotonic()
        if now > until or now - transaction.began > _LONGEST_TRANSACTION:
            if self._stop.is_set():
                raise _Stopped
            self._budget = max(_BUDGET[0], self._budget // 4)
            raise kafka.Unreachable(f"{self.spec.target.bootstrap} took too long to take {transaction.size} bytes")

    def _say(self, producer: kafka.Producer, session: _Session) -> None:
        """The lane's word, in the open transaction."""
        word = Progress(self._instance, self._where, session.topic_ids, session.positions)
        producer.produce(self._ledger.topic, word.encode(), self.spec.name.encode(), self._ledger.partition)

    def _say_only(self, producer: kafka.Producer, session: _Session) -> None:
        producer.begin_transaction()
        self._say(producer, session)
        producer.commit_transaction(_COMMIT)
        session.committed = time.monotonic()

    def _tell_source(self, session: _Session, consumer: kafka.Consumer) -> None:
        """For people's tools, and for the retention alarm of a replicator that starts while the target is away.

        Never read as the truth about positions, so nobody waits for it.
        """
        if self.spec.tell_source and session.committed - session.told_source > _TELL_SOURCE:
            session.told_source = session.committed
            offsets = [kafka.TopicPartition(*key, at.offset) for key, at in session.positions.items()]
            consumer.commit(offsets=offsets, asynchronous=True)

    def _count(self, transaction: _Transaction, written: float, committed: float) -> None:
        """Count what is committed, and fit the next transaction to what the line takes in half a second."""
        lane = self.spec.name
        took = committed - transaction.began
        if took > 2 * _FULL_TRANSACTION:
            self._budget = max(_BUDGET[0], min(_BUDGET[2], int(transaction.size / took / 2)))
        elif transaction.size >= self._budget // 2:
            self._budget = min(_BUDGET[2], self._budget * 2)
        if transaction.records:
            mean = transaction.size / transaction.records.total()
            self._average = mean if not self._average else 0.8 * self._average + 0.2 * mean
        self._metrics.transactions.labels(lane).inc()
        self._metrics.commit_seconds.labels(lane).observe(committed - written)
        for topic, count in transaction.records.items():
            self._metrics.records.labels(lane, topic).inc(count)
            self._metrics.payload.labels(lane, topic).inc(transaction.payload[topic])
        for topic, count in transaction.left_out.items():
            self._metrics.refused.labels(topic).inc(count)


# The source does not have the offset or the topic any more: a new session places all positions anew.
_ASSIGN_ANEW = (
    kafka.KafkaError._AUTO_OFFSET_RESET,
    kafka.KafkaError.OFFSET_OUT_OF_RANGE,
    kafka.KafkaError.UNKNOWN_TOPIC_OR_PART,
    kafka.KafkaError.UNKNOWN_TOPIC_ID,
    kafka.KafkaError._UNKNOWN_TOPIC,
    kafka.KafkaError._UNKNOWN_PARTITION,
)


def _size(message: kafka.Message) -> int:
    size = _OVERHEAD + len(message)
    key = message.key()
    if key is not None:
        size += len(key)
    for name, value in message.headers() or ():
        size += len(name) + len(value or b"")
    return size


def _batch_bytes(routes: Mapping[str, Route]) -> int:
    """Of the producer: below what the pickiest topic takes at once."""
    return max(1024, min([500_000, *(route.largest * 9 // 10 for route in routes.values())]))
