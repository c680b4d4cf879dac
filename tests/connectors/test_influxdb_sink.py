"""What the InfluxDB sink alone promises: its points, its times, and what it makes of every answer."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest

from connectors.kafka import Cluster
from connectors.sinks import RejectedRecords, RetryLater, SinkConfigError, SinkRecord
from connectors.sinks.influxdb import open_influxdb
from connectors.store_users import Access
from schemas.avro.records import GenericBody, RequestKind, ResponseCode
from schemas.lwm2m.nodes import Instance, ResourceType
from schemas.lwm2m.path import Path as Lwm2mPath
from tests.http_front import Answer, Asked, Rule, front
from tests.influxdb_server import InfluxServer
from tests.ports import held_port
from tests.sink_harness import PATIENCE_S, dead_letters, eventually, make_topics, produce
from tests.sink_samples import at, new, notification, reply, resource
from tests.stores.influxdb import InfluxdbStore

ROOT = Path(__file__).parents[2]
MS = 1_000_000


class ServerFactory(Protocol):
    """Starts an InfluxDB of the test's own; ``data`` are lines of the section ``[data]`` of its configuration."""

    def __call__(self, *, data: str = ...) -> InfluxServer: ...


@pytest.fixture
def store(tmp_path: Path) -> InfluxdbStore:
    return InfluxdbStore(tmp_path)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[ServerFactory]:
    made: list[InfluxServer] = []

    def make(*, data: str = "") -> InfluxServer:
        server = InfluxServer(directory=tmp_path / f"influxdb-{len(made)}", port=held_port(), data=data)
        made.append(server)
        server.start()
        return server

    yield make
    for server in made:
        server.remove()


@contextmanager
def proxy(
    store: InfluxdbStore, rule: Rule, then: Callable[[Asked, Answer], Answer | None] = lambda _asked, _theirs: None
) -> Iterator[dict[str, object]]:
    """Options that lead to ``store`` through a proxy; see `tests.http_front.front`."""
    with front(store.server.url, rule, then=then) as url:
        yield {**store.options(), "url": url}


def reading(offset: int, value: float = 0.0, *, ep: str = "ep-1", timestamp: int = 1_000) -> SinkRecord:
    return at(offset, notification(resource("/3303/0/5700", value), ep=ep, timestamp=timestamp))


def text(offset: int, value: str = "Cel", *, timestamp: int = 1_000) -> SinkRecord:
    return at(offset, notification(resource("/3303/0/5701", value, ResourceType.STRING), timestamp=timestamp))


# ---- points


def test_tags_and_fields_are_those_of_the_contract(store: InfluxdbStore) -> None:
    sink = open_influxdb(store.options())
    sink.write(
        [
            reading(0, 21.5, timestamp=1_700_000_000_123),
            at(1, notification(resource("/3303/0/5605", -7, ResourceType.INTEGER))),
            text(2),
            at(3, notification(resource("/3303/0/5850", False, ResourceType.BOOLEAN))),
        ]
    )
    sink.close()
    tags = store.rows("SHOW TAG KEYS")
    assert {row["tagKey"] for row in tags} == {"ticket", "observationId", "serverId", "ep", "kind", "path"}
    assert {(row["fieldKey"], row["fieldType"]) for row in store.rows("SHOW FIELD KEYS")} == {
        ("value", "float"),
        ("svalue", "string"),
        ("bvalue", "boolean"),
    }
    assert [row["name"] for row in store.rows("SHOW MEASUREMENTS")] == ["resources"]
    (row,) = store.rows("SELECT * FROM resources WHERE path = '/3303/0/5700'")
    assert row == {
        "time": 1_700_000_000_123 * MS,
        "ticket": "ticket#1",
        "observationId": "obs-1",
        "serverId": "gw1",
        "ep": "ep-1",
        "kind": "observe",
        "path": "/3303/0/5700",
        "value": 21.5,
        "svalue": None,
        "bvalue": None,
    }


