"""The users of a fleet's stores: each can do its work, and is refused everything else. On the real servers.

That a sink can do all of its work as such a user is the contract suite's: the ways ``…-least`` of `tests.stores`.
"""

from __future__ import annotations

import gzip
import http.client
import json
import secrets
from base64 import b64encode
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from connectors import influxdb_users, orientdb_users
from connectors.influxdb_users import InfluxAdmin
from connectors.orientdb_users import OrientAdmin, Right, rights
from connectors.sinks.orientdb import open_orientdb
from connectors.sinks.orientdb_client import BinaryClient, OrientRefused
from connectors.sinks.orientdb_database import NO_ACCESS
from connectors.sinks.orientdb_graph import EDGES, VERTICES
from connectors.sinks.orientdb_http import HttpClient
from connectors.store_users import Access, InvalidStoreUser, StoreRefused, StoreUnreachable, StoreUser
from security.secrets import Secret
from tests import orientdb_server
from tests.http_front import Answer, Asked, front
from tests.ports import held_port
from tests.sink_samples import at, new
from tests.stores.influxdb import InfluxdbStore
from tests.stores.orientdb import OrientdbStore

#: Patience with a busy machine, in seconds.
PATIENCE_S = 60.0


def password() -> Secret:
    return Secret(secrets.token_hex(32))


# ---- names and passwords


@pytest.mark.parametrize("name", ["", "a b", "-a", "1a", 'a"', "a'", "a`", "a;", "ü", "a" * 64, "a\n"])
def test_a_name_that_could_be_more_than_a_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidStoreUser, match="no name of a user"):
        StoreUser(name=name, password=password(), access=Access.READ)


@pytest.mark.parametrize("text", ["", "1234567", "x" * 73, "é" * 37])
def test_a_password_that_a_store_would_not_take_whole_is_refused(text: str) -> None:
    with pytest.raises(InvalidStoreUser, match="8 to 72 bytes") as refused:
        StoreUser(name="sink", password=Secret(text), access=Access.READ)
    assert not text or text not in str(refused.value)


# ---- InfluxDB


@pytest.fixture
def influxdb(tmp_path: Path) -> InfluxdbStore:
    store = InfluxdbStore(tmp_path)
    store.server.query(f"CREATE DATABASE {store.database}_other")
    for database in (store.database, f"{store.database}_other"):
        _ask(store, (store.server.token), "POST", f"/write?db={database}", b"resources value=1 1")
    return store


def _ask(store: InfluxdbStore, login: str, method: str, path: str, body: bytes | None = None) -> tuple[int, str]:
    link = http.client.HTTPConnection("127.0.0.1", store.server.port, timeout=PATIENCE_S)
    try:
        link.request(method, path, body, {"Authorization": f"Basic {b64encode(login.encode()).decode()}"})
        answer = link.getresponse()
        return answer.status, answer.read().decode()
    finally:
        link.close()


def _query(store: InfluxdbStore, user: StoreUser, influxql: str, database: str) -> dict[str, Any]:
    """The only result; what is wrong with it, or with the whole request, is its ``error``."""
    path = f"/query?{urlencode({'q': influxql, 'db': database})}"
    _, said = _ask(store, f"{user.name}:{user.password.reveal()}", "POST", path)
    told = json.loads(said)
    return dict(told["results"][0]) if "results" in told else dict(told)


def _write(store: InfluxdbStore, user: StoreUser, database: str, way: str = "/write?db=") -> int:
    line = b"resources value=2 2"
    return _ask(store, f"{user.name}:{user.password.reveal()}", "POST", f"{way}{database}", line)[0]


