"""The one value of a device of a load, which is its clock, and the observation of it by the gateway (RFC 7641).

Owns what was given out, so that no value comes twice, and answers the gateway's requests with what
`gateway.devices.load.content` has. It sends nothing.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from gateway.coap.message import Code, Message, Option, Options
from gateway.devices.load.content import Answer
from gateway.devices.load.notification import Template, template
from gateway.devices.load.shared import Load

_NO_TEMPLATE: Final = Template(Struct("").pack, 0, b"", b"")


class ObservedValue:
    """Of one device. `Device._notify` takes the next value and number by itself, for speed."""

    __slots__ = ("_endpoint", "_load", "last", "number", "observer", "template", "told")

    def __init__(self, endpoint: str, load: Load) -> None:
        self._endpoint = endpoint
        self._load = load
        #: The last value that was given out, and the last one that was read.
        self.last = 0.0
        self.told = 0.0
        #: The token of the gateway's observation, None while there is none; its last number, and its notifications.
        self.observer: bytes | None = None
        self.number = 1
        self.template = _NO_TEMPLATE

    def next(self, now: float) -> float:
        """The device's clock in epoch microseconds, which rises with each look."""
        value = float(int((now + self._load.offset) * 1e6))
        if value <= self.last:
            value = self.last + 1.0
        self.last = value
        return value

    def asked(self, message: Message, now: float) -> Answer:
        """The answer to a request of the gateway, which may observe the value with it, or end that."""
        value = self.next(now)
        code, options, payload = self._load.content.asked(message, self._endpoint, value)
        mine = message.texts(Option.URI_PATH) == [str(one) for one in self._load.plan.path.ids]
        if code == Code.CONTENT and mine:
            self.told = value
            observe = message.uint(Option.OBSERVE)
            if observe == 0:
                self._observed_as(message.token, options)
                options = [*options, (Option.OBSERVE, self.number.to_bytes(3, "big"))]
            elif observe == 1 and message.token == self.observer:
                self.observer = None
        return code, options, payload

    def _observed_as(self, token: bytes, options: Options) -> None:
        content_format = options[0][1]
        self.observer = token
        self.template = template(self._load.content, len(token), content_format)
