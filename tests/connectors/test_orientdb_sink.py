"""What the OrientDB sink alone promises, on the real server; the rest is in the suite of all sinks."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from connectors.sinks import RejectedRecords, RetryLater, Sink, SinkConfigError, SinkRecord, orientdb_client
from connectors.sinks.orientdb import KIND, OrientdbSink, open_orientdb
from connectors.sinks.orientdb_database import Conflict
from connectors.sinks.orientdb_graph import Change, Facts, Known, attribute_name, fold, identity
from schemas.avro.records import Key, Link, ReadBody, Registration, RegistrationNew
from schemas.lwm2m.nodes import Instance, ResourceType
from schemas.lwm2m.path import Path as Lwm2mPath
from tests.http_front import CERTIFICATE, Asked, front
from tests.orientdb_server import ADMIN, PASSWORD, OrientServer, new_server
from tests.sink_samples import GATEWAY, at, delete, new, notification, reply, resource, update
from tests.stores.orientdb import OrientdbStore

ROOT = Path(__file__).parents[2]
#: Patience with a busy machine; nothing is asserted about time.
PATIENCE_S = 60.0

HOSTILE = [
    "it's",
    'a"b',
    "back\\slash",
    "\\",
    "\\\\'",
    "'; DROP CLASS Endpoints UNSAFE; --",
    '"}; DELETE VERTEX V; {"',
    "x\\u0022}; DELETE VERTEX V; --",
    "\\\\u0022",
    "${x} $v0 $current",
    "line\nbreak\r\n",
    "\x00nul\x1f",
    "\x7f\x85\u2028\ufffe",
    "üñ→😀",
    "#12:0",
    ":name",
    "?",
    '{"@type": "d", "a": 1}',
    "[1]",
    "`x`",
    "/* c */ -- x",
    "2020-01-01 00:00:00",
    "true",
    "null",
    "12",
    "1.5d",
    "_AA==_",
    "%AA;",
    "@class",
    "@rid",
    "@type",
    "@fieldTypes",
    " ",
    "RETURN 'stale'",
    "ep LIMIT 1",
    "x" * 5_000,
]


@pytest.fixture(params=["binary", "http"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def store(tmp_path: Path, protocol: str) -> OrientdbStore:
    return OrientdbStore(tmp_path, protocol=protocol)


@pytest.fixture
def sink(store: OrientdbStore) -> Iterator[OrientdbSink]:
    opened = open_orientdb(store.options())
    yield opened
    opened.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[OrientServer]:
    """One of the test's own, to be killed."""
    made = new_server(tmp_path / "orientdb")
    yield made
    made.go_on()
    made.remove()


def some(number: int, start: int = 0, *, links: Sequence[Link] | None = None) -> list[SinkRecord]:
    """New registrations of as many endpoints."""
    return [
        at(offset, new(ep=f"ep-{offset}") if links is None else new(ep=f"ep-{offset}", links=tuple(links)))
        for offset in range(start, start + number)
    ]


def new_like(**changes: object) -> Registration:
    event = new()
    assert isinstance(event.body, RegistrationNew)
    return replace(event, body=replace(event.body, **changes))  # type: ignore[arg-type]  # fields of its own


def counts(store: OrientdbStore) -> dict[str, int]:
    return {
        name: store.sql(f"SELECT count(*) AS n FROM {name}")[0]["n"]
        for name in ("Servers", "Endpoints", "Objects", "hasEndpoint", "hasObject")
    }


def settled(store: OrientdbStore) -> dict[str, int]:
    """The counts once the server is through with what those who are gone had sent: five looks are not one moment."""
    until = time.monotonic() + PATIENCE_S
    seen = counts(store)
    while (again := counts(store)) != seen:
        assert time.monotonic() < until
        seen = again
    return seen


def content(store: OrientdbStore) -> list[object]:
    """All of the graph, without what differs between two databases that hold the same."""
    rows = store.sql(
        "SELECT *, in('hasEndpoint').serverId AS servers, outE('hasObject').instance AS instances,"
        " out('hasObject').id AS objects FROM Endpoints ORDER BY name"
    )
    return [
        {
            name: sorted(map(str, value)) if isinstance(value, list) else value
            for name, value in row.items()
            if not name.startswith(("@", "in_", "out_"))
        }
        for row in rows
    ]


