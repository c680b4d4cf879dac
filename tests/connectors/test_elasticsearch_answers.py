"""What the Elasticsearch sink makes of answers, of none, of who may ask, and of wrong options."""

from __future__ import annotations

import json
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from connectors.sinks import RejectedRecords, RetryLater, SinkConfigError, SinkRecord
from connectors.sinks.elasticsearch import open_elasticsearch
from schemas.lwm2m.nodes import ResourceType
from tests.elasticsearch_front import Asked, Said, front
from tests.elasticsearch_server import ElasticsearchServer
from tests.http_front import CERTIFICATE
from tests.ports import held_port
from tests.sink_harness import PATIENCE_S, eventually
from tests.sink_samples import at, new, notification, resource
from tests.stores.elasticsearch import ElasticsearchStore

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> ElasticsearchStore:
    return ElasticsearchStore(tmp_path)


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ElasticsearchServer]:
    """One that tests may kill and pause; each leaves it running. It takes requests of 64 KB at most."""
    server = ElasticsearchServer(
        directory=tmp_path_factory.mktemp("elasticsearch"),
        port=held_port(),
        settings={"http.max_content_length": "64kb"},
    )
    server.start()
    yield server
    server.remove()


def text(offset: int, value: str = "Cel", *, timestamp: int = 1_000) -> SinkRecord:
    return at(offset, notification(resource("/3303/0/5701", value, ResourceType.STRING), timestamp=timestamp))


def reading(offset: int) -> SinkRecord:
    return at(offset, notification(resource("/3303/0/5700", float(offset)), timestamp=1_000 + offset))


def _takes(write: Callable[[list[SinkRecord]], None], record: SinkRecord) -> bool:
    try:
        write([record])
    except RetryLater:
        return False
    return True


def is_bulk(asked: Asked) -> bool:
    return asked.path.startswith("/_bulk")


# ---- documents and indices


def test_a_document_that_does_not_fit_the_mapping_is_refused_alone(store: ElasticsearchStore) -> None:
    properties = {"svalue": {"type": "long"}, "value": {"type": "double"}}
    store.server.ask(
        "PUT",
        f"/{store.prefix}-gw1-1970.01.01",
        {"mappings": {"dynamic": False, "properties": properties}, "settings": {"number_of_replicas": 0}},
    )
    sink = open_elasticsearch(store.options())
    batch = [reading(offset) for offset in range(500)]
    for offset in (0, 17, 499):
        batch[offset] = text(offset, "word " * 1_000)
    for _ in range(2):
        with pytest.raises(RejectedRecords, match=r"mapper_parsing_exception.*svalue") as refused:
            sink.write(batch)
        assert [record.offset for record, _ in refused.value.rejected] == [0, 17, 499]
        assert all(len(reason) < 500 for _, reason in refused.value.rejected)
    sink.close()
    assert len(store.rows()) == 497


@pytest.mark.parametrize(
    ("block", "words"),
    [("read_only_allow_delete", "too full"), ("write", "may not write there now"), ("read_only", "may not write")],
)
def test_a_blocked_index_is_waited_for(store: ElasticsearchStore, block: str, words: str) -> None:
    sink = open_elasticsearch(store.options())
    sink.write([reading(0), at(0, new())])
    settings = f"/{store.prefix}-gw1-1970.01.01/_settings"
    store.server.ask("PUT", settings, {f"index.blocks.{block}": True})
    with pytest.raises(RetryLater, match=words):
        # Of another day, so of another index, which takes it; nothing but the same again comes of it.
        sink.write([text(1, timestamp=86_400_000), reading(2)])
    store.server.ask("PUT", settings, {f"index.blocks.{block}": None})
    sink.write([text(1, timestamp=86_400_000), reading(2)])
    sink.close()
    assert len(store.rows()) == 3


