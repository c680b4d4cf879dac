"""Least privilege on Kafka: who may do what with which topic, group and transactional id, as a table.

Owns the table and nothing else: pure, no broker is spoken to (`connectors.access` does that). What is not in it is
refused, since the brokers deny by default; whoever may do everything (a broker its own cluster, ``admin:fleet``) stands
in the brokers' ``super.users`` and has no row.

What an identity of one gateway is granted never reaches another gateway's, whatever ids the two have. Names are
literal wherever they are known beforehand. Where they are not (a job's group and state, what people name themselves),
they begin with the gateway's id and **two dots**: no id holds two dots in a row or ends with one
(`schemas.avro.topics`), so nothing of gateway ``a.b``, ``ab`` or ``a-b`` begins with what is ``a``'s.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from schemas.avro.topics import FAMILIES, Direction, TopicKind, Topics
from security.identities import ALL_GATEWAYS, OF_GATEWAY, Identity, Role

#: What ends a gateway's id where only the beginning of a name is known.
END = ".."
#: The names of the sinks and of the jobs that keep a state, which are part of their groups' names.
SINKS = (
    "alertmanager", "cassandra", "elasticsearch", "influxdb", "orientdb", "parquet", "prometheus", "redis", "sqlite",
    "webhook",
)  # fmt: skip
JOBS = ("aggregate", "filter", "join", "max-temperature", "outliers", "statistics")
#: The replicator's transactions, by the side on which it writes.
_LANES = {"cloud": ("replies", "bulk"), "edge": ("commands",)}


class Side(Enum):
    """Which of the two Kafkas of a gateway: its own at the edge, or the one in the cloud."""

    EDGE = "edge"
    CLOUD = "cloud"


class Resource(Enum):
    """What Kafka guards."""

    TOPIC = "topic"
    GROUP = "group"
    TRANSACTIONAL_ID = "transactional_id"
    CLUSTER = "cluster"


class Pattern(Enum):
    """How a name is meant."""

    LITERAL = "literal"
    PREFIXED = "prefixed"


class Operation(Enum):
    """What is done with it. READ and WRITE hold DESCRIBE as well, without which nothing can be found."""

    READ = "read"
    WRITE = "write"
    CREATE = "create"
    DESCRIBE = "describe"
    DESCRIBE_CONFIGS = "describe_configs"
    ALL = "all"


class Decision(Enum):
    ALLOW = "allow"
    DENY = "deny"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """One operation on one name, or on all that begin so. The name of the cluster is ``kafka-cluster``."""

    resource: Resource
    name: str
    operation: Operation
    pattern: Pattern = Pattern.LITERAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """A grant, or its opposite, and whose; ``principal`` as Kafka has it: ``User:gateway:rock64``."""

    principal: str
    grant: Grant
    decision: Decision = Decision.ALLOW


@dataclass(frozen=True, slots=True, kw_only=True)
class UserRights:
    """The gateways of which a person may see all that devices say, and those whose devices he may command as well."""

    see: frozenset[str] = frozenset()
    command: frozenset[str] = frozenset()

    def sees(self, gateway: str) -> bool:
        """Whoever commands sees the replies, and so the rest."""
        return self.commands(gateway) or gateway in self.see or ALL_GATEWAYS in self.see

    def commands(self, gateway: str) -> bool:
        return gateway in self.command or ALL_GATEWAYS in self.command


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """One Kafka: which side it is, and whose gateways' topics it holds (at an edge: those of one)."""

    side: Side
    gateways: tuple[str, ...]
    users: Mapping[str, UserRights] = field(default_factory=dict)


_R, _W, _C = Operation.READ, Operation.WRITE, Operation.CREATE
_D, _DC = Operation.DESCRIBE, Operation.DESCRIBE_CONFIGS

_UP = tuple(kind for kind, family in FAMILIES.items() if family.direction is Direction.UP)
_DOWN = tuple(kind for kind, family in FAMILIES.items() if family.direction is Direction.DOWN)
_OF_DEVICES = (TopicKind.REGISTRATIONS, TopicKind.OBSERVATIONS, TopicKind.REPLIES)
#: What jobs write.
_RESULTS = (TopicKind.MAXPER30SEC, *(kind for kind, family in FAMILIES.items() if family.of_job))
_STORED = (*_OF_DEVICES, TopicKind.STATISTICS, TopicKind.READINGS, TopicKind.ALERTS, TopicKind.JOINED)
_DEAD = (TopicKind.DEADLETTER,)
_STATES = (TopicKind.COMMANDS,)

