"""What the Prometheus sink alone promises: its series and times, and what it makes of every refusal."""

from __future__ import annotations

import json
import math
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from connectors.kafka import Cluster
from connectors.sinks import RejectedRecords, RetryLater, SinkConfigError, SinkRecord
from connectors.sinks import prometheus_wire as wire
from connectors.sinks.prometheus import open_prometheus
from schemas.avro.records import GenericBody, ResponseCode
from schemas.lwm2m.nodes import Instance, ObjectLink, ResourceType
from schemas.lwm2m.path import Path as Lwm2mPath
from tests.http_front import CERTIFICATE, Answer, Asked, Rule, front
from tests.ports import held_port
from tests.prometheus_server import PASSWORD, USER, PrometheusServer, strict_server
from tests.sink_harness import PATIENCE_S, dead_letters, eventually, make_topics, produce
from tests.sink_samples import at, delete, new, notification, reply, resource, update
from tests.stores.prometheus import PrometheusStore

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> PrometheusStore:
    return PrometheusStore(tmp_path)


@pytest.fixture
def strict(tmp_path: Path) -> PrometheusStore:
    """A Prometheus that takes a series only in order, as it does by default."""
    return PrometheusStore(tmp_path, strict_server())


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Callable[[Path | None], PrometheusServer]]:
    made: list[PrometheusServer] = []

    def make(certificate: Path | None = None) -> PrometheusServer:
        server = PrometheusServer(
            directory=tmp_path / f"prometheus-{len(made)}", port=held_port(), certificate=certificate
        )
        made.append(server)
        server.start()
        return server

    yield make
    for server in made:
        server.remove()


@contextmanager
def proxy(store: PrometheusStore, rule: Rule) -> Iterator[dict[str, object]]:
    """Options that lead to ``store`` through a proxy; ``rule`` may answer in Prometheus' place."""
    with front(store.server.url, rule) as url:
        yield {**store.options(), "url": f"{url}/api/v1/write"}


def reading(offset: int, value: float = 0.0, *, ep: str = "ep-1", timestamp: int = 1_000) -> SinkRecord:
    return at(offset, notification(resource("/3303/0/5700", value), ep=ep, timestamp=timestamp))


def write(options: dict[str, object], *batches: list[SinkRecord]) -> None:
    sink = open_prometheus(options)
    for batch in batches:
        sink.write(batch)
    sink.close()


def refused(options: dict[str, object], batch: list[SinkRecord]) -> dict[int, str]:
    """Why which offsets were."""
    with pytest.raises(RejectedRecords) as told:
        write(options, batch)
    return {record.offset: reason for record, reason in told.value.rejected}


# ---- series


def test_names_and_labels_come_from_the_definitions(store: PrometheusStore) -> None:
    integer = ResourceType.INTEGER
    write(
        store.options(),
        [
            reading(0, 21.5),
            at(1, notification(resource("/3/0/9", 80, integer))),
            at(2, notification(resource("/3/0/7/1", 3_300, integer))),
            at(3, notification(resource("/3/0/13", 1_700_000_000_123, ResourceType.TIME))),
            at(4, notification(resource("/1/0/1", 300, integer))),
            at(5, notification(resource("/65001/2/9", 1, integer))),
            at(6, notification(resource("/3303/0/9999", 1, integer))),
            at(7, notification(resource("/3311/0/5850", True, ResourceType.BOOLEAN))),
            at(8, notification(resource("/3311/1/5850", False, ResourceType.BOOLEAN))),
            at(9, notification(resource("/3305/0/5800", 7.0))),
        ],
    )
    found = {(labels.pop("__name__"), labels.pop("path")): (labels, samples) for labels, samples in store.series()}
    assert {key: samples[0][1] for key, (_, samples) in found.items()} == {
        ("lwm2m_temperature_sensor_value", "/3303/0/5700"): 21.5,
        ("lwm2m_device_battery_level_percent", "/3/0/9"): 80,
        ("lwm2m_device_power_source_voltage", "/3/0/7/1"): 3_300,
        ("lwm2m_device_current_time_timestamp_seconds", "/3/0/13"): 1_700_000_000.123,
        ("lwm2m_server_lifetime_seconds", "/1/0/1"): 300,
        ("lwm2m_65001_9", "/65001/2/9"): 1,
        ("lwm2m_temperature_9999", "/3303/0/9999"): 1,
        ("lwm2m_light_control_on_off", "/3311/0/5850"): 1,
        ("lwm2m_light_control_on_off", "/3311/1/5850"): 0,
        ("lwm2m_power_measurement_instantaneous_active_power_watts", "/3305/0/5800"): 7,
    }
    of_device = {"gateway": "gw1", "endpoint": "ep-1", "object": "3", "instance": "0"}
    assert found["lwm2m_device_power_source_voltage", "/3/0/7/1"][0] == of_device
    assert found["lwm2m_device_battery_level_percent", "/3/0/9"][0] == of_device | {"unit": "/100"}