#: What nobody may but the administrator. Not in the list is what a right of InfluxDB 1.8 has in it: who may write a
#: database may delete in it, and who may read it may make continuous queries there. In 2.x neither is so.
BEYOND = [
    "DROP DATABASE {0}", "CREATE DATABASE {0}_new", "SHOW USERS", "SHOW GRANTS FOR {1}",
    "CREATE USER eve WITH PASSWORD 'evil'", "GRANT ALL ON {0} TO {1}", "SET PASSWORD FOR admin = 'evil'",
    "CREATE RETENTION POLICY none ON {0} DURATION 1h REPLICATION 1 DEFAULT",
    "ALTER RETENTION POLICY autogen ON {0} DURATION 1h", "DROP SHARD 1",
    "SHOW STATS", "KILL QUERY 1",
    "DROP RETENTION POLICY autogen ON {2}",
    "CREATE CONTINUOUS QUERY q ON {2} BEGIN SELECT mean(value) INTO x FROM resources GROUP BY time(1h) END",
]  # fmt: skip
#: To change what is there, which a reader may not.
CHANGES = [
    "DROP MEASUREMENT resources", "DROP SERIES FROM resources", "DELETE FROM resources",
    "DROP RETENTION POLICY autogen ON {0}", "SELECT value INTO copy FROM resources",
]  # fmt: skip


def _has_value(result: dict[str, Any]) -> bool:
    return "series" in result and "error" not in result


def test_influxdb_lets_the_sink_write_its_bucket_and_nothing_else(influxdb: InfluxdbStore) -> None:
    sink = influxdb.user(Access.WRITE)
    here, other = influxdb.database, f"{influxdb.database}_other"
    assert _write(influxdb, sink, here) == 204
    assert _write(influxdb, sink, f"{here}/autogen", "/api/v2/write?bucket=") == 204
    assert _write(influxdb, sink, other) == 403
    for database in (here, other):
        answer = _query(influxdb, sink, f"SELECT * FROM {database}.autogen.resources", database)
        assert "not authorized" in answer["error"]
    for statement in BEYOND:
        answer = _query(influxdb, sink, statement.format(here, sink.name, other), here)
        assert "not authorized" in answer.get("error", ""), statement
    assert len(influxdb.rows()) == 2
    assert {f"{here}", other} <= {row[0] for row in influxdb.server.query("SHOW DATABASES")[0]["values"]}


def test_influxdb_lets_grafana_read_the_bucket_and_nothing_else(influxdb: InfluxdbStore) -> None:
    grafana = influxdb.user(Access.READ)
    here, other = influxdb.database, f"{influxdb.database}_other"
    assert _has_value(_query(influxdb, grafana, "SELECT * FROM resources", here))
    assert _has_value(_query(influxdb, grafana, "SHOW FIELD KEYS", here))
    assert "not authorized" in _query(influxdb, grafana, "SELECT * FROM resources", other)["error"]
    assert _write(influxdb, grafana, here) == _write(influxdb, grafana, other) == 403
    for statement in BEYOND + CHANGES:
        answer = _query(influxdb, grafana, statement.format(here, grafana.name, other), here)
        assert "not authorized" in answer.get("error", ""), statement
    assert len(influxdb.rows()) == 1
    assert "copy" not in str(influxdb.server.query("SHOW MEASUREMENTS", here))


def _influx_admin(store: InfluxdbStore, token: str | None = None) -> InfluxAdmin:
    return InfluxAdmin(url=store.server.url, token=Secret(token or store.server.token), timeout=PATIENCE_S)


def test_influxdb_takes_another_password_and_lets_the_old_one_in_no_more(influxdb: InfluxdbStore) -> None:
    old = influxdb.user(Access.WRITE)
    assert _write(influxdb, old, influxdb.database) == 204
    new_one = StoreUser(name=old.name, password=Secret("' WITH ALL PRIVILEGES -- \\"), access=Access.WRITE)
    for _ in range(2):
        (line,) = influxdb_users.ensure_users(
            _influx_admin(influxdb), org="", bucket=f"{influxdb.database}/autogen", users=[new_one]
        )
        assert line == f"{old.name}: may write the database {influxdb.database}; it stays"
    assert _write(influxdb, old, influxdb.database) == 401
    assert _write(influxdb, new_one, influxdb.database) == 204
    assert "error" in _query(influxdb, new_one, "SHOW USERS", influxdb.database)