def test_people_walk_it_from_the_servers(sink: Sink, store: OrientdbStore) -> None:
    sink.write([at(0, new()), at(1, new(ep="ep-2", links=(Link(url="/3/0", at={}),)))])
    assert [row["serverId"] for row in store.sql("select from Servers")] == [GATEWAY]
    walked = store.sql("select expand(out('hasEndpoint')) from Servers where serverId = :s", s=GATEWAY)
    assert {row["name"] for row in walked} == {"ep-1", "ep-2"}
    assert all(row["@class"] == "Endpoints" and row["online"] for row in walked)
    objects = store.sql(
        "select expand(out('hasEndpoint').out('hasObject')) from Servers where serverId = :s", s=GATEWAY
    )
    assert {(row["id"], row["name"]) for row in objects if row["id"] < 3303} == {(1, "LwM2M Server"), (3, "Device")}
    matched = store.sql(
        "match {class: Servers, as: s}.out('hasEndpoint') {as: e, where: (name = 'ep-1')}"
        ".outE('hasObject') {as: h}.inV() {as: o, where: (id = 3303)}"
        " return h.instance as instance, o.version as version"
    )
    assert sorted((row["instance"], row["version"]) for row in matched) == [(0, "1.1"), (1, "1.1")]
    back = store.sql("select in('hasObject').name as names from Objects where id = 3")
    assert sorted(back[0]["names"]) == ["ep-1", "ep-2"]


def test_device_behind_a_device_is_an_endpoint_beside_its_gateway(sink: Sink, store: OrientdbStore) -> None:
    name = "bridge/urn:dev:1"
    behind = {"gateway": "bridge", "prefix": "dev0"}
    links = (Link(url="/3/0", at={}), Link(url="/3303/0", at={}))
    text = ResourceType.STRING
    device = Instance(
        path=Lwm2mPath(3, 0),
        resources=tuple(resource(f"/3/0/{i}", value, text) for i, value in enumerate(("ACME", "Lamp/2", "7", "1.0.7"))),
    )
    batch = [
        at(0, new_like(ep="bridge", attributes=None, links=(Link(url="/25/0", at={"ver": "2.0"}),))),
        at(1, new_like(ep=name, attributes=behind, links=links)),
        at(2, notification(device, ep=name, timestamp=20, ticket="registered")),
    ]
    for _ in range(2):
        sink.write(batch)
        assert {row["name"] for row in store.sql("SELECT FROM Endpoints")} == {"bridge", name}
        endpoint = store.endpoint(name)
        assert endpoint is not None
        assert (endpoint["attributes"], endpoint["online"], endpoint["server"]) == (behind, True, GATEWAY)
        facts = {"manufacturer": "ACME", "model": "Lamp/2", "serial": "7", "firmware": "1.0.7"}
        assert {key: endpoint[key] for key in facts} == facts
        assert {one[0] for one in store.objects(name)} == {3, 3303}
        assert {one[:3] for one in store.objects("bridge")} == {(25, "2.0", 0)}
    # It goes with its gateway, each by a record of its own.
    sink.write([at(3, delete(ep=name)), at(4, delete(ep="bridge"))])
    assert {row["name"]: row["online"] for row in store.sql("SELECT FROM Endpoints")} == {"bridge": False, name: False}


def test_objects_are_shared_and_go_with_the_last_that_has_them(sink: Sink, store: OrientdbStore) -> None:
    sink.write([at(0, new()), at(1, new(ep="ep-2"))])
    assert counts(store) == {"Servers": 1, "Endpoints": 2, "Objects": 4, "hasEndpoint": 2, "hasObject": 10}
    sink.write([at(2, new(links=(Link(url="/3/0", at={}),)))])
    assert counts(store) == {"Servers": 1, "Endpoints": 2, "Objects": 4, "hasEndpoint": 2, "hasObject": 6}
    sink.write([at(3, new(ep="ep-2", links=(Link(url="/3/0", at={}), Link(url="/5/0", at={}))))])
    assert counts(store) == {"Servers": 1, "Endpoints": 2, "Objects": 2, "hasEndpoint": 2, "hasObject": 3}
    assert {row["name"] for row in store.sql("SELECT FROM Objects")} == {"Device", "Firmware Update"}
    # And they come back.
    sink.write([at(4, new(reg_id="r9"))])
    assert counts(store)["Objects"] == 5


