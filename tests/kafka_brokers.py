"""A real broker in a test's hands: it can be killed and comes back on the same port with the same data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from connectors.kafka import Cluster
from headwater import broker, processes


@dataclass(slots=True, kw_only=True)
class KafkaBroker:
    """One real Kafka; ``running`` is None between a kill or stop and the restart."""

    name: str
    port: int
    directory: Path
    heap: str = "128m"
    link: broker.LinkListener | None = None
    running: broker.Broker | None = None

    @property
    def cluster(self) -> Cluster:
        """How clients reach it directly."""
        return Cluster(bootstrap=f"127.0.0.1:{self.port}")

    @property
    def linked(self) -> Cluster:
        """How clients reach it through the TCP link that was set up in front of it."""
        assert self.link is not None
        return Cluster(bootstrap=f"127.0.0.1:{self.link.advertised_port}")

    def start(self) -> None:
        self.running = broker.start(self.name, self.port, self.directory, heap=self.heap, link=self.link)

    def kill(self) -> None:
        """SIGKILL, as a power cut; returns when it is gone."""
        assert broker.kill(self.name, self.directory)
        self.running = None

    def restart(self) -> None:
        """Start it again, on the same port and data; returns when it answers."""
        self.start()

    def stop(self) -> None:
        broker.stop(self.name, self.directory, timeout=10)
        self.running = None


class BrokerFactory(Protocol):
    """Starts one more broker for the test that asks; all are ended when the test is."""

    def __call__(self, name: str = ..., *, heap: str = ..., link: broker.LinkListener | None = ...) -> KafkaBroker: ...


def new_broker(name: str, directory: Path, heap: str, link: broker.LinkListener | None) -> KafkaBroker:
    """A broker on a free port that answers already."""
    made = KafkaBroker(name=name, port=processes.free_port(), directory=directory, heap=heap, link=link)
    made.start()
    return made