_Row = tuple[tuple[TopicKind, ...], tuple[Operation, ...]]

#: The topics of a gateway, by role and side. A role that is not here has none there.
TOPICS: Mapping[tuple[Role, Side], tuple[_Row, ...]] = {
    # The gateway reads back what it wrote (to know after a kill what is durable), and makes what is missing.
    (Role.GATEWAY, Side.EDGE): (
        (_OF_DEVICES, (_R, _W, _C)),
        (_DOWN, (_R, _C)),
        (_DEAD, (_W, _C)),
        (_STATES, (_W, _C)),
        ((TopicKind.MAXPER30SEC,), (_D, _C)),
    ),
    # The replicator makes on one side what it finds on the other, with its settings.
    (Role.REPLICATOR, Side.EDGE): ((_UP, (_R, _DC, _C)), (_DOWN, (_W, _DC, _C))),
    (Role.REPLICATOR, Side.CLOUD): ((_UP, (_W, _DC, _C)), (_DOWN, (_R, _DC, _C))),
    # Sinks read; what they cannot store is told in the dead letters, which they also try again.
    (Role.SINK, Side.EDGE): ((_STORED, (_R,)), (_DEAD, (_R, _W))),
    (Role.SINK, Side.CLOUD): ((_STORED, (_R,)), (_DEAD, (_R, _W))),
    # Jobs read what devices said and what other jobs found.
    (Role.ANALYTICS, Side.EDGE): (((*_OF_DEVICES, *_RESULTS), (_R, _DC)), (_RESULTS, (_W, _C)), (_DEAD, (_W,))),
    (Role.ANALYTICS, Side.CLOUD): (((*_OF_DEVICES, *_RESULTS), (_R, _DC)), (_RESULTS, (_W, _C)), (_DEAD, (_W,))),
    # Who carries campaigns out hears what devices say and writes requests; images are put there by people.
    (Role.CAMPAIGNS, Side.CLOUD): ((_OF_DEVICES, (_R,)), ((TopicKind.REQUESTS,), (_W,))),
}
#: A person's: what seeing is, and what commanding adds.
SEEING: tuple[_Row, ...] = ((_UP, (_R,)), (_DOWN, (_D,)))
#: Who sends a file looks whether it is there already; requests, which may hold keys, are not for reading.
COMMANDING: tuple[_Row, ...] = ((_DOWN, (_W,)), ((TopicKind.FILES,), (_R,)))

#: Topics that people name themselves, which begin with ``analytics.<gateway>..``.
_OWN: Mapping[tuple[Role, Side], tuple[Operation, ...]] = {
    (Role.REPLICATOR, Side.EDGE): (_R, _DC),
    (Role.REPLICATOR, Side.CLOUD): (_W, _C, _DC),
    (Role.ANALYTICS, Side.EDGE): (_R, _W, _C, _DC),
    (Role.ANALYTICS, Side.CLOUD): (_R, _W, _C, _DC),
}

#: Names of groups under which things are only looked at. Nobody joins them and nothing is committed there; Kafka's
#: client asks for the coordinator of any group that it is given.
_LOOKING: Mapping[Role, tuple[str, ...]] = {
    Role.GATEWAY: ("headwater-offsets", "headwater-reader"),
    Role.REPLICATOR: ("headwater-look",),
    Role.SINK: ("headwater-offsets", "headwater-replay"),
    Role.ANALYTICS: (),
    Role.CAMPAIGNS: ("headwater-feed", "headwater-look", "headwater-offsets", "headwater-reader"),
    Role.USER: ("headwater-feed", "headwater-look", "headwater-offsets", "headwater-reader"),
}
#: What every cluster has whose processes look at it: so no grant of it makes one gateway's reach another's.
SHARED_GROUPS = frozenset(name for names in _LOOKING.values() for name in names)


