"""The recent past, taken back from the edge Kafka: at the start, and whenever the producer has been made anew.

Owns the waiting for Kafka and when it is read; how it is read is `gateway.recovery`'s. Until all of it is known nothing
is taken from a device: what was handed to a producer that failed is in Kafka or it is not, and Kafka itself tells.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

from connectors.kafka import Cluster, KafkaException, Unreachable, ensure_topics, partition_counts
from gateway.journal import Journal
from gateway.parts import Parts, wall_ms
from gateway.recovery import Recovered, recover
from gateway.registry import WINDOW
from gateway.state import Positions
from schemas.avro.topics import Topics

_log = structlog.get_logger("headwater.gateway")

_RETRY_SECONDS = 1.0


class RecentPast:
    """That of one gateway; ``spawn`` runs work beside."""

    def __init__(
        self, cluster: Cluster, topics: Topics, journal: Journal, spawn: Callable[[Coroutine[Any, Any, None]], None]
    ) -> None:
        self._cluster = cluster
        self._topics = topics
        self._journal = journal
        self._spawn = spawn
        #: How often the producer was made anew.
        self._renewals = 0

    async def partitions(self) -> dict[str, int]:
        """Wait for Kafka; how many partitions each of the gateway's topics has, which are made where they are not."""
        complained = False
        while True:
            try:
                return await asyncio.to_thread(self._partitions)
            except (Unreachable, KafkaException) as exc:
                if not complained:
                    complained = True
                    _log.warning("waiting for the edge Kafka", reason=str(exc))
            await asyncio.sleep(_RETRY_SECONDS)

    def _partitions(self) -> dict[str, int]:
        wanted = self._topics.partitions()
        ensure_topics(self._cluster, wanted)
        counts = partition_counts(self._cluster, list(wanted))
        missing = [name for name in wanted if name not in counts]
        if missing:
            raise Unreachable(f"topics are not ready yet: {', '.join(missing)}")
        return counts

    async def read(self, *, unanswered: bool, positions: Positions) -> Recovered:
        """What is in Kafka; the arguments as in `gateway.recovery.recover`."""
        while True:
            try:
                return await asyncio.to_thread(
                    recover,
                    self._cluster,
                    self._topics,
                    window=WINDOW,
                    now_ms=wall_ms(),
                    unanswered=unanswered,
                    positions=positions,
                    journalled=self._journal.entries(),
                )
            except (Unreachable, KafkaException) as exc:
                _log.warning("the edge Kafka went away while the recent past was read", reason=str(exc))
                await asyncio.sleep(_RETRY_SECONDS)

    async def take_back(self, parts: Parts, reading: Awaitable[Recovered]) -> None:
        """Know what is in Kafka; what of the journal is not goes there, in front of all that is taken later."""
        renewals = self._renewals
        while True:
            found = await reading
            # A producer that failed meanwhile has a renewal of its own, which looks once more.
            if self._renewals != renewals or parts.take_back(found):
                return
            # What was handed over must be there, or known not to be, before Kafka is asked again.
            while not await parts.uplink.drained(_RETRY_SECONDS) and self._renewals == renewals:
                pass
            reading = self._read_again(parts)

    def _read_again(self, parts: Parts) -> Awaitable[Recovered]:
        commands = parts.commands
        return self.read(unanswered=commands.unanswered > 0, positions=commands.positions)

    def renew_soon(self, parts: Parts) -> None:
        """The producer is new: take back what its predecessor left, and reopen the uplink then."""
        self._renewals += 1
        self._spawn(self._renew(parts))

    async def _renew(self, parts: Parts) -> None:
        renewals = self._renewals
        parts.batches.forget_undelivered(list(parts.registry))
        while True:
            try:
                # Kafka may have come back without its topics.
                await self.partitions()
                await self.take_back(parts, self._read_again(parts))
                break
            except Exception:  # noqa: BLE001  # whatever it is, a gateway that stayed shut would be worse
                _log.exception("the recent past cannot be read, trying again")
                await asyncio.sleep(_RETRY_SECONDS)
        if self._renewals == renewals:
            parts.uplink.reopen()