def test_influxdb_takes_away_what_somebody_gave_by_hand(influxdb: InfluxdbStore) -> None:
    user = influxdb.user(Access.WRITE)
    other = f"{influxdb.database}_other"
    influxdb.server.query(f"GRANT ALL ON {other} TO {user.name}")
    influxdb.server.query(f"GRANT ALL ON {influxdb.database} TO {user.name}")
    influxdb.server.query(f"GRANT ALL PRIVILEGES TO {user.name}")
    influxdb_users.ensure_users(_influx_admin(influxdb), org="", bucket=influxdb.database, users=[user])
    (grants,) = influxdb.server.query(f"SHOW GRANTS FOR {user.name}")
    assert sorted(grants["values"]) == [[influxdb.database, "WRITE"], [other, "NO PRIVILEGES"]]
    (users,) = influxdb.server.query("SHOW USERS")
    assert [user.name, False] in users["values"]


def test_influxdb_that_refuses_or_is_not_there_is_told_without_any_secret(influxdb: InfluxdbStore) -> None:
    user = StoreUser(name="sink", password=password(), access=Access.WRITE)
    with pytest.raises(StoreRefused, match="authorization failed") as refused:
        influxdb_users.ensure_users(_influx_admin(influxdb, "admin:wrong-one"), org="", bucket="x", users=[user])
    assert "wrong-one" not in str(refused.value)
    with pytest.raises(StoreRefused, match="there is no database 'nosuch'"):
        influxdb_users.ensure_users(_influx_admin(influxdb), org="", bucket="nosuch", users=[user])
    nobody = InfluxAdmin(url=f"http://127.0.0.1:{held_port()}", token=Secret("a\nb"))
    with pytest.raises(StoreUnreachable) as unreachable:
        influxdb_users.ensure_users(nobody, org="", bucket="x", users=[user])
    assert "a\nb" not in str(unreachable.value)


def test_the_administrator_is_not_made_one_who_may_only_write(influxdb: InfluxdbStore) -> None:
    own = StoreUser(name="admin", password=password(), access=Access.WRITE)
    with pytest.raises(InvalidStoreUser, match="the administrator itself"):
        influxdb_users.ensure_users(_influx_admin(influxdb), org="", bucket=influxdb.database, users=[own])
    assert influxdb.server.query("SHOW DATABASES")


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b"{}", b'"x"', b'{"results": [1]}', b'{"buckets": [{}]}'])
@pytest.mark.parametrize("version", [1, 2])
def test_what_is_no_store_is_told_as_that(influxdb: InfluxdbStore, content: bytes, version: int) -> None:
    def answer(asked: Asked) -> Answer:
        return Answer(404 if version == 1 and "setup" in asked.path else 200, {}, content)

    user = StoreUser(name="sink", password=password(), access=Access.WRITE)
    with front(influxdb.server.url, answer) as url:
        with pytest.raises(StoreRefused):
            influxdb_users.ensure_users(InfluxAdmin(url=url, token=password()), org="x", bucket="x", users=[user])
        port = urlsplit(url).port
        assert port
        with pytest.raises(StoreRefused):
            other = OrientAdmin(host="127.0.0.1", port=port, password=password())
            orientdb_users.ensure_users(other, database="x", users=[user])


# ---- OrientDB


@pytest.fixture
def orientdb(tmp_path: Path) -> OrientdbStore:
    return OrientdbStore(tmp_path, protocol="http")


def _as(store: OrientdbStore, user: StoreUser, database: str | None = None) -> HttpClient:
    return HttpClient(
        host="127.0.0.1",
        port=store.server.http_port,
        database=database or store.database,
        user=user.name,
        password=user.password.reveal(),
        timeout=PATIENCE_S,
    )