def test_the_operators_prefix_labels_and_paths(store: PrometheusStore) -> None:
    options = store.options() | {"prefix": "plant", "paths": ["/3303/*/5700", "/3/0"]}
    options["labels"] = {"test": store.test, "a_site": "north", "zone": ""}
    write(
        options,
        [
            reading(0),
            at(1, notification(resource("/3303/0/5601", 1.0))),
            at(2, notification(resource("/3/0/7/1", 3_300, ResourceType.INTEGER))),
            at(3, notification(resource("/3/1/9", 3, ResourceType.INTEGER))),
            at(4, new()),
        ],
    )
    assert {(labels["__name__"], labels["a_site"]) for labels, _ in store.series()} == {
        ("plant_temperature_sensor_value", "north"),
        ("plant_device_power_source_voltage", "north"),
        ("plant_endpoint_online", "north"),
    }


def test_an_endpoint_is_online_from_registration_to_its_end(store: PrometheusStore) -> None:
    write(
        store.options(),
        [at(0, new()), at(1, update()), at(2, delete(expired=True)), at(3, new(reg_id="r2")), at(4, new(ep="ep-2"))],
    )
    assert store.series() == [
        (
            {"__name__": "lwm2m_endpoint_online", "gateway": "gw1", "endpoint": "ep-1"},
            [(1_000_000, 1.0), (1_000_001, 1.0), (1_000_002, 0.0), (1_000_003, 1.0)],
        ),
        ({"__name__": "lwm2m_endpoint_online", "gateway": "gw1", "endpoint": "ep-2"}, [(1_000_004, 1.0)]),
    ]


def test_what_is_no_number_is_left_out_and_counted(store: PrometheusStore) -> None:
    def counted(reason: str) -> float:
        labels = {"sink": "prometheus", "reason": reason}
        return REGISTRY.get_sample_value("headwater_sink_left_out_total", labels) or 0.0

    before = counted("no number"), counted("no value")
    gone = reply(GenericBody(message="gone"), path="/3/0", code=ResponseCode.NOT_FOUND).rep
    failed = notification(resource("/3303/0/5700", 1.0))
    write(
        store.options(),
        [
            at(0, notification(resource("/3303/0/5701", "12", ResourceType.STRING))),
            at(1, notification(resource("/9/0/8", ObjectLink(3, 0), ResourceType.OBJLNK))),
            at(2, notification(resource("/19/0/0", b"\x00", ResourceType.OPAQUE))),
            at(3, type(failed)(**{name: getattr(failed, name) for name in failed.__slots__} | {"rep": gone})),
        ],
    )
    assert store.series() == []
    assert (counted("no number"), counted("no value")) == (before[0] + 3, before[1] + 1)


def test_the_time_is_the_devices_unless_the_gateways_is_asked_for(store: PrometheusStore, tmp_path: Path) -> None:
    other = PrometheusStore(tmp_path)
    batch = [at(4, notification(resource("/3303/0/5700", 1.0, timestamp=7), timestamp=10)), reading(5, timestamp=20)]
    write(store.options(), batch)
    write({**other.options(), "time": "gateway"}, batch)
    assert sorted(time for *_, time in store.history()) == [7, 20]
    assert sorted(time for *_, time in other.history()) == [10, 20]


def test_a_nan_that_would_end_the_series_is_a_nan(store: PrometheusStore) -> None:
    (stale,) = struct.unpack("<d", struct.pack("<Q", 0x7FF0000000000002))
    assert math.isnan(stale)
    write(store.options(), [reading(0, stale), reading(1, -0.0, timestamp=2_000)])
    # A mark of the end would not be shown at all.
    assert [value for _, _, value, _ in store.history()] == ["NaN", 0.0]


