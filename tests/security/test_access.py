"""Who gets in, and who may do what, on two real Kafkas with mTLS and the default deny: every identity tries it all."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloud.campaigns.log import say
from cloud.files import send
from connectors.broker_admin import change_bindings, stored_bindings
from connectors.kafka import Cluster, NotAllowed, Unreachable, ensure_topics, partition_counts
from headwater.servers import broker
from schemas.avro.topics import FAMILIES, Topics
from schemas.files import describe
from security import acls
from security.acls import Operation, Resource, Side
from security.identities import Identity, Role
from tests import kafka_attempts as attempt
from tests.identities import Issuer
from tests.kafka_brokers import end_with_this_process
from tests.ports import held_port

pytestmark = pytest.mark.kafka

#: Two whose names begin alike.
OWN, OTHER = "gw", "gw.b"
PEOPLE = ("--command", f"anna={OWN}", "--see", f"anna={OTHER}", "--see", f"bob={OWN}")
IDENTITIES = [
    *(f"{role.value}:{OWN}" for role in (Role.GATEWAY, Role.REPLICATOR, Role.SINK, Role.ANALYTICS, Role.CAMPAIGNS)),
    "sink:_all",
    "user:anna",
    "user:bob",
    "user:nobody",
    "monitor:fleet",
    f"broker:{OTHER}",
    "gateway:gw.c",
]


def topics(gateway: str) -> dict[str, int]:
    """All that a gateway has, its jobs' and what is the replicator's and people's own as well."""
    own = Topics(gateway)
    return {
        **{own.name(kind): 1 for kind in FAMILIES},
        acls.ledger_topic(gateway): 1,
        acls.campaigns_topic(gateway): 1,
        f"{acls.own_topics(gateway)}mine": 1,
        f"changelog__{acls.job_group('aggregate', gateway)}--{own.observations}--default": 1,
        f"changelog__{acls.job_group('join', gateway)}..0123abcd--{own.observations}--default": 1,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The edge of `OWN` and the cloud, both with the topics of two gateways."""

    issuer: Issuer
    edge: broker.Broker
    cloud: broker.Broker

    def at(self, side: Side, identity: str | Path | None) -> Cluster:
        """A client of one of them; a path is the folder of an identity that is none of the issuer's."""
        one = self.edge if side is Side.EDGE else self.cloud
        folder = self.issuer.place / Identity.parse(identity).folder if isinstance(identity, str) else identity
        return Cluster(bootstrap=one.bootstrap, tls=folder)

    def headwater(
        self, side: Side, *arguments: str, identity: str | None = "admin:fleet"
    ) -> subprocess.CompletedProcess[str]:
        where = self.at(side, identity)
        tls = [] if where.tls is None else ["--kafka-tls", str(where.tls)]
        command = [sys.executable, "-m", "headwater.cli", *arguments, "--kafka", where.bootstrap, *tls]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    def acl(self, side: Side, verb: str, *more: str) -> dict[str, list[object]]:
        gateways = ["--gateway", OWN] + (["--gateway", OTHER] if side is Side.CLOUD else [])
        also = ["--identity", "sink:*"] if side is Side.CLOUD else []
        done = self.headwater(side, "acl", verb, "--side", side.value, *gateways, *also, *PEOPLE, *more, "-o", "json")
        assert done.returncode in (0, 1), done.stderr
        found: dict[str, list[object]] = json.loads(done.stdout)
        return found


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("access")
    issuer = Issuer(folder / "pki")
    started = []
    for name, identity in (("edge", f"broker:{OWN}"), ("cloud", "broker:cloud")):
        end_with_this_process(name, folder)
        started.append(broker.start(name, held_port(), folder, heap="128m", tls=issuer.issue(identity)))
    for identity in ("admin:fleet", "gateway:gw:2", f"replicator:{OTHER}", *IDENTITIES):
        issuer.issue(identity)
    made = Pair(issuer=issuer, edge=started[0], cloud=started[1])
    for side in Side:
        ensure_topics(made.at(side, "admin:fleet"), {**topics(OWN), **topics(OTHER)})
        assert made.acl(side, "apply")["added"]
    try:
        yield made
    finally:
        for name in ("edge", "cloud"):
            broker.stop(name, folder, timeout=10)


def controller_port(one: broker.Broker) -> int:
    settings = (one.folder / "server.properties").read_text()
    return int(settings.partition("CONTROLLER://127.0.0.1:")[2].split()[0])


def test_nobody_without_a_certificate_of_ours_that_holds_is_let_in_at_any_listener(pair: Pair, tmp_path: Path) -> None:
    stranger = Issuer(tmp_path / "stranger", number=7)
    # He trusts our broker, and would like to be the administrator.
    forged = stranger.issue("admin:fleet", trusted=(pair.issuer,))
    old = pair.issuer.issue("admin:fleet", days=-1, folder=tmp_path / "old")
    for port in (pair.edge.port, controller_port(pair.edge)):
        for folder in (None, forged, old):
            context = ssl.create_default_context(cafile=pair.at(Side.EDGE, "admin:fleet").tls / "ca.pem")  # type: ignore[operator]  # it has one
            if folder is not None:
                context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
            with pytest.raises((ssl.SSLError, ConnectionError)):  # noqa: SIM117  # the handshake may end after it
                with (
                    socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
                    context.wrap_socket(plain, server_hostname="127.0.0.1") as spoken,
                ):
                    spoken.settimeout(10)
                    if not spoken.recv(1):
                        raise ConnectionError("hung up")
    with pytest.raises(Unreachable, match="speaks TLS"):
        partition_counts(pair.at(Side.EDGE, None), [], timeout=3)
    with pytest.raises(Unreachable, match="ran out"):
        partition_counts(pair.at(Side.EDGE, old), [], timeout=3)


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("whose", IDENTITIES)
def test_each_identity_can_do_what_the_table_says_and_nothing_else(pair: Pair, whose: str, side: Side) -> None:
    me = pair.at(side, whose)
    gateways = (OWN,) if side is Side.EDGE else (OWN, OTHER)
    users = {
        "anna": acls.UserRights(command=frozenset({OWN}), see=frozenset({OTHER})),
        "bob": acls.UserRights(see=frozenset({OWN})),
    }
    cluster = acls.Cluster(side=side, gateways=gateways, users=users)
    identity = Identity.parse(whose)
    # Who serves all gateways does so in the cloud.
    nowhere = identity.is_of_all_gateways and side is Side.EDGE
    granted = frozenset() if nowhere else acls.rights(identity, cluster)

    def may(operation: Operation) -> set[str]:
        allowed = [one for one in granted if one.resource is Resource.TOPIC and one.operation is operation]
        return {
            topic
            for topic in everything
            for one in allowed
            if one.name in ("*", topic) or (one.pattern is acls.Pattern.PREFIXED and topic.startswith(one.name))
        }

    everything = [*topics(OWN), *topics(OTHER)]
    assert attempt.deleted(me, everything) == set()
    assert attempt.altered(me, everything) == set()
    assert attempt.written(me, everything) == may(Operation.WRITE)
    assert attempt.created(me, everything) == may(Operation.CREATE)
    assert attempt.described(me, everything) == may(Operation.DESCRIBE_CONFIGS)
    assert attempt.read(me, everything) == may(Operation.READ)
    with pytest.raises(NotAllowed):
        # Nobody but an administrator changes rights.
        change_bindings(me, add=[acls.Binding(principal="User:x", grant=acls.EVERYTHING[0])])


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("stolen", [f"replicator:{OWN}", f"gateway:{OWN}"])
def test_a_stolen_edge_key_takes_no_group_and_no_transactions_of_another_gateway(
    pair: Pair, stolen: str, side: Side
) -> None:
    me = pair.at(side, stolen)
    theirs = Topics(OTHER)
    groups = (
        f"headwater-replicator.{OTHER}",
        f"headwater-gateway-{OTHER}",
        acls.sink_group("sqlite", OTHER),
        acls.sink_group("sqlite", OWN),
        f"{acls.job_group('join', OTHER)}..0123abcd",
    )
    assert attempt.dissolved(me, groups) == set()
    for group in groups:
        assert not attempt.committed(me, group, theirs.observations)
    for lane in ("replies", "bulk", "commands"):
        assert not attempt.transacted(me, f"headwater-replicator.{OTHER}.{lane}")
    assert not attempt.transacted(me, f"{acls.job_group('aggregate', OTHER)}..{'0' * 32}")
    # What is its own it has, and so the above were no mistakes of the attempts.
    if stolen.startswith("replicator"):
        lane = "commands" if side is Side.EDGE else "bulk"
        assert attempt.transacted(me, f"headwater-replicator.{OWN}.{lane}")


def test_rights_are_applied_once_strangers_are_left_and_what_is_too_much_goes(pair: Pair) -> None:
    side = Side.CLOUD
    admin = pair.at(side, "admin:fleet")
    assert pair.acl(side, "plan")["added"] == []
    grant = acls.Grant(resource=Resource.TOPIC, name="*", operation=Operation.READ)
    stranger = acls.Binding(principal="User:kafkacat", grant=grant)
    too_much = acls.Binding(principal=f"User:sink:{OWN}", grant=grant)
    change_bindings(admin, add=[stranger, too_much])
    found = pair.acl(side, "plan")
    assert found["strangers"] == ["User:kafkacat"]
    assert [one["name"] for one in found["removed"]] == ["*"]  # type: ignore[index]  # of JSON
    assert pair.acl(side, "apply") == found
    again = pair.acl(side, "apply")
    assert (again["added"], again["removed"], again["strangers"]) == ([], [], ["User:kafkacat"])
    change_bindings(admin, remove=[one for one in stored_bindings(admin) if one.principal == "User:kafkacat"])


def test_a_revoked_identity_is_shut_out_at_once_and_its_successor_let_in(pair: Pair) -> None:
    side, topic = Side.EDGE, Topics(OWN).observations
    stolen, successor = pair.at(side, f"gateway:{OWN}"), pair.at(side, f"gateway:{OWN}:2")
    assert attempt.written(stolen, [topic]) == {topic}
    assert attempt.written(successor, [topic]) == set()
    pair.acl(side, "apply", "--identity", f"gateway:{OWN}:2")
    try:
        assert attempt.written(successor, [topic]) == {topic}
        assert attempt.written(stolen, [topic]) == set()
        assert attempt.read(stolen, [topic]) == set()
    finally:
        pair.acl(side, "apply")
    assert attempt.written(stolen, [topic]) == {topic}


def test_whoever_may_not_write_is_told_so_and_what_it_means(pair: Pair) -> None:
    file, data = describe(b"firmware", "fw.bin"), b"firmware"
    # A gateway reads the files that are sent to it.
    words = f"gateway:{OWN}: it may not write to {Topics(OWN).files}, so not send files to these devices"
    with pytest.raises(NotAllowed, match=words):
        send(pair.at(Side.EDGE, f"gateway:{OWN}"), OWN, file, data)
    with pytest.raises(NotAllowed, match=f"user:anna: it may not write to {acls.campaigns_topic(OTHER)}, so not run"):
        say(pair.at(Side.CLOUD, "user:anna"), OTHER, ("control/one", b"{}"))
    assert send(pair.at(Side.CLOUD, "user:anna"), OWN, file, data)


def test_whoever_is_refused_is_told_which_identity_lacks_what(pair: Pair, tmp_path: Path) -> None:
    bob = pair.headwater(Side.CLOUD, "read", "dev", "/3/0/0", "--gateway", OWN, "--timeout", "5", identity="user:bob")
    assert bob.returncode == 3, bob.stderr
    assert "user:bob" in bob.stderr
    assert Topics(OWN).requests in bob.stderr
    # Anna may command the devices of one gateway, and only see another's.
    other = pair.headwater(
        Side.CLOUD, "read", "dev", "/3/0/0", "--gateway", OTHER, "--timeout", "5", identity="user:anna"
    )
    assert other.returncode == 3, other.stderr
    assert f"user:anna: it may not write to {Topics(OTHER).requests}" in " ".join(other.stderr.split())
    nobody = pair.headwater(Side.CLOUD, "tail", "observations", "--gateway", OWN, identity="user:nobody")
    assert nobody.returncode == 3, nobody.stderr
    assert "user:nobody" in nobody.stderr
    assert "headwater acl rights user:nobody" in nobody.stderr
    plain = pair.headwater(Side.CLOUD, "devices", "--gateway", OWN, identity=None)
    assert plain.returncode == 3
    assert "speaks TLS" in plain.stderr
    missing = pair.headwater(
        Side.CLOUD, "devices", "--gateway", OWN, "--kafka-tls", str(tmp_path / "none"), identity=None
    )
    assert missing.returncode == 5
    assert str(tmp_path / "none") in missing.stderr
    shown = pair.headwater(Side.CLOUD, "acl", "show", identity="user:anna")
    assert shown.returncode == 3
    assert "user:anna" in shown.stderr


def test_tls_is_told_where_none_is_spoken(kafka: Cluster, tmp_path: Path) -> None:
    folder = Issuer(tmp_path).issue("user:anna")
    with pytest.raises(Unreachable, match="does not speak TLS"):
        partition_counts(Cluster(bootstrap=kafka.bootstrap, tls=folder), [], timeout=3)