def _as_binary(store: OrientdbStore, user: StoreUser) -> BinaryClient:
    client = BinaryClient(
        host="127.0.0.1",
        port=store.server.port,
        database=store.database,
        user=user.name,
        password=user.password.reveal(),
        timeout=PATIENCE_S,
    )
    client.open()
    return client


def _filled(store: OrientdbStore, user: StoreUser) -> None:
    sink = open_orientdb({**store.options(), "user": user.name, "password": user.password.reveal()})
    sink.write([at(0, new())])
    sink.close()
    assert store.endpoint("ep-1") is not None


#: What the sink's user may not: change the schema, delete what the sink never deletes, see or change users and roles.
#: OrientDB asks nobody for a right who makes or renames a cluster, so that is not among it.
FORBIDDEN = [
    "DROP CLASS Endpoints UNSAFE", "DROP CLASS Objects UNSAFE", "CREATE CLASS Mine EXTENDS V",
    "ALTER CLASS Endpoints NAME Other UNSAFE", "CREATE PROPERTY Endpoints.mine STRING",
    "DROP PROPERTY Endpoints.sms FORCE", "ALTER PROPERTY Endpoints.sms MANDATORY true",
    "CREATE INDEX mine ON Endpoints (lt) NOTUNIQUE", "DROP INDEX `Endpoints.identity`",
    "TRUNCATE CLASS Endpoints UNSAFE", "TRUNCATE CLUSTER endpoints", "ALTER DATABASE TIMEZONE 'GMT'",
    "DELETE VERTEX Endpoints", "DELETE VERTEX Servers", "DELETE EDGE hasEndpoint", "DELETE FROM Endpoints UNSAFE",
    "CREATE VERTEX V SET a = 1", "SELECT FROM V", "CREATE FUNCTION f 'return 1' LANGUAGE javascript",
    "SELECT FROM OUser", "SELECT FROM ORole", "SELECT FROM cluster:ouser", "SELECT FROM #5:0", "SELECT FROM #6:0",
    "INSERT INTO OUser SET name = 'eve', password = 'evil1234', status = 'ACTIVE'",
    "UPDATE OUser SET password = 'evil1234' WHERE name LIKE 'write%'", "UPDATE ORole SET rules = {}",
    "DELETE FROM ORole", "GRANT DELETE ON database.class.endpoints TO reader",
    "GRANT ALL ON database.class.ouser TO reader",
    "REVOKE READ ON database FROM reader",
]  # fmt: skip


def _is_refused(client: HttpClient | BinaryClient, sql: str, as_script: bool = False) -> bool:
    """By its right, and not for any other reason."""
    try:
        client.script(f"{sql};") if as_script else client.query(sql)
    except OrientRefused as exc:
        return bool(exc.names & NO_ACCESS) or "OSecurityAccessException" in str(exc)
    return False


def _all_of_it(store: OrientdbStore) -> list[object]:
    """What must be the same after an attack: the graph, the schema, users and roles."""
    return [
        store.sql("SELECT FROM V"),
        store.sql("SELECT FROM E"),
        store.sql("SELECT FROM OUser"),
        store.sql("SELECT FROM ORole"),
        sorted(
            (row["name"], sorted(row["fields"]))
            for row in store.sql(
                "SELECT name, properties.name AS fields FROM (SELECT EXPAND(classes) FROM metadata:schema)"
            )
        ),
    ]


def test_orientdb_lets_the_sink_keep_the_graph_and_nothing_else(orientdb: OrientdbStore) -> None:
    sink = orientdb.user(Access.WRITE)
    _filled(orientdb, sink)
    before = _all_of_it(orientdb)
    over_http, over_binary = _as(orientdb, sink), _as_binary(orientdb, sink)
    try:
        for statement in FORBIDDEN:
            assert _is_refused(over_http, statement), statement
            assert _is_refused(over_binary, statement, as_script=True), statement
        assert over_http.query("SELECT name FROM Endpoints") == [{"name": "ep-1"}]
    finally:
        over_http.close()
        over_binary.close()
    assert _all_of_it(orientdb) == before


