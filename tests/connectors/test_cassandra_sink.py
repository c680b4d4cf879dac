"""What the Cassandra sink alone promises: its tables, which row wins, and what it makes of every answer."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest

from connectors.kafka import Cluster
from connectors.sinks import RejectedRecords, RetryLater, SinkConfigError, SinkRecord
from connectors.sinks.cassandra import open_cassandra
from schemas.avro.analytics_records import EnrichedReading
from schemas.avro.records import Link, RegistrationNew, RegistrationUpdate
from schemas.lwm2m.nodes import ResourceType
from tests.cassandra_server import ADMIN, CassandraServer, new_server
from tests.ports import held_port
from tests.sink_harness import PATIENCE_S, dead_letters, eventually, make_topics, produce
from tests.sink_samples import TOPICS, at, delete, new, notification, reply, resource, update
from tests.stores.cassandra import CassandraStore, epoch_ms, value_of

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> CassandraStore:
    return CassandraStore(tmp_path)


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CassandraServer]:
    """One that these tests may kill and pause, and leave as they found it."""
    server = new_server(tmp_path_factory.mktemp("cassandra"), column_value_size_fail_threshold="200KiB")
    yield server
    server.remove()


def reading(offset: int, value: float = 0.0, *, ep: str = "ep-1", timestamp: int = 1_000) -> SinkRecord:
    return at(offset, notification(resource("/3303/0/5700", value), ep=ep, timestamp=timestamp))


def write(store: CassandraStore, *batches: list[SinkRecord], **options: object) -> None:
    sink = open_cassandra({**store.options(), **options})
    for batch in batches:
        sink.write(batch)
    sink.close()


def latest(store: CassandraStore) -> dict[str, object]:
    return {row["path"]: value_of(row) for row in store.cql("SELECT * FROM {}.latest")}


# ---- history


def test_a_value_is_found_by_its_day(store: CassandraStore) -> None:
    write(store, [reading(7, 21.5, timestamp=1_772_323_200_000), reading(8, 22.5, timestamp=1_772_323_199_999)])
    (row,) = store.cql(
        "SELECT * FROM {}.history WHERE gateway = 'gw1' AND ep = 'ep-1' AND path = '/3303/0/5700'"
        " AND day = '2026-03-01'"
    )
    assert (str(row.pop("day")), epoch_ms(row.pop("time")), epoch_ms(row.pop("gateway_time"))) == (
        "2026-03-01",
        1_772_323_200_000,
        1_772_323_200_000,
    )
    assert row == {
        "gateway": "gw1",
        "ep": "ep-1",
        "path": "/3303/0/5700",
        "kafka_offset": 7,
        "position": 0,
        "source": f"{TOPICS.observations}-0",
        "type": "FLOAT",
        "number": 21.5,
        "integer": None,
        "text": None,
        "bool": None,
        "blob": None,
        "kind": "observe",
        "code": "CONTENT",
        "ticket": "ticket#1",
        "observation_id": "obs-1",
        "late": False,
    }


def test_with_buckets_of_an_hour_a_value_is_found_by_its_hour(store: CassandraStore) -> None:
    write(store, [reading(0, 1.0, timestamp=-1), reading(1, 2.0, timestamp=0)], bucket="hour")
    found = store.cql("SELECT hour, number FROM {}.history")
    assert {(epoch_ms(row["hour"]), row["number"]) for row in found} == {(-3_600_000, 1.0), (0, 2.0)}


def test_another_bucket_than_that_of_the_tables_is_refused(store: CassandraStore) -> None:
    write(store, [reading(0)])
    with pytest.raises(SinkConfigError, match="bucket"):
        open_cassandra({**store.options(), "bucket": "hour"})


def test_values_of_the_same_millisecond_all_survive_newest_first(store: CassandraStore) -> None:
    batch = [reading(offset, float(offset), timestamp=50) for offset in range(300)]
    write(store, batch, batch[100:200], [replace(reading(9, 9_999.0, timestamp=50), partition=1)])
    found = [row["number"] for row in store.cql("SELECT number FROM {}.history")]
    assert [value for value in found if value != 9_999] == list(reversed(range(300)))
    assert len(found) == 301


def test_rows_of_one_partition_travel_together(store: CassandraStore, caplog: pytest.LogCaptureFixture) -> None:
    """Cassandra itself warns of a request with rows of more than ten partitions."""
    paths = [f"/3303/{instance}/5700" for instance in range(32)]
    mixed = [at(offset, notification(resource(paths[offset % 32], 1.0))) for offset in range(32 * 32)]
    with caplog.at_level("WARNING", logger="cassandra"):
        write(store, mixed)
    assert not [one.getMessage() for one in caplog.records if "partitions" in one.getMessage()]
    assert store.cql("SELECT count(*) FROM {}.history")[0]["count"] == len(mixed)


def test_more_than_a_connection_takes_at_once_is_sent_as_it_does(store: CassandraStore) -> None:
    """Thirty megabytes at once: the driver takes some of them, and says that it is overloaded."""
    large = [
        at(offset, notification(resource("/3/0/0", "x" * 1_000_000, ResourceType.STRING), ep=f"ep-{offset}"))
        for offset in range(30)
    ]
    write(store, large)
    assert store.cql("SELECT count(*) FROM {}.history")[0]["count"] == len(large)


def test_the_time_is_the_devices_where_it_gave_one(store: CassandraStore) -> None:
    write(store, [at(4, notification(resource("/3303/0/5700", 1.0, timestamp=7), timestamp=10)), reading(5)])
    found = store.cql("SELECT time, gateway_time FROM {}.history")
    assert [(epoch_ms(row["time"]), epoch_ms(row["gateway_time"])) for row in found] == [(1_000, 1_000), (7, 10)]


def test_a_time_to_live_is_for_history_alone(store: CassandraStore) -> None:
    write(store, [reading(0), at(1, new())], ttl_days=2)
    ((left,),) = [row.values() for row in store.cql("SELECT ttl(kind) FROM {}.history")]
    assert 0 < left <= 2 * 86_400
    assert [list(row.values()) for row in store.cql("SELECT ttl(kind) FROM {}.latest")] == [[None]]
    assert [list(row.values()) for row in store.cql("SELECT ttl(online) FROM {}.endpoints")] == [[None]]


HOSTILE = [
    "",
    "\x00",
    "a\x00b",
    "'; DROP TABLE history; --",
    'quote" and {} %s ? :name',
    "é☃💥\u2028",
    "\t\r\n",
    "x" * 60_000,
]


def test_hostile_names_and_texts_come_back_as_they_were(store: CassandraStore) -> None:
    texts = [*HOSTILE, "y" * 900_000]
    write(
        store,
        [
            *(reading(offset, float(offset), ep=name) for offset, name in enumerate(HOSTILE)),
            *(
                at(100 + offset, notification(resource("/3303/0/5701", text, ResourceType.STRING), timestamp=offset))
                for offset, text in enumerate(texts)
            ),
            *(at(200 + offset, new(ep=name)) for offset, name in enumerate(HOSTILE)),
        ],
    )
    rows = store.cql("SELECT * FROM {}.history")
    assert {row["number"]: row["ep"] for row in rows if row["number"] is not None} == dict(enumerate(HOSTILE))
    assert [row["text"] for row in rows if row["text"] is not None] == texts[::-1]
    assert {row["ep"] for row in store.cql("SELECT ep FROM {}.endpoints")} == set(HOSTILE)


def test_what_cassandra_has_no_form_for_is_refused_alone(store: CassandraStore) -> None:
    bad = [
        reading(1, ep="x" * 70_000),
        reading(2, ep="é" * 35_000),
        reading(3, ep="\ud800"),
        reading(4, timestamp=2**63 - 1),
        reading(5, timestamp=-(2**63)),
        at(6, notification(resource("/3303/0/5700", 1.0, timestamp=10**15))),
        at(7, new(ep="x" * 70_000)),
        at(8, new(last_up=10**15)),
        at(9, notification(resource("/3303/0/5700", 2**63, ResourceType.INTEGER))),
    ]
    sink = open_cassandra(store.options())
    for _ in range(2):
        with pytest.raises(RejectedRecords) as refused:
            sink.write([reading(0), *bad, reading(10, timestamp=2_000)])
        assert [record.offset for record, _ in refused.value.rejected] == list(range(1, 10))
        assert all(0 < len(reason) < 1_000 for _, reason in refused.value.rejected)
    sink.close()
    assert len(store.history()) == 2


def test_what_cassandra_itself_refuses_is_found_among_a_hundred(own_server: CassandraServer, tmp_path: Path) -> None:
    store = CassandraStore(tmp_path, own_server)
    write(store, [reading(0)])
    # Its guardrails are not for superusers.
    role = f"writer_{store.keyspace}"
    store.cql(f"CREATE ROLE {role} WITH PASSWORD = 'p' AND LOGIN = true")
    store.cql(f"GRANT ALL ON KEYSPACE {{}} TO {role}")
    batch = [reading(offset, timestamp=offset) for offset in range(100)]
    batch[50] = at(50, notification(resource("/19/0/0", b"x" * 300_000, ResourceType.OPAQUE)))
    sink = open_cassandra({**store.options(), "user": role, "password": "p"})
    for _ in range(2):
        with pytest.raises(RejectedRecords, match=r"column_value_size|value of size") as refused:
            sink.write(batch)
        assert [record.offset for record, _ in refused.value.rejected] == [50]
    sink.close()
    assert len(store.history()) == 100


# ---- latest


def test_an_older_value_never_replaces_a_newer_one(store: CassandraStore) -> None:
    batch = [reading(offset, float(offset), timestamp=time) for offset, time in enumerate((10, 30, 20))]
    write(store, *([record] for record in batch))
    assert latest(store) == {"/3303/0/5700": 1.0}
    write(store, batch[::-1], batch[:1])
    assert latest(store) == {"/3303/0/5700": 1.0}


def test_of_the_same_millisecond_the_later_one_is_the_latest_whichever_is_written_last(store: CassandraStore) -> None:
    write(store, *([reading(offset, float(offset))] for offset in (999, 1_000, 1_001, 2_001, 4, 999)))
    assert latest(store) == {"/3303/0/5700": 2_001.0}


def test_a_later_value_of_another_type_leaves_nothing_of_the_earlier(store: CassandraStore) -> None:
    text = at(1, notification(resource("/3303/0/5700", "broken", ResourceType.STRING)))
    write(store, [text], [reading(0, 1.0)])
    (row,) = store.cql("SELECT * FROM {}.latest")
    assert (row["type"], row["number"], row["text"]) == ("STRING", None, "broken")


def test_a_clock_that_was_ahead_keeps_no_later_value_out(store: CassandraStore) -> None:
    ahead = at(0, notification(resource("/3303/0/5700", 1.0, timestamp=10**12), timestamp=1_000))
    write(store, [ahead], [reading(1, 2.0, timestamp=2_000)])
    assert latest(store) == {"/3303/0/5700": 2.0}


def test_late_ones_and_words_are_not_the_latest(store: CassandraStore) -> None:
    late = replace(reading(1, 2.0, timestamp=2_000), headers=(("late", b"1"),))
    write(store, [reading(0, 1.0), late, at(2, reply(None, path="/3303/0/5700", timestamp=3_000))])
    assert latest(store) == {"/3303/0/5700": 1.0}


# ---- readings


def enriched(offset: int, value: float, *, timestamp: int) -> SinkRecord:
    record = EnrichedReading(
        server_id="gw1",
        ep="station-1",
        path="/3303/0/5700",
        timestamp=timestamp,
        value=value,
        mean=25.0,
        std_dev=2.0,
        z_score=(value - 25.0) / 2.0,
        outlier=value > 30,
    )
    return at(offset, record, topic="analytics.gw1.readings")


def test_the_newest_readings_come_first_with_what_people_want_to_see(store: CassandraStore) -> None:
    batch = [enriched(offset, 24.0 + offset, timestamp=1_772_323_200_000 + offset // 2) for offset in range(9)]
    write(store, batch, batch[3:5])
    rows = store.cql("SELECT * FROM {}.readings LIMIT 10")
    assert [row["value"] for row in rows] == [24.0 + offset for offset in reversed(range(9))]
    assert [row["kafka_offset"] for row in rows if row["outlier"]] == [8, 7]
    assert list(rows[0]) == [
        *("gateway", "ep", "path", "day", "time", "kafka_offset"),
        *("mean", "outlier", "std_dev", "value", "z_score"),
    ]
    assert (rows[0]["mean"], rows[0]["std_dev"], rows[0]["z_score"]) == (25.0, 2.0, 3.5)


# ---- the graph


def test_the_gateway_is_that_of_the_topic_whatever_the_server_is_called(store: CassandraStore) -> None:
    value = notification(resource("/3303/0/5700", 1.0), server="another")
    registered = new(links=(Link(url="/lwm2m/3/0", at={}),))
    changed = update(links=(Link(url="/lwm2m/5/0", at={}),))
    assert isinstance(registered.body, RegistrationNew)
    assert isinstance(changed.body, RegistrationUpdate)
    judged = enriched(0, 24.0, timestamp=1_000)
    assert isinstance(judged.record, EnrichedReading)
    write(
        store,
        [
            at(0, value),
            replace(judged, record=replace(judged.record, server_id="another")),
            at(1, replace(registered, body=replace(registered.body, server_id="another", root="/lwm2m"))),
        ],
        # Where the objects begin is looked up.
        [at(2, replace(changed, body=replace(changed.body, server_id="another")))],
    )
    for table in ("history", "latest", "readings", "endpoints", "endpoint_objects"):
        assert {row["gateway"] for row in store.cql(f"SELECT gateway FROM {{}}.{table}")} == {"gw1"}
    assert store.objects("ep-1") == {(5, "1.0", 0, "Firmware Update")}


def test_registrations_end_the_same_in_whatever_order_and_batches_they_come(tmp_path: Path) -> None:
    events = [
        at(0, new()),
        at(1, update(port=42_000, links=(Link(url="/5/0", at={}),))),
        at(2, delete()),
        at(3, new(reg_id="r2", links=(Link(url="/3/0", at={}),))),
        at(4, update(lt=60)),
    ]
    orders = [[events], [[event] for event in reversed(events)], [events[3:], events[:3], events[2:4]]]
    ends = []
    for batches in orders:
        store = CassandraStore(tmp_path)
        write(store, *batches)
        ends.append((store.endpoint("ep-1"), store.objects("ep-1")))
    assert ends[0] == ends[1] == ends[2]
    assert ends[0][1] == {(3, "1.0", 0, "Device")}


def test_an_update_finds_the_objects_below_the_alternate_path(store: CassandraStore) -> None:
    event = new(links=(Link(url="/lwm2m/3/0", at={}),))
    event = replace(event, body=replace(event.body, root="/lwm2m"))  # type: ignore[arg-type]  # new() makes a NEW
    changed = at(1, update(links=(Link(url="/lwm2m/3/0", at={}), Link(url="/lwm2m/5", at={}))))
    write(store, [at(0, event)], [changed])
    assert store.objects("ep-1") == {(3, "1.0", 0, "Device"), (5, "1.0", None, "Firmware Update")}


# ---- a Cassandra that does not answer as it should


def _takes(write: Callable[[list[SinkRecord]], None], record: SinkRecord) -> bool:
    try:
        write([record])
    except RetryLater:
        return False
    return True


def test_killed_or_down_from_the_first_it_is_waited_for(own_server: CassandraServer, tmp_path: Path) -> None:
    store = CassandraStore(tmp_path, own_server)
    sink = open_cassandra(store.options())
    sink.write([reading(0)])
    own_server.kill()
    late = open_cassandra(store.options())
    for _ in range(2):
        for one in (sink, late):
            with pytest.raises(RetryLater):
                one.write([reading(1, timestamp=2_000)])
    own_server.start()
    sink.write([reading(1, timestamp=2_000)])
    late.write([reading(1, timestamp=2_000), reading(2, timestamp=3_000)])
    sink.close()
    late.close()
    assert len(store.history()) == 3


def test_one_that_hangs_in_a_batch_is_not_waited_for_and_nothing_is_lost(
    own_server: CassandraServer, tmp_path: Path
) -> None:
    store = CassandraStore(tmp_path, own_server)
    sink = open_cassandra({**store.options(), "timeout_s": 2.0})
    # A busy machine may be too slow for that timeout also while Cassandra runs.
    eventually(lambda: _takes(sink.write, reading(0)), True)
    batch = [reading(offset, float(offset), timestamp=offset) for offset in range(1_000)]
    own_server.pause()
    try:
        with pytest.raises(RetryLater):
            sink.write(batch)
    finally:
        own_server.go_on()
    eventually(lambda: _takes(sink.write, batch[0]), True)
    sink.close()
    write(store, batch)
    assert len(store.history()) == 1_001


def test_another_node_is_asked_when_the_first_does_not_answer(store: CassandraStore) -> None:
    points = [f"127.0.0.1:{held_port()}", store.server.contact_point]
    write(store, [reading(0)], contact_points=points)
    assert len(store.history()) == 1


def test_too_few_replicas_are_waited_for(store: CassandraStore) -> None:
    sink = open_cassandra({**store.options(), "replication": {"datacenter1": 3}})
    with pytest.raises(RetryLater, match="Unavailable"):
        sink.write([reading(0)])
    store.cql("ALTER KEYSPACE {} WITH replication = {{'class': 'NetworkTopologyStrategy', 'datacenter1': 1}}")
    sink.write([reading(0)])
    sink.close()
    assert len(store.history()) == 1


@pytest.mark.parametrize("options", [{"datacenter": "elsewhere"}, {"replication": {"elsewhere": 1}}])
def test_a_datacenter_that_is_not_there_is_told(store: CassandraStore, options: dict[str, object]) -> None:
    sink = open_cassandra({**store.options(), **options})
    with pytest.raises(RetryLater):
        sink.write([reading(0)])
    sink.close()


def test_a_wrong_password_is_told_and_a_mended_file_goes_on(store: CassandraStore, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("not-the-password\n")
    options = {**store.options(), "password_file": str(file)}
    password = options.pop("password")
    sink = open_cassandra(options)
    with pytest.raises(RetryLater, match="refuses the user") as refused:
        sink.write([reading(0)])
    assert "not-the-password" not in str(refused.value)
    file.unlink()
    with pytest.raises(RetryLater, match="password_file"):
        sink.write([reading(0)])
    file.write_text(f"{password}\n")
    sink.write([reading(0)])
    sink.close()
    assert len(store.history()) == 1


def test_a_user_that_may_only_write_can_write_what_is_there(store: CassandraStore) -> None:
    role = f"writer_{store.keyspace}"
    store.cql(f"CREATE ROLE {role} WITH PASSWORD = 'é; '' ☃' AND LOGIN = true")
    user: dict[str, object] = {"user": role, "password": "é; ' ☃"}
    sink = open_cassandra({**store.options(), **user})
    with pytest.raises(RetryLater, match="may not"):
        sink.write([reading(0)])
    write(store, [reading(0)])
    store.cql(f"GRANT SELECT ON KEYSPACE {{}} TO {role}")
    store.cql(f"GRANT MODIFY ON KEYSPACE {{}} TO {role}")
    eventually(lambda: _takes(sink.write, reading(1, timestamp=2_000)), True)
    sink.close()
    assert len(store.history()) == 2


def test_tables_that_were_dropped_are_made_anew(store: CassandraStore) -> None:
    sink = open_cassandra(store.options())
    sink.write([reading(0)])
    store.cql("DROP TABLE {}.history")
    eventually(lambda: _takes(sink.write, reading(1)), True)
    store.cql("DROP KEYSPACE {}")
    eventually(lambda: _takes(sink.write, reading(2)), True)
    sink.close()
    assert len(store.history()) == 1


def test_two_that_begin_at_once_make_the_tables_together(store: CassandraStore) -> None:
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            write(store, [reading(number)])
        except BaseException as exc:  # noqa: BLE001  told below
            failures.append(exc)

    threads = [Thread(target=run, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    # Who loses the race is told to try again, and then it is all there.
    assert all(isinstance(failure, RetryLater) for failure in failures)
    write(store, [reading(number) for number in range(3)])
    assert len(store.history()) == 3


def test_over_tls_the_certificate_must_be_of_somebody_trusted(tmp_path: Path) -> None:
    key, certificate, both = tmp_path / "key.pem", tmp_path / "ca.pem", tmp_path / "server.p12"
    for command in (
        f"req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
        f" -keyout {key} -out {certificate}",
        f"pkcs12 -export -inkey {key} -in {certificate} -out {both} -passout pass:changeit",
    ):
        subprocess.run(["openssl", *command.split()], check=True, capture_output=True, timeout=PATIENCE_S)
    keystore = {"enabled": True, "keystore": str(both), "keystore_password": "changeit", "store_type": "PKCS12"}
    server = new_server(tmp_path / "cassandra", certificate, client_encryption_options=keystore)
    try:
        store = CassandraStore(tmp_path, server)
        write(store, [reading(0)], tls=True, ca_file=str(certificate))
        for options in ({"tls": True}, {}):
            sink = open_cassandra({**store.options(), **options})
            with pytest.raises(RetryLater, match="certificate verify failed" if options else "no node takes it"):
                sink.write([reading(1, timestamp=2_000)])
            sink.close()
        assert len(store.history()) == 1
    finally:
        server.remove()


# ---- options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"contact_points": []}, "contact_points"),
        ({"contact_points": ["a b"]}, "contact point"),
        ({"contact_points": ["cassandra:99999"]}, "contact point"),
        ({"contact_points": ["http://cassandra:9042"]}, "contact point"),
        ({"keyspace": 'x"; DROP KEYSPACE y; --'}, "keyspace"),
        ({"replication": 0}, "replication"),
        ({"replication": {"a'b": 1}}, "replication"),
        ({"consistency": "SOME"}, "consistency"),
        ({"bucket": "year"}, "bucket"),
        ({"ttl_days": 0}, "ttl_days"),
        ({"ttl_days": 10_000}, "ttl_days"),
        ({"concurrency": 0}, "concurrency"),
        ({"password": "s3cr3t"}, "user and password"),
        ({"user": "u"}, "user and password"),
        ({"user": "u", "password": "s3cr3t", "password_file": "x"}, "not both"),
        ({"user": "u", "password_file": "/nowhere/at/all"}, "password_file"),
        ({"ca_file": "ca.pem"}, "tls"),
        ({"tls": True, "ca_file": "/nowhere/at/all"}, "certificates"),
        ({"tls": True, "key_file": "k"}, "cert_file"),
        ({"definitions": "/nowhere/at/all"}, "nowhere"),
    ],
)
def test_wrong_options_are_told_without_any_secret(options: dict[str, object], words: str) -> None:
    with pytest.raises(SinkConfigError, match=words) as refused:
        open_cassandra(options)
    assert "s3cr3t" not in str(refused.value)


def test_a_missing_driver_names_what_to_install() -> None:
    code = (
        "import sys; sys.modules['cassandra'] = None\nfrom connectors.sinks import SINKS\nSINKS['cassandra'].open({})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert "SinkConfigError: cassandra-driver is not installed: pip install 'headwater[cassandra]'" in done.stderr


# ---- the whole way


def test_writers_that_are_killed_leave_each_value_once(
    kafka: Cluster, gateway_id: str, store: CassandraStore, tmp_path: Path
) -> None:
    topics = make_topics(kafka, gateway_id)
    file = tmp_path / "sinks.toml"
    options = store.options()
    file.write_text(
        "[cassandra]\nbatch_records = 50\n"
        f'contact_points = ["{store.server.contact_point}"]\nkeyspace = "{store.keyspace}"\n'
        f'user = "{ADMIN}"\npassword = "{options["password"]}"\ntimeout_s = 60\n'
    )

    def writer() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "headwater.cli", "sink", "run", str(file)),
                *("--gateway", gateway_id, "--kafka", kafka.bootstrap),
            ],
            cwd=ROOT,
        )

    def sent(first: int) -> None:
        for partition in (0, 1):
            produce(
                kafka,
                topics.observations,
                [
                    notification(
                        resource("/3303/0/5700", float(n)), ep=f"ep-{partition}", timestamp=n, server=gateway_id
                    )
                    for n in range(first, first + 1_000)
                ],
                partition=partition,
            )
        produce(kafka, topics.registrations, [new()])

    def count() -> int:
        try:
            return len(store.cql("SELECT kafka_offset FROM {}.history"))
        except Exception:  # noqa: BLE001  the keyspace comes with the first writer
            return 0

    writers = [writer(), writer()]
    try:
        for round_ in range(2):
            sent(round_ * 1_000)
            eventually(lambda seen=round_: count() > seen * 2_000, True)  # type: ignore[misc]  # bound at once
            victim = writers.pop(0)
            victim.send_signal(signal.SIGKILL)
            victim.wait(PATIENCE_S)
            writers.append(writer())
        eventually(count, 4_000)
        found = store.cql("SELECT ep, number FROM {}.latest")
        assert {(row["ep"], row["number"]) for row in found} == {("ep-0", 1_999.0), ("ep-1", 1_999.0)}
        assert {(ep, value) for ep, _, value, _ in store.history()} == {
            (f"ep-{partition}", float(n)) for partition in (0, 1) for n in range(2_000)
        }
    finally:
        for process in writers:
            process.kill()
            process.wait(PATIENCE_S)
    assert dead_letters(kafka, gateway_id) == []
