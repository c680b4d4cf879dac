"""Dead letters: records that could not be handled, kept in ``iot.<gw>.deadletter`` as they came, with the reason.

Owns how a dead letter is written and read back. Key, value and headers are the record's own; added are the headers
``error`` and ``stage`` (``decode``, ``sink:sqlite``, …) and the record's origin: ``origin.topic``,
``origin.partition``, ``origin.offset`` and ``origin.timestamp`` (decimal text; epoch ms). It never decides what is one.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import structlog

from connectors.kafka import (
    Cluster,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    Unreachable,
    ensure_topics,
    producer,
)
from schemas.avro.topics import FAMILIES, TopicKind, Topics

_log = structlog.get_logger("headwater.deadletters")

Header = tuple[str, bytes | None]

ERROR = "error"
STAGE = "stage"
ORIGIN_TOPIC = "origin.topic"
ORIGIN_PARTITION = "origin.partition"
ORIGIN_OFFSET = "origin.offset"
ORIGIN_TIMESTAMP = "origin.timestamp"
#: The headers of a dead letter that are not its record's.
OURS = frozenset({ERROR, STAGE, ORIGIN_TOPIC, ORIGIN_PARTITION, ORIGIN_OFFSET, ORIGIN_TIMESTAMP})

#: Of the ``error`` header; a reason may quote what a device sent.
MAX_REASON_BYTES = 1000
#: Above what any broker takes by default, so that it is the broker who says no, and not the client.
_MAX_RECORD_BYTES = 100_000_000
#: A pause after Kafka refused something: it says so at once, and again as often as it is asked.
_REFUSED_S = 0.5
_TOO_LARGE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE})


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRecord:
    """A record as it stands in Kafka, undecoded; ``timestamp`` in epoch milliseconds."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    headers: tuple[Header, ...]
    key: bytes | None
    value: bytes | None

    @property
    def size(self) -> int:
        """The bytes that it holds, roughly."""
        return 100 + len(self.key or b"") + len(self.value or b"") + sum(len(v or b"") + 20 for _, v in self.headers)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A record and why it could not be handled, at which stage."""

    record: RawRecord
    error: str
    stage: str


def raw_record(message: Message) -> RawRecord:
    """What a consumer got, which must not be an error."""
    return RawRecord(
        topic=message.topic(),
        partition=message.partition(),
        offset=message.offset(),
        timestamp=message.timestamp()[1],
        headers=tuple(message.headers() or ()),
        key=message.key(),
        value=message.value(),
    )


def read_back(letter: RawRecord) -> DeadLetter | None:
    """The record that a dead letter was made from, with its own identity; None if the headers do not tell it."""
    said = {name: (value or b"").decode("utf-8", "replace") for name, value in letter.headers if name in OURS}
    try:
        Topics.of(said[ORIGIN_TOPIC])
        origin = RawRecord(
            topic=said[ORIGIN_TOPIC],
            partition=int(said[ORIGIN_PARTITION]),
            offset=int(said[ORIGIN_OFFSET]),
            timestamp=int(said[ORIGIN_TIMESTAMP]),
            headers=tuple(header for header in letter.headers if header[0] not in OURS),
            key=letter.key,
            value=letter.value,
        )
        return DeadLetter(record=origin, error=said[ERROR], stage=said[STAGE])
    except (KeyError, ValueError):  # UnknownTopic among them
        return None


class DeadLetterOffice:
    """Produces dead letters and knows when all of them are durable. Used by one thread."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._producer: Producer | None = None
        self._ensured: set[str] = set()

    def deliver(self, letters: Sequence[DeadLetter], goes_on: Callable[[], bool]) -> bool:
        """Produce ``letters`` and wait until every one of them is acknowledged by all replicas.

        ``goes_on`` is asked again and again while Kafka is slow or away; once it says False the wait ends, and False is
        returned: then nothing may be committed. A letter that is too large with its headers goes without its value.
        """
        open_letters = dict(enumerate(letters))
        unsent = deque(open_letters)
        failed: list[tuple[int, KafkaError]] = []
        while open_letters:
            sender = self._sender()
            # The first that cannot go holds the others up: each of them would wait for the same thing as long.
            while unsent and self._send(sender, unsent[0], open_letters, failed):
                unsent.popleft()
            try:
                sender.flush(0.5)
            except KafkaException as exc:
                # The producer failed for good and reports nothing any more: all that is open goes through a new one.
                self.close()
                unsent, failed = deque(open_letters), []
                for first in list(open_letters.values())[:1]:
                    self._not_yet(first, exc.args[0], len(open_letters))
            kept: list[tuple[int, KafkaError]] = []
            while failed:
                number, error = failed.pop()
                unsent.append(number)
                if error.code() in _TOO_LARGE:
                    open_letters[number] = shorter(open_letters[number])
                else:
                    kept.append((number, error))
            if kept:
                self._not_yet(open_letters[kept[0][0]], kept[0][1], len(kept))
            if open_letters and not goes_on():
                self.close()
                return False
        return True

    def close(self) -> None:
        """Let go of the producer; what was not delivered was not committed either."""
        sender, self._producer = self._producer, None
        if sender is not None:
            sender.purge()
            with contextlib.suppress(KafkaException):  # of one that failed for good
                sender.flush(0.5)

    def _sender(self) -> Producer:
        if self._producer is None:
            # Not gapless: a dead letter that the broker refuses must not take the others with it.
            self._producer = producer(
                self._cluster, enable_gapless_guarantee=False, message_max_bytes=_MAX_RECORD_BYTES
            )
        return self._producer

    def _send(
        self,
        sender: Producer,
        number: int,
        open_letters: dict[int, DeadLetter],
        failed: list[tuple[int, KafkaError]],
    ) -> bool:
        """True if the letter is on its way; its end is told by ``open_letters`` or ``failed``. False: not yet."""
        letter = open_letters[number]
        record = letter.record
        topics, _ = Topics.of(record.topic)
        topic = topics.deadletter

        def report(error: KafkaError | None, _message: Message) -> None:
            if error is None:
                open_letters.pop(number, None)
            else:
                failed.append((number, error))

        try:
            if topic not in self._ensured:
                ensure_topics(self._cluster, {topic: FAMILIES[TopicKind.DEADLETTER].partitions}, timeout=2.0)
                self._ensured.add(topic)
        except KafkaException as exc:
            self._not_yet(letter, exc.args[0], 1)
            return False
        except Unreachable:
            return False
        try:
            sender.produce(
                topic, key=record.key, value=record.value, headers=letter_headers(letter), on_delivery=report
            )
        except KafkaException as exc:
            failed.append((number, exc.args[0]))
        except BufferError:
            return False
        return True

    def _not_yet(self, first: DeadLetter, error: KafkaError, count: int) -> None:
        """Kafka refused ``count`` letters: say so once, and come again with all of it anew, but not at once."""
        topic = Topics.of(first.record.topic)[0].deadletter
        _log.warning("dead letters not delivered yet", topic=topic, count=count, error=error.str())
        self._ensured.clear()
        if error.fatal():
            self.close()
        time.sleep(_REFUSED_S)


def shorter(letter: DeadLetter) -> DeadLetter:
    """What to send of a letter that is too large: first without the value, then without key and headers as well."""
    record = letter.record
    note = f"{letter.error} [too large for a dead letter; look at its origin]"
    if record.value is not None:
        return replace(letter, record=replace(record, value=None), error=note)
    return replace(letter, record=replace(record, key=None, headers=()), error=note)


def letter_headers(letter: DeadLetter) -> list[Header]:
    """The headers of the dead letter: its record's, the reason, the stage, the origin."""
    record = letter.record
    return [
        *record.headers,
        (ERROR, letter.error.encode("utf-8", "replace")[:MAX_REASON_BYTES]),
        (STAGE, letter.stage.encode()),
        (ORIGIN_TOPIC, record.topic.encode()),
        (ORIGIN_PARTITION, str(record.partition).encode()),
        (ORIGIN_OFFSET, str(record.offset).encode()),
        (ORIGIN_TIMESTAMP, str(record.timestamp).encode()),
    ]
