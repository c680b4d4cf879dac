"""A real broker in a test's hands: it can be killed and comes back on the same port with the same data.

A broker lives on after the process that started it, as people want it. A test's must not, whatever ends pytest: so a
reaper (`headwater.demo.reaper`) is told of each, and ends them once its pipe from this process is closed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import pytest
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from connectors.kafka import Cluster, admin, describe_topics
from headwater.servers import broker, processes
from tests.ports import held_port


@cache
def _reaper() -> subprocess.Popen[bytes]:
    """One for this process; nothing is done with it but to tell it of brokers, so that the pipe is open as long."""
    return subprocess.Popen(
        [sys.executable, "-m", "headwater.demo.reaper"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def end_with_this_process(name: str, directory: Path) -> None:
    """Let the broker ``name`` in ``directory``, started now or later, end when this process does."""
    pipe = _reaper().stdin
    assert pipe is not None
    pipe.write(json.dumps({"broker": name, "directory": str(directory.absolute())}).encode() + b"\n")
    pipe.flush()


def end_child_with_this_process(pid: int) -> None:
    """Let the process group that ``pid`` leads, a server of a test, end when this process does."""
    pipe = _reaper().stdin
    assert pipe is not None
    pipe.write(json.dumps({"child": pid, "started": processes.start_time(pid)}).encode() + b"\n")
    pipe.flush()


def delete_topics(cluster: Cluster, *topics: str) -> None:
    """Delete them, and wait until the broker takes no more records into what was deleted.

    The controller answers before the broker carries it out, and what is acknowledged meanwhile goes with the topic. By
    then somebody else may have made one of the same name, with an id of its own.
    """
    client = admin(cluster)  # its answers end with it, so it is held
    before = describe_topics(client, topics).items()
    for deleted in client.delete_topics(list(topics)).values():
        deleted.result(30)
    end = time.monotonic() + 60
    while before & describe_topics(client, topics).items():
        assert time.monotonic() < end, f"{', '.join(topics)} are still there"
        time.sleep(0.05)


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
        """With Kafka's settings but for the age of records: those of tests have times of their own, long past."""
        first = not self.directory.joinpath(self.name).exists()
        self.running = broker.start(self.name, self.port, self.directory, heap=self.heap, link=self.link)
        if first:
            _keep_old_records(self.cluster)

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


def _keep_old_records(cluster: Cluster) -> None:
    """Every five minutes Kafka looks for records that are older than seven days, by their own times, and removes them.

    Where a topic says something else, that holds.
    """
    client = admin(cluster)
    (node,) = client.list_topics(timeout=30).brokers
    keep = ConfigEntry("log.retention.ms", "-1", incremental_operation=AlterConfigOpType.SET)
    changes = client.incremental_alter_configs(
        [ConfigResource(ResourceType.BROKER, str(node), incremental_configs=[keep])]
    )
    for change in changes.values():
        change.result(30)


class BrokerFactory(Protocol):
    """Starts one more broker for the test that asks; all are ended when the test is."""

    def __call__(self, name: str = ..., *, heap: str = ..., link: broker.LinkListener | None = ...) -> KafkaBroker: ...


@contextmanager
def controller_in_place_of(dead: KafkaBroker, directory: Path) -> Iterator[None]:
    """While it is open, a Kafka node answers at the killed broker's address that is controller alone there.

    As when, on a busy machine, another server was given the port. It takes no records and makes no producer ids.
    """
    end_with_this_process("stranger", directory)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(processes, "free_port", lambda: dead.port)
        broker.start("stranger", held_port(), directory, heap="128m")
    try:
        yield
    finally:
        broker.kill("stranger", directory)


def new_broker(name: str, directory: Path, heap: str, link: broker.LinkListener | None) -> KafkaBroker:
    """A broker on a free port that answers already."""
    end_with_this_process(name, directory)
    made = KafkaBroker(name=name, port=held_port(), directory=directory, heap=heap, link=link)
    made.start()
    return made