def test_orientdb_lets_a_reader_see_the_graph_and_change_nothing(orientdb: OrientdbStore) -> None:
    sink, reader = orientdb.user(Access.WRITE), orientdb.user(Access.READ)
    _filled(orientdb, sink)
    before = _all_of_it(orientdb)
    client = _as(orientdb, reader)
    try:
        walked = client.query("SELECT EXPAND(out('hasEndpoint')) FROM Servers")
        assert [row["name"] for row in walked] == ["ep-1"]
        mine = ["UPDATE Endpoints SET lt = 1", "CREATE VERTEX Endpoints SET name = 'x'", "DELETE VERTEX Objects",
                "DELETE EDGE hasObject"]  # fmt: skip
        for statement in [*mine, *FORBIDDEN]:
            assert _is_refused(client, statement), statement
    finally:
        client.close()
    assert _all_of_it(orientdb) == before


def test_orientdb_keeps_the_sinks_user_from_the_server_and_other_databases(orientdb: OrientdbStore) -> None:
    sink = orientdb.user(Access.WRITE)
    other = OrientdbStore(Path(), protocol="http")
    other.user(Access.READ)
    login = b64encode(f"{sink.name}:{sink.password.reveal()}".encode()).decode()
    for method, path in (
        ("DELETE", f"/database/{orientdb.database}"),
        ("DELETE", f"/database/{other.database}"),
        ("POST", "/database/mine/plocal"),
        ("GET", "/server"),
        ("GET", "/listDatabases"),
        ("GET", f"/database/{other.database}"),
    ):
        link = http.client.HTTPConnection("127.0.0.1", orientdb.server.http_port, timeout=PATIENCE_S)
        link.request(method, path, headers={"Authorization": f"Basic {login}"})
        assert link.getresponse().status in (401, 403), (method, path)
        link.close()
    # It may have a copy of what it may see; of users there is nothing in it.
    link = http.client.HTTPConnection("127.0.0.1", orientdb.server.http_port, timeout=PATIENCE_S)
    link.request("GET", f"/export/{orientdb.database}", headers={"Authorization": f"Basic {login}"})
    assert b"PBKDF2" not in gzip.decompress(link.getresponse().read())
    link.close()
    client = _as(orientdb, sink, other.database)
    with pytest.raises(OrientRefused):
        client.query("SELECT FROM Endpoints")
    client.close()
    assert {orientdb.database, other.database} <= set(orientdb.server.databases())
    assert "mine" not in orientdb.server.databases()


def _orient_admin(store: OrientdbStore, text: str = orientdb_server.PASSWORD) -> OrientAdmin:
    return OrientAdmin(host="127.0.0.1", port=store.server.http_port, password=Secret(text), timeout=PATIENCE_S)


def test_a_new_orientdb_database_has_no_user_that_anybody_could_guess(orientdb: OrientdbStore) -> None:
    sink = orientdb.user(Access.WRITE)
    assert [row["name"] for row in orientdb.sql("SELECT name FROM OUser")] == [sink.name]


def test_orientdb_takes_another_password_and_lets_the_old_one_in_no_more(orientdb: OrientdbStore) -> None:
    old = orientdb.user(Access.WRITE)
    _filled(orientdb, old)
    changed = StoreUser(name=old.name, password=Secret("' \" \\ OR 1=1 -- é"), access=Access.WRITE)
    for _ in range(2):
        (line,) = orientdb_users.ensure_users(_orient_admin(orientdb), database=orientdb.database, users=[changed])
        assert line == f"{old.name}: may write the graph in {orientdb.database}; it stays"
    client = _as(orientdb, old)
    with pytest.raises(OrientRefused):
        client.open()
    client.close()
    _filled(orientdb, changed)
    assert len(orientdb.sql("SELECT FROM OUser")) == 1


