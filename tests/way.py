"""The parts of the way as a test breaks them: `headwater` processes that are killed and started again.

Each part keeps its command, ports and folders over its lives, as a unit file would. What is looked at is only what
users see as well: topics, metrics, journals, logs.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from prometheus_client.parser import text_string_to_metric_families

from cloud.feed import Feed
from connectors.kafka import Cluster, ensure_topics, producer
from headwater.demo.audit import Stored, read_side
from headwater.demo.journal import Entry, read_journal
from schemas.avro import serde
from schemas.avro.records import (
    Notification,
    ReadBody,
    Record,
    Registration,
    RegistrationKind,
    Request,
    RequestBody,
    RequestKind,
    RequestPayload,
    Response,
)
from schemas.avro.topics import Topics
from schemas.lwm2m.nodes import Resource
from security.credentials.opening import StorePlace
from tests.faults import chaos
from tests.ports import held_port

#: Nothing that a test waits for may take longer, in seconds.
PATIENCE = 90.0
#: A notification: endpoint, path, message id, Observe number, values.
Told = tuple[str, str, int | None, int | None, tuple[tuple[str, Any], ...]]


def until(what: str, true: Callable[[], bool], timeout: float = PATIENCE) -> None:
    """Look again and again until ``true`` is; fails with ``what`` it waited for."""
    end = time.monotonic() + timeout
    while not true():
        if time.monotonic() > end:
            raise AssertionError(f"waited {timeout:.0f} s in vain: {what}")
        time.sleep(0.05)


class Part:
    """One `headwater` command as a process; ``start`` again after a ``kill`` is its next life."""

    def __init__(self, name: str, folder: Path, *arguments: str) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        config = folder / "headwater.toml"
        config.write_text("# Everything is told on the command line.\n")
        self._command = [sys.executable, "-m", "headwater.cli", *arguments, "--config", str(config)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert not self.runs
        environment = {key: value for key, value in os.environ.items() if not key.startswith("HEADWATER_")}
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=environment
            )

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, f"{self.name} was never started"
        return self._process

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        assert self.runs, f"{self.name} ended by itself:\n{self.said()}"
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
            raise AssertionError(f"{self.name} did not stop within 15 s:\n{self.said()}") from None

    def wait_ended(self, timeout: float = PATIENCE) -> int:
        """Wait until it ends by itself; returns the exit code."""
        return self.process.wait(timeout)

    def said(self, lines: int = 30) -> str:
        """The end of its log, for failures."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    @property
    def rss(self) -> int:
        """Resident memory in bytes."""
        shown = subprocess.run(
            ["ps", "-o", "rss=", "-p", str(self.process.pid)], capture_output=True, text=True, timeout=10, check=True
        )
        return int(shown.stdout) * 1024

    def end(self) -> None:
        """At the end of a test, whatever state it is in."""
        if self.runs:
            self.kill()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


