"""The jobs statistics and outliers on a real Kafka: killed, begun anew without a state, followed by Alertmanager."""

from __future__ import annotations

import math
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from analytics.job import Incoming, Surroundings, parse_options
from analytics.jobs import JOBS
from connectors.kafka import Cluster, read_to_end
from connectors.sink_settings import SinkSettings
from schemas.avro.records import Statistics
from schemas.avro.serde import decode
from schemas.avro.topics import TopicKind, Topics
from tests.alertmanager_server import shared_server
from tests.analytics.dict_state import Counts, DictState, Emitted
from tests.analytics.job_command import Process, committed, committed_at_least, started
from tests.sink_harness import eventually, make_topics, produce, running
from tests.sink_samples import notification, resource
from tests.webhook_receiver import SECRET, receiver

pytestmark = pytest.mark.kafka

PATH = "/3303/0/5700"
#: Three hours ago. Results have the gateway's time, and Kafka deletes after a week by that.
BEGIN = (int(time.time()) - 3 * 3600) * 1000
RULES = """\
[[distribution]]
path = "/3303/1"
mean = 1e9
std_dev = 0.01
[[alert]]
name = "high"
when = "value > 1000000000.01"
clear = 1e9
[[alert]]
name = "far"
when = "|z| > 2"
for = "2s"
severity = "critical"
[[alert]]
name = "moves"
when = "|rate| > 0.03 per second"
"""


def undisturbed(
    job: str, cluster: Cluster, gateway: str, **options: object
) -> Counter[tuple[str, bytes | None, bytes]]:
    """What the job makes of the log as it is, without Kafka around it."""
    kind = JOBS[job]
    made = kind.make(parse_options(kind, options), Surroundings(gateway=gateway, group="g", metrics=Counts()))
    emitted, states = Emitted(), {0: DictState(), 1: DictState()}
    topic = Topics(gateway).observations
    for one in read_to_end(cluster, [topic]):
        record = Incoming(topic, one.partition(), one.offset(), one.timestamp()[1], one.key(), one.value(), ())
        made.take(record, states[one.partition()], emitted)
    return Counter((topic, key, value) for topic, key, value, _ in emitted.records)


#: Notifications of an endpoint, and in how many parts they come: a job is killed in each but the last.
EACH, PARTS = 60_000, 3


