"""How far a lane has come, and whose lane it is: kept on the target, written with the records.

One compacted topic a gateway, one partition a lane, so that no other lane's open transaction hides a lane's last word.
Each transaction ends with one such word: the whole `Progress` of the lane. It is the only truth about positions;
what committed is told there, what did not is not.

It is also the claim. The transactional id makes the broker fence the older of two producers, but a producer also loses
its epoch to a timeout, and making a new one would in turn fence a successor. So who owns the lanes is said here: the
process of the highest generation. The first lane hands generations out, one more than the last, in a transaction that
only one of two can commit; so also of two that start at once exactly one stays. Who reads a higher generation than its
own gives way and never fights; who reads a lower one takes over.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass

from connectors import kafka

_SETTINGS = {
    "cleanup.policy": "compact",
    # Small segments and an eager cleaner: the topic stays as small as what it says.
    "segment.bytes": "1048576",
    "min.cleanable.dirty.ratio": "0.1",
    # Its truth must not depend on how a clock of one side stands to the other's.
    "message.timestamp.after.max.ms": "9223372036854775807",
}
_LOOK_BACK = 200


class Unreadable(Exception):
    """What the ledger holds is no progress of ours; the text says which topic to look at."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where to go on in one source partition: the next offset, and the time stamp (ms) of the record before it."""

    offset: int
    timestamp: int


@dataclass(frozen=True, slots=True)
class Progress:
    """A lane's last word. ``topic_ids`` tells a source topic from a later one of the same name."""

    generation: int  # of the process that says it: 1 for the first that ever ran
    instance: str
    where: str  # host and process id of the instance, for people
    topic_ids: Mapping[str, str]
    positions: Mapping[tuple[str, int], Position]

    def encode(self) -> bytes:
        """The JSON that `decode` reads."""
        topics: dict[str, dict[str, object]] = {name: {"id": i, "partitions": {}} for name, i in self.topic_ids.items()}
        for (topic, partition), at in self.positions.items():
            partitions = topics[topic]["partitions"]
            assert isinstance(partitions, dict)
            partitions[str(partition)] = [at.offset, at.timestamp]
        said = {
            "version": 1,
            "generation": self.generation,
            "instance": self.instance,
            "where": self.where,
            "topics": topics,
        }
        return json.dumps(said, separators=(",", ":")).encode()

    @staticmethod
    def decode(data: bytes) -> Progress:
        """Raises Unreadable on anything but what `encode` wrote."""
        try:
            said = json.loads(data)
            if said["version"] != 1:
                raise Unreadable(f"it is of version {said['version']!r}")
            return Progress(
                generation=int(said["generation"]),
                instance=str(said["instance"]),
                where=str(said["where"]),
                topic_ids={name: str(topic["id"]) for name, topic in said["topics"].items()},
                positions={
                    (name, int(partition)): Position(int(offset), int(timestamp))
                    for name, topic in said["topics"].items()
                    for partition, (offset, timestamp) in topic["partitions"].items()
                },
            )
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            raise Unreadable(f"{data[:200]!r} is no progress of a lane") from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """One lane's partition of the gateway's ledger on one cluster."""

    cluster: kafka.Cluster
    client: kafka.AdminClient
    gateway: str
    partition: int
    partitions: int

    @property
    def topic(self) -> str:
        return f"headwater.replicator.{self.gateway}"

    def ensure(self, timeout: float) -> None:
        """Make the topic if it is not there.

        Raises:
            Unreadable: there is one that is not ours: it has too few partitions, or forgets.
            kafka.Unreachable, kafka.KafkaException: the cluster.
        """
        facts = kafka.describe_topics(self.client, [self.topic], timeout=timeout).get(self.topic)
        if facts is None:
            config = {self.topic: _SETTINGS}
            kafka.ensure_topics(self.cluster, {self.topic: self.partitions}, config=config, timeout=timeout)
            return
        if facts.partitions < self.partitions:
            raise Unreadable(f"topic {self.topic} has {facts.partitions} partitions, {self.partitions} are needed")
        policy = kafka.topic_configs(self.client, [self.topic], timeout=timeout)[self.topic]["cleanup.policy"]
        if policy != "compact":
            raise Unreadable(f"topic {self.topic} has cleanup.policy={policy}, it must be 'compact' or it forgets")

    def read(self, timeout: float, *, settled: bool) -> Progress | None:
        """The lane's last committed word, or None if it never said one.

        ``settled``: after ``init_transactions`` of the lane's own id nothing of it is open any more, and the word is
        read to the very end. Before that an open transaction may end any time; then the word is only the last so far.

        Raises:
            Unreadable: the last word is not ours.
            kafka.Unreachable: the end was not reached within ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        here = (self.topic, self.partition)
        first, end = kafka.log_bounds(self.client, [here], committed=False, timeout=timeout)[here]
        look_back = _LOOK_BACK
        while first < end:
            start = max(first, end - look_back)
            data = self._last(start, end if settled else start, deadline)
            if data is not None:
                try:
                    return Progress.decode(data)
                except Unreadable as exc:
                    raise Unreadable(f"the last record of {self.topic}/{self.partition} is not ours: {exc}") from exc
            if start == first:
                break
            look_back *= 10
        return None

    def _last(self, start: int, end: int, deadline: float) -> bytes | None:
        """The last committed value from ``start`` on; up to ``end`` at least, waiting for what is open there."""
        last: bytes | None = None
        with kafka.glance(
            self.cluster,
            f"headwater-replicator.{self.gateway}",
            enable_partition_eof=True,
            fetch_wait_max_ms=10,  # until the end is told
        ) as reader:
            reader.assign([kafka.TopicPartition(self.topic, self.partition, start)])
            while True:
                message = reader.poll(max(0.0, deadline - time.monotonic()))
                if message is None:
                    raise kafka.Unreachable(f"{self.topic} could not be read to its end in time")
                error = message.error()
                if error is None:
                    last = message.value() or last
                elif error.code() == kafka.KafkaError._PARTITION_EOF:
                    if (message.offset() or 0) >= end:
                        return last
                elif error.fatal() or error.code() == kafka.KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise kafka.KafkaException(error)