def test_a_closed_index_is_waited_for(store: ElasticsearchStore) -> None:
    sink = open_elasticsearch(store.options())
    sink.write([reading(0)])
    index = f"/{store.prefix}-gw1-1970.01.01"
    store.server.ask("POST", f"{index}/_close")
    with pytest.raises(RetryLater, match="index_closed_exception"):
        sink.write([reading(1)])
    store.server.ask("POST", f"{index}/_open?wait_for_active_shards=1")
    sink.write([reading(1)])
    sink.close()
    assert len(store.rows()) == 2


def test_a_cluster_that_may_have_no_more_shards_is_waited_for(store: ElasticsearchStore) -> None:
    def most(shards: int | None) -> None:
        store.server.ask("PUT", "/_cluster/settings", {"transient": {"cluster.max_shards_per_node": shards}})

    sink = open_elasticsearch(store.options())
    sink.write([reading(0)])
    most(1)
    try:
        with pytest.raises(RetryLater, match="maximum normal shards open"):
            sink.write([reading(1), text(2, timestamp=86_400_000)])
    finally:
        most(None)
    sink.write([reading(1), text(2, timestamp=86_400_000)])
    sink.close()
    assert len(store.rows()) == 3


def test_a_cluster_that_makes_no_index_by_itself_is_told(store: ElasticsearchStore) -> None:
    def create(value: str | None) -> None:
        store.server.ask("PUT", "/_cluster/settings", {"transient": {"action.auto_create_index": value}})

    sink = open_elasticsearch(store.options())
    create("false")
    try:
        for record in (reading(0), at(0, new())):
            with pytest.raises(RetryLater, match=r"action\.auto_create_index"):
                sink.write([record])
    finally:
        create(None)
    sink.write([reading(0)])
    sink.close()


def test_templates_may_be_ones_own(store: ElasticsearchStore) -> None:
    mine = {
        "index_patterns": [f"{store.prefix}-*"],
        "priority": 500,
        "template": {
            "settings": {"number_of_shards": 3, "number_of_replicas": 0},
            "mappings": {"dynamic": False, "properties": {"ep": {"type": "keyword"}}},
        },
    }
    store.server.ask("PUT", f"/_index_template/{store.prefix}-mine", mine)
    sink = open_elasticsearch({**store.options(), "templates": False})
    sink.write([reading(0)])
    sink.close()
    told = store.server.ask("GET", f"/{store.prefix}-gw1-1970.01.01/_settings")
    assert next(iter(told.values()))["settings"]["index"]["number_of_shards"] == "3"
    names = [one["name"] for one in store.server.ask("GET", "/_index_template")["index_templates"]]
    assert [name for name in names if name.startswith(store.prefix)] == [f"{store.prefix}-mine"]


def test_a_template_in_the_way_is_told(store: ElasticsearchStore) -> None:
    name = f"{store.prefix}-theirs"
    theirs = {"index_patterns": [f"{store.prefix}-*"], "priority": 200 + len(store.prefix)}
    store.server.ask("PUT", f"/_index_template/{name}", theirs)
    sink = open_elasticsearch(store.options())
    with pytest.raises(RetryLater, match=rf"no index template.*{name}"):
        sink.write([reading(0)])
    store.server.ask("DELETE", f"/_index_template/{name}")
    sink.write([reading(0)])
    sink.close()
    assert len(store.rows()) == 1


def test_a_template_that_was_deleted_is_put_again_before_the_next_days_index(store: ElasticsearchStore) -> None:
    sink = open_elasticsearch(store.options())
    sink.write([reading(0)])
    store.server.ask("DELETE", f"/_index_template/{store.prefix}-history")
    sink.write([text(1, timestamp=86_400_000)])
    sink.close()
    told = store.server.ask("GET", f"/{store.prefix}-gw1-1970.01.02/_mapping")
    assert next(iter(told.values()))["mappings"]["properties"]["value"] == {"type": "double"}


# ---- sizes


