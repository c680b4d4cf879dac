"""The sensor city: stations on the whole way, analytics on what they say, and stores for the results.

Built on `headwater.way`: stations at its beginning; in the cloud the jobs `statistics` and `outliers`, and a process of
sinks for Cassandra and Redis. Owns the order in which these come and go, and the audit at the end.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cloud.feed import Feed
from connectors.kafka import partition_counts, read_to_end
from gateway.devices.metrics import CITY, METRICS
from headwater import city_stores
from headwater.audit import Verdict, audit
from headwater.children import Children
from headwater.city_audit import CityVerdict, judge_city
from headwater.city_findings import Findings
from headwater.city_rules import THRESHOLD, rules
from headwater.city_stores import Store, Stores
from headwater.city_view import CityPicture
from headwater.cuts import Cuts
from headwater.journal import read_journal, read_outliers
from headwater.kafka_jars import DownloadStopped, Progress
from headwater.link import Link
from headwater.parts import GATEWAY, Places, all_alive, command
from headwater.screen import face
from headwater.traffic import Traffic
from headwater.way import Stopped, cloud_has_topics, gateway_is_ready, go_on, settled, wait, way
from schemas.avro.records import Alert, EnrichedReading
from schemas.avro.serde import SerdeError, decode
from schemas.avro.topics import TopicKind, Topics

#: The kind of sensor that every station gets while the city runs.
LATER = tuple(name for name in METRICS if name not in CITY)
#: The stores are looked at so often, in seconds.
_LOOK_AT_STORES = 5.0
_SAMPLE_ROWS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class CitySettings:
    """What a sensor city is told; times in seconds."""

    stores: Stores
    stations: int = 3
    period: float = 1.0
    #: None: until it is told to stop.
    duration: float | None = None
    wan_cut: float = 0.0
    #: When the stations get one more kind of sensor; None: in the middle of ``duration``, and at a key.
    add_after: float | None = None
    #: How many readings are outliers, and how far from the mean at least, in standard deviations.
    outliers: float = 0.01
    outlier_size: float = 6.0
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
    kinds: int
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
            "kinds": self.kinds,
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

    ``say`` takes a line for people, ``progress`` is `headwater.kafka_jars.Progress` for the first download.

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
            _start_analytics(children, places, stores)
            wait(stop, lambda: _results_have_topics(places), children, places, "the jobs made no topics")
            # A device that nobody answers waits longer and longer, so they start last.
            _start_stations(settings, children, places)
            say(f"all parts run after {time.monotonic() - began:.1f} s; try these in another terminal:\n")
            say("\n".join(f"  {line}" for line in to_paste(places, settings)) + "\n")
            flown, cut_seconds, kinds = _flow(settings, children, places, link, stop, say)
            if stop.is_set():
                say("stopping …")
                return None
            say("stopping the stations, and waiting for the last results to arrive …")
            children.stop("stations")
            found = _settle(settings, children, places, began_ms, stop, say)
            return CitySummary(
                stations=settings.stations,
                kinds=kinds,
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


def _start_analytics(children: Children, places: Places, stores: Stores) -> None:
    """The jobs and the sinks, all of them in the cloud."""
    own = places.directory / "rules.toml"
    own.write_text(rules(METRICS.values()), "utf-8")
    common = f"--gateway {GATEWAY} --kafka {places.cloud.bootstrap}".split()
    for job, more in {"statistics": [], "outliers": ["--rules", str(own), "--limit", f"{THRESHOLD:g}"]}.items():
        state = str(places.directory / "analytics" / job)
        children.start(job, ["analytics", "run", job, *common, "--state", state, "--quiet", *more])
    if stores.addresses:
        sinks = places.directory / "sinks.toml"
        sinks.write_text(city_stores.sinks_file(stores), "utf-8")
        children.start("sinks", ["sink", "run", str(sinks), *common])


def _results(topics: Topics) -> list[str]:
    """What the jobs write."""
    return [topics.name(kind) for kind in (TopicKind.STATISTICS, TopicKind.READINGS, TopicKind.ALERTS)]


def _results_have_topics(places: Places) -> bool:
    wanted = _results(Topics(GATEWAY))
    return len(partition_counts(places.cloud, wanted)) == len(wanted)


def _start_stations(settings: CitySettings, children: Children, places: Places) -> None:
    line = (
        f"station --server {places.coap} --endpoint station --count {settings.stations} --period {settings.period:g} "
        f"--outliers {settings.outliers:g} --outlier-size {settings.outlier_size:g}"
    )
    later = [word for name in LATER for word in ("--add", name)]
    after = [] if settings.grows_at is None else ["--after", f"{settings.grows_at:g}"]
    seed = [] if settings.seed is None else ["--seed", str(settings.seed)]
    files = ["--journal", str(places.journal), "--made", str(_made(places))]
    children.start("stations", [*line.split(), *later, *after, *seed, *files])


def _made(places: Places) -> Path:
    """The file of the outliers that the stations make."""
    return places.directory / "outliers.jsonl"


def _flow(
    settings: CitySettings,
    children: Children,
    places: Places,
    link: Link,
    stop: threading.Event,
    say: Callable[[str], None],
) -> tuple[float, float, int]:
    """Show what flows; returns the seconds that it flowed and that the link was cut, and the kinds of sensors seen."""
    began = time.monotonic()
    cuts = Cuts(link, wan_cut=settings.wan_cut, duration=settings.duration)
    findings, kept, look_at = Findings(), dict[str, str](), 0.0
    head = f"sensor city: {settings.stations} stations on gateway {GATEWAY}"
    with ExitStack() as stack:
        traffic = stack.enter_context(Traffic(GATEWAY, places.edge, places.cloud, places.journal, places.database))
        results = stack.enter_context(Feed(places.cloud, _results(Topics(GATEWAY))))
        screen = stack.enter_context(face(live=settings.live, say=say))
        while not stop.is_set():
            now = time.monotonic() - began
            if settings.duration is not None and now >= settings.duration:
                break
            cuts.at(now)
            flow = traffic.look(seconds=now, link_cut=cuts.is_cut)
            for item in results.poll(0.1):
                if item.record is not None:
                    findings.take(item.record)
            if now >= look_at and Store.REDIS in settings.stores.addresses:
                look_at = now + _LOOK_AT_STORES
                keys = city_stores.redis_keys(settings.stores)
                kept["redis keys"] = "no answer" if keys is None else str(keys)
            screen.show(
                CityPicture(
                    flow=flow, inventory=traffic.picture, findings=findings, metrics=METRICS, kept=kept, head=head
                )
            )
            all_alive(children, places)
            match screen.key():
                case "a":
                    children.signal("stations", signal.SIGUSR1)
                case "c":
                    cuts.on_key(now)
                case "q":
                    break
                case _:
                    pass
    flown = time.monotonic() - began
    kinds = len({str(metric.path) for metric in METRICS.values()} & findings.paths)
    return flown, cuts.end(flown), kinds


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
        # What is doubled does not become right by waiting; what is missing may still be on its way.
        lambda found: found[0].lost + found[1].lost == 0 or found[0].doubled + found[1].doubled > 0,
        lambda found: (
            f"{found[0].lost} notifications and records of the edge, {found[1].lost_readings} readings to be judged, "
            f"{found[1].lost_rows} rows"
        ),
        children,
        places,
        stop,
        say,
    )


def _audit_city(stores: Stores, places: Places, began_ms: int) -> CityVerdict:
    topics = Topics(GATEWAY)
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
        read_outliers(_made(places)),
        read_journal(places.journal),
        readings,
        alerts,
        city_stores.readings(stores, began_ms) if Store.CASSANDRA in stores.addresses else None,
    )


def _sample(stores: Stores) -> tuple[list[str], list[list[str]]]:
    if Store.CASSANDRA not in stores.addresses:
        return [], []
    return city_stores.first_readings(stores, _SAMPLE_ROWS)


def to_paste(places: Places, settings: CitySettings) -> list[str]:
    """Commands to paste into another terminal."""
    first = "station" if settings.stations == 1 else "station-1"
    at = f"--gateway {GATEWAY} --kafka {places.cloud.bootstrap}"
    headwater = command()
    lines = [
        f"{headwater} devices {at} --watch",
        f"{headwater} read {first} /3346 {at}",
        f"{headwater} tail statistics {at}",
        f"{headwater} tail alerts {at}",
    ]
    stores = settings.stores
    if Store.CASSANDRA in stores.addresses:
        host, number = stores.host_and_port(Store.CASSANDRA)
        lines.append(f"cqlsh {host} {number} -e 'SELECT * FROM {city_stores.KEYSPACE}.readings LIMIT 10'")
    if Store.REDIS in stores.addresses:
        host, number = stores.host_and_port(Store.REDIS)
        lines.append(f"redis-cli -h {host} -p {number} HGETALL 'hw:{{{GATEWAY}}}:statistics:{first}'")
    return lines