class Gateway(Part):
    """`headwater gateway` with its topics made; ports and state stay over its lives."""

    def __init__(
        self,
        gateway_id: str,
        cluster: Cluster,
        folder: Path,
        *arguments: str,
        observe: Sequence[str] = (),
        name: str = "",
        credentials: StorePlace | None = None,
    ) -> None:
        self.topics = Topics(gateway_id)
        self.id = gateway_id
        self.cluster = cluster
        self.coap_port, self.metrics_port, self.coaps_port = held_port(), held_port(), held_port()
        secure = ("--credentials", str(credentials), "--coaps", f"127.0.0.1:{self.coaps_port}")
        self.state = folder / "state"
        self._feeds: dict[str, tuple[Feed, list[Record]]] = {}
        ensure_topics(cluster, self.topics.partitions())
        super().__init__(
            name or "gateway",
            folder,
            *("gateway", "--id", gateway_id, "--kafka", cluster.bootstrap, "--coap", f"127.0.0.1:{self.coap_port}"),
            *("--state", str(self.state), "--metrics", str(self.metrics_port)),
            *(argument for pattern in observe for argument in ("--observe", pattern)),
            *(() if credentials is None else secure),
            *arguments,
        )

    @property
    def secure_address(self) -> tuple[str, int]:
        return "127.0.0.1", self.coaps_port

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.coap_port

    @property
    def is_alive(self) -> bool:
        """True once it serves its health, ready or not."""
        return self._says("healthz")

    @property
    def is_ready(self) -> bool:
        return self._says("readyz")

    def _says(self, what: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/{what}", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def wait_ready(self) -> None:
        until(f"the gateway is ready; it said:\n{self.said()}", lambda: self.is_ready)

    def metrics(self) -> str:
        """All that it shows, as Prometheus reads it."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    def metric(self, name: str, **labels: str) -> float:
        """The value of ``headwater_gateway_NAME``; 0 for labels that were not counted yet."""
        for family in text_string_to_metric_families(self.metrics()):
            for sample in family.samples:
                told = {key: value for key, value in sample.labels.items() if key != "gateway"}
                if sample.name == f"headwater_gateway_{name}" and told == labels:
                    return float(sample.value)
        return 0.0

    def values(self, ep: str, path: str) -> list[object]:
        """What a device has told of a resource, in its order."""
        found: list[object] = []
        for one in self.notifications(ep, path):
            assert isinstance(one.rep.body, ReadBody)
            assert isinstance(one.rep.body.content, Resource)
            found.append(one.rep.body.content.value)
        return found

    def request(
        self,
        ep: str,
        ticket: str,
        kind: RequestKind,
        path: str,
        body: RequestBody | None = None,
        expires: int | None = None,
        paths: tuple[str, ...] = (),
    ) -> None:
        """Put a request into the topic, and wait for nothing but Kafka."""
        payload = RequestPayload(kind=kind, path=path, body=body, paths=paths)
        produce(
            self.cluster,
            self.topics.requests,
            serde.encode(Request(server_id=self.id, ep=ep, ticket=ticket, payload=payload, expires=expires)),
        )

    def seen(self, topic: str) -> list[Record]:
        """The records of a topic that were seen by now: at the first look, all that were there."""
        feed, found = self._feeds.get(topic, (None, []))
        if feed is None:
            feed = Feed(self.cluster, [topic])
            self._feeds[topic] = feed, found
        # Records may come without a pause.
        end = time.monotonic() + 1
        while (items := feed.poll(0.05)) or not feed.caught_up:
            found += [one.record for one in items if one.record is not None]
            if feed.caught_up and time.monotonic() > end:
                break
        return found

    def replies(self, ticket: str) -> list[Response]:
        """The replies with this ticket that were seen by now."""
        return [one for one in self.seen(self.topics.replies) if isinstance(one, Response) and one.ticket == ticket]

    def reply(self, ticket: str, timeout: float = PATIENCE) -> Response:
        """The one reply with this ticket, waited for."""
        until(f"a reply to {ticket}; the gateway said:\n{self.said()}", lambda: bool(self.replies(ticket)), timeout)
        found = self.replies(ticket)
        assert len(found) == 1, found
        return found[0]

    def registrations(self, ep: str) -> list[Registration]:
        """The registration records of an endpoint that were seen by now."""
        found = self.seen(self.topics.registrations)
        return [one for one in found if isinstance(one, Registration) and one.body.ep == ep]

    def new_registrations(self) -> Counter[str]:
        """How often each endpoint has registered, all that the topic holds."""
        found = [one.record for one in read_side(self.cluster, [self.topics.registrations])]
        return Counter(
            one.body.ep for one in found if isinstance(one, Registration) and one.kind is RegistrationKind.NEW
        )

    def notifications(self, ep: str, path: str) -> list[Notification]:
        """The notification records of a path that were seen by now."""
        found = self.seen(self.topics.observations)
        return [one for one in found if isinstance(one, Notification) and (one.ep, one.path) == (ep, path)]

    def end(self) -> None:
        for feed, _ in self._feeds.values():
            feed.close()
        self._feeds.clear()
        super().end()


class Sensors(Part):
    """`headwater sensor` with a journal of what was acknowledged to it."""

    def __init__(self, server: tuple[str, int], folder: Path, *arguments: str, endpoint: str = "sensor") -> None:
        self.journal = folder / f"{endpoint}.jsonl"
        super().__init__(
            f"sensors-{endpoint}",
            folder,
            *("sensor", "--server", f"{server[0]}:{server[1]}", "--endpoint", endpoint),
            *("--journal", str(self.journal), *arguments),
        )

    @property
    def acknowledged(self) -> int:
        return self.journal.read_bytes().count(b"\n") if self.journal.exists() else 0

    def entries(self) -> list[Entry]:
        return list(read_journal(self.journal))

    def wait_for_more(self, count: int, timeout: float = PATIENCE) -> None:
        """Wait until ``count`` more notifications are acknowledged than are now."""
        wanted = self.acknowledged + count
        until(f"{wanted} acknowledged notifications", lambda: self.acknowledged >= wanted, timeout)

    def wait_for_all(self, endpoints: int, timeout: float = PATIENCE) -> None:
        """Wait until each of so many devices has had another notification acknowledged."""
        before = Counter(one.ep for one in self.entries())

        def more() -> bool:
            now = Counter(one.ep for one in self.entries())
            return sum(now[ep] > before[ep] for ep in now) >= endpoints

        until(f"a new notification of each of {endpoints} devices", more, timeout)


def produce(cluster: Cluster, topic: str, value: bytes) -> None:
    """One record without a key, as console producers send it; returns when Kafka has it."""
    client = producer(cluster, linger_ms=0)
    client.produce(topic, value)
    assert client.flush(30) == 0


def lost_of(journal: Sequence[Entry], stored: Sequence[Stored]) -> Counter[Told]:
    """The acknowledged notifications that are not in ``stored``."""
    promised: Counter[Told] = Counter((one.ep, one.path, one.mid, one.observe, one.values) for one in journal)
    assert max(promised.values()) == 1, "the journal tells the same notification twice"
    return promised - Counter(
        (one.record.ep, one.record.path, one.mid, one.observe, one.told)
        for one in stored
        if isinstance(one.record, Notification)
    )


def compare(journal: Sequence[Entry], stored: Sequence[Stored]) -> None:
    """Every acknowledged notification is in ``stored`` exactly once, and no record is there twice."""
    there = [one for one in stored if isinstance(one.record, Notification)]
    by_number = Counter((one.record.ep, one.mid, one.observe) for one in there if isinstance(one.record, Notification))
    lost = lost_of(journal, stored)
    assert not lost, f"{lost.total()} of {len(journal)} acknowledged are lost: {list(lost)[:5]}"
    doubled = {key: count for key, count in by_number.items() if count > 1}
    assert not doubled, f"{len(doubled)} of {len(there)} records are doubled: {list(doubled.items())[:5]}"


@contextmanager
def chaos_proxy(
    server: tuple[str, int], *, seed: int, up: chaos.Faults, down: chaos.Faults
) -> Iterator[chaos.ChaosProxy]:
    """The UDP chaos proxy in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="chaos", daemon=True)
    thread.start()
    proxy = asyncio.run_coroutine_threadsafe(chaos.start(server, seed=seed, up=up, down=down), loop).result(10)
    try:
        yield proxy
    finally:
        stopped = threading.Event()

        def stop() -> None:
            proxy.stop()
            stopped.set()

        loop.call_soon_threadsafe(stop)
        stopped.wait(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
