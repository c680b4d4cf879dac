"""Which topics a lane carries right now, how they lie on both sides, and where to read on.

Makes the topics that one side lacks. It moves no record.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog

from connectors import kafka
from connectors.replicator.ledger import Position
from connectors.replicator.metrics import Metrics
from schemas.avro.topics import is_of_job

#: Topic and number of the partition.
Partition = tuple[str, int]

_log = structlog.get_logger("headwater.replicator")

# A clock of the source that runs ahead of the target's must not get a record refused: by default a broker takes no
# time stamp that lies more than an hour ahead of its own clock.
_FOREVER = "9223372036854775807"
_COPIED = ("max.message.bytes",)


class LogShorter(kafka.Unreachable):
    """The source says that its log ends before what was replicated of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One topic that exists on both sides."""

    topic_id: str  # of the source's
    partitions: int  # the source's
    same_partitions: bool
    largest: int  # bytes of a record that the target's topic takes


def survey(
    source: kafka.AdminClient,
    target: kafka.AdminClient,
    clusters: tuple[kafka.Cluster, kafka.Cluster],
    topics: Sequence[str],
    known: Mapping[str, Route],
    *,
    timeout: float,
) -> dict[str, Route]:
    """The routes of those ``topics`` that exist; one that only one side has is made on the other first.

    So a topic of commands that was made at the edge appears in the cloud, where people write to it, and a topic of
    measurements appears in the cloud with the partitions that it has at the edge. ``clusters``: source, target. What is
    ``known`` and has not changed at the source costs the target nothing: it may be at the end of a thin line.

    Raises:
        kafka.Unreachable: a side did not answer in time.
        kafka.KafkaException: a side refused.
    """
    here = kafka.describe_topics(source, topics, timeout=timeout)
    same = {
        name: route
        for name, route in known.items()
        if name in here and (here[name].id, here[name].partitions) == (route.topic_id, route.partitions)
    }
    # A job's topic is where the job runs: it is carried up when it exists, and asked for nowhere else.
    asked = [name for name in topics if name not in same and (name in here or not is_of_job(name))]
    there = kafka.describe_topics(target, asked, timeout=timeout)
    for lacking, having, client, cluster, owner in (
        (there, here, target, clusters[1], source),
        (here, there, source, clusters[0], target),
    ):
        missing = {name: having[name].partitions for name in asked if name in having and name not in lacking}
        if missing:
            settings = kafka.topic_configs(owner, list(missing), timeout=timeout)
            config = {name: _settings(settings[name]) for name in missing}
            made = kafka.ensure_topics(cluster, missing, config=config, timeout=timeout)
            _log.info("topics made", topics=made, kafka=cluster.bootstrap)
            lacking.update(kafka.describe_topics(client, list(missing), timeout=timeout))
    both = [name for name in asked if name in here and name in there]
    limits = kafka.topic_configs(target, both, timeout=timeout)
    return same | {
        name: Route(
            topic_id=here[name].id,
            partitions=here[name].partitions,
            same_partitions=here[name].partitions == there[name].partitions,
            largest=int(limits[name]["max.message.bytes"]),
        )
        for name in both
    }


def _settings(source: Mapping[str, str]) -> dict[str, str]:
    return {"message.timestamp.after.max.ms": _FOREVER, **{name: source[name] for name in _COPIED}}


def place(
    source: kafka.AdminClient,
    routes: Mapping[str, Route],
    topic_ids: Mapping[str, str],
    positions: Mapping[Partition, Position],
    metrics: Metrics,
    *,
    timeout: float,
    believe_short: bool,
) -> tuple[dict[Partition, Position], Counter[str]]:
    """Where to read each partition of ``routes`` on: at its position, if the source still has that.

    What the source lost before it was replicated is told loudly and returned, as offsets by topic; whoever commits the
    new positions counts it, or it would count again after each session that did not come to that. ``topic_ids`` are
    those that the ``positions`` are of.

    Raises:
        LogShorter: the source's log ends before a position, and ``believe_short`` is not set.
        kafka.Unreachable, kafka.KafkaException: the source.
    """
    partitions = [(name, number) for name, route in routes.items() for number in range(route.partitions)]
    bounds = kafka.log_bounds(source, partitions, timeout=timeout)
    placed = {}
    lost: Counter[str] = Counter()
    for topic in routes:
        if topic_ids.get(topic, routes[topic].topic_id) != routes[topic].topic_id:
            metrics.replaced.labels(topic).inc()
            _log.error("the source's topic is another one of the same name; it is read from its start", topic=topic)
    for (topic, number), (first, end) in bounds.items():
        at = positions.get((topic, number))
        if at is None or topic_ids.get(topic) != routes[topic].topic_id:
            at = Position(0, -1)
        if at.offset < first:
            lost[topic] += first - at.offset
            _log.error(
                "records were lost: the source's retention deleted them before they were replicated",
                topic=topic,
                partition=number,
                lost=first - at.offset,
                continued_at=first,
            )
            at = Position(first, at.timestamp)
        elif at.offset > end:
            if not believe_short:
                raise LogShorter(f"the log of {topic}/{number} ends at {end}, before what was replicated: {at.offset}")
            # The source lost its end (a power cut before its disk had it) and has gone on since. What it wrote after
            # that is told from what is replicated already by the time stamps alone.
            found = kafka.offset_since(source, (topic, number), at.timestamp + 1, timeout=timeout)
            metrics.replaced.labels(topic).inc()
            _log.error(
                "the source's log ends before what was replicated of it; it is read on by time",
                topic=topic,
                partition=number,
                replicated_to=at.offset,
                end=end,
                continued_at=found,
            )
            at = Position(found, at.timestamp)
        placed[topic, number] = at
    return placed, lost
