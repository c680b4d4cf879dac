"""The demo: the whole way on one machine, with real servers, and an audit at the end.

Owns the order in which the parts come up and go down. Every part is what a person would start: two brokers by
`headwater.broker`, the other parts as ``headwater`` commands. Between the replicator and the cloud lies a link that can
be cut. Nothing is left behind: whatever ends this process, even ``kill -9``, ends the parts (`headwater.reaper`).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from connectors.kafka import KafkaException, Unreachable, ensure_topics, partition_counts
from headwater.audit import Verdict, audit
from headwater.children import Children
from headwater.exits import Exit, Stop
from headwater.kafka_jars import DownloadStopped, Progress, cache_folder, ensure_jars
from headwater.link import Link
from headwater.parts import GATEWAY, Places, all_alive, kafkas, ready, start_parts, start_sensors, to_paste, wait
from headwater.screen import face
from headwater.traffic import Traffic
from schemas.avro.topics import Topics

#: How long the tail may take to arrive once the sensors have stopped, in seconds.
DRAIN = 90.0
KEY_CUT = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSettings:
    """What a demo is told; times in seconds."""

    sensors: int = 5
    period: float = 1.0
    #: None: until it is told to stop.
    duration: float | None = None
    #: How long the link is cut in the middle; 0: not at all.
    wan_cut: float = 0.0
    directory: Path = Path(".headwater/demo")
    #: A live view and keys, on a terminal.
    live: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How a demo went. ``right`` decides the exit code."""

    right: bool
    sensors: int
    seconds: float
    wan_cut_seconds: float
    verdict: Verdict

    def as_json(self) -> dict[str, Any]:
        """The summary for ``--output json``."""
        found = asdict(self.verdict)
        return {
            "ok": self.right,
            "sensors": self.sensors,
            "seconds": round(self.seconds, 1),
            "wan_cut_seconds": round(self.wan_cut_seconds, 1),
            "registrations": found.pop("registrations"),
            "notifications": self.verdict.acknowledged,
            "lost": self.verdict.lost,
            "doubled": self.verdict.doubled,
            **found,
        }


def run(
    settings: DemoSettings, stop: threading.Event, say: Callable[[str], None], progress: Progress
) -> Summary | None:
    """Run a demo until its time is over or ``stop`` is set; returns the audit's summary, None if it was stopped.

    ``say`` takes a line for people, ``progress`` is `headwater.kafka_jars.Progress` for the first download.

    Raises:
        Stop: a part ended by itself, or the directory cannot be used.
        BrokerError: a Kafka could not be started.
    """
    with ExitStack() as stack:
        directory = stack.enter_context(_fresh(settings.directory))
        config = directory / "headwater.toml"
        config.write_text("# The parts of the demo are told everything on their command line.\n")
        children = stack.enter_context(Children(directory / "logs", config))
        began = time.monotonic()
        try:
            ensure_jars(cache_folder(os.environ), progress, stop.is_set)
        except DownloadStopped:
            return None
        if stop.is_set():
            return None
        say("starting two Kafkas (edge, cloud) …")
        places, link = stack.enter_context(kafkas(directory, children))
        if stop.is_set():
            return None
        topics = Topics(GATEWAY)
        ensure_topics(places.edge, topics.partitions())
        health = start_parts(children, places)
        wait(stop, lambda: ready(health), children, places, "the gateway did not get ready")
        # A device that nobody answers waits longer and longer, so they start last.
        start_sensors(children, places, count=settings.sensors, period=settings.period)
        wanted = [*topics.uplink, *topics.downlink]
        wait(
            stop,
            lambda: len(partition_counts(places.cloud, wanted)) == len(wanted),
            children,
            places,
            "the replicator made no topics in the cloud",
        )
        if stop.is_set():
            return None
        say(f"all parts run after {time.monotonic() - began:.1f} s; try these in another terminal:\n")
        say("\n".join(f"  {line}" for line in to_paste(places, settings.sensors)) + "\n")
        traffic = stack.enter_context(Traffic(GATEWAY, places.edge, places.cloud, places.journal, places.database))
        flown, cut_seconds = _flow(settings, children, places, link, traffic, stop, say)
        if stop.is_set():
            say("stopping …")
            return None
        return _wind_down(settings, children, link, places, stop, say, flown, cut_seconds)


