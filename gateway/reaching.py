"""The way to the devices as the command loop has it: what it needs of it, and what may come of a request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from gateway.exchange import CoapRequest, CoapResponse, DeviceView
from schemas.lwm2m.path import Path


class DeviceTimeout(Exception):
    """The device did not answer in time."""


class DeviceMoved(Exception):
    """The device was not reached at the address that it had, and is at another one now."""


class DeviceSentReset(Exception):
    """The device answered with RST."""


class DeviceGone(Exception):
    """The device is not registered (any more)."""


@dataclass(frozen=True, slots=True)
class Rest:
    """An answer of which only the beginning has come; ``fetch`` has the whole, and raises as `DeviceLink.request`."""

    fetch: Callable[[], Awaitable[CoapResponse]]


#: Told what came of a request: the response, the rest to wait for, or DeviceTimeout, DeviceMoved or DeviceSentReset.
Answered = Callable[[CoapResponse | Rest | Exception], None]


class DeviceLink(Protocol):
    """The way to the devices. The three requests raise DeviceTimeout, DeviceMoved, DeviceSentReset, DeviceGone
    or RefusedRequest.

    They end by their ``timeout``: whoever waits for them sets no other.
    """

    def view(self, ep: str) -> DeviceView | None:
        """The registration as operations need it; None: not registered."""

    def front(self, ep: str) -> str:
        """Whose turn a request to ``ep`` waits for: the gateway's that it is behind, or its own."""

    def queue_mode(self, ep: str) -> bool:
        """True if the device sleeps (binding with Q)."""

    def files(self, ep: str) -> str:
        """The URI, less the hash, at which the device finds the gateway's files. Raises DeviceGone."""

    def awake(self, ep: str) -> bool:
        """True if the device can be reached now: not in queue mode, or heard of within the awake window."""

    def send_again(self, ep: str) -> None:
        """Send what a device that was heard of has not acknowledged once more, now."""

    async def request(self, ep: str, request: CoapRequest, timeout: float) -> CoapResponse:
        """Send and wait for the response."""

    def begin(self, ep: str, request: CoapRequest, timeout: float, answered: Answered) -> bool:
        """As `request`, but without a task: ``answered`` is told, later and once. False: it takes a task to send it.

        Raises DeviceGone.
        """

    async def observe(self, ep: str, path: Path, ticket: str, request: CoapRequest, timeout: float) -> CoapResponse:
        """As `request`, and take the notifications that follow; of ``request.paths`` where it is composite."""

    async def cancel(self, ep: str, path: Path, request: CoapRequest, timeout: float) -> CoapResponse:
        """Stop the notifications of ``path``, or of ``request.paths`` where it is composite.

        The response is made up where no message was needed.
        """
