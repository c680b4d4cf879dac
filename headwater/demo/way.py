"""The way that every demo is built upon: two Kafkas, a gateway, a replicator, and a link between that can be cut.

Owns the order in which they come up and go down, and waiting for the last records at the end. Every part is what a
person would start: brokers by `headwater.servers.broker`, the other parts as ``headwater`` commands. Nothing is left
behind: whatever ends this process, even ``kill -9``, ends the parts (`headwater.demo.reaper`).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from connectors.kafka import KafkaException, Unreachable, ensure_topics, partition_counts
from headwater.demo.children import Children
from headwater.demo.folder import fresh
from headwater.demo.keys import make_keys
from headwater.demo.link import Link
from headwater.demo.parts import GATEWAY, Places, all_alive, kafkas, ready, start_way
from headwater.exits import Exit, Stop
from headwater.servers.kafka_jars import DownloadStopped, Progress, cache_folder, ensure_jars
from schemas.avro.topics import Topics

#: How long a part may take to come up, in seconds.
PATIENCE = 60.0
#: How long the tail may take to arrive once the devices have stopped, in seconds.
DRAIN = 90.0

_T = TypeVar("_T")


class Stopped(Exception):
    """The demo was told to stop while it waited for something."""


@contextmanager
def way(
    directory: Path,
    observe: Sequence[str],
    stop: threading.Event,
    say: Callable[[str], None],
    progress: Progress,
    *,
    secured: Sequence[str] = (),
) -> Iterator[tuple[Children, Places, Link]]:
    """Start both Kafkas, and a gateway that observes ``observe`` and a replicator, which need not be ready yet.

    ``say`` takes a line for people, ``progress`` is `headwater.servers.kafka_jars.Progress` for the first download.
    Where endpoints are ``secured``, each gets a fresh key, and nobody reaches the gateway without one.

    Raises:
        Stopped: ``stop`` was set meanwhile.
        Stop: the directory cannot be used.
        CredentialStoreError: the keys cannot be stored in it.
        BrokerError: a Kafka could not be started.
    """
    with ExitStack() as stack:
        directory = stack.enter_context(fresh(directory))
        config = directory / "headwater.toml"
        config.write_text("# The parts of the demo are told everything on their command line.\n")
        children = stack.enter_context(Children(directory / "logs", config))
        try:
            ensure_jars(cache_folder(os.environ), progress, stop.is_set)
        except DownloadStopped:
            raise Stopped from None
        go_on(stop)
        say("starting two Kafkas (edge, cloud) …")
        keys = None
        if secured:
            keys = make_keys(directory, secured)
            say(f"made a key for each of {len(secured)} sensors, in {keys.store}; the gateway takes DTLS only")
        places, link = stack.enter_context(kafkas(directory, children, keys))
        go_on(stop)
        ensure_topics(places.edge, Topics(GATEWAY).partitions())
        start_way(children, places, observe)
        yield children, places, link


def go_on(stop: threading.Event) -> None:
    """Raises Stopped if ``stop`` is set."""
    if stop.is_set():
        raise Stopped


def gateway_is_ready(children: Children, places: Places, stop: threading.Event) -> None:
    """Wait for it. Raises Stopped, Stop."""
    wait(stop, lambda: ready(places.health), children, places, "the gateway did not get ready")


def cloud_has_topics(children: Children, places: Places, stop: threading.Event) -> None:
    """Wait until the replicator has made them. Raises Stopped, Stop."""
    wanted = list(Topics(GATEWAY).partitions())
    wait(
        stop,
        lambda: len(partition_counts(places.cloud, wanted)) == len(wanted),
        children,
        places,
        "the replicator made no topics in the cloud",
    )


def wait(
    stop: threading.Event,
    until: Callable[[], bool],
    children: Children,
    places: Places,
    otherwise: str,
    *,
    patience: float = PATIENCE,
) -> None:
    """Wait until ``until``.

    Raises:
        Stopped: ``stop`` was set meanwhile.
        Stop: a part ended, or it took longer than ``patience`` seconds.
    """
    deadline = time.monotonic() + patience
    while not until():
        go_on(stop)
        all_alive(children, places)
        if time.monotonic() > deadline:
            raise Stop(Exit.REFUSED, f"{otherwise} within {patience:g} s; see {places.directory / 'logs'}")
        stop.wait(0.1)
    go_on(stop)


def settled(
    look: Callable[[], _T],
    done: Callable[[_T], bool],
    missing: Callable[[_T], str],
    children: Children,
    places: Places,
    stop: threading.Event,
    say: Callable[[str], None],
) -> _T:
    """What ``look`` finds once it is ``done``, or else after `DRAIN` seconds; ``missing`` says what is not there yet.

    Raises:
        Stopped: ``stop`` was set meanwhile.
        Stop: a part ended.
        Unreachable, KafkaException: a Kafka does not answer, to the last.
    """
    until = time.monotonic() + DRAIN
    tell_at = time.monotonic() + 5.0
    while True:
        all_alive(children, places)
        try:
            found = look()
        except (Unreachable, KafkaException):
            if time.monotonic() > until:
                raise
            continue
        if done(found) or time.monotonic() > until:
            return found
        if time.monotonic() >= tell_at:
            tell_at += 5.0
            say(f"  still on their way: {missing(found)}")
        if stop.wait(1.0):
            raise Stopped