def test_hostile_texts_are_kept_as_they_are_and_nothing_else_happens(sink: Sink, store: OrientdbStore) -> None:
    batch = [
        at(
            number,
            new_like(
                ep=text,
                reg_id=text,
                sms=text,
                server_id=f"{GATEWAY}{text}",
                attributes={text: text, "plain": text},
                links=(Link(url="/3/0", at={}), Link(url="/3303/0", at={"ver": text, text: text})),
            ),
        )
        for number, text in enumerate(HOSTILE)
    ]
    for _ in range(2):
        sink.write(batch)
        for text in HOSTILE:
            endpoint = store.endpoint(text)
            assert endpoint is not None, repr(text)
            assert [endpoint["name"], endpoint["regId"], endpoint["sms"], endpoint["server"]] == [
                *(text, text, text),
                f"{GATEWAY}{text}",
            ]
            assert endpoint["attributes"] == {text: text, "plain": text}
            assert json.loads(endpoint["links"])[1] == {"url": "/3303/0", "at": {"ver": text, text: text}}
            assert (3303, text.strip('"'), 0, "Temperature") in store.objects(text)
        number = len(HOSTILE)
        assert counts(store) == {
            "Servers": number,
            "Endpoints": number,
            "Objects": 1 + len({text.strip('"') for text in HOSTILE}),
            "hasEndpoint": number,
            "hasObject": 2 * number,
        }
    # The second way to their vertices: an event that finds them.
    sink.write(
        [
            at(1000 + number, replace(one.record, body=replace(one.record.body, port=77)))  # type: ignore[union-attr, arg-type]
            for number, one in enumerate(batch)
        ]
    )
    assert {row["port"] for row in store.sql("SELECT port FROM Endpoints")} == {77}
    assert counts(store)["Endpoints"] == len(HOSTILE)


def test_a_hostile_alternate_path_is_cut_off_by_an_update_too(sink: Sink, store: OrientdbStore) -> None:
    root = "/it's\\ \"a\" $path\n'; --"
    sink.write([at(0, new_like(root=root, links=()))])
    sink.write([at(1, update(links=(Link(url=f"{root}/3/0", at={}), Link(url="/4/0", at={}))))])
    assert store.objects("ep-1") == {(3, "1.0", 0, "Device")}


def test_attribute_names_are_told_apart_also_where_they_are_encoded() -> None:
    names = ["@a", "%40a", '"', "%22", "\\", "\n", "a b", "é", "a@b", "a%", "%25", ""]
    assert len({attribute_name(name) for name in names}) == len(names)
    assert [attribute_name(name) for name in ("model", "a b", "é", "a@b", "")] == ["model", "a b", "é", "a@b", ""]


def test_what_the_store_refuses_is_told_and_all_else_is_written(sink: Sink, store: OrientdbStore) -> None:
    store.sql("ALTER PROPERTY Endpoints.sms REGEXP '[0-9]{0,8}'")
    batch = [
        at(0, new(ep="ep-0")),  # its number has a plus
        at(1, new_like(sms="1", reg_id="r5")),
        at(2, new_like(ep="n" * 20_000, sms=None)),  # longer than a key of an index
        at(3, new_like(ep="ep-3", sms=None)),
        at(4, new_like(ep="half a \ud83d pair", sms=None)),
        at(5, new()),  # the same endpoint as the first, and a plus
        at(6, new_like(ep="ep-6", sms=None, lt=2**70)),
        at(7, Key(ep="ep-1")),
        at(8, new_like(ep="ep-8", sms=None)),
    ]
    for _ in range(2):
        with pytest.raises(RejectedRecords) as refused:
            sink.write(batch)
        assert sorted(record.offset for record, _ in refused.value.rejected) == [0, 2, 4, 5, 6, 7]
        assert all(reason and len(reason) < 1000 for _, reason in refused.value.rejected)
        found = {row["name"]: row["regId"] for row in store.sql("SELECT name, regId FROM Endpoints")}
        assert found == {"ep-1": "r5", "ep-3": "r1", "ep-8": "r1"}
    assert counts(store)["hasEndpoint"] == 3