@pytest.mark.parametrize("gzip", [True, False])
def test_what_is_too_large_for_a_node_goes_in_pieces(
    own_server: ElasticsearchServer, tmp_path: Path, gzip: bool
) -> None:
    store = ElasticsearchStore(tmp_path, own_server)
    sink = open_elasticsearch({**store.options(), "gzip": gzip})
    batch = [*(reading(offset) for offset in range(400)), text(400, "x" * 70_000), reading(401)]
    with pytest.raises(RejectedRecords, match=r"413.*max_content_length") as refused:
        for _ in range(20):
            try:
                sink.write(batch)
            except RetryLater:
                # It may end the connection while it is still sent to; then there is no answer to be read.
                continue
    sink.close()
    assert [record.offset for record, _ in refused.value.rejected] == [400]
    assert len(store.rows()) == 401


def test_requests_are_bounded_and_compressed(store: ElasticsearchStore) -> None:
    asked: list[Asked] = []

    def look(one: Asked) -> None:
        if is_bulk(one):
            asked.append(one)

    with front(store.server, look) as url:
        for gzip in (True, False):
            sink = open_elasticsearch({**store.options(), "hosts": [url], "bulk_mb": 0.05, "gzip": gzip})
            sink.write([reading(offset) for offset in range(1_000)])
            sink.close()
    assert all(len(one.body) <= 0.05 * 1024 * 1024 for one in asked)
    half = len(asked) // 2
    assert sum(one.size for one in asked[:half]) * 5 < sum(one.size for one in asked[half:])
    assert len(store.rows()) == 1_000


# ---- answers that are none of Elasticsearch's, or not now


@pytest.mark.parametrize(
    ("status", "headers", "body", "after"),
    [
        (429, {"Retry-After": "7"}, b'{"error":{"type":"circuit_breaking_exception","reason":"too large"}}', 7.0),
        (503, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, b"<html>not now</html>", None),
        (503, {}, b'{"error":{"type":"cluster_block_exception","reason":"state not recovered"}}', None),
        (500, {}, b"\xff", None),
        (502, {}, b"<html>bad gateway</html>", None),
        (301, {"Location": "http://127.0.0.1:9/"}, b"", None),
        (200, {}, b"<html>hello</html>", None),
        (200, {}, b'{"items":[]}', None),
        (200, {}, b'{"items":[{"index":{"status":"fine"}}]}', None),
        (200, {}, b'{"items":[{"index":{"status":429,"error":{"type":"es_rejected_execution_exception"}}}]}', None),
        (200, {}, b'{"items":[{"index":{"status":503,"error":{"type":"unavailable_shards_exception"}}}]}', None),
        (400, {}, b"computer says no", None),
        (401, {}, b'{"error":{"type":"security_exception","reason":"missing authentication credentials"}}', None),
    ],
)
def test_other_answers_mean_later(
    store: ElasticsearchStore, status: int, headers: dict[str, str], body: bytes, after: float | None
) -> None:
    said = [Said(status=status, body=body, headers=headers)]
    with front(store.server, lambda asked: said.pop() if said and is_bulk(asked) else None) as url:
        sink = open_elasticsearch({**store.options(), "hosts": [url]})
        with pytest.raises(RetryLater) as later:
            sink.write([reading(0)])
        assert later.value.after_s == after
        sink.write([reading(0)])
        sink.close()
    assert len(store.rows()) == 1


