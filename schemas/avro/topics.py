"""Topics: their names, directions, default partitions and subjects. Makes no topic and speaks to no broker."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache

#: Kafka's own limit is 249 for the whole name; a gateway id is part of file names and consumer groups as well.
MAX_GATEWAY_ID = 100

#: The subject of the key's schema, the same in every topic that says nothing else.
KEY_SUBJECT = "iot-key"

_GATEWAY_ID = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")


class InvalidGatewayId(ValueError):
    """The gateway id cannot be part of a topic name."""


class UnknownTopic(ValueError):
    """The topic is none of a gateway's."""


class Direction(Enum):
    """Which way the replicator carries a topic."""

    UP = "edge → cloud"
    DOWN = "cloud → edge"


class TopicKind(Enum):
    """The families of topics."""

    REGISTRATIONS = "registrations"
    OBSERVATIONS = "observations"
    REQUESTS = "requests"
    REPLIES = "replies"
    MAXPER30SEC = "maxper30sec"
    COMMANDS = "commands"
    DEADLETTER = "deadletter"
    FILES = "files"
    AGGREGATES = "aggregates"
    STATISTICS = "statistics"
    READINGS = "readings"
    ALERTS = "alerts"
    JOINED = "joined"


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicFamily:
    """One row of the table of topics: the name is ``<prefix>.<gateway id>.<suffix>``.

    ``subject`` is that of the value's schema, or None where a topic holds records of any schema. ``of_job``: only
    the analytics job that writes it makes it; nobody else needs it, so a gateway without that job has no such topic.
    ``key_subject`` is that of the key's schema. ``settings`` are Kafka's for the topic where they are not its defaults.
    """

    prefix: str
    suffix: str
    direction: Direction
    partitions: int
    subject: str | None
    of_job: bool = False
    key_subject: str = KEY_SUBJECT
    settings: Mapping[str, str] = field(default_factory=dict)


