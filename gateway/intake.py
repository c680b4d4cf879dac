"""Requests come in: ``iot.<gw>.management.req`` is read, and handed to the event loop in batches, one at a time.

While nothing comes a thread waits for it. From the first record on the event loop looks by itself every moment, until
nothing has come for a while: a batch then costs no change of threads, and what came meanwhile comes together. The
consumer is always with one of the two.

Owns the consumer, its position and back-pressure: the next batch is read when the loop has room for it. Where a start
goes on is told by the gateway's own state (`gateway.progress`), which knows the topic by its id. The offsets committed
to Kafka follow it, for people who watch the lag; a gateway without its state goes on from them. Never decides what
becomes of a request.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

import structlog

from connectors import kafka
from connectors.kafka import Cluster, Consumer, KafkaException, Message, TopicMissing, TopicPartition, Unreachable
from gateway.request_records import RawRequest, next_positions
from gateway.state import Positions

_log = structlog.get_logger("headwater.intake")

#: Records a batch, at most: small enough that the loop is not held up.
BATCH = 256
_POLL = 0.1
#: How often the event loop looks while requests come: so often after a small batch, and after one of `_MANY` or more.
_AGAIN = 0.001
_AGAIN_AFTER_MANY = 0.003
_MANY = 8
#: After so long without a request the thread waits for them again.
_QUIET = 0.02
_COMMIT_EVERY = 1.0
_RETRY = 1.0
_TIMEOUT = 10.0
#: Where no requests come, Kafka is asked this often whether it answers at all, and given so long.
_LOOK_EVERY = 5.0
_LOOK = 3.0


#: Takes a batch on the event loop, and calls the second argument there when there is room for the next.
Take = Callable[[list[RawRequest], Callable[[], None]], None]
#: Told on the event loop, before the first batch, what is there to be read: by partition, from one offset to another.
Reading = Callable[[Mapping[int, range]], None]


class Intake:
    """The consumer thread. It lives from `start` to `stop`, whatever Kafka does meanwhile."""

    def __init__(
        self,
        cluster: Cluster,
        topic: str,
        partitions: int,
        group: str,
        positions: Positions,
        reading: Reading,
        take: Take,
    ) -> None:
        """``positions`` are the state's; ``group`` names the committed offsets."""
        self._cluster = cluster
        self._topic = topic
        self._partitions = partitions
        self._group = group
        self._positions = positions
        self._topic_id = ""
        #: Why Kafka gives no requests, or None; may be read from any thread.
        self.trouble: str | None = None
        self._looked = 0.0
        self._complained = ""
        self._reading = reading
        self._take = take
        self._pausing = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        #: Set when the loop gives the consumer back; what it failed with there; until when it looks (loop's time).
        self._thread_again = threading.Event()
        self._failure: Exception | None = None
        self._looks_until = 0.0
        #: What is done with, as the loop says and as Kafka was told; when it was told last.
        self._passed: Positions = {}
        self._committed: Positions = self._passed
        self._committed_at = 0.0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to read."""
        self._loop = loop
        self._thread = threading.Thread(target=self._run, args=(loop,), name="request-intake", daemon=True)
        self._thread.start()

    def passed(self, positions: Positions) -> None:
        """Everything before these offsets is done with: a start will go on from there."""
        self._passed = positions

    def pause(self) -> None:
        """Read no more; what is done with meanwhile is still committed by `stop`."""
        self._pausing.set()

    async def stop(self, *, timeout: float = 5.0) -> None:
        """End the thread."""
        self._pausing.set()
        self._stopping.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, timeout)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._pausing.is_set():
            reader = kafka.consumer(self._cluster, self._group)
            try:
                self._assign(reader, loop)
                self._answers()
                while not self._pausing.is_set():
                    self._read(reader, loop)
                self._stopping.wait()
                self._commit(reader, every=0.0)
            except (KafkaException, Unreachable, TopicMissing) as exc:
                # Nothing is lost: the next consumer goes on at the same place.
                silent = isinstance(exc, KafkaException) and exc.args[0].code() in kafka.SILENCE
                words = kafka.silence(self._cluster) if silent else str(exc)
                self._complain("requests cannot be read, trying again", words)
                self.trouble = f"requests cannot be read: {words}"
                self._pausing.wait(_RETRY)
            finally:
                with suppress(KafkaException, RuntimeError):
                    reader.close()

    def _assign(self, reader: Consumer, loop: asyncio.AbstractEventLoop) -> None:
        # No consumer group protocol: there is one gateway (its state is locked), and after a kill -9 it must not wait
        # for its predecessor's session to time out.
        facts = kafka.describe_topics(kafka.admin(self._cluster), [self._topic], timeout=_TIMEOUT).get(self._topic)
        if facts is None:
            raise TopicMissing(f"there is no topic {self._topic}")
        self._topic_id = facts.id
        places = reader.committed([TopicPartition(self._topic, p) for p in range(self._partitions)], timeout=_TIMEOUT)
        there = {}
        for place in places:
            low, high = reader.get_watermark_offsets(place, timeout=_TIMEOUT, cached=False)
            position = self._positions.get((facts.id, place.partition))
            if position is None:
                # The topic is new, or the state is.
                position = place.offset
            # What Kafka lost of its end was read already, and what it dropped at its beginning is gone.
            place.offset = min(max(position, low), high)
            there[place.partition] = range(place.offset, high)
            self._positions = {**self._positions, (facts.id, place.partition): place.offset}
        loop.call_soon_threadsafe(self._reading, there)
        reader.assign(places)

    def _read(self, reader: Consumer, loop: asyncio.AbstractEventLoop) -> None:
        """In the thread: wait for what comes, and let the loop go on from there until nothing comes."""
        # consume() waits for a full batch until its timeout; poll() comes back with the first record.
        first = reader.poll(_POLL)
        if first is None:
            self._commit(reader)
            self._look(reader)
            return
        self._thread_again.clear()
        loop.call_soon_threadsafe(self._go_on, reader, first)
        while not self._thread_again.wait(_POLL):
            if self._pausing.is_set():
                return  # the loop does not touch the consumer again
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        self._commit(reader)

    def _go_on(self, reader: Consumer, first: Message | None = None) -> None:
        """On the loop: hand out what is there, beginning with ``first``."""
        assert self._loop is not None
        if self._pausing.is_set():
            return
        try:
            # Before anything is read: what fails here must not lose it.
            self._commit(reader)
            messages = reader.consume(BATCH, timeout=0) if first is None else [first, *reader.consume(BATCH - 1, 0)]
            batch = self._batch(messages) if messages else []
        except Exception as exc:  # noqa: BLE001  # whatever it is, it is for the thread to deal with
            self._failure = exc
            self._thread_again.set()
            return
        now = self._loop.time()
        if batch:
            self._looks_until = now + _QUIET
            again = _AGAIN if len(batch) < _MANY else _AGAIN_AFTER_MANY
            self._take(batch, lambda: self._look_again(reader, again))
        elif now < self._looks_until:
            self._look_again(reader, _AGAIN)
        else:
            self._thread_again.set()

    def _look_again(self, reader: Consumer, after: float) -> None:
        assert self._loop is not None
        self._loop.call_later(after, self._go_on, reader)

    def _batch(self, messages: list[Message]) -> list[RawRequest]:
        """The records among what the consumer gave.

        Raises:
            KafkaException: it is of no use any more.
            TopicMissing: the topic is another one now.
        """
        messages = [message for message in messages if self._usable(message)]
        if not messages:
            return []
        self._complained = ""
        self._answers()
        if any(message.offset() < self._next(message.partition()) for message in messages):
            raise TopicMissing(f"the topic {self._topic} was made anew")
        batch = [
            RawRequest(
                self._topic,
                self._topic_id,
                message.partition(),
                message.offset(),
                message.timestamp()[1],
                message.key(),
                message.value(),
                tuple(message.headers() or ()),
            )
            for message in messages
        ]
        self._positions = {**self._positions, **next_positions(batch)}
        return batch

    def _look(self, reader: Consumer) -> None:
        """Ask whether Kafka answers: a gateway of which no device speaks would not find out otherwise."""
        if time.monotonic() - self._looked < _LOOK_EVERY:
            return
        try:
            error = reader.list_topics(self._topic, timeout=_LOOK).topics[self._topic].error
        except KafkaException:
            self.trouble = kafka.silence(self._cluster)
            self._complain("the edge Kafka does not answer", self.trouble)
        else:
            if error is not None and error.code() in kafka.REFUSALS:
                self.trouble = kafka.in_words(error, self._cluster)
            else:
                self._answers()
        self._looked = time.monotonic()

    def _answers(self) -> None:
        self._looked = time.monotonic()
        if self.trouble is not None:
            self.trouble = None
            self._complained = ""

    def _next(self, partition: int) -> int:
        return self._positions.get((self._topic_id, partition), 0)

    def _commit(self, reader: Consumer, *, every: float = _COMMIT_EVERY) -> None:
        # Only the people who watch the lag need it, so it is said once a second and not for every batch.
        now = time.monotonic()
        passed = self._passed
        if passed is not self._committed and now - self._committed_at >= every:
            self._committed_at = now
            offsets = [
                TopicPartition(self._topic, p, offset)
                for (topic, p), offset in passed.items()
                if topic == self._topic_id
            ]
            if offsets:
                reader.commit(offsets=offsets)
            self._committed = passed

    def _usable(self, message: Message) -> bool:
        error = message.error()
        if error is None:
            return True
        if error.fatal():
            raise KafkaException(error)
        refused = error.code() in kafka.REFUSALS
        self._complain(
            "requests cannot be read for now", kafka.in_words(error, self._cluster) if refused else error.str()
        )
        return False

    def _complain(self, what: str, why: str) -> None:
        """Once, however often it is met before requests come again."""
        if why != self._complained:
            self._complained = why
            _log.warning(what, topic=self._topic, error=why)
