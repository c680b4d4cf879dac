"""The door to Kafka against a real broker, behind a line that loses what the test says."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path

import pytest

from connectors.kafka import (
    Cluster,
    Unreachable,
    consumer,
    end_offsets,
    ensure_topics,
    partition_counts,
    producer,
    read_to_end,
)
from headwater.servers import broker
from tests.forgetful_link import ForgetfulLink
from tests.kafka_brokers import BrokerFactory, end_with_this_process
from tests.ports import held_port

pytestmark = pytest.mark.kafka

#: Kafka's protocol guide, "Api Keys".
CREATE_TOPICS = 19


class LossyLine:
    """Passes Kafka's requests and answers on, but for requests with one api key, which never arrive."""

    def __init__(self, to_port: int, lost: int) -> None:
        self._to_port = to_port
        self.lost: int | None = lost
        #: Set when a request was lost.
        self.has_lost = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._to_port), 10)
                far.settimeout(None)
                self._open += [near, far]
                threading.Thread(target=self._requests, args=(near, far), daemon=True).start()
                threading.Thread(target=self._answers, args=(far, near), daemon=True).start()

    def _requests(self, near: socket.socket, far: socket.socket) -> None:
        # A request is its length (4 bytes), then its api key (2 bytes), and more.
        with contextlib.suppress(OSError), near.makefile("rb") as requests:
            while len(head := requests.read(4)) == 4:
                request = requests.read(int.from_bytes(head, "big"))
                if int.from_bytes(request[:2], "big") == self.lost:
                    self.has_lost.set()
                else:
                    far.sendall(head + request)
            far.shutdown(socket.SHUT_RDWR)

    def _answers(self, far: socket.socket, near: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := far.recv(65536):
                near.sendall(data)
            near.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


def test_broker_that_does_not_make_topics_in_time_is_unreachable_for_now(broker_factory: BrokerFactory) -> None:
    port = held_port()
    line = LossyLine(port, CREATE_TOPICS)
    try:
        kafka = broker_factory("slow", link=broker.LinkListener(port=port, advertised_port=line.port))
        with pytest.raises(Unreachable, match="did not tell that topic new is made in time"):
            ensure_topics(kafka.linked, {"new": 2}, timeout=5.0)
        assert line.has_lost.is_set()
        line.lost = None
        assert ensure_topics(kafka.linked, {"new": 2}) == ["new"]
        assert partition_counts(kafka.cluster, ["new"]) == {"new": 2}
    finally:
        line.close()


def test_clients_go_on_after_kafka_told_of_no_brokers(tmp_path: Path) -> None:
    port, behind, before = held_port(), held_port(), held_port()
    end_with_this_process("young", tmp_path)
    link = broker.LinkListener(port=behind, advertised_port=before)
    broker.start("young", port, tmp_path, heap="128m", link=link)
    cluster = Cluster(bootstrap=f"127.0.0.1:{before}")
    try:
        with ForgetfulLink(before, behind) as line:
            ensure_topics(cluster, {"words": 1})
            writer, reader = producer(cluster), consumer(cluster, "listeners")
            reader.subscribe(["words"])

            def say(word: str) -> None:
                writer.produce("words", word)
                assert writer.flush(60) == 0
                until = time.monotonic() + 60
                while (heard := reader.poll(0.2)) is None or heard.error() is not None:
                    assert time.monotonic() < until, f"{word!r} was not heard"
                assert heard.value() == word.encode()

            say("before")
            line.forgets.set()
            for client in (writer, reader):
                assert client.list_topics(timeout=10).brokers == {}
            line.forgets.clear()
            say("after")
            reader.close()
    finally:
        broker.kill("young", tmp_path)


def test_looks_leave_no_client_behind(kafka: Cluster) -> None:
    ensure_topics(kafka, {"looked-at": 2})
    for _ in range(3):
        assert end_offsets(kafka, ["looked-at"]) == {("looked-at", 0): 0, ("looked-at", 1): 0}
        assert list(read_to_end(kafka, ["looked-at"])) == []
    until = time.monotonic() + 60
    while closing := [one for one in threading.enumerate() if one.name == "kafka-close"]:
        assert time.monotonic() < until, closing
        time.sleep(0.05)
