"""The table of rights: it names what our code uses, and no gateway's rights reach another's, whatever their ids."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, reject
from hypothesis import strategies as st

from analytics.job import JobSettings, changelog_topic, parse_options
from analytics.jobs import JOBS
from analytics.join_plan import rekeyed_topic
from connectors.kafka import Cluster as Kafka
from connectors.replicator import ReplicatorSettings, lanes
from connectors.sink_settings import SinkSettings, Source
from connectors.sinks import SINKS
from schemas.avro.topics import Topics, validate_gateway_id
from security import acls
from security.access_file import Access, AccessFileError, in_force, parse_access
from security.acls import Cluster, Decision, Grant, Operation, Pattern, Resource, Side, UserRights
from security.identities import Identity, InvalidIdentity, Role

NOWHERE = Kafka(bootstrap="127.0.0.1:9")


def may(identity: str, cluster: Cluster, resource: Resource, name: str, operation: Operation) -> bool:
    """As Kafka decides it."""
    return any(
        one.resource is resource
        and (name.startswith(one.name) if one.pattern is Pattern.PREFIXED else one.name in (name, "*"))
        and (one.operation is operation or (operation is Operation.DESCRIBE and one.operation in DESCRIBING))
        for one in acls.rights(Identity.parse(identity), cluster)
    )


#: They hold DESCRIBE.
DESCRIBING = (Operation.READ, Operation.WRITE)


def at(side: Side, *gateways: str, users: dict[str, UserRights] | None = None) -> Cluster:
    return Cluster(side=side, gateways=gateways, users=users or {})


@pytest.mark.parametrize("side", Side)
def test_the_replicator_may_use_the_names_that_it_uses(side: Side) -> None:
    here = at(side, "gw")
    cloud, edge = Kafka(bootstrap="cloud:1"), Kafka(bootstrap="edge:1")
    own = cloud if side is Side.CLOUD else edge
    for lane in lanes(ReplicatorSettings(gateway="gw", edge=edge, cloud=cloud)):
        writes = lane.target is own
        for topic in lane.topics:
            for operation in (
                Operation.WRITE if writes else Operation.READ,
                Operation.CREATE,
                Operation.DESCRIBE_CONFIGS,
            ):
                assert may("replicator:gw", here, Resource.TOPIC, topic, operation)
            assert not may("replicator:gw", here, Resource.TOPIC, topic, Operation.READ if writes else Operation.WRITE)
        assert may("replicator:gw", here, Resource.GROUP, lane.group, Operation.DESCRIBE)
        found = may("replicator:gw", here, Resource.TRANSACTIONAL_ID, lane.transactional_id, Operation.WRITE)
        assert found is writes
    assert may("replicator:gw", here, Resource.TOPIC, "headwater.replicator.gw", Operation.WRITE)


@pytest.mark.parametrize("gateway", ["gw", "*"])
@pytest.mark.parametrize("sink", sorted(SINKS))
def test_every_sink_may_use_its_topics_and_groups_and_write_dead_letters_alone(sink: str, gateway: str) -> None:
    here = at(Side.CLOUD, "gw", "other")
    whose = f"sink:{gateway}"
    settings = SinkSettings(sink=sink, gateway=gateway, kafka=NOWHERE)
    assert may(whose, here, Resource.GROUP, settings.group_id, Operation.READ)
    assert may(whose, here, Resource.GROUP, f"{settings.group_id}..archive", Operation.READ)
    for kind in SINKS[sink].topics:
        assert may(whose, here, Resource.TOPIC, Topics("gw").name(kind), Operation.READ)
    if gateway == "gw":
        again = SinkSettings(sink=sink, gateway=gateway, kafka=NOWHERE, source=Source.DEAD_LETTERS)
        assert may(whose, here, Resource.GROUP, again.group_id, Operation.READ)
    written = {
        one.name
        for one in acls.rights(Identity.parse(whose), here)
        if one.operation not in (Operation.READ, Operation.DESCRIBE)
    }
    assert written == {Topics(one).deadletter for one in (("gw",) if gateway == "gw" else ("gw", "other"))}
    assert not may(whose, here, Resource.TOPIC, Topics("gw").requests, Operation.READ)
    assert set(acls.SINKS) == set(SINKS)


@pytest.mark.parametrize("name", sorted(JOBS))
def test_every_job_may_use_its_topics_group_state_and_transactions(name: str) -> None:
    here = at(Side.EDGE, "gw")
    own = "analytics:gw"
    given_options: dict[str, dict[str, object]] = {
        "filter": {"query": "SELECT * FROM observations WHERE value < 4", "to": "analytics.gw..cold"},
        "join": {"code": "a.py", "left": "one:/3303/0/5700", "right": "other:/3303/0/5700"},
    }
    kind = JOBS[name]
    for given_ones in ({}, given_options.get(name, {"path": "/3303/*/5700", "endpoint": "a*"})):
        if name in given_options and not given_ones:
            continue
        options = parse_options(kind, given_ones)
        group = JobSettings(kind=kind, options=options, gateway="gw", bootstrap="kafka:1").group_id
        assert may(own, here, Resource.GROUP, group, Operation.READ)
        assert may(own, here, Resource.TRANSACTIONAL_ID, f"{group}..{'0' * 32}", Operation.WRITE)
        for topic in kind.reads(options, Topics("gw")):
            assert may(own, here, Resource.TOPIC, topic, Operation.READ)
            if kind.stateful:
                state = changelog_topic(group, topic)
                for operation in (Operation.READ, Operation.WRITE, Operation.CREATE, Operation.DESCRIBE_CONFIGS):
                    assert may(own, here, Resource.TOPIC, state, operation)
        for topic in kind.writes(options, Topics("gw")):
            assert may(own, here, Resource.TOPIC, topic, Operation.WRITE)
    assert may(own, here, Resource.TOPIC, rekeyed_topic("gw", "x"), Operation.WRITE)
    assert not may(own, here, Resource.TOPIC, Topics("gw").observations, Operation.WRITE)
    assert set(acls.JOBS) == set(JOBS)


_PART = st.text(alphabet="ab-_", min_size=1, max_size=4)
#: What our names are made of, so that one id ends where another goes on.
_WORD = st.sampled_from(
    ["management", "req", "observations", "readings", "join-1", "replies", "bulk", "headwater-analytics-join-a", "all",
     "a--iot", "default", "changelog__headwater-sink-sqlite-a", "archive", "deadletters"]
)  # fmt: skip
GATEWAYS = st.lists(st.one_of(_PART, _WORD), min_size=1, max_size=3).map(".".join)


def overlap(one: Grant, other: Grant) -> bool:
    """Whether there is a name that both are about."""
    if one.resource is not other.resource:
        return False
    prefixes = (one.pattern is Pattern.PREFIXED, other.pattern is Pattern.PREFIXED)
    match prefixes:
        case (True, True):
            return one.name.startswith(other.name) or other.name.startswith(one.name)
        case (True, False):
            return other.name.startswith(one.name)
        case (False, True):
            return one.name.startswith(other.name)
        case _:
            return one.name == other.name


@given(GATEWAYS, GATEWAYS)
def test_no_right_of_one_gateway_is_about_anything_of_another(one: str, other: str) -> None:
    assume(one != other)
    validate_gateway_id(one)
    roles = (Role.GATEWAY, Role.REPLICATOR, Role.SINK, Role.ANALYTICS, Role.CAMPAIGNS)
    for side in Side:
        here = at(side, one, other)
        try:
            mine, theirs = (
                {grant for role in roles for grant in acls.rights(Identity(role, gateway), here)}
                for gateway in (one, other)
            )
        except InvalidIdentity:  # too long together
            reject()
        # Under these nothing is ever stored; to find their coordinator is all that anybody may.
        shared = {
            grant
            for grant in mine & theirs
            if grant.name in acls.SHARED_GROUPS and grant.operation is Operation.DESCRIBE
        }
        literal = {(grant.resource, grant.name) for grant in mine - shared if grant.pattern is Pattern.LITERAL}
        assert not literal & {(grant.resource, grant.name) for grant in theirs - shared}
        for prefix in (grant for grant in mine if grant.pattern is Pattern.PREFIXED):
            assert not [grant for grant in theirs if overlap(prefix, grant)]


def test_nobody_but_super_users_may_delete_alter_or_touch_the_cluster() -> None:
    here = at(Side.CLOUD, "gw", users={"anna": UserRights(command=frozenset({"_all"}))})
    everyone = {*acls.usual_identities(here), Identity.parse("sink:*"), Identity.parse("analytics:*")}
    for identity in everyone:
        for grant in acls.rights(identity, here):
            assert grant.operation is not Operation.ALL
            assert grant.resource is not Resource.CLUSTER or identity.role is Role.MONITOR
            if identity.role is Role.MONITOR:
                assert grant.operation in (Operation.DESCRIBE, Operation.DESCRIBE_CONFIGS)


def test_an_identity_has_nothing_on_another_edge_and_a_gateway_nothing_in_the_cloud() -> None:
    for role in (Role.GATEWAY, Role.REPLICATOR, Role.SINK, Role.ANALYTICS, Role.CAMPAIGNS):
        assert not acls.rights(Identity(role, "gw"), at(Side.EDGE, "other"))
    assert not acls.rights(Identity(Role.GATEWAY, "gw"), at(Side.CLOUD, "gw"))


def test_a_person_commands_only_where_it_is_allowed() -> None:
    here = at(Side.CLOUD, "a", "b", "c", users={"anna": UserRights(see=frozenset({"b"}), command=frozenset({"a"}))})
    for gateway, sees, commands in (("a", True, True), ("b", True, False), ("c", False, False)):
        own = Topics(gateway)
        assert may("user:anna", here, Resource.TOPIC, own.replies, Operation.READ) is sees
        assert may("user:anna", here, Resource.TOPIC, own.requests, Operation.WRITE) is commands
        assert not may("user:anna", here, Resource.TOPIC, own.requests, Operation.READ)
        assert not may("user:anna", here, Resource.TOPIC, own.replies, Operation.WRITE)
        # Who sends a file looks whether it is there, and who sees a gateway sees its campaigns.
        assert may("user:anna", here, Resource.TOPIC, own.files, Operation.WRITE) is commands
        assert may("user:anna", here, Resource.TOPIC, own.files, Operation.READ) is commands
        assert may("user:anna", here, Resource.TOPIC, acls.campaigns_topic(gateway), Operation.READ) is sees
        for operation in (Operation.WRITE, Operation.CREATE):
            assert may("user:anna", here, Resource.TOPIC, acls.campaigns_topic(gateway), operation) is commands
        for name in (acls.campaigns_id(gateway), acls.campaigns_id(gateway, "one-1")):
            assert may("user:anna", here, Resource.TRANSACTIONAL_ID, name, Operation.WRITE) is commands
    assert not acls.rights(Identity.parse("user:bob"), here)


def test_a_revoked_identity_is_denied_everything_and_its_successor_has_its_rights() -> None:
    here = at(Side.EDGE, "gw")
    told = Access(identities=frozenset({Identity.parse("gateway:gw:3")}))
    allowed, denied = in_force(acls.usual_identities(here), told)
    assert {Identity.parse("gateway:gw"), Identity.parse("gateway:gw:2")} == denied
    found = acls.bindings(allowed, denied, here)
    by_decision = {
        decision: {one.principal for one in found if one.decision is decision and ":gateway:" in one.principal}
        for decision in Decision
    }
    assert by_decision == {
        Decision.ALLOW: {"User:gateway:gw:3"},
        Decision.DENY: {"User:gateway:gw", "User:gateway:gw:2"},
    }


def test_an_access_file_is_read() -> None:
    text = """
        gateways = ["rock64", "pi3"]
        identities = ["sink:*", "replicator:pi3:2"]
        revoked = ["user:bob"]
        [users.anna]
        see = ["*"]
        command = ["rock64"]
    """
    found = parse_access(text)
    assert found.gateways == ("rock64", "pi3")
    assert {one.principal for one in found.identities} == {"sink:_all", "replicator:pi3:2"}
    assert found.users["anna"].sees("pi3")
    assert not found.users["anna"].commands("pi3")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("gateways = ['a..b']", "a..b"),
        ("gateways = 'a'", "list"),
        ("gateway = ['a']", "gateway"),
        ("identities = ['king:anna']", "king"),
        ("revoked = ['sink']", "sink"),
        ("users = 3", "users"),
        ("users.anna = 3", "anna"),
        ("users.anna.write = ['a']", "write"),
        ("users.anna.command = ['..']", "anna"),
        ("users.'an:na'.see = ['a']", "an:na"),
        ("= 3", "TOML"),
    ],
)
def test_an_access_file_that_makes_no_sense_is_refused_in_words(text: str, word: str) -> None:
    with pytest.raises(AccessFileError, match=word):
        parse_access(text)
