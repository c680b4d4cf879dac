"""The demo: the whole way on one machine, with real servers, and an audit at the end.

Built on `headwater.demo.way`, with the SQLite sink at its end and virtual sensors at its beginning.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gateway.devices.fleet import names
from headwater.demo.audit import Verdict, audit
from headwater.demo.children import Children
from headwater.demo.cuts import Cuts
from headwater.demo.link import Link
from headwater.demo.parts import ENDPOINT, GATEWAY, Places, all_alive, start_sensors, start_sqlite, to_paste
from headwater.demo.screen import face
from headwater.demo.traffic import Traffic
from headwater.demo.view import DemoPicture
from headwater.demo.way import Stopped, cloud_has_topics, gateway_is_ready, settled, way
from headwater.servers.kafka_jars import Progress

#: What the gateway observes on every device.
OBSERVED = ("/3303/*/5700", "/3304/*/5700")


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
    #: Sensors and gateway speak DTLS, each sensor with a key of its own.
    secure: bool = False


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

    ``say`` takes a line for people, ``progress`` is `headwater.servers.kafka_jars.Progress` for the first download.

    Raises:
        Stop: a part ended by itself, or the directory cannot be used.
        BrokerError: a Kafka could not be started.
    """
    began = time.monotonic()
    secured = names(ENDPOINT, settings.sensors) if settings.secure else []
    try:
        with way(settings.directory, OBSERVED, stop, say, progress, secured=secured) as (children, places, link):
            start_sqlite(children, places)
            gateway_is_ready(children, places, stop)
            # A device that nobody answers waits longer and longer, so they start last.
            start_sensors(children, places, count=settings.sensors, period=settings.period)
            cloud_has_topics(children, places, stop)
            say(f"all parts run after {time.monotonic() - began:.1f} s; try these in another terminal:\n")
            say("\n".join(f"  {line}" for line in to_paste(places, settings.sensors)) + "\n")
            with Traffic(GATEWAY, places.edge, places.cloud, places.journal, places.database) as traffic:
                flown, cut_seconds = _flow(settings, children, places, link, traffic, stop, say)
                if stop.is_set():
                    say("stopping …")
                    return None
                return _wind_down(settings, children, places, stop, say, flown, cut_seconds)
    except Stopped:
        return None


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
    cuts = Cuts(link, wan_cut=settings.wan_cut, duration=settings.duration)
    head = f"gateway {GATEWAY}, {settings.sensors} sensors" + (" over DTLS" if settings.secure else "")
    with face(live=settings.live, say=say) as screen:
        while not stop.is_set():
            now = time.monotonic() - began
            if settings.duration is not None and now >= settings.duration:
                break
            cuts.at(now)
            flow = traffic.look(seconds=now, link_cut=cuts.is_cut)
            screen.show(DemoPicture(flow=flow, inventory=traffic.picture, head=head))
            all_alive(children, places)
            match screen.key():
                case "c":
                    cuts.on_key(now)
                case "q":
                    break
                case _:
                    pass
    flown = time.monotonic() - began
    return flown, cuts.end(flown)


def _wind_down(
    settings: DemoSettings,
    children: Children,
    places: Places,
    stop: threading.Event,
    say: Callable[[str], None],
    flown: float,
    cut_seconds: float,
) -> Summary:
    """Stop the sensors, wait for the tail to arrive everywhere, and audit. Raises Stopped."""
    say("stopping the sensors, and waiting for the last records to arrive …")
    children.stop("sensors")
    verdict = settled(
        lambda: audit(GATEWAY, places.edge, places.cloud, places.journal, places.database),
        # What is doubled does not become right by waiting; what is missing may still be on its way.
        lambda found: found.lost == 0 or found.doubled > 0,
        lambda found: (
            f"{found.lost_on_the_way} acknowledged notifications, {found.lost_to_the_cloud} records of the edge, "
            f"{found.lost_rows} rows"
        ),
        children,
        places,
        stop,
        say,
    )
    return Summary(
        right=verdict.right(settings.sensors),
        sensors=settings.sensors,
        seconds=flown,
        wan_cut_seconds=cut_seconds,
        verdict=verdict,
    )