@pytest.mark.parametrize("time_ms", [-4_000_000_000_000, -1, 0, 127, 128, 2**31])
def test_every_time_arrives(strict: PrometheusStore, time_ms: int) -> None:
    write(strict.options(), [reading(0, 5.0, timestamp=time_ms)])
    # Its query API goes back no further than 1970.
    if time_ms >= 0:
        assert strict.history() == [("ep-1", "/3303/0/5700", 5.0, time_ms)]


def test_the_bytes_are_those_of_protobuf() -> None:
    sample = wire.sample(1.5, -1)
    assert sample.hex() == "1214" + "09000000000000f83f" + "10ffffffffffffffffff01"
    labels = wire.labels({"b": "é", "__name__": "x"})
    assert labels.hex() == "0a0d0a085f5f6e616d655f5f120178" + "0a070a01621202c3a9"
    long = wire.series(b"x" * 300)
    assert long[:3].hex() == "0aac02"
    assert len(long) == 303


HOSTILE = [
    'quote"',
    "back\\",
    "new\nline",
    "nul\0",
    "brace}{",
    "lone\ud800",
    "ü☃😀",
    "x" * 5_000,
    "x" * 4_999 + "y",
    " ",
    "'`$(id)",
    "\x7f\x1b\t",
]


def test_hostile_endpoint_names_are_kept_apart_also_when_they_come_again(strict: PrometheusStore) -> None:
    batch = [
        reading(len(HOSTILE) * turn + number, number * 10.0 + turn, ep=ep, timestamp=turn)
        for turn in range(2)
        for number, ep in enumerate(HOSTILE)
    ]
    write(strict.options(), batch, batch, batch[:3])
    found = {labels["endpoint"]: samples for labels, samples in strict.series()}
    assert sorted(found.values()) == [[(0, n * 10.0), (1, n * 10.0 + 1)] for n in range(len(HOSTILE))]
    assert {"nul\0", "ü☃😀", "lone\\ud800", "new\nline"} <= found.keys()
    assert all(len(name) <= 200 for name in found)


# ---- one series in one millisecond


def test_different_values_of_one_millisecond_move_behind_one_another(strict: PrometheusStore) -> None:
    batch = [reading(0, 1.0), reading(1, 0.0), reading(2, 0.0), reading(3, 1.0), reading(4, 5.0, timestamp=1_001)]
    kept = [(1_000, 1.0), (1_001, 0.0), (1_002, 1.0), (1_003, 5.0)]
    write(strict.options(), batch)
    assert [(time, value) for _, _, value, time in strict.history()] == kept
    write(strict.options(), batch, batch[1:], batch[3:], batch)
    assert [(time, value) for _, _, value, time in strict.history()] == kept


def test_they_do_so_too_when_they_come_in_different_batches(strict: PrometheusStore) -> None:
    batches = [[reading(0, 1.0)], [reading(1, 0.0)], [reading(2, 7.0)]]
    write(strict.options(), *batches)
    kept = [(1_000, 1.0), (1_001, 0.0), (1_002, 7.0)]
    assert [(time, value) for _, _, value, time in strict.history()] == kept
    write(strict.options(), *batches, [record for batch in batches for record in batch])
    assert [(time, value) for _, _, value, time in strict.history()] == kept


def test_one_notification_with_two_values_of_a_path(strict: PrometheusStore) -> None:
    here = Lwm2mPath(3303, 0)
    twice = Instance(path=here, resources=(resource("/3303/0/5700", 1.0), resource("/3303/0/5700", 2.0)))
    write(strict.options(), [at(0, notification(twice))], [at(0, notification(twice))])
    assert [(time, value) for _, _, value, time in strict.history()] == [(1_000, 1.0), (1_001, 2.0)]


def test_no_more_than_a_second_of_them(strict: PrometheusStore) -> None:
    told = refused(strict.options(), [reading(offset, float(offset)) for offset in range(1_010)])
    assert told.keys() == set(range(1_001, 1_010))
    assert "millisecond" in told[1_005]
    assert len(strict.history()) == 1_001


def test_in_a_series_without_a_gap_there_is_no_place_for_late_ones(strict: PrometheusStore) -> None:
    every = [reading(offset, float(offset), timestamp=offset) for offset in range(3_000)]
    write(strict.options(), every)
    told = refused(strict.options(), [*every, *(reading(3_000 + n, -1.0, timestamp=n) for n in range(1_500))])
    assert told.keys() == set(range(3_000, 4_500))
    assert len(strict.history()) == 3_000