def test_errors_and_replies_are_words_with_their_code(store: InfluxdbStore) -> None:
    sink = open_influxdb(store.options())
    sink.write(
        [
            at(0, reply(GenericBody(message='no "such" resource\n'), path="/3/0/99", code=ResponseCode.NOT_FOUND)),
            at(1, reply(None, path="/1/0/6", code=ResponseCode.CHANGED, kind=RequestKind.WRITE)),
            at(2, reply(GenericBody(message=""), path="/5/0", code=ResponseCode.BAD_REQUEST)),
        ]
    )
    sink.close()
    found = store.rows("SELECT path, ticket, kind, observationId, svalue, code FROM resources")
    assert [(r["path"], r["ticket"], r["kind"], r["observationId"], r["svalue"], r["code"]) for r in found] == [
        ("/3/0/99", "ticket#9", "read", None, 'no "such" resource\n', "NOT_FOUND"),
        ("/1/0/6", "ticket#9", "write", None, None, "CHANGED"),
        ("/5/0", "ticket#9", "read", None, "", "BAD_REQUEST"),
    ]


def test_values_of_one_series_in_the_same_millisecond_all_survive_in_their_order(store: InfluxdbStore) -> None:
    here = Lwm2mPath(3303, 0)
    twice = Instance(path=here, resources=(resource("/3303/0/5700", 3_000.0), resource("/3303/0/5700", 3_001.0)))
    batch = [reading(offset, float(offset), timestamp=50) for offset in range(3_000)]
    batch.append(at(3_000, replace(notification(twice, timestamp=50), path="/3303/0/5700")))
    sink = open_influxdb(store.options())
    sink.write(batch)
    sink.write([replace(reading(9, 9_999.0, timestamp=50), partition=1)])
    sink.write(batch[1_000:2_000])
    sink.close()
    found = store.rows("SELECT value FROM resources")
    assert [row["value"] for row in found if row["value"] != 9_999] == list(range(3_002))
    assert len(found) == 3_003
    assert {row["time"] // MS for row in found} == {50}


def test_the_time_is_the_gateways_unless_the_devices_is_asked_for(store: InfluxdbStore, tmp_path: Path) -> None:
    other = InfluxdbStore(tmp_path)
    batch = [at(4, notification(resource("/3303/0/5700", 1.0, timestamp=7), timestamp=10)), reading(5, timestamp=20)]
    for where, options in ((store, {}), (other, {"time": "device"})):
        sink = open_influxdb({**where.options(), **options})
        sink.write(batch)
        sink.close()
    columns = "SELECT value, deviceTime FROM resources"
    assert [(r["time"] // MS, r["deviceTime"]) for r in store.rows(columns)] == [(10, 7), (20, None)]
    assert [(r["time"] // MS, r["deviceTime"]) for r in other.rows(columns)] == [(7, 7), (20, None)]


def test_late_ones_can_be_left_out_of_what_is_last(store: InfluxdbStore) -> None:
    sink = open_influxdb(store.options())
    sink.write([reading(0, 1.0, timestamp=10), replace(reading(1, 2.0, timestamp=20), headers=(("late", b"1"),))])
    sink.close()
    assert [row["last"] for row in store.rows("SELECT last(value) FROM resources WHERE late = ''")] == [1.0]
    assert [row["value"] for row in store.rows("SELECT value FROM resources WHERE late = 'true'")] == [2.0]


HOSTILE = [
    "a,b=c d",
    'quote" and \\inside',
    "\\,",
    "#no comment",
    " ",
    "=",
    "\t\r\x00\x7f",
    "é☃💥\u2028",
    "'; DROP MEASUREMENT resources",
    "ep=x,path=/3 value=1 1",
    "x" * 30_000,
    "",
]


def test_hostile_names_and_texts_come_back_as_they_were(store: InfluxdbStore) -> None:
    texts = [*HOSTILE, "two\nlines", "\\", '"', '\\"', 'ends with \\\\"\\', "y" * 200_000]
    sink = open_influxdb(store.options())
    sink.write(
        [
            *(reading(offset, float(offset), ep=name) for offset, name in enumerate(HOSTILE)),
            *(text(100 + offset, value, timestamp=2_000 + offset) for offset, value in enumerate(texts)),
        ]
    )
    sink.close()
    rows = store.rows()
    assert {row["value"]: row["ep"] or "" for row in rows if row["value"] is not None} == dict(enumerate(HOSTILE))
    assert [row["svalue"] for row in rows if row["svalue"] is not None] == texts


#: What InfluxDB says when it is full; its refusal of a line quotes the line.
FULL = "partial write: max-series-per-database limit exceeded dropped=3"


@pytest.mark.parametrize(
    "name",
    ["ends with \\", "two\nlines", "backslash \\ space", "\ud800", "x" * 70_000, FULL * 2_000],
    ids=["backslash", "newline", "space", "surrogate", "long", "lie"],
)
def test_what_influxdb_has_no_form_for_is_refused_alone(store: InfluxdbStore, name: str) -> None:
    sink = open_influxdb(store.options())
    with pytest.raises(RejectedRecords) as refused:
        sink.write([reading(0), reading(1, ep=name), reading(2, timestamp=2_000)])
    sink.close()
    assert [record.offset for record, _ in refused.value.rejected] == [1]
    assert len(refused.value.rejected[0][1]) < 1_000
    assert len(store.rows()) == 2


@pytest.mark.parametrize("timestamp", [2**63 - 1, -(2**63), 10**13])
def test_a_time_that_influxdb_does_not_have_is_refused_alone(store: InfluxdbStore, timestamp: int) -> None:
    sink = open_influxdb(store.options())
    with pytest.raises(RejectedRecords, match="time") as refused:
        sink.write([reading(0), reading(1, timestamp=timestamp), reading(2)])
    sink.close()
    assert [record.offset for record, _ in refused.value.rejected] == [1]
    assert len(store.rows()) == 2


# ---- poison


def test_points_of_another_type_are_found_among_a_thousand(store: InfluxdbStore) -> None:
    sink = open_influxdb(store.options())
    # In the first week of 1970 `svalue` is a number, for whatever reason; later it is text.
    writer = urllib.request.Request(
        f"{store.server.url}/api/v2/write?bucket={store.database}/autogen&precision=ms",
        data=b"resources,ep=other svalue=1 1000",
        headers={"Authorization": f"Token {store.server.token}"},
    )
    urllib.request.urlopen(writer, timeout=PATIENCE_S).close()
    batch = [reading(offset, timestamp=offset) for offset in range(1_000)]
    for offset in (0, 17, 500, 501, 999):
        batch[offset] = text(offset, timestamp=1_000)
    batch[700] = text(700, timestamp=1_700_000_000_000)
    for _ in range(2):
        with pytest.raises(RejectedRecords, match="field type conflict") as refused:
            sink.write(batch)
        assert [record.offset for record, _ in refused.value.rejected] == [0, 17, 500, 501, 999]
    sink.close()
    assert store.rows("SELECT count(value) FROM resources")[0]["count"] == 994
    assert [row["svalue"] for row in store.rows("SELECT svalue FROM resources WHERE time > 1000d")] == ["Cel"]


def test_points_beyond_the_retention_policy_are_refused_and_younger_ones_are_kept(store: InfluxdbStore) -> None:
    store.server.query(f"CREATE RETENTION POLICY century ON {store.database} DURATION 5200w REPLICATION 1")
    sink = open_influxdb({**store.options(), "bucket": f"{store.database}/century"})
    old = [reading(offset, timestamp=-4_000_000_000_000) for offset in range(500)]
    with pytest.raises(RejectedRecords, match="retention") as refused:
        sink.write([*old, reading(500), reading(501)])
    sink.close()
    assert [record.offset for record, _ in refused.value.rejected] == list(range(500))
    assert len(store.rows("SELECT * FROM century.resources")) == 2


def test_a_full_influxdb_is_waited_for(own_server: ServerFactory, tmp_path: Path) -> None:
    server = own_server(data="max-series-per-database = 2")
    store = InfluxdbStore(tmp_path, server)
    sink = open_influxdb(store.options())
    batch = [reading(offset, ep=f"ep-{offset}") for offset in range(4)]
    with pytest.raises(RetryLater, match="max-series-per-database limit exceeded"):
        sink.write(batch)
    server.data = "max-series-per-database = 0"
    server.kill()
    server.start()
    sink.write(batch)
    sink.close()
    assert len(store.rows()) == 4


# ---- an InfluxDB that does not answer as it should


def test_down_at_first_then_killed_and_back_again(own_server: ServerFactory, tmp_path: Path) -> None:
    server = own_server()
    store = InfluxdbStore(tmp_path, server)
    server.kill()
    sink = open_influxdb(store.options())
    for _ in range(2):
        with pytest.raises(RetryLater, match="refused"):
            sink.write([reading(0)])
    server.start()
    sink.write([reading(0)])
    server.kill()
    with pytest.raises(RetryLater):
        sink.write([reading(1, timestamp=2_000)])
    server.start()
    sink.write([reading(1, timestamp=2_000)])
    sink.close()
    assert len(store.rows()) == 2


def test_one_that_hangs_is_not_waited_for_longer_than_the_timeout(own_server: ServerFactory, tmp_path: Path) -> None:
    server = own_server()
    store = InfluxdbStore(tmp_path, server)
    sink = open_influxdb({**store.options(), "timeout_s": 0.3})
    server.pause()
    with pytest.raises(RetryLater, match="timed out"):
        sink.write([reading(0)])
    server.go_on()
    eventually(lambda: _takes(sink.write, reading(0)), True)
    sink.close()
    assert len(store.rows()) == 1


def _takes(write: Callable[[list[SinkRecord]], None], record: SinkRecord) -> bool:
    try:
        write([record])
    except RetryLater:
        return False
    return True


def test_a_wrong_password_is_told_and_a_mended_file_goes_on(store: InfluxdbStore, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("admin:not the password\n")
    options = {**store.options(), "token_file": str(file)}
    del options["token"]
    sink = open_influxdb(options)
    with pytest.raises(RetryLater, match="refuses the token") as refused:
        sink.write([reading(0)])
    assert "not the password" not in str(refused.value)
    file.write_text("")
    with pytest.raises(RetryLater, match="empty"):
        sink.write([reading(0)])
    file.write_text(f"{store.server.token}\n")
    sink.write([reading(0)])
    sink.close()
    assert len(store.rows()) == 1


def test_a_password_may_hold_anything(store: InfluxdbStore) -> None:
    store.server.query(f"CREATE USER u_{store.database} WITH PASSWORD 'a b: ü,☃'")
    options = {**store.options(), "token": f"u_{store.database}:a b: ü,☃"}
    sink = open_influxdb(options)
    with pytest.raises(RetryLater, match="may not write there"):
        sink.write([reading(0)])
    store.server.query(f"GRANT WRITE ON {store.database} TO u_{store.database}")
    sink.write([reading(0)])
    sink.close()
    assert len(store.rows()) == 1


def test_a_user_with_a_password_writes_as_clients_of_1_x_do(store: InfluxdbStore, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("not the password\n")
    writer = store.user(Access.WRITE)
    options = {**store.options(), "user": writer.name, "password_file": str(file)}
    del options["token"]
    asked: list[str] = []
    with proxy(store, lambda one: asked.append(one.path)) as through:
        sink = open_influxdb({**options, "url": through["url"]})
        with pytest.raises(RetryLater, match="refuses the token or the user") as refused:
            sink.write([reading(0)])
        assert "not the password" not in str(refused.value)
        file.write_text(writer.password.reveal())
        sink.write([reading(0), reading(1, timestamp=2_000)])
        sink.close()
    assert asked == [f"/write?db={store.database}&precision=ns&rp=autogen"] * 2
    assert len(store.rows()) == 2


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"user": "a"}, "user goes with password or password_file"),
        ({"password": "b"}, "these with user"),
        ({"user": "a", "password": "b", "password_file": "c"}, "user goes with password or password_file"),
        ({"user": "a", "password": "b", "token": "c"}, "not both"),
        ({"user": "a:b", "password": "b"}, "user"),
        ({"user": "", "password": "b"}, "user"),
        ({"user": "a", "password_file": "/no/such/file"}, "password_file of the sink influxdb"),
    ],
)
def test_who_writes_is_said_once(more: dict[str, object], words: str) -> None:
    with pytest.raises(SinkConfigError, match=words):
        open_influxdb({"url": "http://127.0.0.1:1", "bucket": "x", **more})


def test_a_bucket_that_is_not_there_is_waited_for(store: InfluxdbStore) -> None:
    options = {**store.options(), "bucket": f"{store.database}_more/weekly"}
    sink = open_influxdb(options)
    with pytest.raises(RetryLater, match=r"no such bucket: create it .*database not found"):
        sink.write([reading(0)])
    store.server.query(f"CREATE DATABASE {store.database}_more")
    with pytest.raises(RetryLater, match="retention policy not found: weekly"):
        sink.write([reading(0)])
    store.server.query(f"CREATE RETENTION POLICY weekly ON {store.database}_more DURATION INF REPLICATION 1")
    sink.write([reading(0)])
    sink.close()
    assert len(store.server.rows("SELECT * FROM weekly.resources", f"{store.database}_more")) == 1


@pytest.mark.parametrize(
    ("status", "headers", "after"),
    [
        (429, {"Retry-After": "7"}, 7.0),
        (503, {"Retry-After": "12"}, 12.0),
        (503, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        (429, {"Retry-After": "-1"}, None),
        (500, {}, None),
        (301, {"Location": "http://127.0.0.1:9/"}, None),
        (200, {}, None),
        (400, {}, None),
    ],
)
def test_other_answers_mean_later(
    store: InfluxdbStore, status: int, headers: dict[str, str], after: float | None
) -> None:
    answers = [Answer(status, headers, b"<html>not now \xff</html>" if status == 500 else b"<html>not now</html>")]
    with proxy(store, lambda _asked: answers.pop() if answers else None) as options:
        sink = open_influxdb(options)
        with pytest.raises(RetryLater) as later:
            sink.write([reading(0)])
        assert later.value.after_s == after
        assert str(store.server.token) not in later.value.reason
        sink.write([reading(0)])
        sink.close()
    assert len(store.rows()) == 1


def test_a_batch_that_is_too_large_for_a_proxy_goes_in_pieces(store: InfluxdbStore) -> None:
    def small(asked: Asked) -> Answer | None:
        return Answer(413, {}, b"Request Entity Too Large") if len(asked.body) > 4_000 else None

    with proxy(store, small) as options:
        sink = open_influxdb({**options, "gzip": False})
        with pytest.raises(RejectedRecords, match="Too Large") as refused:
            sink.write([*(reading(offset) for offset in range(100)), text(100, "x" * 4_000), reading(101)])
        sink.close()
    assert [record.offset for record, _ in refused.value.rejected] == [100]
    assert len(store.rows()) == 101


def test_what_version_2_says_is_understood(store: InfluxdbStore) -> None:
    def as_version_2(_asked: Asked, theirs: Answer) -> Answer | None:
        if theirs.status != 400:
            return None
        words = f"failure writing points to database: {json.loads(theirs.body)['error']}"
        return Answer(422, {}, json.dumps({"code": "unprocessable entity", "message": words}).encode())

    store.server.query(f"CREATE RETENTION POLICY century ON {store.database} DURATION 5200w REPLICATION 1")
    with proxy(store, lambda _asked: None, as_version_2) as options:
        sink = open_influxdb({**options, "bucket": f"{store.database}/century", "org": "home"})
        with pytest.raises(RejectedRecords, match="points beyond retention policy") as refused:
            sink.write([reading(0), reading(1, timestamp=-4_000_000_000_000), reading(2)])
        sink.close()
    assert [record.offset for record, _ in refused.value.rejected] == [1]
    assert len(store.rows("SELECT * FROM century.resources")) == 2


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (400, "invalid", "Please provide either orgID or org"),
        (404, "not found", 'organization name "nobody" not found'),
        (404, "not found", "organization not found"),
    ],
)
def test_an_organization_that_version_2_asks_for_is_told_at_once(
    store: InfluxdbStore, status: int, code: str, words: str
) -> None:
    requests: list[Asked] = []

    def as_version_2(asked: Asked) -> Answer:
        requests.append(asked)
        return Answer(status, {}, json.dumps({"code": code, "message": words}).encode())

    with proxy(store, as_version_2) as options:
        sink = open_influxdb(options)
        with pytest.raises(RetryLater, match=f"set org .*{words}"):
            sink.write([reading(offset) for offset in range(100)])
        sink.close()
    assert len(requests) == 1


def test_a_device_cannot_say_what_version_2_says(store: InfluxdbStore) -> None:
    sink = open_influxdb(store.options())
    with pytest.raises(RejectedRecords) as refused:
        sink.write([reading(0), reading(1, ep="Please provide either orgID or org" * 3_000), reading(2)])
    sink.close()
    assert [record.offset for record, _ in refused.value.rejected] == [1]
    assert len(store.rows()) == 2


@pytest.mark.parametrize("guilty", [set(), {0}, {3, 700}])
def test_an_unknown_refusal_is_the_records_fault_only_if_others_are_taken(
    store: InfluxdbStore, guilty: set[int]
) -> None:
    asked: list[int] = []

    def strange(one: Asked) -> Answer | None:
        asked.append(len(one.body))
        words = [b'svalue="bad %d"' % offset in one.body for offset in guilty]
        return Answer(400, {}, b"computer says no") if any(words) or not guilty else None

    batch = [text(i, f"bad {i}" if i in guilty else "good", timestamp=i) for i in range(1_000)]
    with proxy(store, strange) as options:
        sink = open_influxdb({**options, "gzip": False})
        if guilty:
            with pytest.raises(RejectedRecords, match="computer says no") as refused:
                sink.write(batch)
            assert {record.offset for record, _ in refused.value.rejected} == guilty
        else:
            with pytest.raises(RetryLater, match="computer says no"):
                sink.write(batch)
            assert len(asked) <= 40
        sink.close()
    assert len(store.rows()) == (1_000 - len(guilty) if guilty else 0)


@pytest.mark.parametrize("digits", [400, 5_000])
def test_a_number_beyond_all_floats_is_refused_alone(store: InfluxdbStore, digits: int) -> None:
    sink = open_influxdb(store.options())
    with pytest.raises(RejectedRecords) as refused:
        sink.write([reading(0), at(1, notification(resource("/3/0/9", 10**digits, ResourceType.INTEGER))), reading(2)])
    sink.close()
    assert [record.offset for record, _ in refused.value.rejected] == [1]
    assert len(store.rows()) == 2


def test_batches_are_compressed(store: InfluxdbStore) -> None:
    sizes: list[int] = []

    def measure(asked: Asked) -> None:
        sizes.append(len(asked.body))

    with proxy(store, measure) as options:
        for gzip in (True, False):
            sink = open_influxdb({**options, "gzip": gzip})
            sink.write([reading(offset) for offset in range(1_000)])
            sink.close()
    assert sizes[0] * 5 < sizes[1]
    assert len(store.rows()) == 1_000


# ---- options


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "127.0.0.1:8086"},
        {"url": "ftp://127.0.0.1"},
        {"url": "http://user:pa55word@127.0.0.1:8086"},
        {"url": "http://127.0.0.1:99999"},
        {"bucket": ""},
        {"bucket": None},
        {"token": "a:pa55word", "token_file": "/run/secrets/influxdb"},
        {"token": "a:pa55word\nX-Other: 1"},
        {"token": None, "token_file": "/nowhere/token"},
        {"timeout_s": 0},
        {"timeout_s": "pa55word"},
        {"gzip": "perhaps"},
        {"time": "noon"},
        {"ca_file": "/nowhere/ca.pem"},
    ],
)
def test_wrong_options_are_told_before_anything_is_opened(wrong: dict[str, object]) -> None:
    with pytest.raises(SinkConfigError) as told:
        open_influxdb({"url": "http://127.0.0.1:8086", "bucket": "headwater", **wrong})
    assert "pa55word" not in str(told.value)


