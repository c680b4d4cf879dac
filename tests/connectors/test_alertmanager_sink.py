"""Alerts in a real Alertmanager: told while they fire, ended when they end, whatever is killed meanwhile."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from connectors.kafka import Cluster, ensure_topics
from connectors.sink_settings import SinkSettings
from connectors.sinks import RejectedRecords, RetryLater, SinkConfigError, SinkRecord
from connectors.sinks.alertmanager import AlertmanagerSink, open_alertmanager
from connectors.sinks.alertmanager_alerts import AlertTable
from schemas.avro.analytics_records import Alert, AlertState
from schemas.avro.records import Key, Record
from schemas.avro.topics import FAMILIES, TopicKind, Topics
from tests import sink_samples as sample
from tests.alertmanager_server import AlertmanagerServer, new_server, shared_server
from tests.sink_harness import dead_letters, eventually, produce, running

_NAMES = count()


def alert(name: str = "hot", state: AlertState = AlertState.FIRING, *, ep: str = "ep-1", since: int = 1_000) -> Alert:
    return Alert(
        id="0" * 32,
        rule=name,
        server_id="gw1",
        ep=ep,
        path="/3303/0/5700",
        severity="critical",
        state=state,
        value=31.5,
        threshold=30.0,
        since=since,
        timestamp=since + 500,
        summary=f"{ep} is höt",
    )


def ended(one: Alert) -> Alert:
    return replace(one, state=AlertState.RESOLVED, timestamp=one.since + 900)


def at(gateway: str, offset: int, record: Record, *, written: float = 2e9, partition: int = 0) -> SinkRecord:
    return SinkRecord(
        topic=Topics(gateway).name(TopicKind.ALERTS),
        partition=partition,
        offset=offset,
        timestamp=int(written * 1000),
        key=Key(ep="ep-1"),
        record=record,
        gateway=gateway,
    )


@pytest.fixture
def gateway() -> str:
    return f"gw-{next(_NAMES)}"


@pytest.fixture
def server() -> AlertmanagerServer:
    return shared_server()


@pytest.fixture
def sink(server: AlertmanagerServer) -> Iterator[AlertmanagerSink]:
    opened = open_alertmanager({"url": server.url + "/"})
    yield opened
    opened.close()


def names(server: AlertmanagerServer, gateway: str) -> Callable[[], list[str]]:
    return lambda: [str(one["labels"]["alertname"]) for one in server.active(gateway)]


class Posted(NamedTuple):
    """A request to `http_server`."""

    authorization: str | None
    alerts: list[dict[str, Any]]


@contextmanager
def http_server(answer: Callable[[Posted], int]) -> Iterator[tuple[str, list[Posted]]]:
    """Its address and what comes to it; what Alertmanager itself never says is said by what stands in front of it."""
    seen: list[Posted] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            posted = Posted(self.headers["Authorization"], json.loads(body))
            seen.append(posted)
            self.send_response(answer(posted))
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    with HTTPServer(("127.0.0.1", 0), Handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_address[1]}", seen
        serving.shutdown()


# ---- what is told


def test_an_alert_fires_there_and_ends_there(sink: AlertmanagerSink, server: AlertmanagerServer, gateway: str) -> None:
    sink.write([at(gateway, 0, alert())])
    (told,) = server.active(gateway)
    assert told["labels"] == {
        "alertname": "hot",
        "severity": "critical",
        "gateway": gateway,
        "server": "gw1",
        "endpoint": "ep-1",
        "path": "/3303/0/5700",
    }
    assert told["annotations"] == {"summary": "ep-1 is höt", "value": "31.5", "threshold": "30", "id": "0" * 32}
    assert told["startsAt"] == "1970-01-01T00:00:01.000Z"
    assert told["status"]["state"] in ("active", "unprocessed")
    sink.write([at(gateway, 1, ended(alert()))])
    assert server.active(gateway) == []


def test_redelivered_alerts_change_nothing(sink: AlertmanagerSink, server: AlertmanagerServer, gateway: str) -> None:
    batch = [at(gateway, 0, alert("a")), at(gateway, 1, alert("b")), at(gateway, 2, ended(alert("a")))]
    sink.write(batch[:2])
    for _ in range(2):
        sink.write(batch)
        assert names(server, gateway)() == ["b"]


def test_endpoints_paths_and_rules_are_alerts_of_their_own(
    sink: AlertmanagerSink, server: AlertmanagerServer, gateway: str
) -> None:
    hostile = 'ep"},{"labels":{"x":"é\n'
    sink.write([at(gateway, n, one) for n, one in enumerate([alert(), alert("cold"), alert(ep=hostile)])])
    assert sorted((one["labels"]["alertname"], one["labels"]["endpoint"]) for one in server.active(gateway)) == [
        ("cold", "ep-1"),
        ("hot", hostile),
        ("hot", "ep-1"),
    ]


def test_what_is_no_alert_is_refused_alone(sink: AlertmanagerSink, server: AlertmanagerServer, gateway: str) -> None:
    with pytest.raises(RejectedRecords) as refused:
        sink.write([at(gateway, 0, sample.new()), at(gateway, 1, alert())])
    assert [record.offset for record, _ in refused.value.rejected] == [0]
    assert names(server, gateway)() == ["hot"]


def test_what_is_refused_for_what_it_holds_is_found_alone(gateway: str) -> None:
    def answer(posted: Posted) -> int:
        return 400 if any(one["labels"]["endpoint"] == "bad" for one in posted.alerts) else 200

    many = [at(gateway, n, alert(ep="bad" if n == 3 else f"ep-{n}")) for n in range(7)]
    with http_server(answer) as (url, seen):
        sink = open_alertmanager({"url": url})
        with pytest.raises(RejectedRecords, match="Alertmanager answers 400") as refused:
            sink.write(many)
        sink.close()
    assert [record.offset for record, _ in refused.value.rejected] == [3]
    taken = [one["labels"]["endpoint"] for posted in seen if answer(posted) == 200 for one in posted.alerts]
    assert sorted(taken) == [f"ep-{n}" for n in range(7) if n != 3]


def test_a_device_whose_clock_is_ahead_raises_an_alert_now(
    sink: AlertmanagerSink, server: AlertmanagerServer, gateway: str
) -> None:
    future = alert(since=9_000_000_000_000)
    sink.write([at(gateway, 0, future)])
    assert names(server, gateway)() == ["hot"]
    sink.write([at(gateway, 1, ended(future))])
    assert server.active(gateway) == []


def test_thousands_of_alerts_go_in_several_requests(
    sink: AlertmanagerSink, server: AlertmanagerServer, gateway: str
) -> None:
    sink.write([at(gateway, n, alert(ep=f"ep-{n}")) for n in range(2_500)])
    assert len(server.active(gateway)) == 2_500


# ---- what is told again


def test_an_alertmanager_that_forgot_is_told_again() -> None:
    server = new_server()
    try:
        server.start()
        sink = open_alertmanager({"url": server.url, "resend_s": 0.2})
        sink.write([at("gw", 0, alert("stays")), at("gw", 1, alert("ends"))])
        sink.write([at("gw", 2, ended(alert("ends")))])
        server.kill()
        with pytest.raises(RetryLater, match=r"Alertmanager at http://127\.0\.0\.1:\d+: "):
            sink.write([at("gw", 3, alert("new"))])
        server.start()
        # Without another write.
        eventually(names(server, "gw"), ["new", "stays"])
        sink.close()
    finally:
        server.remove()


def test_what_is_no_longer_told_ends_by_itself(server: AlertmanagerServer, gateway: str) -> None:
    sink = open_alertmanager({"url": server.url, "resend_s": 0.5})
    sink.write([at(gateway, 0, alert())])
    assert names(server, gateway)() == ["hot"]
    sink.close()
    eventually(names(server, gateway), [])


def test_what_fires_is_told_for_longer_than_it_would_last(server: AlertmanagerServer, gateway: str) -> None:
    sink = open_alertmanager({"url": server.url, "resend_s": 0.1})
    sink.write([at(gateway, 0, alert())])
    (first,) = server.active(gateway)

    def outlived() -> bool:
        (now,) = server.active(gateway)
        return bool(now["updatedAt"] > first["endsAt"])

    eventually(outlived, True)
    sink.close()


def test_another_instances_alerts_are_not_told_again(server: AlertmanagerServer, gateway: str) -> None:
    sink = open_alertmanager({"url": server.url, "resend_s": 0.3})
    sink.write([at(gateway, 0, alert("mine")), at(gateway, 0, alert("theirs"), partition=1)])
    sink.lost({(Topics(gateway).name(TopicKind.ALERTS), 1)})
    eventually(names(server, gateway), ["mine"])
    sink.close()


def test_an_end_of_long_ago_is_not_told() -> None:
    table = AlertTable(resend_s=60.0)
    place = ("analytics.gw.alerts", 0)
    table.apply("gw", alert("old"), place, 1_000.0, 5_000.0)
    table.apply("gw", ended(alert("old")), place, 1_100.0, 5_000.0)
    assert table.changed() == []
    table.apply("gw", ended(alert("new")), place, 4_900.0, 5_000.0)
    (key,) = table.changed()
    assert key.rule == "new"
    (told,) = table.posted([key], 5_000.0)
    assert (told["startsAt"], told["endsAt"]) == ("1970-01-01T00:00:01.000Z", "1970-01-01T00:00:01.900Z")
    table.told([key])
    assert table.everything() == []


def test_the_end_of_what_fires_there_is_told_however_old_it_is() -> None:
    table = AlertTable(resend_s=60.0)
    place = ("analytics.gw.alerts", 0)
    table.apply("gw", alert(), place, 1_000.0, 5_000.0)
    table.told(table.changed())
    table.apply("gw", ended(alert()), place, 1_100.0, 5_000.0)
    assert len(table.changed()) == 1
    table.told(table.changed())
    assert table.changed() == []
    table.apply("gw", ended(alert()), place, 1_100.0, 5_000.0)
    assert table.changed() == []


# ---- an Alertmanager that does not take them


def test_nobody_there_asks_for_patience() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    sink = open_alertmanager({"url": f"http://127.0.0.1:{port}"})
    with pytest.raises(RetryLater, match="Connection refused"):
        sink.write([at("gw", 0, alert())])
    sink.close()


def test_one_that_hangs_asks_for_patience() -> None:
    server = new_server()
    try:
        server.start()
        sink = open_alertmanager({"url": server.url, "timeout_s": 0.3})
        server.pause()
        with pytest.raises(RetryLater, match="no answer"):
            sink.write([at("gw", 0, alert())])
        server.go_on()

        def taken() -> bool:
            try:
                sink.write([at("gw", 0, alert())])
            except RetryLater:
                return False
            return True

        eventually(taken, True)
        assert names(server, "gw")() == ["hot"]
        sink.close()
    finally:
        server.remove()


def test_an_address_with_nothing_there_asks_for_patience(server: AlertmanagerServer) -> None:
    sink = open_alertmanager({"url": server.url + "/elsewhere"})
    with pytest.raises(RetryLater, match="404"):
        sink.write([at("gw", 0, alert())])
    sink.close()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"url": ""},
        {"url": "127.0.0.1:9093"},
        {"url": "ftp://h"},
        {"url": "http://me:hidden@h"},
        {"url": "http://h:port"},
        {"url": "http://h/?x=1"},
        {"url": "http://h", "user": "me"},
        {"url": "http://h", "password": "hidden"},
        {"url": "http://h", "user": "me", "password": "hidden", "password_file": "f"},
        {"url": "http://h", "user": "me", "password_file": "/nowhere/at/all"},
        {"url": "https://h", "ca_file": "/nowhere/at/all"},
        {"url": "http://h", "resend_s": 0},
        {"url": "http://h", "timeout_s": 0},
    ],
)
def test_wrong_options_are_told_without_secrets(options: Mapping[str, object]) -> None:
    with pytest.raises(SinkConfigError) as told:
        open_alertmanager(options)
    assert "hidden" not in str(told.value)


def test_a_password_is_sent_and_not_shown(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cr:t é\n", "utf-8")
    answers = iter((401, 200))
    with http_server(lambda _posted: next(answers)) as (url, seen):
        sink = open_alertmanager({"url": url, "user": "me", "password_file": str(tmp_path / "password")})
        with pytest.raises(RetryLater, match="401") as told:
            sink.write([at("gw", 0, alert())])
        sink.write([at("gw", 0, alert())])
        sink.close()
    assert "s3cr" not in f"{told.value}{sink!r}"
    assert [posted.authorization for posted in seen] == ["Basic bWU6czNjcjp0IMOp"] * 2


# ---- on the runner


@pytest.fixture
def topic(kafka: Cluster, gateway_id: str) -> str:
    name = Topics(gateway_id).name(TopicKind.ALERTS)
    ensure_topics(kafka, {name: FAMILIES[TopicKind.ALERTS].partitions, Topics(gateway_id).deadletter: 1})
    return name


def settings(kafka: Cluster, gateway: str, server: AlertmanagerServer, **options: object) -> SinkSettings:
    return SinkSettings(sink="alertmanager", gateway=gateway, kafka=kafka, options={"url": server.url, **options})


@pytest.mark.kafka
def test_a_restarted_sink_knows_what_fires(kafka: Cluster, gateway_id: str, topic: str) -> None:
    server = new_server()
    try:
        server.start()
        produce(kafka, topic, [alert("stays"), alert("ends")], partition=0)
        produce(kafka, topic, [alert("other"), b"no alert"], partition=1)
        with running(settings(kafka, gateway_id, server)):
            eventually(names(server, gateway_id), ["ends", "other", "stays"])
            produce(kafka, topic, [ended(alert("ends"))], partition=0)
            eventually(names(server, gateway_id), ["other", "stays"])
            eventually(lambda: len(dead_letters(kafka, gateway_id)), 1)
        # Neither the sink nor Alertmanager remembers anything; nothing new comes.
        server.kill()
        server.start()
        assert server.active(gateway_id) == []
        with running(settings(kafka, gateway_id, server)):
            eventually(names(server, gateway_id), ["other", "stays"])
    finally:
        server.remove()


@pytest.mark.kafka
def test_a_second_instance_takes_over_half_of_them(
    kafka: Cluster, gateway_id: str, topic: str, server: AlertmanagerServer
) -> None:
    produce(kafka, topic, [alert("a")], partition=0)
    produce(kafka, topic, [alert("b")], partition=1)
    with running(settings(kafka, gateway_id, server, resend_s=0.5)) as first:
        eventually(names(server, gateway_id), ["a", "b"])
        with running(settings(kafka, gateway_id, server, resend_s=0.5)) as second:
            eventually(lambda: (len(first.partitions), len(second.partitions)), (1, 1))
            for partition in (0, 1):
                produce(kafka, topic, [ended(alert("a" if partition == 0 else "b"))], partition=partition)
            eventually(names(server, gateway_id), [])
            produce(kafka, topic, [alert("c")], partition=0)
            produce(kafka, topic, [alert("d")], partition=1)
            eventually(names(server, gateway_id), ["c", "d"])
        # What the second had is the first's again.
        eventually(lambda: len(first.partitions), 2)
        produce(kafka, topic, [alert("e")], partition=0)
        eventually(names(server, gateway_id), ["c", "d", "e"])