# ---- refusals


def test_samples_of_a_batch_may_come_in_any_order(strict: PrometheusStore) -> None:
    write(
        strict.options(), [reading(0, 3.0, timestamp=30), reading(1, 1.0, timestamp=10), reading(2, 2.0, timestamp=20)]
    )
    assert [value for _, _, value, _ in strict.history()] == [1.0, 2.0, 3.0]


def test_what_is_redelivered_is_not_refused_by_one_that_takes_only_order(strict: PrometheusStore) -> None:
    batch = [reading(offset, float(offset), ep=f"ep-{offset % 7}", timestamp=offset) for offset in range(300)]
    write(strict.options(), batch)
    before = sorted(strict.history())
    write(strict.options(), batch, batch[100:200], [*batch, reading(300, 300.0, timestamp=300)])
    assert sorted(strict.history())[:1] == before[:1]
    assert len(strict.history()) == 301


def test_late_samples_are_found_among_a_thousand(strict: PrometheusStore) -> None:
    write(strict.options(), [reading(0, 1.0, ep="ep-7", timestamp=5_000), reading(1, 1.0, ep="ep-9", timestamp=5_000)])
    batch = [reading(10 + n, float(n), ep=f"ep-{n % 10}", timestamp=4_900 + n) for n in range(1_000)]
    late = {record.offset for n, record in enumerate(batch) if n % 10 in (7, 9) and n < 100}
    told = refused(strict.options(), batch)
    assert told.keys() == late
    assert set(told.values()) == {"Prometheus: 400 out of order sample"}
    # And once more: what was written is there, and what was refused is refused again.
    assert refused(strict.options(), batch).keys() == late
    assert len(strict.history()) == 1_000 - len(late) + 2


def test_clocks_at_both_ends_of_time_refuse_nothing_but_themselves(strict: PrometheusStore) -> None:
    """The span between them is longer than any that can be asked for."""
    good = [reading(offset, float(offset), timestamp=1_000 + offset) for offset in range(4)]
    write(strict.options(), good)
    batch = [reading(10, 1.0, timestamp=-(2**62)), *good, reading(11, 2.0, timestamp=2**62)]
    assert refused(strict.options(), batch).keys() == {10, 11}
    assert len(strict.history()) == 4


def test_the_same_samples_are_taken_where_order_is_not_asked_for(store: PrometheusStore) -> None:
    write(store.options(), [reading(0, 1.0, timestamp=5_000)], [reading(1, 2.0, timestamp=4_000)])
    assert [value for _, _, value, _ in store.history()] == [2.0, 1.0]


def test_a_sample_from_the_far_future_is_refused_alone(store: PrometheusStore) -> None:
    future = int(time.time() * 1_000) + 86_400_000
    batch = [reading(0, 1.0), reading(1, 2.0, timestamp=future), reading(2, 3.0, ep="ep-2")]
    told = refused(store.options(), batch)
    assert list(told) == [1]
    assert "too far in the future" in told[1]
    assert len(store.history()) == 2


def test_a_number_beyond_all_floats_is_refused_alone(store: PrometheusStore) -> None:
    big = at(1, notification(resource("/3/0/9", 10**400, ResourceType.INTEGER)))
    assert list(refused(store.options(), [reading(0), big, reading(2, timestamp=2_000)])) == [1]
    assert len(store.history()) == 2


def test_where_nobody_can_be_asked_the_refused_are_told(strict: PrometheusStore) -> None:
    batch = [reading(offset, timestamp=offset) for offset in range(5)]
    write(strict.options(), batch)
    told = refused({**strict.options(), "query_url": ""}, batch)
    assert told == dict.fromkeys(range(4), "Prometheus: 400 out of order sample")
    nobody = {**strict.options(), "query_url": f"{strict.server.url}/api/v1/nothing"}
    assert refused(nobody, batch) == told


def test_a_batch_larger_than_a_request_goes_in_several(strict: PrometheusStore) -> None:
    sizes: list[int] = []

    def count(asked: Asked) -> None:
        sizes.append(len(asked.body))

    with proxy(strict, count) as options:
        write({**options, "max_samples": 30}, [reading(n, float(n), ep=f"ep-{n % 3}", timestamp=n) for n in range(100)])
    assert len(sizes) == 4
    assert len(strict.history()) == 100