class Stream:
    """Two endpoints of two series each, far from zero, a part at a time."""

    def __init__(self, cluster: Cluster, gateway: str) -> None:
        #: By endpoint and path.
        self.values: dict[tuple[str, str], list[float]] = {}
        self._cluster, self._gateway = cluster, gateway
        self._topics, self._draw = make_topics(cluster, gateway), random.Random(5)

    def part(self, which: int) -> None:
        for partition, ep in enumerate(("ep-a", "ep-b")):
            records = []
            for number in range(EACH * which // PARTS, EACH * (which + 1) // PARTS):
                path = f"/3303/{number % 2}/5700"
                value = self._draw.gauss(1e9, 1e-2)
                self.values.setdefault((ep, path), []).append(value)
                one = resource(path, value)
                records.append(notification(one, ep=ep, timestamp=BEGIN + 500 * number, server=self._gateway))
            produce(self._cluster, self._topics.observations, records, ep=ep, partition=partition)


def kill_twice(process: Process, cluster: Cluster, outputs: Sequence[str], stream: Stream) -> None:
    """While a part is worked on or when it has just been, the second time with all of its state; it runs on after."""
    for which in range(PARTS - 1):
        seen = committed(cluster, outputs).total()
        stream.part(which)
        committed_at_least(seen + 1, process, cluster, outputs)
        assert process.end(signal.SIGKILL) == -signal.SIGKILL
        if which:
            shutil.rmtree(process.state)
        process.start()
    stream.part(PARTS - 1)


def test_statistics_go_on_where_they_were_though_killed_and_without_a_state(
    kafka: Cluster, gateway_id: str, tmp_path: Path
) -> None:
    stream = Stream(kafka, gateway_id)
    outputs = [Topics(gateway_id).name(TopicKind.STATISTICS)]
    process = Process("statistics", kafka, gateway_id, tmp_path / "state", [])
    with started(process):
        kill_twice(process, kafka, outputs, stream)
        wanted = undisturbed("statistics", kafka, gateway_id)
        committed_at_least(wanted.total(), process, kafka, outputs)
        assert process.end(signal.SIGTERM) == 0
    found = committed(kafka, outputs)
    assert found == wanted
    last = {}
    for _, _, value in found:
        told = decode(value)
        assert isinstance(told, Statistics)
        if told.stream_length == EACH // 2:
            last[told.ep, told.path] = told
    for series, kept in stream.values.items():
        mean = math.fsum(kept) / len(kept)
        rest = math.fsum(value - mean for value in kept) / len(kept)
        variance = math.fsum(((value - mean) - rest) ** 2 for value in kept) / len(kept)
        assert last[series].mean == pytest.approx(mean, rel=1e-15)
        assert last[series].variance == pytest.approx(variance, rel=1e-9)
        assert last[series].std_dev == pytest.approx(math.sqrt(variance), rel=1e-9)


def test_no_alert_is_lost_or_doubled_though_the_job_is_killed(kafka: Cluster, gateway_id: str, tmp_path: Path) -> None:
    stream = Stream(kafka, gateway_id)
    rules = tmp_path / "rules.toml"
    rules.write_text(RULES)
    topics = Topics(gateway_id)
    outputs = [topics.name(TopicKind.READINGS), topics.name(TopicKind.ALERTS)]
    process = Process("outliers", kafka, gateway_id, tmp_path / "state", ["--rules", str(rules)])
    with started(process):
        kill_twice(process, kafka, outputs, stream)
        wanted = undisturbed("outliers", kafka, gateway_id, rules=str(rules))
        assert sum(topic == outputs[1] for topic, _, _ in wanted) > 1_000
        committed_at_least(wanted.total(), process, kafka, outputs)
        assert process.end(signal.SIGTERM) == 0
    assert committed(kafka, outputs) == wanted


def test_an_alert_goes_from_the_reading_to_alertmanager_and_to_a_webhook(
    kafka: Cluster, gateway_id: str, tmp_path: Path
) -> None:
    topics, server = make_topics(kafka, gateway_id), shared_server()
    rules = tmp_path / "rules.toml"
    rules.write_text('[[alert]]\nname = "hot"\nwhen = "value > 30"\nclear = 28\n')
    path, inbox = receiver().inbox()
    hook = {"url": f"http://127.0.0.1:{receiver().port}{path}", "secret": SECRET, "kinds": ["alerts"]}

    def reading(second: int, value: float) -> None:
        one = notification(resource(PATH, value), timestamp=BEGIN + 1_000 * second)
        produce(kafka, topics.observations, [one])

    def states() -> list[str]:
        return [event["state"] for event in inbox.events.values()]

    def active() -> list[tuple[str, str]]:
        return [(one["labels"]["alertname"], one["annotations"]["summary"]) for one in server.active(gateway_id)]

    process = Process("outliers", kafka, gateway_id, tmp_path / "state", ["--rules", str(rules)])
    alertmanager = SinkSettings(sink="alertmanager", gateway=gateway_id, kafka=kafka, options={"url": server.url})
    webhook = SinkSettings(sink="webhook", gateway=gateway_id, kafka=kafka, options=hook)
    with started(process), running(alertmanager), running(webhook):
        reading(0, 31.0)
        eventually(active, [("hot", f"value 31 > 30: {PATH} of ep-1")])
        eventually(states, ["FIRING"])
        reading(1, 29.0)
        reading(2, 27.0)
        eventually(active, [])
        eventually(states, ["FIRING", "RESOLVED"])
        assert process.end(signal.SIGTERM) == 0
    first, last = inbox.events.values()
    assert (first["kind"], first["ep"], first["path"], first["rule"]) == ("alerts", "ep-1", PATH, "hot")
    assert (first["alert"], first["since"]) == (last["alert"], last["since"])
