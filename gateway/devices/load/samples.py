"""What one request of a virtual device came to, and the two seams through which the devices tell it.

The devices know nothing of histograms, files or Kafka: they hand each finished exchange to a `Recorder`, and each value
that the cloud has to show to a `Ledger`. Both are called from the load's own loop, some ten thousand times a second,
and neither may wait for anything.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol


class Sample(NamedTuple):
    """One exchange, in the terms of JMeter where it has them.

    A tuple and no dataclass, as there are tens of thousands a second: a quarter of the time to make, and to take apart.

    `at_ms` is when it was sent, in epoch milliseconds; `elapsed_us` how long until the answer, or until the device gave
    up, in microseconds. `label` is the kind ("register", "notify CON", "send", …), `thread` the number of the virtual
    device from 1. `code` is what was answered: a CoAP code ("2.04"), "ACK", "" where nothing is answered (NON), "RST",
    "timeout" or "error". `message` says in words why it failed. `sent` and `received` are bytes of datagrams.
    """

    at_ms: int
    elapsed_us: int
    label: str
    endpoint: str
    thread: int
    code: str
    success: bool
    message: str = ""
    sent: int = 0
    received: int = 0


class Recorder(Protocol):
    """Takes what was measured. ``record`` may be a list's own ``append``: `settle` is called between the turns of the
    loop, to make something of what has come together."""

    @property
    def record(self) -> Callable[[Sample], None]: ...

    def settle(self) -> None: ...


class Ledger(Protocol):
    """Takes what the audit holds against the topic.

    A value is the device's clock in epoch microseconds, as a double (exact below 2^53), and rises strictly for an
    endpoint and path: it is identity, order and time of sending at once.
    """

    def sent(self, endpoint: str, path: str, value: float, confirmable: bool) -> None: ...

    def acknowledged(self, endpoint: str, path: str, value: float) -> None: ...