@contextmanager
def _fresh(directory: Path) -> Iterator[Path]:
    """``directory``, emptied if it was a demo's, and locked against a second one.

    Raises:
        Stop: another demo runs in it, or it has something else in it.
    """
    directory = directory.absolute()
    marker = directory / ".demo"
    try:
        if directory.exists() and any(directory.iterdir()) and not marker.exists():
            raise Stop(Exit.USAGE, f"{directory} is not empty and no demo's: give another --dir, or empty it yourself")
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(marker, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as exc:
        raise Stop(Exit.CANNOT_START, f"{directory} cannot be used: {exc.strerror}; give another --dir") from exc
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Stop(
                Exit.CANNOT_START, f"a demo already runs in {directory}: stop it, or give another --dir"
            ) from None
        for inner in directory.iterdir():
            if inner == marker:
                continue
            if inner.is_dir() and not inner.is_symlink():
                shutil.rmtree(inner)
            else:
                inner.unlink()
        yield directory
    finally:
        os.close(descriptor)


def _flow(
    settings: DemoSettings,
    children: Children,
    places: Places,
    link: Link,
    traffic: Traffic,
    stop: threading.Event,
    say: Callable[[str], None],
) -> tuple[float, float]:
    """Show what flows, and cut the link where asked; returns the seconds that it flowed and that the link was cut."""
    began = time.monotonic()
    cut_from, cut_until = _cut_window(settings)
    cut_seconds, cut_since = 0.0, 0.0
    head = f"gateway {GATEWAY}, {settings.sensors} sensors"
    with face(live=settings.live, head=head, say=say) as screen:
        while not stop.is_set():
            now = time.monotonic() - began
            if settings.duration is not None and now >= settings.duration:
                break
            if cut_from <= now < cut_until and not link.is_cut:
                link.cut()
                cut_since = now
            elif link.is_cut and now >= cut_until:
                link.restore()
                cut_seconds += now - cut_since
            screen.show(traffic.look(seconds=now, link_cut=link.is_cut), traffic)
            all_alive(children, places)
            match screen.key():
                case "c" if not link.is_cut:
                    cut_from, cut_until = now, now + KEY_CUT
                case "q":
                    break
                case _:
                    pass
    flown = time.monotonic() - began
    if link.is_cut:
        link.restore()
        cut_seconds += flown - cut_since
    return flown, cut_seconds


def _cut_window(settings: DemoSettings) -> tuple[float, float]:
    """From when to when the link is cut, in seconds after the start: in the middle of the run."""
    if settings.wan_cut <= 0:
        return 0.0, 0.0
    begin = 10.0 if settings.duration is None else max(0.0, (settings.duration - settings.wan_cut) / 2)
    return begin, begin + settings.wan_cut


def _wind_down(
    settings: DemoSettings,
    children: Children,
    link: Link,
    places: Places,
    stop: threading.Event,
    say: Callable[[str], None],
    flown: float,
    cut_seconds: float,
) -> Summary | None:
    """Stop the sensors, wait for the tail to arrive everywhere, and audit."""
    say("stopping the sensors, and waiting for the last records to arrive …")
    children.stop("sensors")
    until = time.monotonic() + DRAIN
    tell_at = time.monotonic() + 5.0
    while True:
        all_alive(children, places)
        try:
            verdict = audit(GATEWAY, places.edge, places.cloud, places.journal, places.database)
        except (Unreachable, KafkaException):
            if time.monotonic() > until:
                raise
            continue
        right = verdict.right(settings.sensors)
        # What is doubled does not become right by waiting; what is missing may still be on its way.
        if verdict.lost == 0 or verdict.doubled or time.monotonic() > until:
            return Summary(
                right=right, sensors=settings.sensors, seconds=flown, wan_cut_seconds=cut_seconds, verdict=verdict
            )
        if time.monotonic() >= tell_at:
            tell_at += 5.0
            say(
                f"  still on their way: {verdict.lost_on_the_way} acknowledged notifications, "
                f"{verdict.lost_to_the_cloud} records of the edge, {verdict.lost_rows} rows"
            )
        if stop.wait(1.0):
            return None