def test_an_endpoint_with_more_objects_than_a_transaction_has_room_for(sink: Sink, store: OrientdbStore) -> None:
    many = tuple(Link(url=f"/3303/{number}", at={}) for number in range(1_500))
    sink.write([at(0, new()), at(1, new(ep="ep-2", links=many)), at(2, new(ep="ep-3"))])
    assert counts(store)["hasObject"] == 1_510
    sink.write([at(3, new(ep="ep-2", links=many[1:-1]))])
    assert counts(store)["hasObject"] == 1_508
    assert len(store.objects("ep-2")) == 1_498


def test_model_and_firmware_come_from_what_devices_say(sink: Sink, store: OrientdbStore) -> None:
    text = ResourceType.STRING
    sink.write(
        [
            # Before its registration, which is in another topic.
            at(0, reply(ReadBody(content=resource("/3/0/0", "ACME", text)), path="/3/0/0", timestamp=10)),
            at(0, new()),
        ]
    )
    endpoint = store.endpoint("ep-1")
    assert endpoint is not None
    assert (endpoint["manufacturer"], endpoint.get("model"), endpoint["online"]) == ("ACME", None, True)
    device = Instance(
        path=Lwm2mPath(3, 0),
        resources=tuple(
            resource(f"/3/0/{number}", value, text)
            for number, value in enumerate(('it\'s "me"\n', "M\\1", "#12:0", "1.0'; --"))
        ),
    )
    sink.write([at(3, notification(device, timestamp=20))])
    told = {"manufacturer": 'it\'s "me"\n', "model": "M\\1", "serial": "#12:0", "firmware": "1.0'; --"}
    endpoint = store.endpoint("ep-1")
    assert endpoint is not None
    assert {name: endpoint[name] for name in told} == told
    sink.write(
        [
            at(9, reply(ReadBody(content=resource("/3/0/3", "2.0", text)), path="/3/0/3", timestamp=30)),
            # Old ones, late ones, others.
            at(1, reply(ReadBody(content=resource("/3/0/1", "old", text)), path="/3/0/1", timestamp=15)),
            at(10, notification(resource("/3/0/2", "late", text), timestamp=99), headers={"late": b"1"}),
            at(11, notification(resource("/3/1/1", "other instance", text), timestamp=99)),
            at(12, notification(resource("/3303/0/5700", 1.0), timestamp=99)),
            at(13, notification(resource("/3303/0/5700", 1.0), ep="ep-that-is-not-there", timestamp=99)),
            at(1, update(lt=60)),
            at(2, delete()),
        ]
    )
    endpoint = store.endpoint("ep-1")
    assert endpoint is not None
    assert {name: endpoint[name] for name in told} == told | {"firmware": "2.0"}
    assert endpoint["online"] is False
    assert counts(store)["Endpoints"] == 1
    # The newest wins, in whichever order they come.
    before = content(store)
    sink.write([at(3, notification(device, timestamp=20))])
    assert content(store) == before


def test_facts_have_the_same_end_in_any_order() -> None:
    first = Facts(GATEWAY, "ep-1", 10, {"model": "a"})
    second = Facts(GATEWAY, "ep-1", 10, {"model": "b"})
    one, two = at(1, notification(resource("/3/0/1", "a"))), at(2, notification(resource("/3/0/1", "b")))
    known = Known("#1:0", 1, None, 0, 0, "/", None, {})
    assert fold(known, [(one, first), (two, second)]) == fold(known, [(two, second), (one, first)])
    assert fold(known._replace(told={"model": (10, 2)}), [(one, first), (two, second)]) == Change({}, None)


