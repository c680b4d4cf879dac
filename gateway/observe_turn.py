"""The observe requests that a registration sets off, one after the other, without a task or a future.

Owns the turn of one device that has nothing else waiting: which observation is asked for next, and that the turn is
given back in the end. What an answer means is `gateway.observing`'s. Written for speed, as every registration comes by
here; it leaves to the ordinary way what is not one request and one answer of one datagram.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from gateway.coap.exchanges import ExchangeError
from gateway.coap.message import Message, Option
from gateway.coap.peers import Address
from gateway.observations import Observation
from gateway.registry import Device


class Observer(Protocol):
    """Who has an observation asked for, and takes what comes back."""

    def is_missing(self, device: Device, observation: Observation) -> bool:
        """True if the device should have the observation and has it not."""

    def ask(
        self, device: Device, observation: Observation, answered: Callable[[Message | ExchangeError], None]
    ) -> bool:
        """Send the observe request; False: it is impossible, and will not be asked for again."""

    def answered(self, device: Device, observation: Observation, message: Message, address: Address) -> None:
        """The device that was asked at ``address`` answered."""

    def silent(self, device: Device, observation: Observation, error: ExchangeError) -> None:
        """The device did not answer."""

    def ask_in_order(self, device: Device) -> None:
        """What is missing is to be asked for the ordinary way, when the turn has been given back."""


class ObserveTurn:
    """The turn of one device; ``give_back`` ends it."""

    __slots__ = ("_address", "_device", "_give_back", "_left", "_observation", "_observer")

    def __init__(
        self, observer: Observer, device: Device, wanted: deque[Observation], give_back: Callable[[], None]
    ) -> None:
        self._observer = observer
        self._device = device
        self._address = device.address
        self._left = wanted
        self._give_back = give_back
        self._observation: Observation

    def next(self) -> None:
        """Ask for the next observation that is missing, or end."""
        device = self._device
        while self._left:
            observation = self._left.popleft()
            if self._observer.is_missing(device, observation):
                self._observation, self._address = observation, device.address
                if self._observer.ask(device, observation, self._came):
                    return
        self._give_back()

    def _came(self, outcome: Message | ExchangeError) -> None:
        device, address = self._device, self._address
        try:
            if isinstance(outcome, ExchangeError):
                self._observer.silent(device, self._observation, outcome)
                if device.address == address:
                    # To ask on would be in vain; at another address it may be heard.
                    self._left.clear()
            elif (block := outcome.block(Option.BLOCK2)) is not None and block.more:
                self._left.clear()
                self._observer.ask_in_order(device)
            else:
                self._observer.answered(device, self._observation, outcome, address)
        finally:
            self.next()