FAMILIES: Mapping[TopicKind, TopicFamily] = {
    TopicKind.REGISTRATIONS: TopicFamily(
        prefix="iot",
        suffix="registrations",
        direction=Direction.UP,
        partitions=2,
        subject="iot.registrations-value",
    ),
    TopicKind.OBSERVATIONS: TopicFamily(
        prefix="iot",
        suffix="observations",
        direction=Direction.UP,
        partitions=2,
        subject="iot.observations-value",
    ),
    TopicKind.REQUESTS: TopicFamily(
        prefix="iot",
        suffix="management.req",
        direction=Direction.DOWN,
        partitions=1,
        subject="iot.management.req-value",
    ),
    TopicKind.REPLIES: TopicFamily(
        prefix="iot",
        suffix="management.rep",
        direction=Direction.UP,
        partitions=2,
        subject="iot.management.rep-value",
    ),
    TopicKind.MAXPER30SEC: TopicFamily(
        prefix="analytics",
        suffix="observations.maxper30sec",
        direction=Direction.UP,
        partitions=2,
        # Results of a series are ordinary observations.
        subject="iot.observations-value",
    ),
    # The last state of each command, for a week: longer than a command may wait.
    TopicKind.COMMANDS: TopicFamily(
        prefix="iot",
        suffix="commands",
        direction=Direction.UP,
        partitions=1,
        subject="iot.commands-value",
        key_subject="iot.commands-key",
        settings={"cleanup.policy": "compact,delete", "retention.ms": "604800000", "segment.ms": "86400000"},
    ),
    TopicKind.DEADLETTER: TopicFamily(
        prefix="iot",
        suffix="deadletter",
        direction=Direction.UP,
        partitions=1,
        subject=None,
    ),
    # Images for devices, in pieces (`schemas.files`).
    TopicKind.FILES: TopicFamily(
        prefix="iot",
        suffix="files",
        direction=Direction.DOWN,
        partitions=1,
        subject=None,
        # Small batches, so that they take no memory of an edge's Kafka; small segments, so that old images end.
        settings={"max.message.bytes": "131072", "segment.bytes": "16777216"},
    ),
    TopicKind.AGGREGATES: TopicFamily(
        prefix="analytics",
        suffix="aggregates",
        direction=Direction.UP,
        partitions=2,
        subject="analytics.aggregates-value",
        of_job=True,
    ),
    TopicKind.STATISTICS: TopicFamily(
        prefix="analytics",
        suffix="statistics",
        direction=Direction.UP,
        partitions=2,
        subject="analytics.statistics-value",
        of_job=True,
    ),
    TopicKind.READINGS: TopicFamily(
        prefix="analytics",
        suffix="readings",
        direction=Direction.UP,
        partitions=2,
        subject="analytics.readings-value",
        of_job=True,
    ),
    TopicKind.ALERTS: TopicFamily(
        prefix="analytics",
        suffix="alerts",
        direction=Direction.UP,
        partitions=2,
        subject="analytics.alerts-value",
        of_job=True,
    ),
    TopicKind.JOINED: TopicFamily(
        prefix="analytics",
        suffix="joined",
        direction=Direction.UP,
        partitions=2,
        subject=None,
        of_job=True,
    ),
}


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one gateway.

    >>> Topics("rock64").observations
    'iot.rock64.observations'

    Raises:
        InvalidGatewayId: the id is empty, too long, or has other signs than letters, digits, ``-``, ``_`` and single
            dots inside.
    """

    gateway: str

    def __post_init__(self) -> None:
        validate_gateway_id(self.gateway)

    @property
    def registrations(self) -> str:
        return self.name(TopicKind.REGISTRATIONS)

    @property
    def observations(self) -> str:
        return self.name(TopicKind.OBSERVATIONS)

    @property
    def requests(self) -> str:
        return self.name(TopicKind.REQUESTS)

    @property
    def replies(self) -> str:
        return self.name(TopicKind.REPLIES)

    @property
    def maxper30sec(self) -> str:
        return self.name(TopicKind.MAXPER30SEC)

    @property
    def commands(self) -> str:
        return self.name(TopicKind.COMMANDS)

    @property
    def deadletter(self) -> str:
        return self.name(TopicKind.DEADLETTER)

    @property
    def files(self) -> str:
        return self.name(TopicKind.FILES)

    @property
    def uplink(self) -> tuple[str, ...]:
        """The topics that go from the edge to the cloud, those of analytics jobs too, which may not be there."""
        return self._going(Direction.UP)

    @property
    def downlink(self) -> tuple[str, ...]:
        """The topics that go from the cloud to the edge."""
        return self._going(Direction.DOWN)

    def name(self, kind: TopicKind) -> str:
        return _name(self.gateway, kind)

    def partitions(self) -> dict[str, int]:
        """Every topic that a gateway needs and its default number of partitions; those of analytics jobs are not."""
        return {self.name(kind): family.partitions for kind, family in FAMILIES.items() if not family.of_job}

    def _going(self, direction: Direction) -> tuple[str, ...]:
        return tuple(self.name(kind) for kind, family in FAMILIES.items() if family.direction is direction)

    @staticmethod
    def of(topic: str) -> tuple[Topics, TopicKind]:
        """The gateway's topics and the family that a topic's name tells.

        Raises:
            UnknownTopic: the name is none of a gateway's topics.
        """
        for kind, family in FAMILIES.items():
            head, tail = f"{family.prefix}.", f".{family.suffix}"
            if topic.startswith(head) and topic.endswith(tail):
                try:
                    return Topics(topic[len(head) : -len(tail)]), kind
                except InvalidGatewayId as exc:
                    raise UnknownTopic(f"{topic!r}: {exc}") from exc
        raise UnknownTopic(f"{topic!r} is no topic of a gateway, such as iot.rock64.observations")


def settings_of(topic: str) -> Mapping[str, str]:
    """Kafka's settings of a topic where they are not its defaults; of one that is none of a gateway's, none."""
    try:
        return FAMILIES[Topics.of(topic)[1]].settings
    except UnknownTopic:
        return {}


def is_of_job(topic: str) -> bool:
    """True for a topic that an analytics job makes where it runs, and that is nowhere before that."""
    try:
        return FAMILIES[Topics.of(topic)[1]].of_job
    except UnknownTopic:
        return False


@lru_cache(maxsize=4096)
def _name(gateway: str, kind: TopicKind) -> str:
    """Asked for with every record."""
    family = FAMILIES[kind]
    return f"{family.prefix}.{gateway}.{family.suffix}"


def validate_gateway_id(gateway: str) -> str:
    """The id itself.

    Kafka takes letters, digits, ``.``, ``_`` and ``-`` in a topic's name; a dot at an end or two in a row would blur
    where the id begins and ends.

    Raises:
        InvalidGatewayId: says what is wrong.
    """
    if not 1 <= len(gateway) <= MAX_GATEWAY_ID or _GATEWAY_ID.fullmatch(gateway) is None:
        raise InvalidGatewayId(
            f"gateway id {gateway[:120]!r}: 1 to {MAX_GATEWAY_ID} letters, digits, '-', '_' and single dots inside "
            "are expected, such as rock64"
        )
    return gateway
