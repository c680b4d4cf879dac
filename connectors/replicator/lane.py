"""A lane: some topics, one way, exactly once.

Owns one producer, one consumer and the order of their steps. A *session* lasts until anything goes wrong; then all is
thrown away and the next one goes on from what the target holds. It never looks into a record, and it never decides by
itself that it may stay: that is what the ledger says.

A session begins with

 1. ask     both sides who they are and which topics they have, and the ledger whether the lane is still ours
 2. fence   ``init_transactions``: an older producer of the lane can commit nothing from here on
 3. read    the ledger to its end, and look again whose lane it is
 4. claim   the lane, in a transaction of its own; the first lane finds out the process's generation by that
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

import logging
import math
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import structlog

from connectors import kafka
from connectors.replicator.bandwidth import Bandwidth
from connectors.replicator.errors import Fenced, SameCluster, Stopped
from connectors.replicator.ledger import Ledger, Position, Progress, Unreadable
from connectors.replicator.metrics import Metrics
from connectors.replicator.spec import LaneSpec, Tenure
from connectors.replicator.survey import LogShorter, Partition, Route, place, survey
from connectors.replicator.transactions import Line, Transactions

_log = structlog.get_logger("headwater.replicator")

# Seconds.
_CALL = 5.0  # a question to a broker
_SURVEY = 3.0
_HEARTBEAT = 5.0
_IDLE = 0.2
_BACKOFF = (0.5, 5.0)
_NEIGHBOURS = 0.1  # how often a lane that rests looks at the others
_LONGEST_YIELD = 30.0  # to somebody who took our transactional id
_SAME_DISPUTE = 120.0
_PATIENCE = 15.0  # with a source that says that its log is shorter than it was; one that just came up may err

#: Our transactional id is another producer's now.
_TAKEN = (kafka.KafkaError._FENCED, kafka.KafkaError.PRODUCER_FENCED, kafka.KafkaError.INVALID_PRODUCER_EPOCH)

# librdkafka's queues are bounded so that a process of three lanes stays small at full rate.
_PRODUCER: Mapping[str, Any] = {
    "transaction_timeout_ms": 60_000,
    "message_timeout_ms": 50_000,
    "socket_keepalive_enable": True,
    # A transaction is the stronger promise: what fails in it fails all of it.
    "enable_gapless_guarantee": False,
    "delivery_report_only_error": True,
    "linger_ms": 5,
    "partitioner": "murmur2_random",  # as Java's producers do, where the partition counts differ
    "queue_buffering_max_kbytes": 4096,
    # A record takes some 300 bytes of the client's own: short ones would be many.
    "queue_buffering_max_messages": 10_000,
    # Whether a record is too large is for the target to say: it may compress well.
    "message_max_bytes": 100_000_000,
}
_CONSUMER: Mapping[str, Any] = {
    # What the source lost before it was replicated has to be counted, so an error is wanted.
    "auto_offset_reset": "error",
    "queued_max_messages_kbytes": 1024,
    "queued_min_messages": 5000,
    # What is below these bounds again is asked for at once, not a second later.
    "fetch_queue_backoff_ms": 5,
    "fetch_message_max_bytes": 262_144,
    "fetch_max_bytes": 1_048_576,
    "fetch_wait_max_ms": 500,
    "socket_timeout_ms": 12_000,
    "socket_keepalive_enable": True,
}


class Lane:
    """Runs in one thread; other threads may read its public attributes.

    ``source`` and ``target`` answer questions about topics and offsets, for several lanes: a client takes a megabyte
    and three threads. What is carried has connections of its own.
    """

    def __init__(
        self,
        spec: LaneSpec,
        *,
        source: kafka.AdminClient,
        target: kafka.AdminClient,
        tenure: Tenure,
        metrics: Metrics,
        stop: threading.Event,
        bandwidth: Bandwidth | None,
    ) -> None:
        self.spec = spec
        self.trouble: str | None = "not connected yet"
        self.routes: Mapping[str, Route] = {}
        self.progress: Mapping[Partition, Position] | None = None
        self.turned = time.monotonic()  # when the loop last came round
        self._tenure = tenure
        self._metrics = metrics
        self._stop = stop
        self._bandwidth = bandwidth
        self._short_since: float | None = None
        #: Times in a row that our transactional id was taken, and when it was last.
        self._fences = 0
        self._fenced_at = -math.inf
        self._line = Line()
        self.source, self._target = source, target
        self._ledger = Ledger(
            cluster=spec.target, client=self._target, gateway=spec.gateway, partition=spec.number, partitions=spec.lanes
        )
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
            except Stopped:
                return
            except (kafka.KafkaException, kafka.Unreachable, Unreadable, TimeoutError) as exc:
                reason = self._words(exc)
                if self.trouble is None:
                    pause = _BACKOFF[0]
                    self._metrics.connected.labels(self.spec.name).set(0)
                    self._metrics.restarts.labels(self.spec.name).inc()
                    self._log.warning("interrupted", reason=reason)
                elif reason != self.trouble:  # a cut of days must not fill the disk with one line
                    self._log.log(logging.WARNING if _refused(exc) else logging.INFO, "not connected", reason=reason)
                self.trouble = reason
                self.turned = time.monotonic()
                self._pause(pause, at_least=self._give_time(exc))
                pause = min(pause * 2, longest)

    def _pause(self, seconds: float, *, at_least: float) -> None:
        """Rest before the next session; no longer than ``at_least`` once another lane has found the line whole."""
        began = time.monotonic()
        self._stop.wait(at_least)
        while (left := began + seconds - time.monotonic()) > 0 and self._tenure.connected_at < began:
            if self._stop.wait(min(left, _NEIGHBOURS)):
                return

    def _words(self, exc: Exception) -> str:
        """What went wrong, for people. A bare code is the target's; what the source says has its words by then."""
        if not isinstance(exc, kafka.KafkaException) or isinstance(exc, kafka.NotAllowed):
            return str(exc)
        target = self.spec.target
        if exc.args[0].code() in kafka.SILENCE:
            return f"{kafka.silence(target)} ({exc.args[0].str()})"
        return kafka.in_words(exc.args[0], target)

    def _give_time(self, exc: Exception) -> float:
        """How long to let a newcomer be that took our transactional id, so that it can say so in the ledger.

        Taken back at once, the id would be taken from it before it could, and so on for ever. It may as well have been
        the coordinator, which ends a transaction that was left open in a cut: then the first wait is in vain.
        """
        fenced = isinstance(exc, kafka.KafkaException) and exc.args[0].code() in _TAKEN
        if not (fenced and self._tenure.known.is_set()):
            return 0.0
        now = time.monotonic()
        self._fences = self._fences + 1 if now - self._fenced_at < _SAME_DISPUTE else 1
        self._fenced_at = now
        return min(2.0**self._fences, _LONGEST_YIELD)

    def _session(self) -> None:
        spec = self.spec
        self._refuse_one_cluster()
        # Nothing is taken as known: perhaps a topic that is gone from the target is what ended the session before.
        self.routes = self._look({})
        self._ledger.ensure(_CALL)
        while not (spec.leads or self._tenure.known.wait(_IDLE)):
            self._go_on()
        self._check_claim(self._ledger.read(_CALL, settled=False))
        self._go_on()
        # Before the transactional id is ours: from then on until our word is said, every second counts.
        others = [] if self._tenure.known.is_set() else self._other_words()
        batch_bytes = _batch_bytes(self.routes)
        producer = kafka.producer(
            spec.target,
            transactional_id=spec.transactional_id,
            compression_type=spec.compression,
            batch_size=batch_bytes,
            request_timeout_ms=int(self._line.patience * 1000),
            socket_timeout_ms=int(self._line.patience * 1000) + 2000,
            **_PRODUCER,
        )
        consumer: kafka.Consumer | None = None
        try:
            consumer = kafka.consumer(spec.source, spec.group, **_CONSUMER)
            # Who leads the topics: the first records would wait for that, a second or more. Over a long line it takes
            # its time as well, so it too is asked before the id is ours.
            for client, topics in ((producer, (self._ledger.topic, *self.routes)), (consumer, self.routes)):
                for topic in topics:
                    client.list_topics(topic, timeout=_CALL)
                    self._go_on()
            producer.init_transactions(_CALL)
            word = self._ledger.read(_CALL, settled=True)
            self._check_claim(word)
            transactions = Transactions(
                spec=spec,
                producer=producer,
                consumer=consumer,
                ledger=self._ledger,
                tenure=self._tenure,
                line=self._line,
                bandwidth=self._bandwidth,
                metrics=self._metrics,
                stop=self._stop,
                topic_ids=dict(word.topic_ids) if word else {},
                positions=dict(word.positions) if word else {},
            )
            self._claim(word, others, transactions)
            self._go_on()
            self._assign(transactions)
            self._log.info("connected", topics=sorted(self.routes))
            self.trouble = None
            self._tenure.connected_at = time.monotonic()
            self._metrics.connected.labels(spec.name).set(1)
            self._carry(transactions, batch_bytes)
        finally:
            if consumer is not None:
                consumer.close()
            producer.purge(blocking=False)

    def _go_on(self) -> None:
        self.turned = time.monotonic()
        if self._stop.is_set():
            raise Stopped

    def _refuse_one_cluster(self) -> None:
        source, target = self.spec.source, self.spec.target
        if kafka.cluster_id(source, timeout=_CALL) != kafka.cluster_id(target, timeout=_CALL):
            return
        # Images with a fixed id and copied settings give several clusters the same one. A topic's id is always random.
        ids = set()
        for cluster, client in ((source, self.source), (target, self._target)):
            ledger = replace(self._ledger, cluster=cluster, client=client)
            ledger.ensure(_CALL)
            facts = kafka.describe_topics(client, [ledger.topic], timeout=_CALL).get(ledger.topic)
            if facts is None:
                raise kafka.Unreachable(f"{cluster.bootstrap} does not tell of its new topic {ledger.topic} yet")
            ids.add(facts.id)
        if len(ids) == 1:
            raise SameCluster(
                f"{source.bootstrap} and {target.bootstrap} are one Kafka cluster; --edge and --cloud have to be two"
            )

    def _look(self, known: Mapping[str, Route]) -> dict[str, Route]:
        spec = self.spec
        return survey(self.source, self._target, (spec.source, spec.target), spec.topics, known, timeout=_CALL)

    def _check_claim(self, word: Progress | None) -> None:
        """Give way to a higher generation."""
        mine = self._tenure
        if mine.known.is_set() and word is not None and word.generation > mine.generation:
            raise Fenced(
                f"another replicator of gateway {self.spec.gateway} took over lane {self.spec.name} ({word.where}); "
                f"this one ({mine.where}) gives way"
            )

    def _claim(self, word: Progress | None, others: Sequence[Progress], transactions: Transactions) -> None:
        """Say in the ledger that the lane is ours; the first time the leading lane finds out our generation by that."""
        mine = self._tenure
        if mine.known.is_set():
            transactions.say_only()
            return
        mine.generation = 1 + max((said.generation for said in (word, *others) if said), default=0)
        transactions.say_only()
        mine.known.set()

    def _other_words(self) -> list[Progress]:
        """The last words of all lanes on both sides: a side that is new must not make us older than the other one says.

        A ledger that cannot be read is left out; the lane whose it is says so and does not run.
        """
        words = []
        for cluster, client in ((self.spec.target, self._target), (self.spec.source, self.source)):
            facts = kafka.describe_topics(client, [self._ledger.topic], timeout=_CALL).get(self._ledger.topic)
            for number in range(facts.partitions if facts else 0):
                ledger = replace(self._ledger, cluster=cluster, client=client, partition=number)
                with suppress(Unreadable):
                    word = ledger.read(_CALL, settled=False)
                    if word is not None:
                        words.append(word)
                self._go_on()
        return words

    def _assign(self, transactions: Transactions) -> None:
        """Read every partition of every route from where the ledger says, as far as the source still has that."""
        now = time.monotonic()
        try:
            placed, lost = place(
                self.source,
                self.routes,
                transactions.topic_ids,
                transactions.positions,
                self._metrics,
                timeout=_CALL,
                believe_short=self._short_since is not None and now - self._short_since > _PATIENCE,
            )
        except LogShorter:
            self._short_since = self._short_since or now
            raise
        self._short_since = None
        transactions.assign(self.routes, placed, lost)
        self.progress = dict(transactions.positions)

    def _carry(self, transactions: Transactions, batch_bytes: int) -> None:
        """Transactions as long as there is something to carry, and a look around now and then."""
        waiting: list[kafka.Message] = []
        surveyed = time.monotonic()
        while True:
            self._go_on()
            if time.monotonic() - surveyed > _SURVEY:
                routes = self._look(self.routes)
                if routes != self.routes:
                    self.routes = routes
                    if _batch_bytes(routes) < batch_bytes:
                        raise kafka.Unreachable("a topic that is new takes smaller batches only")
                    self._assign(transactions)
                    waiting = []  # the new assignment reads them again
                surveyed = time.monotonic()
            waiting = waiting or transactions.next(_IDLE)
            if waiting:
                waiting = transactions.carry(waiting)
                self.progress = transactions.positions
            elif time.monotonic() - transactions.committed > _HEARTBEAT:
                # Finds out about a line that is cut and a lane that was taken over; keeps the id from expiring.
                transactions.say_only()


def _refused(exc: Exception) -> bool:
    """By the target's access control, and it has not been put in words yet."""
    return (
        isinstance(exc, kafka.KafkaException)
        and not isinstance(exc, kafka.NotAllowed)
        and exc.args[0].code() in kafka.REFUSALS
    )


def _batch_bytes(routes: Mapping[str, Route]) -> int:
    """Of the producer: below what the pickiest topic takes at once."""
    return max(1024, min([500_000, *(route.largest * 9 // 10 for route in routes.values())]))
