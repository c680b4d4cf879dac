"""One lane's transactions on the target: read, write, tell, settle, commit.

Owns the steps 6 to 10 of `lane` and how large a transaction is. It ends with the first error: nothing is repeated here.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog

from connectors import kafka
from connectors.replicator.bandwidth import Bandwidth
from connectors.replicator.errors import Stopped
from connectors.replicator.ledger import Ledger, Position, Progress
from connectors.replicator.metrics import Metrics
from connectors.replicator.spec import LaneSpec, Tenure
from connectors.replicator.survey import Partition, Route

_log = structlog.get_logger("headwater.replicator")

# Seconds.
_COMMIT = 4.0  # the end of a transaction whose records have all arrived
_LONGEST_TRANSACTION = 45.0  # the broker aborts it after 60
_FULL_TRANSACTION = 0.25  # under load
# Between two commits under light load, at least and at most; in between as long as the last one took, so that over a
# short line records wait little, and a long one is not kept busy with commits. The first after a pause does not wait.
_PACE = (0.005, 0.04)
_TURN = 0.04  # longest rest before the cap is asked again
_HELD_BACK = 0.2
_TELL_SOURCE = 1.0
_LAST_TRANSACTION = 3.0  # for what is open when the process is asked to stop
_PRICE_HOLDS = 30.0  # how long a measured price is believed: a line may get another latency
_PRICE_LIMIT = 4.0  # more is not latency: others keep the line busy

# Bytes of one transaction: at least and at most. In between: what the line takes in half a second, beside the price
# that a transaction has on this line however little it carries.
_BUDGET = (16_384, 2_097_152)
_FIRST_BUDGET = 262_144
# Seconds without a single record arriving at the target: at first and at most. One large record on a thin line may need
# more than the first; it gets twice as long each time.
_PATIENCE = (10.0, 40.0)
_BATCH = 500
_TRANSACTION_BYTES = 600  # of the requests and answers of a transaction, whatever is in it; for the cap
_OVERHEAD = 24  # bytes of a record beside its payload, for the budget and the cap


@dataclass(slots=True)
class Line:
    """What a lane learned of its line and its target; outlives its sessions."""

    budget: int = _FIRST_BUDGET
    average: float = 0.0  # bytes of a record
    patience: float = _PATIENCE[0]  # seconds without a record arriving, after which a transaction is given up
    price: float = 0.0  # seconds that a transaction of nothing but the lane's word took
    too_large: set[tuple[str, int, int]] = field(default_factory=set)  # topic, partition, offset

    def give_up(self) -> None:
        """A transaction took too long: the next one is smaller, and has longer."""
        self.budget = max(_BUDGET[0], self.budget // 4)
        self.patience = min(_PATIENCE[1], 2 * self.patience)

    def fit(self, size: int, took: float) -> None:
        """Fit the budget of the next transaction to this one, of ``size`` bytes, which took so many seconds.

        The price is left out of it. It is waiting, not carrying: over a line with latency a budget that pays for it
        would shrink with each transaction, down to the least, however wide the line is. Records and word each need a
        partition to be added and a way there and back, so it counts twice.
        """
        if took < _PATIENCE[0] / 2:
            self.patience = _PATIENCE[0]
        carrying = took - min(_PRICE_LIMIT, 2 * self.price)
        if carrying > 2 * _FULL_TRANSACTION:
            self.budget = max(_BUDGET[0], min(_BUDGET[1], int(size / carrying / 2)))
        elif size >= self.budget // 2:
            self.budget = min(_BUDGET[1], self.budget * 2)


@dataclass(slots=True)
class _Transaction:
    """What one transaction carries; counted only once it is committed."""

    began: float
    ahead: dict[Partition, Position]
    size: int = 0
    records: Counter[str] = field(default_factory=Counter)
    payload: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True, kw_only=True)
class Transactions:
    """Those of one session, one after the other.

    ``topic_ids`` and ``positions`` are where the session stands: at first what the ledger said, also of topics that
    are not to be seen at the moment. They are never forgotten, or such a topic would be carried twice.
    """

    spec: LaneSpec
    producer: kafka.Producer
    consumer: kafka.Consumer
    ledger: Ledger
    tenure: Tenure
    line: Line
    bandwidth: Bandwidth | None
    metrics: Metrics
    stop: threading.Event
    topic_ids: dict[str, str]
    positions: dict[Partition, Position]
    routes: Mapping[str, Route] = field(default_factory=dict)
    lost: Counter[str] = field(default_factory=Counter)  # offsets by topic that the next commit goes past
    committed: float = 0.0  # when the last transaction was
    commit_took: float = 0.0  # seconds, of the last one: from all that was written to the answer
    told_source: float = 0.0
    priced: float = 0.0  # when the price of a transaction was measured

    def assign(
        self, routes: Mapping[str, Route], placed: Mapping[Partition, Position], lost: Mapping[str, int]
    ) -> None:
        """From now on read ``routes``, at ``placed``; what was ``lost`` before that counts with the next commit."""
        self.routes = routes
        # A new one each time: the meter reads the last one, in its own thread.
        self.positions = {key: at for key, at in self.positions.items() if key[0] not in routes} | dict(placed)
        self.topic_ids.update({name: route.topic_id for name, route in routes.items()})
        self.lost.update(lost)
        self.consumer.assign([kafka.TopicPartition(*key, at.offset) for key, at in placed.items()])

    def next(self, wait: float) -> list[kafka.Message]:
        """Records, at most about one transaction's worth; waits for the first only."""
        count = max(1, min(_BATCH, int(self.line.budget / self.line.average))) if self.line.average else _BATCH
        messages = self.consumer.consume(count, 0)
        if not messages and wait > 0:
            first = self.consumer.poll(wait)
            messages = [] if first is None else [first, *self.consumer.consume(count, 0)]
        records = []
        for message in messages:
            error = message.error()
            if error is None:
                records.append(message)
            elif error.fatal() or error.code() in _ASSIGN_ANEW:
                raise kafka.KafkaException(error)
            else:
                _log.debug("the source reports", error=str(error))
        return records

    def carry(self, waiting: list[kafka.Message]) -> list[kafka.Message]:
        """One transaction, begun with ``waiting``; returns what was read and has to go with the next."""
        if (pause := self._held_back(_size(waiting[0]))) > 0:
            self.stop.wait(min(pause, _HELD_BACK))
            return waiting
        transaction = _Transaction(time.monotonic(), dict(self.positions))
        self.producer.begin_transaction()
        rest = self._write(transaction, waiting, paid=1)
        pace = min(_PACE[1], max(_PACE[0], self.commit_took))
        while transaction.size < self.line.budget and not self.stop.is_set():
            now = time.monotonic()
            if now - transaction.began >= _FULL_TRANSACTION:
                break
            if rest:
                size = _size(rest[0])
                if transaction.size + size > self.line.budget:
                    break
                if (pause := self._held_back(size)) > 0:
                    self.stop.wait(min(pause, _TURN))
                else:
                    rest = self._write(transaction, rest, paid=1)
                continue
            wait = min(self.committed + pace, transaction.began + _FULL_TRANSACTION) - now
            more = self.next(wait)
            if not more:
                break
            rest = self._write(transaction, more, paid=0)
        written = time.monotonic()
        self.positions = transaction.ahead  # a failure from here on ends the session, and them with it
        while True:
            try:
                self._say()
                break
            except BufferError:
                self._make_room(transaction)
        self._settle(transaction)
        self.producer.commit_transaction(_COMMIT)
        self.committed = time.monotonic()
        self.commit_took = self.committed - written
        self._count_lost()
        self._tell_source()
        self._count(transaction, written, self.committed)
        if self.committed - self.priced > _PRICE_HOLDS:
            self.say_only()
        return rest

    def _write(self, transaction: _Transaction, messages: list[kafka.Message], *, paid: int) -> list[kafka.Message]:
        """Hand the records to the producer; returns those that are beyond the transaction's budget or the cap.

        The cap has been asked already for the first ``paid`` of them.
        """
        routes, ahead, records, payload = self.routes, transaction.ahead, transaction.records, transaction.payload
        for index, message in enumerate(messages):
            size = _size(message)
            if index and transaction.size + size > self.line.budget:
                return messages[index:]
            if index >= paid and self._held_back(size) > 0:
                return messages[index:]
            topic, partition, offset = message.topic(), message.partition(), message.offset()
            assert topic is not None and partition is not None and offset is not None  # it is a record, not an event
            route = routes[topic]
            timestamp = message.timestamp()[1]
            ahead[topic, partition] = Position(offset + 1, timestamp)
            if (topic, partition, offset) in self.line.too_large:
                transaction.left_out[topic] += 1
                continue
            report = self._report(topic, partition, offset) if size > route.largest // 2 else None
            while True:
                try:
                    self.producer.produce(
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
                    self._make_room(transaction)
            transaction.size += size
            records[topic] += 1
            payload[topic] += size - _OVERHEAD
        return []

    def _held_back(self, size: int) -> float:
        return 0.0 if self.bandwidth is None else self.bandwidth.take(size, self.spec.urgency)

    def _report(self, topic: str, partition: int, offset: int) -> Callable[[kafka.KafkaError | None, object], None]:
        """Note a record that the target will never take, so that the next session leaves it out."""

        def note(error: kafka.KafkaError | None, _message: object) -> None:
            if error is not None and error.code() == kafka.KafkaError.MSG_SIZE_TOO_LARGE:
                self.line.too_large.add((topic, partition, offset))
                _log.error(
                    "a record is left out: it is larger than the target's max.message.bytes",
                    topic=topic,
                    partition=partition,
                    offset=offset,
                )

        return note

    def _make_room(self, transaction: _Transaction) -> None:
        before = len(self.producer)
        until = time.monotonic() + self.line.patience
        while len(self.producer) >= before:
            self.producer.poll(0.01)
            self._not_too_long(transaction, until)

    def _settle(self, transaction: _Transaction) -> None:
        """Wait until the target has all that was written, as long as it goes on arriving."""
        least = len(self.producer)
        until = time.monotonic() + self.line.patience
        stopped: float | None = None
        while (now_open := self.producer.flush(0.25)) > 0:
            if now_open < least:
                least, until = now_open, time.monotonic() + self.line.patience
            if self.stop.is_set():
                stopped = stopped or time.monotonic()
                until = min(until, stopped + _LAST_TRANSACTION)
            self._not_too_long(transaction, until)

    def _not_too_long(self, transaction: _Transaction, until: float) -> None:
        now = time.monotonic()
        if now > until or now - transaction.began > _LONGEST_TRANSACTION:
            if self.stop.is_set():
                raise Stopped
            self.line.give_up()
            raise kafka.Unreachable(f"{self.spec.target.bootstrap} took too long to take {transaction.size} bytes")

    def _say(self) -> None:
        """The lane's word, in the open transaction."""
        who = self.tenure
        word = Progress(who.generation, who.instance, who.where, self.topic_ids, self.positions).encode()
        self.producer.produce(self.ledger.topic, word, self.spec.name.encode(), self.ledger.partition)
        if self.bandwidth is not None:
            self.bandwidth.spend(len(word) + _TRANSACTION_BYTES)

    def say_only(self) -> None:
        """A transaction of nothing but the lane's word; how long it takes is the price of every transaction."""
        began = time.monotonic()
        self.producer.begin_transaction()
        self._say()
        self.producer.commit_transaction(_COMMIT)
        self.committed = self.priced = time.monotonic()
        self.line.price = self.committed - began
        self._count_lost()

    def _tell_source(self) -> None:
        """For people's tools, and for the retention alarm of a replicator that starts while the target is away.

        Never read as the truth about positions, so nobody waits for it.
        """
        if self.spec.tell_source and self.committed - self.told_source > _TELL_SOURCE:
            self.told_source = self.committed
            offsets = [kafka.TopicPartition(*key, at.offset) for key, at in self.positions.items()]
            self.consumer.commit(offsets=offsets, asynchronous=True)

    def _count_lost(self) -> None:
        for topic, count in self.lost.items():
            self.metrics.lost.labels(topic).inc(count)
        self.lost.clear()

    def _count(self, transaction: _Transaction, written: float, committed: float) -> None:
        """Count what is committed, and fit the next transaction to what the line takes in half a second."""
        lane = self.spec.name
        self.line.fit(transaction.size, committed - transaction.began)
        if self.bandwidth is not None:
            self.bandwidth.committed(lane, committed - transaction.began)
        if transaction.records:
            mean = transaction.size / transaction.records.total()
            self.line.average = mean if not self.line.average else 0.8 * self.line.average + 0.2 * mean
        self.metrics.transactions.labels(lane).inc()
        self.metrics.commit_seconds.labels(lane).observe(committed - written)
        for topic, count in transaction.records.items():
            self.metrics.records.labels(lane, topic).inc(count)
            self.metrics.payload.labels(lane, topic).inc(transaction.payload[topic])
        for topic, count in transaction.left_out.items():
            self.metrics.refused.labels(topic).inc(count)


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