def test_of_items_that_wait_and_items_that_are_refused_the_batch_waits(store: ElasticsearchStore) -> None:
    def busy(asked: Asked) -> Said | None:
        if not (is_bulk(asked) and states):
            return None
        items: list[dict[str, Any]] = [{"index": {"status": 201}} for _ in range(asked.body.count(b"\n") // 2)]
        items[1] = {"index": {"status": 400, "error": {"type": "mapper_parsing_exception", "reason": "no"}}}
        items[2] = {"index": {"status": states.pop(), "error": {"type": "es_rejected_execution_exception"}}}
        return Said(status=200, body=json.dumps({"errors": True, "items": items}).encode())

    states = [429]
    with front(store.server, busy) as url:
        sink = open_elasticsearch({**store.options(), "hosts": [url]})
        with pytest.raises(RetryLater, match="429"):
            sink.write([reading(offset) for offset in range(3)])
        sink.write([reading(offset) for offset in range(3)])
        sink.close()
    assert len(store.rows()) == 3


@pytest.mark.parametrize("guilty", [set(), {0}, {3, 170}])
def test_an_unknown_refusal_is_the_records_fault_only_if_others_are_taken(
    store: ElasticsearchStore, guilty: set[int]
) -> None:
    asked_for: list[int] = []

    def strange(asked: Asked) -> Said | None:
        if not is_bulk(asked):
            return None
        asked_for.append(asked.size)
        bad = not guilty or any(f'"bad {offset}"'.encode() in asked.body for offset in guilty)
        return Said(status=400, body=b"computer says no") if bad else None

    batch = [text(i, f"bad {i}" if i in guilty else "good") for i in range(200)]
    with front(store.server, strange) as url:
        sink = open_elasticsearch({**store.options(), "hosts": [url]})
        if guilty:
            with pytest.raises(RejectedRecords, match="computer says no") as refused:
                sink.write(batch)
            assert {record.offset for record, _ in refused.value.rejected} == guilty
        else:
            with pytest.raises(RetryLater, match="computer says no"):
                sink.write(batch)
            assert len(asked_for) <= 40
        sink.close()
    if guilty:
        assert len(store.rows()) == 200 - len(guilty)


# ---- nodes


def test_the_next_node_is_asked_when_one_is_down_or_cannot(store: ElasticsearchStore) -> None:
    nowhere = f"http://127.0.0.1:{held_port()}"
    with front(store.server, lambda _: Said(status=503)) as useless, front(store.server, lambda _: None) as useful:
        sink = open_elasticsearch({**store.options(), "hosts": [nowhere, useless, useful]})
        sink.write([reading(0)])
        sink.close()
        sink = open_elasticsearch({**store.options(), "hosts": [nowhere, useless]})
        with pytest.raises(RetryLater, match="503"):
            sink.write([reading(0)])
        sink.close()
    assert len(store.rows()) == 1


def test_down_at_first_then_killed_hanging_and_back_again(own_server: ElasticsearchServer, tmp_path: Path) -> None:
    store = ElasticsearchStore(tmp_path, own_server)
    own_server.kill()
    sink = open_elasticsearch(store.options())
    for _ in range(2):
        with pytest.raises(RetryLater, match="refused"):
            sink.write([reading(0)])
    own_server.start()
    sink.write([reading(0), at(0, new())])
    own_server.kill()
    with pytest.raises(RetryLater):
        sink.write([reading(1)])
    own_server.start()
    # What it had acknowledged outlived the kill.
    assert len(store.rows()) == 1
    assert store.endpoint("ep-1") is not None
    impatient = open_elasticsearch({**store.options(), "timeout_s": 0.3})
    own_server.pause()
    with pytest.raises(RetryLater, match=r"no answer within 0\.3 s"):
        impatient.write([reading(1)])
    own_server.go_on()
    eventually(lambda: _takes(impatient.write, reading(1)), True)
    impatient.close()
    sink.write([reading(2)])
    sink.close()
    assert len(store.rows()) == 3


# ---- who asks


def login(expected: Callable[[], str]) -> Callable[[Asked], Said | None]:
    def check(asked: Asked) -> Said | None:
        if asked.authorization == expected():
            return None
        return Said(status=401, body=b'{"error":{"type":"security_exception","reason":"unable to authenticate user"}}')

    return check


def test_user_and_password_from_a_file_that_is_replaced(store: ElasticsearchStore, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("pa55word é: old\n", "utf-8")
    basic = f"Basic {b64encode('head water:pa55word é: new'.encode()).decode()}"
    with front(store.server, login(lambda: basic)) as url:
        options = {**store.options(), "hosts": [url], "user": "head water"}
        sink = open_elasticsearch({**options, "password_file": str(file)})
        with pytest.raises(RetryLater, match="check them") as refused:
            sink.write([reading(0)])
        assert "pa55word" not in str(refused.value)
        file.write_text("")
        with pytest.raises(RetryLater, match="empty"):
            sink.write([reading(0)])
        file.write_text("pa55word é: new\n", "utf-8")
        sink.write([reading(0)])
        sink.close()
        sink = open_elasticsearch({**options, "password": "pa55word é: new"})
        sink.write([reading(1)])
        sink.close()
    assert len(store.rows()) == 2
    assert "pa55word" not in repr(sink) + repr(vars(sink))


def test_an_api_key_in_both_its_forms(store: ElasticsearchStore, tmp_path: Path) -> None:
    encoded = b64encode(b"the-id:the-key").decode()
    file = tmp_path / "key"
    file.write_text(f" {encoded}\n")
    forms: list[dict[str, object]] = [
        {"api_key": encoded},
        {"api_key": "the-id:the-key"},
        {"api_key_file": str(file)},
    ]
    with front(store.server, login(lambda: f"ApiKey {encoded}")) as url:
        for offset, form in enumerate(forms):
            sink = open_elasticsearch({**store.options(), "hosts": [url], **form})
            sink.write([reading(offset)])
            sink.close()
    assert len(store.rows()) == 3


def test_a_certificate_and_its_name_are_verified(store: ElasticsearchStore) -> None:
    with front(store.server, lambda _: None, tls=True) as url:
        for hosts, ca_file, words in (
            ([url], None, r"(?i)certificate"),
            ([url.replace("localhost", "127.0.0.1")], str(CERTIFICATE), r"(?i)address mismatch|doesn't match"),
        ):
            sink = open_elasticsearch({**store.options(), "hosts": hosts, "ca_file": ca_file})
            with pytest.raises(RetryLater, match=words):
                sink.write([reading(0)])
            sink.close()
        sink = open_elasticsearch({**store.options(), "hosts": [url], "ca_file": str(CERTIFICATE)})
        sink.write([reading(0), at(0, new())])
        sink.close()
    assert len(store.rows()) == 1


# ---- options


@pytest.mark.parametrize(
    "wrong",
    [
        {"hosts": []},
        {"hosts": "http://127.0.0.1:9200"},
        {"hosts": ["127.0.0.1:9200"]},
        {"hosts": ["ftp://127.0.0.1"]},
        {"hosts": ["http://user:pa55word@127.0.0.1:9200"]},
        {"hosts": ["http://127.0.0.1:99999"]},
        {"hosts": ["http://127.0.0.1:9200/ pa55word"]},
        {"user": "writer"},
        {"password": "pa55word"},
        {"user": "a:b", "password": "pa55word"},
        {"user": "a", "password": "pa55word", "password_file": "/run/secrets/password"},
        {"user": "a", "password": "pa55word\nX-Other: 1"},
        {"user": "a", "password_file": "/nowhere/password"},
        {"user": "a", "password": "pa55word", "api_key": "pa55word"},
        {"api_key": "pa55word", "api_key_file": "/run/secrets/key"},
        {"api_key": "pa55word é"},
        {"api_key_file": "/nowhere/key"},
        {"prefix": "Headwater"},
        {"prefix": "_all"},
        {"prefix": "a*"},
        {"prefix": "a.b"},
        {"prefix": ""},
        {"shards": 0},
        {"replicas": -1},
        {"bulk_mb": 0},
        {"timeout_s": 0},
        {"timeout_s": "pa55word"},
        {"gzip": "perhaps"},
        {"ca_file": "/nowhere/ca.pem"},
        {"hosts": ["https://127.0.0.1"], "ca_file": "/nowhere/ca.pem"},
        {"hosts": ["https://127.0.0.1"], "ca_file": __file__},
        {"definitions": "/nowhere"},
    ],
)
def test_wrong_options_are_told_before_anything_is_opened(wrong: dict[str, object]) -> None:
    with pytest.raises(SinkConfigError) as told:
        open_elasticsearch(wrong)
    assert "pa55word" not in str(told.value)


def test_it_needs_no_library_of_elasticsearch() -> None:
    look = (
        "import sys; from connectors.sinks import SINKS; SINKS['elasticsearch'].open({}).close();"
        "sys.exit(any(name.startswith(('elasticsearch', 'elastic_transport', 'opensearch')) for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", look], cwd=ROOT, timeout=PATIENCE_S, check=False).returncode == 0