def own_topics(gateway: str) -> str:
    """The beginning of the topics that are named as one likes (``--to``), and that the gateway's identities may use."""
    return f"analytics.{gateway}{END}"


def sink_group(sink: str, gateway: str) -> str:
    """The group of a sink; another one of the same gateway begins so, with `END` behind it."""
    return f"headwater-sink-{sink}-{'*' if gateway == ALL_GATEWAYS else gateway}"


def job_group(job: str, gateway: str) -> str:
    """The group of a job with the options as they are by default; any other begins so, with `END` behind it."""
    return f"headwater-analytics-{job}-{gateway}"


def ledger_topic(gateway: str) -> str:
    """Where the replicator writes down how far it is, on either side."""
    return f"headwater.replicator.{gateway}"


def campaigns_topic(gateway: str) -> str:
    """Where the campaigns of a gateway's devices are, on the side from which they are carried out."""
    return f"headwater.campaigns.{gateway}"


def campaigns_id(gateway: str, name: str | None = None) -> str:
    """The transactional id of who carries a gateway's campaigns out, or one of them alone."""
    return f"headwater-campaigns-{gateway}" + ("" if name is None else f"{END}{name}")


def rights(identity: Identity, cluster: Cluster) -> frozenset[Grant]:
    """All that ``identity`` may do on ``cluster``.

    Identities of a gateway that is not the cluster's have nothing there; brokers and administrators are its super users
    or nobody.
    """
    return frozenset(_rights(identity, cluster))


def _rights(identity: Identity, cluster: Cluster) -> Iterator[Grant]:
    role = identity.role
    if role is Role.MONITOR:
        yield from _monitor()
    elif role is Role.USER:
        yield from _user(cluster.users.get(identity.name, UserRights()), cluster.gateways)
    elif role in OF_GATEWAY:
        served = cluster.gateways if identity.is_of_all_gateways else (identity.name,)
        for gateway in served:
            if gateway in cluster.gateways and (role, cluster.side) in TOPICS:
                yield from _topics(TOPICS[role, cluster.side], gateway)
                yield from _prefixed(Resource.TOPIC, own_topics(gateway), _OWN.get((role, cluster.side), ()))
                yield from _OTHERS[role](gateway, cluster.side)
                yield from _looking(role)
        if identity.is_of_all_gateways and role is Role.SINK and cluster.gateways:
            yield from _sink_groups(ALL_GATEWAYS)


def _topics(rows: Iterable[_Row], gateway: str) -> Iterator[Grant]:
    own = Topics(gateway)
    for kinds, operations in rows:
        for kind in kinds:
            yield from _literal(Resource.TOPIC, own.name(kind), operations)


def _gateway(gateway: str, side: Side) -> Iterator[Grant]:
    yield from _literal(Resource.GROUP, f"headwater-gateway-{gateway}", (_R,))


def _replicator(gateway: str, side: Side) -> Iterator[Grant]:
    yield from _literal(Resource.TOPIC, ledger_topic(gateway), (_R, _W, _C, _DC))
    # It tells the edge how far it is, for people; in the cloud it only looks.
    group = f"headwater-replicator.{gateway}"
    yield from _literal(Resource.GROUP, group, (_R if side is Side.EDGE else _D,))
    for lane in _LANES[side.value]:
        yield from _literal(Resource.TRANSACTIONAL_ID, f"{group}.{lane}", (_W,))


def _sink(gateway: str, side: Side) -> Iterator[Grant]:
    yield from _sink_groups(gateway)


def _sink_groups(gateway: str) -> Iterator[Grant]:
    for sink in SINKS:
        group = sink_group(sink, gateway)
        yield from _literal(Resource.GROUP, group, (_R,))
        yield from _prefixed(Resource.GROUP, f"{group}{END}", (_R,))
        if gateway != ALL_GATEWAYS:
            yield from _literal(Resource.GROUP, f"headwater-deadletters-{sink}-{gateway}", (_R,))