def test_a_search_that_takes_long_goes_on_where_it_was(
    strict: PrometheusStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(strict.options(), [reading(0, 9.0, timestamp=500)])
    batch = [reading(1 + n, float(n), timestamp=400 + n) for n in range(200)]
    monkeypatch.setattr("connectors.sinks.prometheus.PATIENCE_S", 0.0)
    sink = open_prometheus(strict.options())
    outcomes: list[set[int]] = []
    while not outcomes or (not outcomes[-1] and len(outcomes) < 1_000):
        try:
            sink.write(batch)
        except RetryLater as later:
            assert "slow" in later.reason
            outcomes.append(set())
        except RejectedRecords as told:
            outcomes.append({record.offset for record, _ in told.rejected})
    sink.close()
    assert outcomes[-1] == set(range(1, 101))
    assert len(outcomes) > 3
    assert [value for _, _, value, _ in strict.history()] == [9.0, *map(float, range(100, 200))]


# ---- a receiver that does not answer as it should


def test_down_at_first_then_killed_and_back_again(own_server: Callable[[], PrometheusServer], tmp_path: Path) -> None:
    server = own_server()
    store = PrometheusStore(tmp_path, server)
    server.kill()
    sink = open_prometheus(store.options())
    for _ in range(2):
        with pytest.raises(RetryLater, match="refused"):
            sink.write([reading(0)])
    server.start()
    sink.write([reading(0)])
    server.kill()
    with pytest.raises(RetryLater):
        sink.write([reading(1, timestamp=2_000)])
    server.start()
    sink.write([reading(0), reading(1, timestamp=2_000)])
    sink.close()
    assert len(store.history()) == 2


def test_one_that_hangs_is_not_waited_for_longer_than_the_timeout(
    own_server: Callable[[], PrometheusServer], tmp_path: Path
) -> None:
    server = own_server()
    store = PrometheusStore(tmp_path, server)
    sink = open_prometheus({**store.options(), "timeout_s": 0.3})
    server.pause()
    with pytest.raises(RetryLater, match="no answer within"):
        sink.write([reading(0)])
    server.go_on()
    eventually(lambda: _takes(sink.write, reading(0)), True)
    sink.close()
    assert len(store.history()) == 1


def _takes(write: Callable[[list[SinkRecord]], None], record: SinkRecord) -> bool:
    try:
        write([record])
    except RetryLater:
        return False
    return True


def test_certificate_and_password_are_checked_and_a_mended_file_goes_on(
    own_server: Callable[[Path | None], PrometheusServer], tmp_path: Path
) -> None:
    server = own_server(CERTIFICATE)
    store = PrometheusStore(tmp_path, server)
    file = tmp_path / "password"
    file.write_text("not the pa55word\n")
    options = {**store.options(), "user": USER, "password_file": str(file)}
    with pytest.raises(RetryLater, match="certificate"):
        write(options, [reading(0)])
    options["ca_file"] = str(CERTIFICATE)
    elsewhere = {**options, "url": server.write_url.replace("localhost", "127.0.0.1")}
    with pytest.raises(RetryLater, match="certificate"):
        write(elsewhere, [reading(0)])
    sink = open_prometheus(options)
    with pytest.raises(RetryLater, match="check user and password") as later:
        sink.write([reading(0)])
    assert "pa55word" not in later.value.reason
    file.write_text("")
    with pytest.raises(RetryLater, match="empty"):
        sink.write([reading(0)])
    file.write_text(f"{PASSWORD}\n", "utf-8")
    # Twice, in order only: it is asked over TLS and with the password too.
    sink.write([reading(0), reading(1, timestamp=2_000)])
    sink.write([reading(0), reading(1, timestamp=2_000)])
    sink.close()
    assert len(store.history()) == 2


def test_headers_and_token_are_sent_to_both_addresses(strict: PrometheusStore, tmp_path: Path) -> None:
    asked: list[Asked] = []

    def listen(one: Asked) -> None:
        asked.append(one)

    file = tmp_path / "token"
    file.write_text("abc.def\n")
    batch = [reading(0), reading(1, timestamp=2_000)]
    with proxy(strict, listen) as options:
        write({**options, "token_file": str(file), "headers": {"X-Scope-OrgID": "tenant-1"}}, batch, batch)
    assert {one.path for one in asked} == {"/api/v1/write", "/api/v1/query"}
    assert {one.headers["x-scope-orgid"] for one in asked} == {"tenant-1"}
    assert {one.headers["authorization"] for one in asked} == {"Bearer abc.def"}
    first = asked[0].headers
    assert (first["content-type"], first["content-encoding"]) == ("application/x-protobuf", "snappy")
    assert first["x-prometheus-remote-write-version"] == "0.1.0"


@pytest.mark.parametrize(
    ("status", "headers", "after"),
    [
        (429, {"Retry-After": "1"}, 1.0),
        (503, {"Retry-After": "0"}, 0.0),
        (503, {"Retry-After": "soon"}, None),
        (500, {}, None),
        (301, {"Location": "http://127.0.0.1:9/"}, None),
        (401, {}, None),
        (403, {}, None),
        (404, {}, None),
        (400, {}, None),
    ],
)
def test_other_answers_mean_later(
    store: PrometheusStore, status: int, headers: dict[str, str], after: float | None
) -> None:
    answers = [Answer(status, headers, b"<html>not now \xff</html>")]
    with proxy(store, lambda _: answers.pop() if answers else None) as options:
        sink = open_prometheus({**options, "token": "s3cret"})
        with pytest.raises(RetryLater) as later:
            sink.write([reading(0)])
        assert later.value.after_s == after
        assert "s3cret" not in later.value.reason
        eventually(lambda: _takes(sink.write, reading(0)), True)
        sink.close()
    assert len(store.history()) == 1


def test_the_wrong_address_is_told(store: PrometheusStore) -> None:
    with pytest.raises(RetryLater, match=r"--web\.enable-remote-write-receiver"):
        write({**store.options(), "url": f"{store.server.url}/api/v1/nothing"}, [reading(0)])


@pytest.mark.parametrize("guilty", [False, True])
def test_an_unknown_refusal_is_the_samples_fault_only_if_others_are_taken(store: PrometheusStore, guilty: bool) -> None:
    asked: list[Asked] = []

    def strange(one: Asked) -> Answer | None:
        asked.append(one)
        # Bytes that snappy finds nothing to shorten in are sent as they are.
        return Answer(400, {}, b"computer says no") if not guilty or b"Gu!lty" in one.body else None

    batch = [reading(n, ep="Gu!lty" if n == 3 else f"ep-{n}") for n in range(200)]
    with proxy(store, strange) as options:
        if guilty:
            assert refused(options, batch) == {3: "Prometheus: 400 computer says no"}
        else:
            with pytest.raises(RetryLater, match="computer says no"):
                write(options, batch)
            assert len(asked) <= 40
    assert len(store.history()) == (199 if guilty else 0)


def test_a_query_that_fails_is_asked_again_later(strict: PrometheusStore) -> None:
    batch = [reading(0), reading(1, timestamp=2_000)]
    write(strict.options(), batch)
    failures = [Answer(503, {}, b"busy")]
    with proxy(strict, lambda one: failures.pop() if failures and one.path.endswith("query") else None) as options:
        sink = open_prometheus(options)
        with pytest.raises(RetryLater, match="busy"):
            sink.write(batch)
        sink.write(batch)
        sink.close()
    assert len(strict.history()) == 2


# ---- options


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "127.0.0.1:9090"},
        {"url": "ftp://127.0.0.1/api/v1/write"},
        {"url": "http://user:pa55word@127.0.0.1:9090/api/v1/write"},
        {"url": "http://127.0.0.1:99999/api/v1/write"},
        {"query_url": "here"},
        {"paths": ["/3303/x"]},
        {"time": "noon"},
        {"prefix": "9lives"},
        {"prefix": "a-b"},
        {"labels": {"endpoint": "mine"}},
        {"labels": {"__name__": "mine"}},
        {"labels": {"a-b": "mine"}},
        {"labels": {"a": "x" * 201}},
        {"user": "writer"},
        {"password": "pa55word"},
        {"user": "a:b", "password": "pa55word"},
        {"user": "a", "password": "pa55word", "password_file": "/run/secrets/x"},
        {"user": "a", "password": "pa55word\n"},
        {"user": "a", "password_file": "/nowhere/password"},
        {"token": "pa55word", "user": "a", "password": "pa55word"},
        {"token": "pa55word", "token_file": "/run/secrets/x"},
        {"token": "pa55word\nX-Other: 1"},
        {"headers": {"Host": "elsewhere"}},
        {"headers": {"X-Key": "pa55word\n"}},
        {"headers": {"X Key": "pa55word"}},
        {"max_samples": 0},
        {"timeout_s": 0},
        {"ca_file": "/nowhere/ca.pem"},
        {"definitions": "/nowhere/objects"},
    ],
)
def test_wrong_options_are_told_before_anything_is_opened(wrong: dict[str, object]) -> None:
    with pytest.raises(SinkConfigError) as told:
        open_prometheus({"url": "https://127.0.0.1:9090/api/v1/write", **wrong})
    assert "pa55word" not in str(told.value)


