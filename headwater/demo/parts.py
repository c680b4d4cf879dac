"""The parts of a demo: two Kafkas with a link between edge and cloud, gateway, replicator, sink, sensors.

Owns where they are, how each is started, and if they are alive. In which order they come and go is
`headwater.demo.way`'s and each demo's.
"""

from __future__ import annotations

import shutil
import socket
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from connectors.kafka import Cluster
from headwater.demo.children import Children
from headwater.demo.keys import Keys
from headwater.demo.link import Link
from headwater.exits import Exit, Stop
from headwater.servers import broker, processes

GATEWAY = "demo"
#: Of the sensors, as `gateway.devices.fleet.names` numbers them.
ENDPOINT = "sensor"
EDGE_PORT, CLOUD_PORT, COAP_PORT, COAPS_PORT = 9082, 9092, 5683, 5684
_HEAP = "192m"


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where the parts of a demo are."""

    edge: Cluster
    cloud: Cluster
    #: The cloud, as the replicator reaches it: through the link.
    cloud_by_link: Cluster
    coap: str
    #: The keys with which devices speak DTLS there; None where they speak in the clear.
    keys: Keys | None
    directory: Path
    #: The port of the gateway's health.
    health: int

    @property
    def kafka(self) -> Path:
        return self.directory / "kafka"

    @property
    def journal(self) -> Path:
        return self.directory / "acknowledged.jsonl"

    @property
    def database(self) -> Path:
        return self.directory / "headwater.db"


@contextmanager
def kafkas(directory: Path, children: Children, keys: Keys | None) -> Iterator[tuple[Places, Link]]:
    """Both brokers, and the link in front of the cloud's."""
    edge_port, cloud_port = port(EDGE_PORT), port(CLOUD_PORT)
    behind, before = processes.free_port(), processes.free_port()
    kafka = directory / "kafka"
    for name in ("edge", "cloud"):
        children.guard_broker(name, kafka)
    listener = broker.LinkListener(port=behind, advertised_port=before)
    with ThreadPoolExecutor(2) as both:
        starts = [
            both.submit(broker.start, "edge", edge_port, kafka, heap=_HEAP),
            both.submit(broker.start, "cloud", cloud_port, kafka, heap=_HEAP, link=listener),
        ]
    try:
        edge, cloud = (start.result() for start in starts)
        with Link(before, behind) as link:
            yield (
                Places(
                    edge=edge.cluster,
                    cloud=cloud.cluster,
                    cloud_by_link=Cluster(bootstrap=f"127.0.0.1:{before}"),
                    coap=f"127.0.0.1:{_udp_port(COAP_PORT if keys is None else COAPS_PORT)}",
                    keys=keys,
                    directory=directory,
                    health=processes.free_port(),
                ),
                link,
            )
    finally:
        # The parts first: they would else tell the log at length that their Kafka has gone.
        children.stop()
        with ThreadPoolExecutor(2) as both:
            for stopped in [both.submit(broker.stop, name, kafka, timeout=8.0) for name in ("edge", "cloud")]:
                stopped.result()


def port(wanted: int) -> int:
    """A free TCP port of 127.0.0.1: the one that people expect, if it is."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            return processes.free_port()
    return wanted


def _udp_port(wanted: int) -> int:
    for port in (wanted, 0):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise Stop(Exit.CANNOT_START, "no free UDP port for the gateway")


def start_way(children: Children, places: Places, observe: Sequence[str]) -> None:
    """Start a gateway that observes ``observe`` on every device, and a replicator."""
    line = f"gateway --id {GATEWAY} --kafka {places.edge.bootstrap} --metrics {places.health}"
    reached = ["--coap", places.coap]
    if places.keys is not None:
        reached = ["--no-insecure", "--coaps", places.coap, "--credentials", str(places.keys.store)]
    patterns = [word for pattern in observe for word in ("--observe", pattern)]
    children.start("gateway", [*line.split(), *reached, "--state", str(places.directory / "gateway"), *patterns])
    line = f"replicate --gateway {GATEWAY} --edge {places.edge.bootstrap} --cloud {places.cloud_by_link.bootstrap}"
    children.start("replicator", line.split())


def start_sqlite(children: Children, places: Places) -> None:
    """Start the sink that stores history and devices in one file."""
    line = f"sink sqlite --gateway {GATEWAY} --kafka {places.cloud.bootstrap}"
    children.start("sink", [*line.split(), "--file", str(places.database)])


def start_sensors(children: Children, places: Places, *, count: int, period: float) -> None:
    """Start the virtual sensors, in one process."""
    line = f"sensor --endpoint {ENDPOINT} --count {count} --period {period:g}"
    server = ["--server", f"coap://{places.coap}"]
    if places.keys is not None:
        server = ["--server", f"coaps://{places.coap}", "--psk-list", str(places.keys.list)]
    children.start("sensors", [*line.split(), *server, "--journal", str(places.journal)])


def ready(health: int) -> bool:
    """True if the process whose health is served on ``health`` says that it is ready."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{health}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def all_alive(children: Children, places: Places) -> None:
    """See that nothing has ended by itself.

    Raises:
        Stop: something has; the text has the end of its log.
    """
    for name in ("edge", "cloud"):
        if broker.status(name, places.kafka) is None:
            log = places.kafka / name / "broker.log"
            lines = "\n".join(log.read_text("utf-8", "replace").splitlines()[-12:])
            raise Stop(Exit.REFUSED, f"Kafka {name} ended by itself; the end of {log}:\n{lines}")
    for child in children.dead():
        raise Stop(
            Exit.REFUSED,
            f"{child.name} ended by itself with exit code {child.ended}; the end of {child.log}:\n{child.last_lines()}",
        )


def to_paste(places: Places, sensors: int) -> list[str]:
    """Commands to paste into another terminal."""
    first = "sensor" if sensors == 1 else "sensor-1"
    at = f"--gateway {GATEWAY} --kafka {places.cloud.bootstrap}"
    headwater = command()
    secure = [] if places.keys is None else [f"{headwater} credentials list --store {places.keys.store}"]
    return [
        f"{headwater} devices {at} --watch",
        f"{headwater} read {first} /3303/0 {at}",
        f"{headwater} write {first} /1/0/1 120 {at}",
        f"{headwater} execute {first} /3/0/4 {at}",
        f"{headwater} tail observations {at}",
        f"{headwater} read {first} /3/0 --gateway {GATEWAY} --kafka {places.edge.bootstrap}   # the edge's",
        f"sqlite3 {places.database} 'select ep, path, value from latest'",
        *secure,
    ]


def command() -> str:
    """How a person in this folder calls ``headwater``: by its name where that is found, else by its place."""
    if shutil.which("headwater"):
        return "headwater"
    place = Path(sys.executable).with_name("headwater")
    return _from_here(place) if place.exists() else f"{python()} -m headwater.cli"


def python() -> str:
    """How a person in this folder calls the Python that runs this."""
    return _from_here(Path(sys.executable))


def _from_here(place: Path) -> str:
    here = Path.cwd()
    return str(place.relative_to(here) if place.is_relative_to(here) else place)