def _analytics(gateway: str, side: Side) -> Iterator[Grant]:
    observations = Topics(gateway).observations
    for job in JOBS:
        group = job_group(job, gateway)
        yield from _literal(Resource.GROUP, group, (_R,))
        yield from _prefixed(Resource.GROUP, f"{group}{END}", (_R,))
        # Every instance has a transactional id of its own.
        yield from _prefixed(Resource.TRANSACTIONAL_ID, f"{group}{END}", (_W,))
        state = (_R, _W, _C, _DC)
        yield from _literal(Resource.TOPIC, f"changelog__{group}--{observations}--default", state)
        yield from _prefixed(Resource.TOPIC, f"changelog__{group}{END}", state)


def _campaigns(gateway: str, side: Side) -> Iterator[Grant]:
    yield from _literal(Resource.TOPIC, campaigns_topic(gateway), (_R, _W, _C))
    yield from _literal(Resource.TRANSACTIONAL_ID, campaigns_id(gateway), (_W,))


_OTHERS = {
    Role.GATEWAY: _gateway,
    Role.REPLICATOR: _replicator,
    Role.SINK: _sink,
    Role.ANALYTICS: _analytics,
    Role.CAMPAIGNS: _campaigns,
}


def _user(allowed: UserRights, gateways: Iterable[str]) -> Iterator[Grant]:
    for gateway in gateways:
        if allowed.sees(gateway):
            yield from _topics(SEEING, gateway)
            yield from _prefixed(Resource.TOPIC, own_topics(gateway), (_R,))
            yield from _literal(Resource.TOPIC, campaigns_topic(gateway), (_R,))
            yield from _looking(Role.USER)
        if allowed.commands(gateway):
            yield from _topics(COMMANDING, gateway)
            # A campaign is nothing but commands, and who may give these may carry it out.
            yield from _literal(Resource.TOPIC, campaigns_topic(gateway), (_W, _C))
            yield from _literal(Resource.TRANSACTIONAL_ID, campaigns_id(gateway), (_W,))
            yield from _prefixed(Resource.TRANSACTIONAL_ID, f"{campaigns_id(gateway)}{END}", (_W,))


def _monitor() -> Iterator[Grant]:
    """Names, sizes, offsets and settings of everything, and not one record."""
    yield from _literal(Resource.TOPIC, "*", (_D, _DC))
    yield from _literal(Resource.GROUP, "*", (_D,))
    yield from _literal(Resource.CLUSTER, "kafka-cluster", (_D, _DC))


def _looking(role: Role) -> Iterator[Grant]:
    for name in _LOOKING[role]:
        yield from _literal(Resource.GROUP, name, (_D,))


def _literal(resource: Resource, name: str, operations: Iterable[Operation]) -> Iterator[Grant]:
    for operation in operations:
        yield Grant(resource=resource, name=name, operation=operation)


def _prefixed(resource: Resource, name: str, operations: Iterable[Operation]) -> Iterator[Grant]:
    for operation in operations:
        yield Grant(resource=resource, name=name, operation=operation, pattern=Pattern.PREFIXED)


#: Everything, for those who never get a right again.
EVERYTHING = tuple(
    Grant(resource=resource, name=name, operation=Operation.ALL)
    for resource, name in (
        (Resource.TOPIC, "*"),
        (Resource.GROUP, "*"),
        (Resource.TRANSACTIONAL_ID, "*"),
        (Resource.CLUSTER, "kafka-cluster"),
    )
)


def bindings(identities: Collection[Identity], revoked: Collection[Identity], cluster: Cluster) -> frozenset[Binding]:
    """What has to stand on ``cluster``: the rights of ``identities``, and of ``revoked`` that they have none at all."""
    allowed = {
        Binding(principal=identity.kafka_principal, grant=grant)
        for identity in identities
        if identity not in revoked
        for grant in rights(identity, cluster)
    }
    denied = {
        Binding(principal=identity.kafka_principal, grant=grant, decision=Decision.DENY)
        for identity in revoked
        for grant in EVERYTHING
    }
    return frozenset(allowed | denied)


def usual_identities(cluster: Cluster) -> frozenset[Identity]:
    """The first generation of everyone that a cluster of this side and these gateways has."""
    of_gateway = {role for role, side in TOPICS if side is cluster.side}
    found = {Identity(role, gateway) for role in of_gateway for gateway in cluster.gateways}
    found |= {Identity(Role.USER, name) for name in cluster.users}
    return frozenset(found | {Identity(Role.MONITOR, "fleet")})
