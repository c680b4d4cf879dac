"""The parts that a sensor city has beside the way's: stations, analytics jobs, sinks; and what to try while it runs.

Owns how each is started. The stores are `headwater.city.stores`'s, the order is `headwater.city.run`'s.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from connectors.kafka import partition_counts
from gateway.devices.metrics import CITY, METRICS
from headwater.city import stores as city_stores
from headwater.city.rules import THRESHOLD, rules
from headwater.city.stores import Store, Stores
from headwater.demo.children import Children
from headwater.demo.parts import GATEWAY, Places, command, python
from schemas.avro.topics import TopicKind, Topics


def start_analytics(children: Children, places: Places, stores: Stores) -> None:
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


def results(topics: Topics) -> list[str]:
    """What the jobs write."""
    return [topics.name(kind) for kind in (TopicKind.STATISTICS, TopicKind.READINGS, TopicKind.ALERTS)]


def results_have_topics(places: Places) -> bool:
    """Whether the jobs have made them."""
    wanted = results(Topics(GATEWAY))
    return len(partition_counts(places.cloud, wanted)) == len(wanted)


def start_stations(
    children: Children,
    places: Places,
    *,
    stations: int,
    metrics: Sequence[str],
    period: float,
    outliers: float,
    seed: int | None,
    grows_at: float | None,
) -> None:
    """Start the stations, in one process, with the sensors of ``metrics``; they get those of `later` at ``grows_at``
    seconds, and at SIGUSR1."""
    line = (
        f"station --server {places.coap} --endpoint station --count {stations} --period {period:g} "
        f"--outliers {outliers:g}"
    )
    first = [word for name in metrics for word in ("--metric", name)]
    more = [word for name in later(metrics) for word in ("--add", name)]
    after = [] if grows_at is None or not more else ["--after", f"{grows_at:g}"]
    repeated = [] if seed is None else ["--seed", str(seed)]
    files = ["--journal", str(places.journal), "--made", str(made(places))]
    children.start("stations", [*line.split(), *first, *more, *after, *repeated, *files])


def later(metrics: Sequence[str]) -> list[str]:
    """The kinds of sensor that every station gets while the city runs, where it has ``metrics`` at first."""
    return [name for name in METRICS if name not in CITY and name not in metrics]


def made(places: Places) -> Path:
    """The file of the outliers that the stations make."""
    return places.directory / "outliers.jsonl"


def to_paste(places: Places, stores: Stores, stations: int, metrics: Sequence[str]) -> list[str]:
    """Commands to paste into another terminal; the last of ``metrics`` is read."""
    first = "station" if stations == 1 else "station-1"
    at = f"--gateway {GATEWAY} --kafka {places.cloud.bootstrap}"
    headwater = command()
    lines = [
        f"{headwater} devices {at} --watch",
        f"{headwater} read {first} /{METRICS[metrics[-1]].instance.object_id} {at}",
        f"{headwater} tail statistics {at}",
        f"{headwater} tail alerts {at}",
    ]
    if Store.CASSANDRA in stores.addresses:
        lines.append(_look_into_cassandra(*stores.host_and_port(Store.CASSANDRA)))
    if Store.REDIS in stores.addresses:
        lines.append(_look_into_redis(*stores.host_and_port(Store.REDIS), f"hw:{{{GATEWAY}}}:statistics:{first}"))
    return lines


def _look_into_cassandra(host: str, port: int) -> str:
    """By its own shell where that is found, else by the driver, which is."""
    query = f"SELECT * FROM {city_stores.KEYSPACE}.readings LIMIT 10"
    if shutil.which("cqlsh"):
        return f'cqlsh {host} {port} -e "{query}"'
    connect = f"Cluster(['{host}'], port={port}, protocol_version=5).connect()"
    code = f"from cassandra.cluster import Cluster; print(*{connect}.execute('{query}'), sep='\\n')"
    # The driver tells at length what it would rather be told.
    return f'{python()} -c "{code}" 2> /dev/null'


def _look_into_redis(host: str, port: int, key: str) -> str:
    """By its own client where that is found, else by the library, which is."""
    if shutil.which("redis-cli"):
        return f"redis-cli -h {host} -p {port} HGETALL '{key}'"
    return f"{python()} -c \"import redis; print(redis.Redis('{host}', {port}).hgetall('{key}'))\""
