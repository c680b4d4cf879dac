"""An uplink in memory, with the public methods of `gateway.uplink.Uplink` that takers of messages use.

It is Kafka at its edges, on demand: full, away, failing, and durable at the moment that the test says.
"""

from __future__ import annotations

from collections.abc import Callable

from schemas.avro.topics import Topics

Headers = list[tuple[str, bytes]]


class MemoryUplink:
    """Keeps records, and reports them as durable when told."""

    def __init__(self) -> None:
        self.topics = Topics("gw")
        self.partitions = self.topics.partitions()
        self.device_partitions = tuple(
            self.partitions[name] for name in (self.topics.observations, self.topics.registrations, self.topics.replies)
        )
        self.closed: str | None = None
        #: While it is closed: for a short time as yet.
        self.briefly = False
        #: Records that are taken before the queue is full.
        self.room = 1 << 30
        self.records: list[tuple[str, int, bytes, bytes, Headers]] = []
        self.reports: list[tuple[int, Callable[[bool], None]]] = []
        #: Of `produce`.
        self.sent = 0

    @property
    def accepting(self) -> bool:
        return self.closed is None

    def refusal(self) -> str | None:
        return self.closed

    def refuses_briefly(self) -> bool:
        return self.closed is not None and self.briefly

    def send(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        done: Callable[[bool], None] | None,
        *,
        patient: bool = False,
    ) -> bool:
        if len(self.records) >= self.room:
            return False
        self.records.append((topic, partition, key or b"", value or b"", headers))
        if done is not None:
            self.reports.append((partition, done))
        return True

    def produce(
        self, topic: str, value: bytes, key: bytes, partition: int, _: None, __: None, ___: int, headers: Headers
    ) -> None:
        """As the producer's own."""
        if not self.send(topic, partition, key, value, headers, None):
            raise BufferError("the queue is full")

    def report(self, durable: bool = True) -> None:
        reports, self.reports = self.reports, []
        for _, done in reports:
            done(durable)
