"""Commands over Kafka: the request topic, the command loop, the replies and the dead letters, wired.

Owns nothing but the wiring; see `gateway.intake` (requests come in), `gateway.command_loop` (what becomes of them),
`gateway.lanes` (the order per device) and `gateway.answering` (replies go out).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from zlib import crc32

from connectors.kafka import Cluster
from gateway.answering import Done, Headers
from gateway.command_loop import CommandLoop
from gateway.device_forms import kafka_place
from gateway.intake import Intake
from gateway.lanes import CoroutineFactory
from gateway.limits import Limits
from gateway.reaching import DeviceGone, DeviceLink, DeviceMoved, DeviceSentReset, DeviceTimeout
from gateway.request_records import RawRequest
from gateway.state import Positions, State, StoredState
from gateway.uplink import MOST_RECORD_BYTES, Uplink
from schemas.lwm2m.objects import Definitions

__all__ = ["Commands", "DeviceGone", "DeviceLink", "DeviceMoved", "DeviceSentReset", "DeviceTimeout", "Limits"]

#: How long `Commands.stop` waits for devices that have a command now.
_STOP_SECONDS = 3.0
_MOST_REASON_BYTES = 1000
#: Of a record that is too large to be buried whole; its origin is in the headers.
_BEGINNING_BYTES = 65_536


class Commands:
    """The commands of a gateway, from `restore` and `mark_answered` over `start` to `stop`. Times in seconds."""

    def __init__(
        self,
        *,
        server_id: str,
        cluster: Cluster,
        state: State,
        definitions: Definitions,
        link: DeviceLink,
        uplink: Uplink,
        wall_ms: Callable[[], int],
        timeout: float,
        is_mine: Callable[[RawRequest], bool] | None = None,
    ) -> None:
        """``timeout`` is how long a device has for its answer; ``is_mine`` as in `CommandLoop`."""
        # Several processes are done with different things, so Kafka is told of none of them.
        self._commits = is_mine is None
        self._cluster = cluster
        self._uplink = uplink
        self._group = f"headwater-gateway-{server_id}"
        #: Where the requests topic is read from at the start.
        self.positions: Positions = {}
        self._intake: Intake | None = None
        self.loop = CommandLoop(
            server_id=server_id,
            state=state,
            link=link,
            definitions=definitions,
            publish=self._publish,
            publish_state=self._publish_state,
            bury=self._bury,
            passed=self._passed,
            now_ms=wall_ms,
            limits=Limits(answer=timeout),
            is_mine=is_mine,
        )
        #: Called for every notification, so without a detour.
        self.device_awake = self.loop.lanes.device_awake
        self.mark_answered = self.loop.mark_answered

    @property
    def unanswered(self) -> int:
        """Commands without a durable reply."""
        return self.loop.unanswered

    @property
    def trouble(self) -> str | None:
        """Why no requests come from Kafka, or None; as far as it was looked."""
        return None if self._intake is None else self._intake.trouble

    def restore(self, stored: StoredState) -> None:
        """Know the commands of the state file, and where to go on in the requests topic."""
        self.positions = stored.positions
        self.loop.restore(stored)

    def start(self) -> None:
        """Go on with the restored commands and read new ones. The registrations must be there, Kafka must answer."""
        self.loop.start()
        topic = self._uplink.topics.requests
        partitions = self._uplink.partitions[topic]
        self._intake = Intake(
            self._cluster, topic, partitions, self._group, self.positions, self.loop.reading, self.loop.take
        )
        self._intake.start(asyncio.get_running_loop())

    async def stop(self) -> None:
        """Read and send nothing new, and wait a little for what devices have now.

        Their replies need the uplink: it is to be closed after this. What is not answered waits for the next start.
        """
        if self._intake is not None:
            self._intake.pause()
        await self.loop.stop(timeout=_STOP_SECONDS)
        if self._intake is not None:
            await self._intake.stop()

    def submit_internal(self, ep: str, factory: CoroutineFactory) -> None:
        """Run something of the gateway's own in the device's order: ``factory`` is called when its turn has come."""
        self.loop.lanes.submit_internal(ep, factory)

    def take_turn(self, ep: str) -> Callable[[], None] | None:
        """The device's turn, if nothing waits for it (`gateway.lanes.Lanes.take_turn`)."""
        return self.loop.lanes.take_turn(ep)

    def device_registered(self, ep: str) -> None:
        """The device registered, perhaps again: its queue goes on."""
        self.loop.lanes.device_awake(ep)

    def device_gone(self, ep: str, behind: str | None = None) -> None:
        """The device, perhaps ``behind`` a gateway, is not registered any more: what waits for it is answered so."""
        self.loop.lanes.device_gone(ep, behind)

    def _passed(self, positions: Positions) -> None:
        if self._intake is not None and self._commits:
            self._intake.passed(positions)

    def _publish(self, ep: str, value: bytes, headers: Headers, done: Done) -> bool:
        if not self._uplink.accepting:
            return False
        place = kafka_place(ep, self._uplink)
        return self._uplink.send(self._uplink.topics.replies, place.replies, place.key, value, headers, done)

    def _publish_state(self, key: bytes, value: bytes, done: Done) -> bool:
        topic = self._uplink.topics.commands
        if not self._uplink.accepting:
            return False
        return self._uplink.send(topic, crc32(key) % self._uplink.partitions[topic], key, value, [], done)

    def _bury(self, raw: RawRequest, error: str, done: Done) -> bool:
        if not self._uplink.accepting:
            return False
        # The form of connectors.dead_letters: the record as it came, and where from.
        headers = [
            *((name, value or b"") for name, value in raw.headers),
            ("error", error.encode("utf-8", "replace")[:_MOST_REASON_BYTES]),
            ("stage", b"command"),
            ("origin.topic", raw.topic.encode()),
            ("origin.partition", b"%d" % raw.partition),
            ("origin.offset", b"%d" % raw.offset),
            ("origin.timestamp", b"%d" % raw.timestamp),
        ]
        key, value = raw.key, raw.value
        if sum(map(len, (key or b"", value or b"", *(value for _, value in headers)))) > MOST_RECORD_BYTES:
            headers = [*headers[len(raw.headers) :], ("truncated", b"%d" % len(value or b""))]
            key, value = key and key[:_MOST_REASON_BYTES], value and value[:_BEGINNING_BYTES]
        return self._uplink.send(self._uplink.topics.deadletter, 0, key, value, headers, done)