def test_names_of_ones_own_definitions(store: PrometheusStore, tmp_path: Path) -> None:
    (tmp_path / "objects").mkdir()
    (tmp_path / "objects" / "65001.xml").write_text(
        "<LWM2M><Object ObjectType='MODefinition'><Name>Bee Hive</Name><ObjectID>65001</ObjectID>"
        "<ObjectURN>urn:oma:lwm2m:x:65001</ObjectURN><MultipleInstances>Multiple</MultipleInstances>"
        "<Mandatory>Optional</Mandatory><Resources><Item ID='9'><Name>Weight (gross)</Name><Operations>R</Operations>"
        "<MultipleInstances>Single</MultipleInstances><Mandatory>Optional</Mandatory><Type>Float</Type>"
        "<RangeEnumeration/><Units>kg</Units><Description/></Item></Resources></Object></LWM2M>"
    )
    record = at(0, notification(resource("/65001/0/9", 31.0)))
    write({**store.options(), "definitions": str(tmp_path / "objects")}, [record])
    ((labels, _),) = store.series()
    assert (labels["__name__"], labels["unit"]) == ("lwm2m_bee_hive_weight_gross", "kg")


def test_a_missing_library_says_what_to_install(store: PrometheusStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cramjam", None)
    with pytest.raises(SinkConfigError, match=r"pip install 'headwater\[prometheus\]'"):
        open_prometheus(store.options())


def test_a_process_needs_the_library_only_when_it_writes_there() -> None:
    look = "import sys, connectors.sinks; sys.exit('cramjam' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", look], cwd=ROOT, timeout=PATIENCE_S, check=False).returncode == 0


