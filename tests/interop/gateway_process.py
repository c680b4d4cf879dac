"""A gateway as its users run it: `headwater gateway` as a process on a real Kafka, seen only through its topics."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from cloud.requests import ask, new_ticket
from connectors.kafka import (
    OFFSET_BEGINNING,
    Cluster,
    Message,
    TopicPartition,
    consumer,
    ensure_topics,
    partition_counts,
)
from schemas.avro import serde
from schemas.avro.records import (
    Notification,
    Record,
    Registration,
    Request,
    RequestBody,
    RequestFormat,
    RequestKind,
    RequestPayload,
    Response,
)
from schemas.avro.topics import Topics
from tests.ports import held_port

SECONDS = 40.0
_R = TypeVar("_R", Registration, Notification, Response)


@dataclass(slots=True)
class GatewayProcess:
    """A running gateway; ``coap`` is ``127.0.0.1:PORT``."""

    gateway_id: str
    cluster: Cluster
    coap_port: int
    metrics_port: int
    log: Path
    process: subprocess.Popen[bytes]
    #: Where devices speak over DTLS, if they may.
    coaps_port: int = 0
    topics: Topics = field(init=False)

    def __post_init__(self) -> None:
        self.topics = Topics(self.gateway_id)

    @property
    def coap(self) -> str:
        return f"127.0.0.1:{self.coap_port}"

    @property
    def coaps(self) -> str:
        return f"127.0.0.1:{self.coaps_port}"

    def ask(
        self,
        ep: str,
        kind: RequestKind,
        path: str,
        body: RequestBody | None = None,
        *,
        content_format: RequestFormat = RequestFormat.TLV,
        paths: tuple[str, ...] = (),
    ) -> Response:
        """Send one request through the request topic and return its one reply."""
        request = Request(
            server_id=self.gateway_id,
            ep=ep,
            ticket=new_ticket(),
            payload=RequestPayload(kind=kind, path=path, content_format=content_format, body=body, paths=paths),
        )
        return ask(self.cluster, self.gateway_id, request, timeout=SECONDS).response

    def registration(self, wanted: Callable[[Registration], bool]) -> Registration:
        """The first registration record that is ``wanted``, waited for."""
        return self._first(self.topics.registrations, Registration, wanted)

    def notification(self, wanted: Callable[[Notification], bool]) -> Notification:
        """The first notification that is ``wanted``, waited for."""
        return self._first(self.topics.observations, Notification, wanted)

    def notifications(self, until: Callable[[Notification], bool], *, seconds: float = SECONDS) -> list[Notification]:
        """All notifications in the topic's partitions up to the one that ``until`` is true of, which is waited for."""
        found: list[Notification] = []

        def keep(one: Notification) -> bool:
            found.append(one)
            return until(one)

        self._first(self.topics.observations, Notification, keep, seconds)
        return found

    def raw(self, topic: str, wanted: Callable[[Message], bool], seconds: float = SECONDS) -> Message:
        """The first Kafka message of ``topic`` that is ``wanted``, waited for."""
        counts = partition_counts(self.cluster, [topic])
        reader = consumer(self.cluster, f"interop-{uuid.uuid4().hex}")
        try:
            reader.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in range(counts[topic])])
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                message = reader.poll(0.5)
                if message is not None and message.error() is None and wanted(message):
                    return message
        finally:
            reader.close()
        raise AssertionError(f"no such record in {topic} within {seconds:.0f} s; the gateway said:\n{self.said()}")

    def said(self) -> str:
        """The end of the gateway's log, for failures."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        self.process.terminate()
        try:
            return self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
            raise

    def _first(self, topic: str, kind: type[_R], wanted: Callable[[_R], bool], seconds: float = SECONDS) -> _R:
        found: list[_R] = []

        def fits(message: Message) -> bool:
            value = message.value()
            record: Record = serde.decode(value if value is not None else b"")
            if isinstance(record, kind) and wanted(record):
                found.append(record)
                return True
            return False

        self.raw(topic, fits, seconds)
        return found[0]


def start_gateway(
    cluster: Cluster,
    gateway_id: str,
    folder: Path,
    *,
    observe: tuple[str, ...],
    credentials: Path | None = None,
    coaps_port: int | None = None,
    more: tuple[str, ...] = (),
) -> GatewayProcess:
    """Start `headwater gateway` with its topics made, and wait until it says that it is ready."""
    ensure_topics(cluster, Topics(gateway_id).partitions())
    coap_port, metrics_port, coaps_port = held_port(), held_port(), coaps_port or held_port()
    log = folder / "gateway.log"
    command = [
        *(sys.executable, "-m", "headwater.cli", "gateway", "--id", gateway_id, "--kafka", cluster.bootstrap),
        *("--coap", f"127.0.0.1:{coap_port}", "--state", str(folder / "state"), "--metrics", str(metrics_port)),
        *(argument for pattern in observe for argument in ("--observe", pattern)),
        *(() if credentials is None else ("--credentials", str(credentials), "--coaps", f"127.0.0.1:{coaps_port}")),
        *more,
    ]
    with log.open("ab") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
    gateway = GatewayProcess(gateway_id, cluster, coap_port, metrics_port, log, process, coaps_port)
    try:
        _wait_until_ready(gateway)
    except BaseException:
        process.kill()
        process.wait(10)
        raise
    return gateway


def _wait_until_ready(gateway: GatewayProcess) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        assert gateway.process.poll() is None, f"the gateway ended by itself:\n{gateway.said()}"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{gateway.metrics_port}/readyz", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.1)
    raise AssertionError(f"the gateway was not ready in {SECONDS:.0f} s:\n{gateway.said()}")


def plain(record: Response | Notification) -> str:
    """A record as JSON text, for messages of failed assertions."""
    return json.dumps(serde.to_json(record), default=str)
