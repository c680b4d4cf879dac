"""What a sink is: the one protocol between the runner and every store.

Owns the shape of a record on its way into a store, and the two ways in which a store says no. It knows no store and no
Kafka client.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, runtime_checkable

from schemas.avro.records import Key, Record
from schemas.avro.topics import TopicKind


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkRecord:
    """One record of a topic, decoded.

    (topic, partition, offset) is its identity: the same record may come again and must then change nothing; unless it
    is ``redecoded``.
    """

    topic: str
    partition: int
    offset: int
    #: Of the Kafka record, epoch milliseconds.
    timestamp: int
    headers: tuple[tuple[str, bytes | None], ...] = ()
    key: Key | None
    record: Record
    #: The gateway id, from the topic's name.
    gateway: str
    #: True if its values were read again by a definition that was not known when it was written: a store that
    #: `SinkKind.corrects` puts them in the place of what it has under this identity.
    redecoded: bool = False

    def header(self, name: str) -> bytes | None:
        """The last value under ``name``, or None."""
        return next((value for key, value in reversed(self.headers) if key == name), None)


class SinkError(Exception):
    """Root of what a sink raises.

    SinkError
     x RetryLater       the store cannot take anything now: nothing was written
     x RejectedRecords  the store will never take these; everything else of the batch was written
     x SinkConfigError  the options are wrong: people must act, trying again is of no use
    """


class RetryLater(SinkError):
    """The store is down, locked or full: nothing of the batch was written, the same batch will be offered again.

    ``after_s`` is the wait that the store asks for, in seconds; None leaves it to the runner's back-off.
    """

    def __init__(self, reason: str, after_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.after_s = after_s


class RejectedRecords(SinkError):
    """Records that the store refuses for what they hold; **all others of the batch have been written**."""

    def __init__(self, rejected: Sequence[tuple[SinkRecord, str]]) -> None:
        super().__init__(f"{len(rejected)} records refused, the first: {rejected[0][1]}")
        self.rejected = tuple(rejected)


class SinkConfigError(SinkError):
    """The sink cannot work with these options; the text says what to change."""


class Sink(Protocol):
    """An open store. It is made, used and closed in one thread."""

    def write(self, records: Sequence[SinkRecord]) -> None:
        """Write all of ``records``, durably, in order; a record that was written before changes nothing.

        Raises:
            RetryLater: nothing was written; offer the same batch again.
            RejectedRecords: all but these have been written.
        """
        ...

    def close(self) -> None:
        """Let go of the store; never raises for a store that is down."""
        ...


@runtime_checkable
class Remembers(Protocol):
    """A sink that remembers what it was given, for `Start.BEGINNING`: it is told which partitions are its no more."""

    def lost(self, partitions: Collection[tuple[str, int]]) -> None:
        """Forget what came from these (topic, number): another instance reads them, from their beginning."""
        ...


class Start(Enum):
    """Where an instance begins to read a partition that it is given."""

    #: Where the group has come to.
    COMMITTED = "committed"
    #: At its first record, each time: the store keeps nothing, and all that the topic says is needed to serve it.
    BEGINNING = "beginning"


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkKind:
    """A row of `connectors.sinks.SINKS`."""

    name: str
    #: Options (as in `sample_config`) to an open sink; raises SinkConfigError. A store that is down is no error here.
    open: Callable[[Mapping[str, object]], Sink]
    #: The topic families that it stores.
    topics: tuple[TopicKind, ...]
    #: TOML with every option, its default and a comment; the documentation and the configuration file start from it.
    #: Its first line is a comment that says what the store keeps.
    sample_config: str
    start: Start = Start.COMMITTED
    #: True if a record that is ``redecoded`` replaces what the store has of it.
    corrects: bool = False
    #: The module that opening it imports, which comes with the extra of the sink's name; None: nothing beyond our own.
    library: str | None = None

    @property
    def stores(self) -> str:
        """What the store keeps, in one sentence."""
        return self.sample_config.partition("\n")[0].lstrip("# ").rstrip()