# ---- the whole way


@pytest.mark.kafka
@pytest.mark.faults
def test_killed_between_write_and_commit_again_and_again(
    kafka: Cluster, gateway_id: str, strict: PrometheusStore
) -> None:
    topics = make_topics(kafka, gateway_id)
    number = 0

    def process(lives: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.faults.sink_process", kafka.bootstrap, gateway_id, "prometheus"]
        return subprocess.Popen(
            [*command, json.dumps(strict.options()), "40", str(lives)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    for lives in (1, 3, 2):
        produce(kafka, topics.registrations, [new(reg_id=f"r{lives}")])
        for partition in range(2):
            made = [
                notification(
                    resource("/3303/0/5700", float(number + i)), ep=f"ep-{partition}", timestamp=1_000 * (number + i)
                )
                for i in range(150)
            ]
            produce(kafka, topics.observations, made, partition=partition)
            number += 150
        produce(
            kafka,
            topics.observations,
            [b"poison", notification(resource("/3303/0/5700", -1.0), ep="ep-0", timestamp=3)],
        )
        sink = process(lives)
        assert sink.wait(PATIENCE_S) == -signal.SIGKILL
    sink = process(0)
    try:
        eventually(lambda: len(strict.history()), number)
        # Nothing that was merely redelivered is among them.
        eventually(lambda: {x.record.offset for x in dead_letters(kafka, gateway_id)}, {150, 151, 302, 303, 454, 455})
        sink.terminate()
        assert sink.wait(PATIENCE_S) == 0
    finally:
        if sink.poll() is None:
            sink.kill()
            sink.wait(PATIENCE_S)
    found = {labels["endpoint"]: samples for labels, samples in strict.series(',path!=""')}
    assert found.keys() == {"ep-0", "ep-1"}
    assert all(at == 1_000 * value for samples in found.values() for at, value in samples)
    ((_, online),) = strict.series(',path=""')
    assert [value for _, value in online] == [1.0, 1.0, 1.0]