def test_orientdb_takes_away_what_somebody_gave_by_hand(orientdb: OrientdbStore) -> None:
    user = orientdb.user(Access.WRITE)
    role = f"SELECT rules, inheritedRole FROM ORole WHERE name = '{user.name}'"
    (before,) = orientdb.sql(role)
    for right in ("ALL ON *", "DELETE ON database.class.endpoints", "ALL ON database.class.ouser"):
        orientdb.sql(f"GRANT {right} TO `{user.name}`")
    orientdb.sql(f"REVOKE UPDATE ON database.class.servers FROM `{user.name}`")
    orientdb.sql(
        f"UPDATE ORole SET inheritedRole = (SELECT FROM ORole WHERE name = 'admin') WHERE name = '{user.name}'"
    )
    orientdb.sql(f"UPDATE OUser SET roles = (SELECT FROM ORole), status = 'SUSPENDED' WHERE name = '{user.name}'")
    orientdb_users.ensure_users(_orient_admin(orientdb), database=orientdb.database, users=[user])
    (after,) = orientdb.sql(role)
    assert {name: bits for name, bits in after["rules"].items() if bits} == before["rules"]
    assert after.get("inheritedRole") is None
    (row,) = orientdb.sql(f"SELECT roles.name AS roles, status FROM OUser WHERE name = '{user.name}'")
    assert row == {"roles": [user.name], "status": "ACTIVE"}
    _filled(orientdb, user)


@pytest.mark.parametrize("name", ["admin", "reader", "Writer"])
def test_roles_that_orientdb_makes_itself_are_left_alone(orientdb: OrientdbStore, name: str) -> None:
    orientdb.user(Access.WRITE)
    before = orientdb.sql("SELECT FROM ORole")
    user = StoreUser(name=name, password=password(), access=Access.WRITE)
    with pytest.raises(InvalidStoreUser, match="OrientDB makes itself"):
        orientdb_users.ensure_users(_orient_admin(orientdb), database=orientdb.database, users=[user])
    assert orientdb.sql("SELECT FROM ORole") == before


def test_rights_are_those_of_the_graphs_classes_and_their_clusters_alone() -> None:
    clusters = {name: [name.lower(), f"{name.lower()}_1"] for name in (*VERTICES, *EDGES)}
    found = rights(Access.WRITE, clusters)
    deletes = {name for name, right in found.items() if Right.DELETE in right}
    assert deletes == {
        f"database.{kind}" for kind in ("class.objects", "cluster.objects", "cluster.objects_1", "class.hasobject",
                                        "cluster.hasobject", "cluster.hasobject_1")
    }  # fmt: skip
    assert not any(Right.EXECUTE in right for right in found.values())
    ours = tuple(f"database.{kind}.{name.lower()}" for kind in ("class", "cluster") for name in clusters)
    others = {name: right for name, right in found.items() if not name.startswith(ours)}
    assert set(others.values()) == {Right.READ}
    assert set(rights(Access.READ, clusters).values()) == {Right.READ}


def test_orientdb_that_refuses_or_is_not_there_is_told_without_any_secret(orientdb: OrientdbStore) -> None:
    user = StoreUser(name="sink", password=password(), access=Access.WRITE)
    with pytest.raises(StoreRefused) as refused:
        orientdb_users.ensure_users(_orient_admin(orientdb, "wrong-one"), database=orientdb.database, users=[user])
    assert "wrong-one" not in str(refused.value)
    nobody = OrientAdmin(host="127.0.0.1", port=held_port(), password=password())
    with pytest.raises(StoreUnreachable, match="refused"):
        orientdb_users.ensure_users(nobody, database="x", users=[user])