def test_an_empty_token_file_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(" \n")
    with pytest.raises(SinkConfigError, match="empty"):
        open_influxdb({"url": "http://127.0.0.1:8086", "bucket": "headwater", "token_file": str(file)})


def test_a_missing_library_says_what_to_install(store: InfluxdbStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "influxdb_client.client.influxdb_client", None)
    with pytest.raises(SinkConfigError, match=r"pip install 'headwater\[influxdb\]'"):
        open_influxdb(store.options())


def test_a_process_needs_the_library_only_when_it_writes_there() -> None:
    look = "import sys, connectors.sinks; sys.exit('influxdb_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", look], cwd=ROOT, timeout=PATIENCE_S, check=False).returncode == 0


# ---- the whole way


@pytest.mark.kafka
@pytest.mark.faults
def test_killed_between_write_and_commit_again_and_again(kafka: Cluster, gateway_id: str, store: InfluxdbStore) -> None:
    topics = make_topics(kafka, gateway_id)
    number = 0

    def process(lives: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.faults.sink_process", kafka.bootstrap, gateway_id, "influxdb"]
        return subprocess.Popen(
            [*command, json.dumps(store.options()), "40", str(lives)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def stored() -> int:
        rows = store.rows("SELECT count(value) FROM resources")
        return int(rows[0]["count"]) if rows else 0

    produce(kafka, topics.registrations, [new()])
    for lives in (1, 3, 2):
        for partition in range(2):
            # All in one millisecond, and of one series.
            made = [notification(resource("/3303/0/5700", float(number + i)), timestamp=77) for i in range(150)]
            produce(kafka, topics.observations, made, partition=partition)
            number += 150
        produce(kafka, topics.observations, [b"poison", notification(resource("/3/0/1", 1.0), ep="bad\\")])
        sink = process(lives)
        assert sink.wait(PATIENCE_S) == -signal.SIGKILL
    produce(kafka, topics.replies, [reply(GenericBody(message="gone"), path="/3/0", code=ResponseCode.NOT_FOUND)])
    sink = process(0)
    try:
        eventually(stored, number)
        eventually(lambda: len(store.rows("SELECT svalue FROM resources")), 1)
        eventually(lambda: {x.record.offset for x in dead_letters(kafka, gateway_id)}, {150, 151, 302, 303, 454, 455})
        sink.terminate()
        assert sink.wait(PATIENCE_S) == 0
    finally:
        if sink.poll() is None:
            sink.kill()
            sink.wait(PATIENCE_S)
    assert sorted(row["value"] for row in store.rows("SELECT value FROM resources")) == list(range(number))
    assert {letter.stage for letter in dead_letters(kafka, gateway_id)} == {"decode", "sink:influxdb"}
