"""What an operator wants to know of every device: read at each registration (OMA LwM2M Core 1.1, section 6.3.2).

Owns which paths are still to be read of which device. The answer goes to the replies topic as that of any read does,
under a ticket of its own. What a device did not answer, or Kafka did not keep, is asked for at its next update. Nothing
of it is in the state file: a gateway that starts again reads once more, at each device's next update.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import structlog

from gateway.coap.exchanges import ExchangeError
from gateway.exchange import RefusedRequest
from gateway.own_reads import OwnReads
from gateway.registry import Device, Registry
from schemas.avro.records import Response
from schemas.lwm2m.path import Path, PathPattern

_log = structlog.get_logger("headwater.first_reads")

#: The ticket of what is read at a registration.
READ_TICKET: Final = "registered"
#: Patterns give at most so many reads of one device: one may announce thousands of instances.
MOST_READS = 100

Publish = Callable[[Response, Callable[[bool], None] | None], bool]
InOrder = Callable[[str, Callable[[], Coroutine[Any, Any, None]]], None]


class FirstReads:
    """Reads what ``patterns`` say of every device that registers. ``awake`` tells whether a device can hear."""

    def __init__(
        self,
        *,
        patterns: Sequence[str],
        own: OwnReads,
        registry: Registry,
        publish: Publish,
        in_order: InOrder,
        awake: Callable[[str], bool],
    ) -> None:
        """Raises PathError when a pattern is none."""
        self._patterns = [PathPattern.parse(text) for text in patterns]
        self._own = own
        self._registry = registry
        self._publish = publish
        self._in_order = in_order
        self._awake = awake
        #: What is to be read, by device; and the devices of which a turn is waited for.
        self._unread: dict[Device, list[Path]] = {}
        self._waiting: set[Device] = set()
        #: Answers that are durable in Kafka, errors of devices among them.
        self.answered = 0

    @property
    def devices(self) -> int:
        """Of how many devices something is to be read."""
        return len(self._unread)

    def registered(self, device: Device, old: Device | None) -> None:
        """The device registered (anew): all is to be read."""
        if old is not None:
            self.gone(old)
        self.restored(device)
        self.complete(device)

    def restored(self, device: Device) -> None:
        """The device is known from before the gateway's start: it is read at its next update."""
        paths = [path for pattern in self._patterns for path in pattern.targets(device.announcement.paths)]
        if paths:
            self._unread[device] = list(dict.fromkeys(paths))[:MOST_READS]

    def complete(self, device: Device) -> None:
        """The device can hear: ask for what is missing, in its order, after what waits already."""
        if device in self._unread and device not in self._waiting:
            self._waiting.add(device)
            self._in_order(device.ep, lambda: self._read(device))

    def gone(self, device: Device) -> None:
        """The registration ended."""
        self._unread.pop(device, None)
        self._waiting.discard(device)

    async def _read(self, device: Device) -> None:
        self._waiting.discard(device)
        for path in list(self._unread.get(device, ())):
            # A device in queue mode may have gone to sleep while others had their turn.
            if device not in self._unread or not self._awake(device.ep):
                return
            if not await self._ask(device, path):
                return

    async def _ask(self, device: Device, path: Path) -> bool:
        """Read, and publish the answer; False if the device is silent, so that asking on would be in vain."""
        try:
            answer = await self._own.read(device, path, ticket=READ_TICKET)
        except RefusedRequest as exc:
            _log.warning("a read at registration is impossible", ep=device.ep, path=str(path), reason=str(exc))
            self._done(device, path)
            return True
        except ExchangeError as exc:
            _log.info("the device did not answer a read at registration", ep=device.ep, path=str(path), reason=str(exc))
            return False

        def done(durable: bool) -> None:
            if durable:
                self.answered += 1
                self._done(device, path)

        gone = self._registry.device(device.ep) is not device
        return gone or self._publish(answer, done)

    def _done(self, device: Device, path: Path) -> None:
        left = self._unread.get(device)
        if left is not None and path in left:
            left.remove(path)
            if not left:
                del self._unread[device]