def test_a_server_that_goes_down_and_comes_back(server: OrientServer, tmp_path: Path, protocol: str) -> None:
    store = OrientdbStore(tmp_path, server, protocol)
    open_orientdb(store.options()).close()
    # OrientDB itself does not survive to be killed within a second after its classes were made.
    server.stop()
    server.start()
    sink = open_orientdb(store.options())
    sink.write(some(120))
    # It has acknowledged them, and has not yet put them on its disk.
    server.kill()
    for _ in range(2):
        with pytest.raises(RetryLater, match=r"OrientDB 127\.0\.0\.1"):
            sink.write(some(60, 100))
    server.start()
    sink.write(some(60, 100))
    sink.close()
    assert counts(store) == {
        "Servers": 1,
        "Endpoints": 160,
        "Objects": 4,
        "hasEndpoint": 160,
        "hasObject": 800,
    }


def test_a_server_that_hangs_is_waited_for_no_longer_than_it_may(
    server: OrientServer, tmp_path: Path, protocol: str
) -> None:
    store = OrientdbStore(tmp_path, server, protocol)
    open_orientdb(store.options()).close()
    sink = open_orientdb(store.options() | {"timeout_s": 0.5})
    server.pause()
    with pytest.raises(RetryLater, match="timed out"):
        sink.write(some(1))
    with pytest.raises(RetryLater, match="timed out"):
        sink.write(some(1))
    other = open_orientdb(store.options() | {"timeout_s": 0.5})
    server.go_on()
    sink.close()
    other.close()


def test_a_server_that_is_down_at_first_is_no_error(store: OrientdbStore) -> None:
    sink = KIND.open(store.options() | {"port": 1})
    with pytest.raises(RetryLater, match="refused"):
        sink.write(some(1))
    sink.close()
    sink.close()


def test_over_tls_the_certificate_must_be_of_the_named_authority(tmp_path: Path) -> None:
    store = OrientdbStore(tmp_path, protocol="http")
    asked: list[str] = []

    def listen(one: Asked) -> None:
        asked.append(one.path)

    with front(f"http://127.0.0.1:{store.server.http_port}", listen, tls=True) as url:
        options = {**store.options(), "host": "localhost", "port": int(url.rpartition(":")[2]), "tls": True}
        stranger = open_orientdb(options)
        with pytest.raises(RetryLater, match="certificate"):
            stranger.write(some(1))
        stranger.close()
        # Nobody was told the password.
        assert asked == []
        sink = open_orientdb(options | {"ca_file": str(CERTIFICATE)})
        sink.write(some(1))
        sink.close()
    assert asked
    assert counts(store)["Endpoints"] == 1


