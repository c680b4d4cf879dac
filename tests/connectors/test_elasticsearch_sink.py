"""What the Elasticsearch sink alone promises of its documents: fields, identities, indices, mappings, the graph."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from connectors.kafka import Cluster
from connectors.sinks import RejectedRecords, RetryLater, Sink, SinkRecord
from connectors.sinks.elasticsearch import open_elasticsearch
from schemas.avro.records import GenericBody, Link, RegistrationNew, ResponseCode
from schemas.avro.topics import Topics
from schemas.lwm2m.nodes import ResourceType
from tests.elasticsearch_front import Asked, Said, front
from tests.elasticsearch_server import OPENSEARCH, ElasticsearchServer
from tests.ports import held_port
from tests.sink_harness import PATIENCE_S, dead_letters, eventually, make_topics, produce
from tests.sink_samples import at, delete, new, notification, reply, resource, update
from tests.stores.elasticsearch import ElasticsearchStore

ROOT = Path(__file__).parents[2]
DAY_MS = 86_400_000


@pytest.fixture
def store(tmp_path: Path) -> ElasticsearchStore:
    return ElasticsearchStore(tmp_path)


@pytest.fixture
def sink(store: ElasticsearchStore) -> Iterator[Sink]:
    opened = open_elasticsearch(store.options())
    yield opened
    opened.close()


def reading(offset: int, value: float = 0.0, *, ep: str = "ep-1", timestamp: int = 1_000) -> SinkRecord:
    return at(offset, notification(resource("/3303/0/5700", value), ep=ep, timestamp=timestamp))


def text(offset: int, value: str = "Cel", *, timestamp: int = 1_000) -> SinkRecord:
    return at(offset, notification(resource("/3303/0/5701", value, ResourceType.STRING), timestamp=timestamp))


def integer(offset: int, value: int) -> SinkRecord:
    return at(offset, notification(resource("/3/0/9", value, ResourceType.INTEGER)))


def mapping(store: ElasticsearchStore, index: str) -> dict[str, Any]:
    told = store.server.ask("GET", f"/{store.prefix}-{index}/_mapping")
    mappings: dict[str, Any] = next(iter(told.values()))["mappings"]
    return mappings


# ---- history


def test_a_document_has_the_value_by_its_type_and_where_it_came_from(store: ElasticsearchStore, sink: Sink) -> None:
    kept = notification(resource("/3/0/13", 2**63 - 1, ResourceType.TIME, timestamp=7), timestamp=1_700_000_000_123)
    sink.write([replace(at(5, kept, headers={"late": b"1"}), partition=1)])
    (hit,) = store.found()
    assert hit["_index"] == f"{store.prefix}-gw1-2023.11.14"
    assert hit["_id"] == "iot.gw1.observations/1/5/1700000000123/0"
    assert hit["_source"] == {
        "@timestamp": 1_700_000_000_123,
        "deviceTime": 7,
        "gateway": "gw1",
        "serverId": "gw1",
        "ep": "ep-1",
        "path": "/3/0/13",
        "type": "TIME",
        "kind": "observe",
        "code": "CONTENT",
        "ticket": "ticket#1",
        "observationId": "obs-1",
        "value": 9.223372036854775807e18,
        "ivalue": 2**63 - 1,
        "late": True,
        "topic": "iot.gw1.observations",
        "partition": 1,
        "offset": 5,
        "position": 0,
    }


def test_values_are_found_by_number_word_and_time(store: ElasticsearchStore, sink: Sink) -> None:
    sink.write([reading(0, 21.5), integer(1, 2**53 + 1), text(2, "Degrees Celsius"), text(3, "Cel", timestamp=DAY_MS)])

    def offsets(query: dict[str, Any]) -> list[int]:
        return sorted(row["offset"] for row in store.rows(query))

    assert offsets({"range": {"value": {"gt": 21, "lt": 22}}}) == [0]
    # As doubles these two are the same.
    assert offsets({"term": {"ivalue": 2**53 + 1}}) == [1]
    assert offsets({"term": {"ivalue": 2**53}}) == []
    assert offsets({"match": {"svalue": "celsius"}}) == [2]
    assert offsets({"term": {"svalue.keyword": "Cel"}}) == [3]
    assert offsets({"term": {"path": "/3303/0/5701"}}) == [2, 3]
    assert offsets({"range": {"@timestamp": {"gte": DAY_MS}}}) == [3]
    assert offsets({"term": {"late": False}}) == [0, 1, 2, 3]


def test_every_gateway_and_day_has_an_index_in_lower_case(store: ElasticsearchStore, sink: Sink) -> None:
    def of(gateway: str, timestamp: int) -> SinkRecord:
        record = reading(0, timestamp=timestamp)
        return replace(record, gateway=gateway, topic=Topics(gateway).observations)

    sink.write([of("Hall.A", DAY_MS - 1), of("Hall.A", DAY_MS), of("hall.a", DAY_MS), of("endpoints", 0)])
    found = sorted((hit["_index"].removeprefix(f"{store.prefix}-"), hit["_source"]["gateway"]) for hit in store.found())
    assert found == [
        ("endpoints-1970.01.01", "endpoints"),
        ("hall.a-1970.01.01", "Hall.A"),
        ("hall.a-1970.01.02", "Hall.A"),
        ("hall.a-1970.01.02", "hall.a"),
    ]
    assert mapping(store, "hall.a-1970.01.02")["dynamic"] == "false"


HOSTILE = [
    'quote" and \\inside',
    '{"index":{"_index":"other"}}\n{}\n',
    "two\nlines\r\x00\x7f",
    "é☃💥\u2028",
    "\ud800",
    "../_all?q=*",
    "a.b..c",
    ".",
    " ",
    "",
    "x" * 30_000,
]


def test_hostile_names_and_texts_come_back_as_they_were_and_no_mapping_grows(
    store: ElasticsearchStore, sink: Sink
) -> None:
    sink.write([reading(0), at(0, new())])
    before = mapping(store, "gw1-1970.01.01"), mapping(store, "endpoints")
    texts = [*HOSTILE, "y" * 900_000]
    attributes = {name: name for name in HOSTILE}
    links = tuple(Link(url=name, at={name: name}) for name in HOSTILE)
    registrations = []
    for offset, name in enumerate(HOSTILE, start=1):
        event = new(ep=name)
        assert isinstance(event.body, RegistrationNew)
        body = replace(event.body, attributes=attributes, links=links, address=name, sms=name)
        registrations.append(at(offset, replace(event, body=body)))
    sink.write(
        [
            *(reading(10 + offset, ep=name) for offset, name in enumerate(HOSTILE)),
            *(text(100 + offset, value) for offset, value in enumerate(texts)),
            *registrations,
        ]
    )
    rows = {row["offset"]: row for row in store.rows()}
    assert [rows[10 + offset]["ep"] for offset in range(len(HOSTILE))] == HOSTILE
    assert [rows[100 + offset]["svalue"] for offset in range(len(texts))] == texts
    endpoints = {hit["_source"]["name"]: hit["_source"] for hit in store.found("endpoints")}
    for name in HOSTILE:
        assert {pair["name"]: pair["value"] for pair in endpoints[name]["attributes"]} == attributes
        assert [link["url"] for link in endpoints[name]["links"]] == HOSTILE
    assert (mapping(store, "gw1-1970.01.01"), mapping(store, "endpoints")) == before
    assert store.found("endpoints", {"term": {"attributes.value": "a.b..c"}})


@pytest.mark.parametrize("timestamp", [-1, -(2**63), 2**63 - 1, 253_402_300_800_000])
def test_a_time_that_is_no_day_is_refused_alone(store: ElasticsearchStore, sink: Sink, timestamp: int) -> None:
    with pytest.raises(RejectedRecords, match="before 1970 or after 9999") as refused:
        sink.write([reading(0), reading(1, timestamp=timestamp), reading(2)])
    assert [record.offset for record, _ in refused.value.rejected] == [1]
    assert len(store.rows()) == 2


@pytest.mark.parametrize("device", [-1, -(2**63), 2**63 - 1, 10**30])
def test_the_devices_clock_makes_no_index_and_keeps_no_value_out(
    store: ElasticsearchStore, sink: Sink, device: int
) -> None:
    sink.write([at(0, notification(resource("/3303/0/5700", 1.0, timestamp=device)))])
    (hit,) = store.found()
    assert hit["_index"] == f"{store.prefix}-gw1-1970.01.01"
    assert hit["_source"]["deviceTime"] == device


def test_integers_beyond_64_bits_keep_their_digits_and_beyond_floats_are_refused(
    store: ElasticsearchStore, sink: Sink
) -> None:
    with pytest.raises(RejectedRecords, match="larger than any number") as refused:
        sink.write([integer(0, 2**64 - 1), integer(1, 10**400), integer(2, 10**5_000), integer(3, -(2**63))])
    assert [record.offset for record, _ in refused.value.rejected] == [1, 2]
    rows = {row["offset"]: row for row in store.rows()}
    assert (rows[0]["value"], rows[0]["svalue"]) == (float(2**64 - 1), str(2**64 - 1))
    assert rows[3]["ivalue"] == -(2**63)
    assert rows.keys() == {0, 3}


def test_a_record_that_comes_again_writes_the_same_document(store: ElasticsearchStore, sink: Sink) -> None:
    sink.write([reading(0, 1.0), reading(1, 1.0)])
    before = {hit["_id"]: (hit["_index"], hit["_source"]) for hit in store.found()}
    sink.write([reading(1, 1.0)])
    found = store.found()
    assert {hit["_id"]: (hit["_index"], hit["_source"]) for hit in found} == before
    assert {hit["_source"]["offset"]: hit["_version"] for hit in found} == {0: 1, 1: 2}


# ---- the graph


def test_an_endpoint_is_found_by_what_it_has(store: ElasticsearchStore, sink: Sink) -> None:
    sink.write([at(0, new()), at(1, new(ep="ep-2", links=())), at(2, delete(ep="ep-2"))])

    def names(*terms: dict[str, Any]) -> list[str]:
        query = {"bool": {"filter": [{"term": term} for term in terms]}}
        return sorted(hit["_source"]["name"] for hit in store.found("endpoints", query))

    assert names({"online": True}) == ["ep-1"]
    assert names({"objects.id": 3303}) == ["ep-1"]
    assert names({"objects.name": "Device"}, {"online": True}) == ["ep-1"]
    assert names({"attributes.value": "Thermo é"}) == ["ep-1", "ep-2"]
    assert names({"serverId": "gw1"}, {"online": False}) == ["ep-2"]


def test_an_event_that_another_instance_wrote_meanwhile_is_not_undone(store: ElasticsearchStore) -> None:
    other = open_elasticsearch(store.options())
    other.write([at(0, new())])
    steps = iter([[at(2, update(port=42_002))]])

    def between(asked: Asked) -> Said | None:
        # It has read the endpoint, and is about to write it.
        if asked.path.startswith("/_bulk"):
            other.write(next(steps, []))
        return None

    with front(store.server, between) as url:
        sink = open_elasticsearch({**store.options(), "hosts": [url]})
        sink.write([at(1, update(port=42_001, lt=77))])
        sink.close()
    other.close()
    endpoint = store.endpoint("ep-1")
    assert endpoint is not None
    assert (endpoint["port"], endpoint["applied"]["offset"], endpoint["lt"]) == (42_002, 2, 300)


def test_an_endpoint_that_is_always_written_by_others_is_tried_again_later(store: ElasticsearchStore) -> None:
    other = open_elasticsearch(store.options())
    offset = 0

    def between(asked: Asked) -> Said | None:
        nonlocal offset
        if asked.path.startswith("/_bulk"):
            offset += 1
            other.write([at(offset, update(port=40_000 + offset))])
        return None

    with front(store.server, between) as url:
        sink = open_elasticsearch({**store.options(), "hosts": [url]})
        with pytest.raises(RetryLater, match="another instance"):
            sink.write([at(10_000, delete())])
        sink.close()
    other.write([at(10_000, delete())])
    other.close()
    endpoint = store.endpoint("ep-1")
    assert endpoint is not None
    assert endpoint["online"] is False


def test_instances_that_write_the_same_endpoints_at_once_end_with_the_last_event(store: ElasticsearchStore) -> None:
    events = [at(0, new()), *(at(offset, update(port=40_000 + offset)) for offset in range(1, 12))]
    failures: list[Exception] = []

    def work(step: int) -> None:
        sink = open_elasticsearch(store.options())
        try:
            for start in range(0, len(events), step):
                while True:
                    try:
                        sink.write(events[start : start + step])
                        break
                    except RetryLater as exc:
                        assert "another instance" in exc.reason
        except Exception as exc:  # noqa: BLE001  told below
            failures.append(exc)
        finally:
            sink.close()

    threads = [threading.Thread(target=work, args=(step,)) for step in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert not failures
    endpoint = store.endpoint("ep-1")
    assert endpoint is not None
    assert (endpoint["port"], endpoint["applied"]["offset"], endpoint["regDate"]) == (40_011, 11, 50)


def test_only_the_guilty_event_of_an_endpoint_is_refused(store: ElasticsearchStore, sink: Sink) -> None:
    # An index that somebody made by hand, where a lifetime has 32 bits.
    properties = {"lt": {"type": "integer"}, "name": {"type": "keyword"}}
    store.server.ask("PUT", f"/{store.prefix}-endpoints", {"mappings": {"dynamic": False, "properties": properties}})
    with pytest.raises(RejectedRecords, match="lt") as refused:
        sink.write([at(0, new()), at(1, update(lt=2**40)), at(2, update(port=7)), at(3, new(ep="ep-2"))])
    assert [record.offset for record, _ in refused.value.rejected] == [1]
    endpoint = store.endpoint("ep-1")
    assert endpoint is not None
    assert (endpoint["port"], endpoint["lt"]) == (7, 300)
    assert store.endpoint("ep-2") is not None


# ---- OpenSearch


@pytest.fixture(scope="module")
def opensearch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ElasticsearchServer]:
    server = ElasticsearchServer(directory=tmp_path_factory.mktemp("opensearch"), port=held_port(), product=OPENSEARCH)
    server.start()
    yield server
    server.remove()


def test_opensearch_keeps_the_same(opensearch: ElasticsearchServer, tmp_path: Path) -> None:
    assert opensearch.ask("GET", "/")["version"]["distribution"] == "opensearch"
    store = ElasticsearchStore(tmp_path, opensearch)
    batch = [
        reading(0, 21.5),
        integer(1, 2**63 - 1),
        *(text(10 + offset, value) for offset, value in enumerate(HOSTILE)),
        at(2, reply(GenericBody(message="gone"), path="/3/0", code=ResponseCode.NOT_FOUND)),
        at(0, new()),
        at(1, update(lt=60)),
        at(2, delete(expired=True)),
    ]
    sink = open_elasticsearch(store.options())
    for _ in range(2):
        sink.write(batch)
        assert len(store.history()) == 3 + len(HOSTILE)
        endpoint = store.endpoint("ep-1")
        assert endpoint is not None
        assert (endpoint["online"], endpoint["lt"], endpoint["regId"]) == (False, 60, "r1")
    sink.close()
    assert {(path, value) for _, path, value, _ in store.history() if path != "/3303/0/5701"} == {
        ("/3303/0/5700", 21.5),
        ("/3/0/9", 2**63 - 1),
        ("/3/0", "gone"),
    }
    assert len(store.objects("ep-1")) == 5
    assert mapping(store, "gw1-1970.01.01")["dynamic"] == "false"


def test_opensearch_refuses_documents_and_blocks_in_the_same_words(
    opensearch: ElasticsearchServer, tmp_path: Path
) -> None:
    store = ElasticsearchStore(tmp_path, opensearch)
    index = f"/{store.prefix}-gw1-1970.01.01"
    opensearch.ask("PUT", index, {"mappings": {"dynamic": False, "properties": {"svalue": {"type": "long"}}}})
    sink = open_elasticsearch(store.options())
    with pytest.raises(RejectedRecords, match="svalue") as refused:
        sink.write([reading(0), text(1), reading(2)])
    assert [record.offset for record, _ in refused.value.rejected] == [1]
    opensearch.ask("PUT", f"{index}/_settings", {"index.blocks.read_only_allow_delete": True})
    with pytest.raises(RetryLater, match="too full"):
        sink.write([reading(3)])
    sink.close()
    assert len(store.rows()) == 2


# ---- the whole way


@pytest.mark.kafka
@pytest.mark.faults
def test_killed_between_write_and_commit_with_another_instance_beside_it(
    kafka: Cluster, gateway_id: str, store: ElasticsearchStore
) -> None:
    topics = make_topics(kafka, gateway_id)
    number = 0

    def process(lives: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.faults.sink_process", kafka.bootstrap, gateway_id, "elasticsearch"]
        return subprocess.Popen(
            [*command, json.dumps(store.options()), "40", str(lives)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    for lives in (1, 2):
        for partition in range(2):
            made = [notification(resource("/3303/0/5700", float(number + i)), timestamp=77) for i in range(150)]
            produce(kafka, topics.observations, made, partition=partition)
            number += 150
        produce(kafka, topics.observations, [b"poison", notification(resource("/3/0/1", 1.0), timestamp=-1)])
        produce(kafka, topics.registrations, [new(), update(port=50_000 + lives), delete(), new(reg_id=f"r{lives}")])
        assert process(lives).wait(PATIENCE_S) == -signal.SIGKILL
    pair = [process(0), process(0)]
    try:
        eventually(lambda: len(store.rows()), number)
        eventually(lambda: {x.record.offset for x in dead_letters(kafka, gateway_id)}, {150, 151, 302, 303})
        eventually(lambda: (store.endpoint("ep-1") or {}).get("regId"), "r2")
        pair[0].kill()
        pair[0].wait(PATIENCE_S)
        produce(kafka, topics.observations, [notification(resource("/3303/0/5700", float(number)), timestamp=78)])
        eventually(lambda: len(store.rows()), number + 1)
        pair[1].terminate()
        assert pair[1].wait(PATIENCE_S) == 0
    finally:
        for one in pair:
            if one.poll() is None:
                one.kill()
                one.wait(PATIENCE_S)
    assert sorted(row["value"] for row in store.rows()) == list(range(number + 1))
    endpoint = store.endpoint("ep-1")
    assert endpoint is not None
    assert (endpoint["online"], endpoint["applied"]["offset"]) == (True, 7)
    assert {letter.stage for letter in dead_letters(kafka, gateway_id)} == {"decode", "sink:elasticsearch"}
