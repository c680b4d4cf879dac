"""The sensor city: stations on the whole way, analytics on what they say, and stores for the results.

Built on `headwater.demo.way`: stations at its beginning; in the cloud the jobs `statistics` and `outliers`, and a
process of sinks for Cassandra and Redis. Owns the order in which these come and go, and the audit at the end.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cloud.feed import Feed
from connectors.kafka import read_to_end
from gateway.devices.metrics import CITY, METRICS
from headwater.city import stores as city_stores
from headwater.city.audit import CityVerdict, judge_city
from headwater.city.findings import Findings
from headwater.city.parts import later, made, results, results_have_topics, start_analytics, start_stations, to_paste
from headwater.city.stores import Store, Stores
from headwater.city.view import CityPicture
from headwater.demo.audit import Verdict, audit
from headwater.demo.children import Children
from headwater.demo.cuts import Cuts
from headwater.demo.journal import read_journal, read_outliers
from headwater.demo.link import Link
from headwater.demo.parts import GATEWAY, Places, all_alive
from headwater.demo.screen import face
from headwater.demo.traffic import Traffic
from headwater.demo.way import Stopped, cloud_has_topics, gateway_is_ready, go_on, settled, wait, way
from headwater.servers.kafka_jars import DownloadStopped, Progress
from schemas.avro.records import Alert, EnrichedReading
from schemas.avro.serde import SerdeError, decode
from schemas.avro.topics import TopicKind, Topics

#: The stores are looked at so often, in seconds.
_LOOK_AT_STORES = 5.0
_SAMPLE_ROWS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class CitySettings:
    """What a sensor city is told; times in seconds."""

    stores: Stores
    stations: int = 3
    #: The sensors that a station has at first, by name.
    metrics: Sequence[str] = tuple(CITY)
    period: float = 1.0
    #: None: until it is told to stop.
    duration: float | None = None
    wan_cut: float = 0.0
    #: When the stations get one more kind of sensor; None: in the middle of ``duration``, and at a key.
    add_after: float | None = None
    #: How many of the readings are outliers.
    outliers: float = 0.01
    seed: int | None = None
    directory: Path = Path(".headwater/city")
    live: bool = False

    @property
    def grows_at(self) -> float | None:
        """When the stations get their new kind of sensor by themselves."""
        if self.add_after is not None or self.duration is None:
            return self.add_after
        return self.duration / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class CitySummary:
    """How a city went. ``right`` decides the exit code."""

    stations: int
    seconds: float
    wan_cut_seconds: float
    way: Verdict
    city: CityVerdict
    redis_keys: int | None
    #: What ``SELECT * FROM city.readings LIMIT 10`` shows: columns, rows.
    sample: tuple[list[str], list[list[str]]]

    @property
    def lost(self) -> int:
        return self.way.lost + self.city.lost

    @property
    def doubled(self) -> int:
        return self.way.doubled + self.city.doubled

    @property
    def right(self) -> bool:
        """True if nothing is lost or doubled, no outlier missed, and every station told something."""
        return self.way.right(self.stations) and not (self.lost or self.doubled or self.city.outliers_missed)

    def as_json(self) -> dict[str, Any]:
        """The summary for ``--output json``."""
        return {
            "ok": self.right,
            "stations": self.stations,
            "seconds": round(self.seconds, 1),
            "wan_cut_seconds": round(self.wan_cut_seconds, 1),
            "notifications": self.way.acknowledged,
            "lost": self.lost,
            "doubled": self.doubled,
            **asdict(self.city),
            "outliers_missed": self.city.outliers_missed,
            "redis_keys": self.redis_keys,
            "way": asdict(self.way),
        }


def run(
    settings: CitySettings, stop: threading.Event, say: Callable[[str], None], progress: Progress
) -> CitySummary | None:
    """Run a city until its time is over or ``stop`` is set; returns the summary, None if it was stopped.

    ``say`` takes a line for people, ``progress`` is `headwater.servers.kafka_jars.Progress` for the first download.

    Raises:
        Stop: a library is missing, a store cannot be had, a part ended by itself, or the directory cannot be used.
        BrokerError: a Kafka could not be started.
    """
    stores = settings.stores
    city_stores.check_libraries(stores.addresses)
    began, began_ms = time.monotonic(), time.time_ns() // 1_000_000
    observed = sorted({f"/{metric.instance.object_id}/*/5700" for metric in METRICS.values()})
    try:
        with way(settings.directory, observed, stop, say, progress) as (children, places, link):
            _start_stores(stores, children, places, stop, say)
            gateway_is_ready(children, places, stop)
            cloud_has_topics(children, places, stop)
            start_analytics(children, places, stores)
            wait(stop, lambda: results_have_topics(places), children, places, "the jobs made no topics")
            # A device that nobody answers waits longer and longer, so they start last.
            start_stations(
                children,
                places,
                stations=settings.stations,
                metrics=settings.metrics,
                period=settings.period,
                outliers=settings.outliers,
                seed=settings.seed,
                grows_at=settings.grows_at,
            )
            say(f"all parts run after {time.monotonic() - began:.1f} s; try these in another terminal:\n")
            say("\n".join(f"  {line}" for line in to_paste(places, stores, settings.stations, settings.metrics)) + "\n")
            flown, cut_seconds = _flow(settings, children, places, link, stop, say)
            if stop.is_set():
                say("stopping …")
                return None
            say("stopping the stations, and waiting for the last results to arrive …")
            children.stop("stations")
            found = _settle(settings, children, places, began_ms, stop, say)
            return CitySummary(
                stations=settings.stations,
                seconds=flown,
                wan_cut_seconds=cut_seconds,
                way=found[0],
                city=found[1],
                redis_keys=city_stores.redis_keys(stores) if Store.REDIS in stores.addresses else None,
                sample=_sample(stores),
            )
    except Stopped:
        return None


def _start_stores(
    stores: Stores, children: Children, places: Places, stop: threading.Event, say: Callable[[str], None]
) -> None:
    try:
        city_stores.fetch(stores, say, stop.is_set)
    except DownloadStopped:
        raise Stopped from None
    go_on(stop)
    if stores.embedded:
        say(f"starting {' and '.join(sorted(store.value.capitalize() for store in stores.embedded))} …")
    city_stores.start(stores, children, places)
    where = ", ".join(f"{store.value} at {address}" for store, address in stores.addresses.items())
    wait(
        stop,
        lambda: city_stores.answer(stores),
        children,
        places,
        f"there is no answer of {where}",
        patience=city_stores.PATIENCE,
    )


def _flow(
    settings: CitySettings,
    children: Children,
    places: Places,
    link: Link,
    stop: threading.Event,
    say: Callable[[str], None],
) -> tuple[float, float]:
    """Show what flows; returns the seconds that it flowed and that the link was cut."""
    began = time.monotonic()
    cuts = Cuts(link, wan_cut=settings.wan_cut, duration=settings.duration)
    findings, kept, look_at = Findings(), dict[str, str](), 0.0
    head = f"sensor city: {settings.stations} stations on gateway {GATEWAY}"
    with ExitStack() as stack:
        traffic = stack.enter_context(Traffic(GATEWAY, places.edge, places.cloud, places.journal, places.database))
        found = stack.enter_context(Feed(places.cloud, results(Topics(GATEWAY))))
        screen = stack.enter_context(face(live=settings.live, say=say))
        while not stop.is_set():
            now = time.monotonic() - began
            if settings.duration is not None and now >= settings.duration:
                break
            cuts.at(now)
            flow = traffic.look(seconds=now, link_cut=cuts.is_cut)
            for item in found.poll(0.1):
                if item.record is not None:
                    findings.take(item.record)
            if now >= look_at and Store.REDIS in settings.stores.addresses:
                look_at = now + _LOOK_AT_STORES
                kept["redis keys"] = str(city_stores.redis_keys(settings.stores))
            screen.show(
                CityPicture(
                    flow=flow, inventory=traffic.picture, findings=findings, metrics=METRICS, kept=kept, head=head
                )
            )
            all_alive(children, places)
            match screen.key():
                case "a" if later(settings.metrics):
                    children.signal("stations", signal.SIGUSR1)
                case "c":
                    cuts.on_key(now)
                case "q":
                    break
                case _:
                    pass
    flown = time.monotonic() - began
    return flown, cuts.end(flown)


def _settle(
    settings: CitySettings,
    children: Children,
    places: Places,
    began_ms: int,
    stop: threading.Event,
    say: Callable[[str], None],
) -> tuple[Verdict, CityVerdict]:
    """Wait until all that was acknowledged has been judged and stored. Raises Stopped."""
    return settled(
        lambda: (
            audit(GATEWAY, places.edge, places.cloud, places.journal, None),
            _audit_city(settings.stores, places, began_ms),
        ),
        # What is missing may still be on its way. Nothing counts as doubled before all is there: the statistics may
        # be ahead of the readings.
        lambda found: found[0].lost + found[1].lost == 0,
        lambda found: (
            f"{found[0].lost} notifications and records of the edge, {found[1].lost_readings} readings to be judged, "
            f"{found[1].lost_rows} rows, {found[1].lost_counts} readings in the statistics"
        ),
        children,
        places,
        stop,
        say,
    )


def _audit_city(stores: Stores, places: Places, began_ms: int) -> CityVerdict:
    topics = Topics(GATEWAY)
    # The stores first: what they get while the readings are read is then not taken for too much.
    rows = city_stores.readings(stores, began_ms) if Store.CASSANDRA in stores.addresses else None
    lengths = city_stores.lengths(stores) if Store.REDIS in stores.addresses else None
    readings, alerts = [], []
    for message in read_to_end(places.cloud, [topics.name(kind) for kind in (TopicKind.READINGS, TopicKind.ALERTS)]):
        try:
            match decode(message.value() or b""):
                case EnrichedReading() as reading:
                    readings.append(reading)
                case Alert() as alert:
                    alerts.append(alert)
                case _:
                    pass
        except SerdeError:
            continue  # somebody else's: it is none of what the jobs write
    return judge_city(
        read_outliers(made(places)),
        read_journal(places.journal),
        readings,
        alerts,
        rows,
        lengths,
    )


def _sample(stores: Stores) -> tuple[list[str], list[list[str]]]:
    if Store.CASSANDRA not in stores.addresses:
        return [], []
    return city_stores.first_readings(stores, _SAMPLE_ROWS)