def test_a_wrong_password_is_told_and_mended_while_it_runs(store: OrientdbStore, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("Wr0ng-one\n")
    options = {name: value for name, value in store.options().items() if name != "password"}
    sink = open_orientdb(options | {"password_file": str(file)})
    with pytest.raises(RetryLater, match="refuses the user root with this password") as told:
        sink.write(some(1))
    assert "Wr0ng" not in str(told.value)
    file.unlink()
    with pytest.raises(RetryLater, match="password_file"):
        sink.write(some(1))
    file.write_text(PASSWORD + "\n", encoding="utf-8")
    sink.write(some(1))
    sink.close()
    assert counts(store)["Endpoints"] == 1


def test_a_user_of_the_database_may_write_but_make_neither_it_nor_its_classes(store: OrientdbStore) -> None:
    mine = store.options() | {"user": "mine", "password": "of the database"}
    sink = open_orientdb(mine)
    with pytest.raises(RetryLater, match="takes a user of the server to make it"):
        sink.write(some(1))
    admin = orientdb_client.BinaryClient(
        host="127.0.0.1", port=store.server.port, database=store.database, user=ADMIN, password=PASSWORD, timeout=60
    )
    admin.create()
    admin.close()
    store.sql("CREATE USER mine IDENTIFIED BY 'of the database' ROLE writer")
    with pytest.raises(RetryLater, match="the user mine may not make the classes"):
        sink.write(some(1))
    open_orientdb(store.options()).close()
    sink.write(some(3))
    sink.close()
    assert counts(store)["Endpoints"] == 3


def test_what_people_remove_is_made_again(sink: Sink, store: OrientdbStore) -> None:
    sink.write(some(2))
    # The sink knows these vertices by heart.
    store.sql("DELETE VERTEX V")
    sink.write(some(2, 2))
    assert counts(store) == {"Servers": 1, "Endpoints": 2, "Objects": 4, "hasEndpoint": 2, "hasObject": 10}
    store.server.drop(store.database)
    for _ in range(3):
        try:
            sink.write(some(2))
            break
        except RetryLater:
            continue
    assert counts(store)["Endpoints"] == 2


def test_properties_and_edges_of_others_stay(sink: Sink, store: OrientdbStore) -> None:
    sink.write([at(0, new()), at(1, new(ep="ep-2"))])
    store.sql("UPDATE Endpoints SET room = 'cellar'")
    store.sql("CREATE CLASS powers EXTENDS E")
    store.sql(
        "CREATE EDGE powers FROM (SELECT FROM Endpoints WHERE name='ep-1') TO (SELECT FROM Endpoints WHERE name='ep-2')"
    )
    sink.write([at(2, new(reg_id="r2", links=())), at(3, delete(ep="ep-2"))])
    (row,) = store.sql("SELECT regId, room, out('powers').name AS powers FROM Endpoints WHERE name = 'ep-1'")
    assert (row["regId"], row["room"], row["powers"]) == ("r2", "cellar", ["ep-2"])


def test_attributes_are_replaced_and_not_mixed(sink: Sink, store: OrientdbStore) -> None:
    sink.write([at(0, new_like(attributes={"a": "1", "b": "2"}))])
    sink.write([at(1, new_like(attributes={"b": "3"}))])
    endpoint = store.endpoint("ep-1")
    assert endpoint is not None
    assert endpoint["attributes"] == {"b": "3"}
    sink.write([at(2, new_like(attributes=None, sms=None))])
    endpoint = store.endpoint("ep-1")
    assert endpoint is not None
    assert (endpoint["attributes"], endpoint["sms"]) == (None, None)


def test_a_definition_that_comes_later_names_its_object(sink: Sink, store: OrientdbStore) -> None:
    valve = (Link(url="/32770/0", at={}),)
    sink.write([at(0, new(links=valve))])
    assert store.objects("ep-1") == {(32770, "1.0", 0, None)}
    knowing = open_orientdb(store.options() | {"definitions": str(ROOT / "tests" / "data" / "oma")})
    knowing.write([at(1, new(ep="ep-2", links=valve))])
    knowing.close()
    assert store.objects("ep-1") == store.objects("ep-2") == {(32770, "1.0", 0, "Valve")}
    # One that does not know it takes no name away.
    sink.write([at(2, new(ep="ep-3", links=valve))])
    assert store.objects("ep-3") == {(32770, "1.0", 0, "Valve")}


def test_two_sinks_with_the_same_endpoints_make_each_once(store: OrientdbStore, tmp_path: Path) -> None:
    batch = some(150)
    later = [
        at(1000 + i, new(ep=f"ep-{i}", links=(Link(url="/3/0", at={}), Link(url="/9/0", at={})))) for i in range(150)
    ]
    failures: list[BaseException] = []
    together = threading.Barrier(3)

    def work(mine: Sequence[SinkRecord]) -> None:
        try:
            own = open_orientdb(store.options())
            together.wait(PATIENCE_S)
            for start in range(0, len(mine), 30):
                write_at_last(own, mine[start : start + 30])
            own.close()
        except BaseException as exc:  # noqa: BLE001  told below
            failures.append(exc)

    everything = [*batch, *later]
    threads = [threading.Thread(target=work, args=(everything,)) for _ in range(2)]
    threads.append(threading.Thread(target=work, args=([*reversed(batch), *later],)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert not failures, failures[0]
    assert counts(store) == {"Servers": 1, "Endpoints": 150, "Objects": 2, "hasEndpoint": 150, "hasObject": 300}
    alone = OrientdbStore(tmp_path)
    other = open_orientdb(alone.options())
    other.write(everything)
    other.close()
    assert content(store) == content(alone)


def test_nothing_of_a_transaction_is_done_if_a_vertex_is_not_as_it_was_read(
    sink: OrientdbSink, store: OrientdbStore
) -> None:
    sink.write(some(3))
    database = sink.connect()
    known = list(database.endpoints(identity(GATEWAY, f"ep-{number}") for number in range(3)).values())
    assert len(known) == 3
    vertex = "CREATE VERTEX Servers CONTENT {};"

    def changed(*versions: int) -> list[tuple[str, str, int]]:
        return [(f"UPDATE {one.rid} MERGE {{}};", one.rid, v) for one, v in zip(known, versions, strict=True)]

    right = [one.version for one in known]
    for wrong in ([right[0] - 1, *right[1:]], [*right[:2], right[2] + 1]):
        with pytest.raises(Conflict):
            database.transact([vertex], changed(*wrong))
    store.sql(f"DELETE VERTEX {known[0].rid}")
    with pytest.raises(Conflict):
        database.transact([vertex], changed(*right))
    assert counts(store)["Servers"] == 1
    database.transact([vertex], changed(*right)[1:])
    assert counts(store)["Servers"] == 2


def write_at_last(sink: Sink, records: Sequence[SinkRecord]) -> None:
    """As the runner does."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            sink.write(records)
            return
        except RetryLater:
            assert time.monotonic() < until


WRITER = """
import json, sys
from connectors.sinks.orientdb import open_orientdb
from tests.connectors.test_orientdb_sink import some, write_at_last
sink = open_orientdb(json.loads(sys.argv[1]))
while True:
    for start in range(0, 400, 20):
        write_at_last(sink, some(20, start))
    print("round", flush=True)
"""


def test_writers_that_are_killed_leave_what_one_alone_would(store: OrientdbStore, tmp_path: Path) -> None:
    open_orientdb(store.options()).close()
    command = [sys.executable, "-c", WRITER, json.dumps(store.options())]
    writers = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        until = time.monotonic() + PATIENCE_S
        # In the middle, and then once more after some steps.
        for writer, seen in zip(writers, (60, 200), strict=True):
            while counts(store)["Endpoints"] < seen:
                assert time.monotonic() < until
            writer.send_signal(signal.SIGKILL)
            assert writer.wait(PATIENCE_S) == -signal.SIGKILL
    finally:
        for writer in writers:
            writer.kill()
            writer.wait(PATIENCE_S)
            assert writer.stdout is not None
            writer.stdout.close()
    half = settled(store)
    # Nothing half-done: with a vertex come its edges.
    assert half["hasEndpoint"] == half["Endpoints"]
    assert half["hasObject"] == 5 * half["Endpoints"]
    last = open_orientdb(store.options())
    last.write(some(400))
    last.close()
    alone = OrientdbStore(tmp_path)
    other = open_orientdb(alone.options())
    other.write(some(400))
    other.close()
    assert counts(store) == counts(alone)
    assert content(store) == content(alone)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"password": None, "password_file": None}, "needs password or password_file"),
        ({"password_file": "/nowhere/secret"}, "not both"),
        ({"password": None, "password_file": "/nowhere/secret"}, "/nowhere/secret"),
        ({"database": "a/../b"}, "database"),
        ({"port": 0}, "port"),
        ({"user": ""}, "user"),
        ({"definitions": "/nowhere/at/all"}, "/nowhere/at/all"),
        ({"tls": True}, 'tls goes with protocol = "http"'),
        ({"protocol": "http", "ca_file": "/nowhere/ca.pem"}, "ca_file is for tls"),
        ({"protocol": "http", "tls": True, "ca_file": "/nowhere/ca.pem"}, "/nowhere/ca.pem"),
    ],
)
def test_options_that_cannot_work_are_told(changes: dict[str, object], words: str) -> None:
    options = {"user": "u", "password": "S3cret-one"} | changes
    with pytest.raises(SinkConfigError, match=words) as told:
        KIND.open({name: value for name, value in options.items() if value is not None})
    assert "S3cret" not in str(told.value)


def test_a_missing_library_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = OrientdbStore(tmp_path)
    orientdb_client._pyorient.cache_clear()
    monkeypatch.setitem(sys.modules, "pyorient", None)
    with pytest.raises(SinkConfigError, match=r"pip install 'headwater\[orientdb\]'"):
        KIND.open(store.options())


def test_debugging_of_the_library_shows_no_password(
    store: OrientdbStore, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DEBUG", "1")
    sink = open_orientdb(store.options())
    sink.write(some(1))
    sink.close()
    assert capfd.readouterr() == ("", "")
    assert PASSWORD not in repr(sink) + repr(vars(sink))
