"""The view of the pinned schemas: as Confluent's own client meets it, and by hand where that client never goes."""

from __future__ import annotations

import base64
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.error import SchemaRegistryError
from confluent_kafka.serialization import MessageField, SerializationContext
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.schema_server import SchemaServerSettings, run
from cloud.schema_view import CONTENT_TYPE, SchemaView
from connectors.http_messages import Request
from schemas.avro import serde
from schemas.avro.records import Key
from schemas.avro.registry import SCHEMAS
from schemas.avro.subjects import SUBJECTS, compact
from security.api_keys import Scope, add, new_key, revoke
from tests.ports import held_port
from tests.sink_samples import notification, resource

VIEW = SchemaView()
KEY_SCHEMA = compact(SCHEMAS[1])


@dataclass(frozen=True)
class Served:
    port: int
    keys: Path
    key: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, path: str, method: str = "GET", authorization: str | None = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, headers={} if authorization is None else {"Authorization": authorization})
            answer = connection.getresponse()
            body = answer.read()
            return answer.status, json.loads(body) if "json" in answer.headers["Content-Type"] else body.decode()
        finally:
            connection.close()


@contextmanager
def serving(**options: Any) -> Iterator[int]:
    """The process's own loop, in a thread; the port."""
    stop, ports, failures = threading.Event(), [], []
    ready = threading.Event()

    def started(port: int) -> None:
        ports.append(port)
        ready.set()

    def work() -> None:
        try:
            run(SchemaServerSettings(port=0, **options), stop, started)
        except Exception as exc:  # noqa: BLE001  raised in the test's thread
            failures.append(exc)
            ready.set()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert ready.wait(20)
        if failures:
            raise failures[0]
        yield ports[0]
    finally:
        stop.set()
        thread.join(20)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    keys = tmp_path_factory.mktemp("schemas") / "keys.json"
    text, row = new_key("consumers", frozenset({Scope.SCHEMAS_READ}), now=datetime.now(UTC), expires=None)
    add(keys, row)
    with serving(keys=keys, gateways=("rock64",)) as port:
        yield Served(port, keys, text)


@pytest.fixture(scope="module")
def client(served: Served) -> SchemaRegistryClient:
    return SchemaRegistryClient({**of_client(served), "basic.auth.user.info": f"consumers:{served.key}"})


def of_client(served: Served) -> dict[str, Any]:
    """Its default is to try a refusal three times over; a number of tries needs a timeout (client 2.9)."""
    return {"url": served.url, "max.retries": 0, "timeout": 20}


# --- Confluent's client ----------------------------------------------------------------------------------------------


def context(topic: str, part: str = MessageField.VALUE) -> SerializationContext:
    return SerializationContext(topic, part)


def test_confluents_deserializer_reads_what_we_write_by_the_ids(client: SchemaRegistryClient) -> None:
    read = AvroDeserializer(client)
    topic = "iot.any-gateway.observations"
    for record in (
        notification(resource("/3303/0/5700", 21.5)),
        notification(resource("/3303/0/5700", 1), timestamp=3),
    ):
        content = read(serde.encode(record), context(topic))
        assert content["ep"] == record.ep
        assert content["timestamp"] == record.timestamp
        assert content["rep"]["body"]["content"]["value"] == record.rep.body.content.value  # type: ignore[union-attr]
    assert read(serde.encode(Key(ep="sensor-1")), context(topic, MessageField.KEY)) == {"ep": "sensor-1"}


def test_confluents_serializer_writes_what_we_read_with_the_latest_version(client: SchemaRegistryClient) -> None:
    write = AvroSerializer(client, None, conf={"auto.register.schemas": False, "use.latest.version": True})
    request = {
        "serverId": "rock64",
        "ep": "sensor-1",
        "ticket": "t1",
        "payload": {"kind": "read", "path": "/3/0/0", "contentFormat": "TLV", "body": None},
    }
    data = write(request, context("iot.rock64.management.req"))
    assert data[:5] == SCHEMAS[13].frame
    assert serde.to_json(serde.decode(data))["ticket"] == "t1"
    key = write({"ep": "sensor-1"}, context("iot.rock64.management.req", MessageField.KEY))
    assert serde.decode(key) == Key(ep="sensor-1")


def test_a_serializer_with_a_schema_of_its_own_finds_the_pinned_id(client: SchemaRegistryClient) -> None:
    text = json.dumps(json.loads(SCHEMAS[1].text), indent=3)
    for conf in ({"auto.register.schemas": False}, {"auto.register.schemas": True}):
        write = AvroSerializer(client, text, conf=conf)
        assert write({"ep": "x"}, context("iot.rock64.observations", MessageField.KEY)) == serde.encode(Key(ep="x"))


def test_confluents_client_walks_the_whole_view(client: SchemaRegistryClient) -> None:
    subjects = client.get_subjects()
    assert {"iot-key", "iot.observations-value", "iot.rock64.observations-value"} <= set(subjects)
    for subject in subjects:
        versions = client.get_versions(subject)
        for version in versions:
            found = client.get_version(subject, version)
            assert (found.subject, found.version) == (subject, version)
            assert json.loads(found.schema.schema_str) == json.loads(SCHEMAS[found.schema_id].text)
            by_id = client.get_schema(found.schema_id).schema_str
            assert json.loads(by_id) == json.loads(found.schema.schema_str)
            assert client.lookup_schema(subject, found.schema).schema_id == found.schema_id
            assert client.register_schema(subject, found.schema) == found.schema_id
            assert client.test_compatibility(subject, found.schema, version) is True
        assert client.get_latest_version(subject).version == max(versions)
    assert client.get_compatibility() == "BACKWARD_TRANSITIVE"


def test_what_is_not_there_and_what_is_not_allowed_has_confluents_codes(client: SchemaRegistryClient) -> None:
    other = Schema(json.dumps({"type": "record", "name": "Other", "fields": []}), "AVRO")
    cases: list[tuple[int, Callable[[], Any]]] = [
        (40401, lambda: client.get_versions("nothing-value")),
        (40402, lambda: client.get_version("iot-key", 2)),
        (40403, lambda: client.get_schema(4711)),
        (40403, lambda: client.lookup_schema("iot-key", other)),
        (42205, lambda: client.register_schema("iot-key", other)),
        (42205, lambda: client.register_schema("mine-value", other)),
        (42205, lambda: client.delete_subject("iot-key")),
        (42205, lambda: client.delete_version("iot-key", 1)),
        (42205, lambda: client.set_compatibility(level="NONE")),
    ]
    for code, ask in cases:
        with pytest.raises(SchemaRegistryError) as told:
            ask()
        assert told.value.error_code == code
        assert told.value.http_status_code == code // 100
    assert client.test_compatibility("iot-key", other) is False


def test_a_client_without_a_key_or_with_a_wrong_one_is_refused(served: Served) -> None:
    for conf in ({}, {"basic.auth.user.info": "consumers:hw_wrong"}):
        with pytest.raises(SchemaRegistryError) as told:
            SchemaRegistryClient({**of_client(served), **conf}).get_subjects()
        assert told.value.error_code == 40101
        assert "key" in told.value.error_message


# --- who is let in ---------------------------------------------------------------------------------------------------


def test_a_key_is_a_bearer_token_or_the_password_of_any_name(served: Served) -> None:
    def basic(pair: str) -> str:
        return "Basic " + base64.b64encode(pair.encode()).decode()

    good = [f"Bearer {served.key}", f"bearer  {served.key}", basic(f"anybody:{served.key}"), basic(f":{served.key}")]
    for field in good:
        assert served.ask("/subjects", authorization=field)[0] == 200, field
    wrong = [
        "",
        "Bearer",
        "Bearer ",
        served.key,
        f"Token {served.key}",
        basic(served.key),
        "Basic !",
        f"Bearer {served.key}x",
    ]
    for field in wrong:
        assert served.ask("/subjects", authorization=field)[0] == 401, field


@pytest.mark.parametrize(
    "path", ["/", "/subjects", "/schemas/ids/1", "/nothing", "/../healthz", "//healthz", "/healthz/x"]
)
def test_without_a_key_there_is_nothing_but_health(served: Served, path: str) -> None:
    for method in ("GET", "HEAD", "POST", "DELETE", "OPTIONS", "TRACE"):
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
        connection.request(method, path)
        answer = connection.getresponse()
        assert answer.status == 401, (method, path)
        assert answer.headers["WWW-Authenticate"].startswith('Bearer realm="headwater", Basic ')
        connection.close()
    assert served.ask("/healthz") == (200, "ok\n")


def test_a_revoked_key_is_refused_at_the_next_request(served: Served) -> None:
    now = datetime.now(UTC)
    text, row = new_key("short", frozenset({Scope.SCHEMAS_READ}), now=now, expires=None)
    add(served.keys, row)
    other, row = new_key("metrics", frozenset({Scope.METRICS_READ}), now=now, expires=None)
    add(served.keys, row)
    assert served.ask("/subjects", authorization=f"Bearer {text}")[0] == 200
    status, body = served.ask("/subjects", authorization=f"Bearer {other}")
    assert (status, body["error_code"]) == (403, 40301)
    assert "schemas:read" in body["message"]
    revoke(served.keys, "short", now)
    assert served.ask("/subjects", authorization=f"Bearer {text}")[0] == 401


def test_its_metrics_count_the_answers_and_hold_no_key(tmp_path: Path) -> None:
    port = held_port()
    keys = tmp_path / "keys.json"
    text, row = new_key("x", frozenset({Scope.SCHEMAS_READ}), now=datetime.now(UTC), expires=None)
    add(keys, row)
    with serving(keys=keys, metrics_port=port) as taken:
        at, metrics = Served(taken, keys, text), Served(port, keys, text)
        for field, path in ((f"Bearer {text}", "/subjects"), (f"Bearer {text}", "/subjects/x/versions"), (None, "/")):
            at.ask(path, authorization=field)
        status, shown = metrics.ask("/metrics")
        assert status == 200
        for line in (
            'headwater_schema_requests_total{status="200"} 1.0',
            'headwater_schema_requests_total{status="404"} 1.0',
            'headwater_schema_requests_total{status="401"} 1.0',
            'headwater_ready{component="schemas",gateway="*"} 1.0',
        ):
            assert line in shown
        assert text not in shown
        keys.unlink()
        assert metrics.ask("/readyz")[0] == 503


# --- by hand ---------------------------------------------------------------------------------------------------------


def ask(
    path: str, method: str = "GET", body: Any = None, query: dict[str, str] | None = None, **fields: str
) -> tuple[int, Any]:
    """Status and JSON of an answer; the path as it stands in a request, but already decoded."""
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    request = Request(method=method, path=tuple(path[1:].split("/")), query=query or {}, fields=named, body=data)
    answer = VIEW.respond(request)
    return answer.status, json.loads(answer.body)


def test_the_paths_that_people_and_other_clients_use() -> None:
    assert ask("/") == (200, {})
    assert ask("/subjects") == (200, sorted(SUBJECTS))
    assert ask("/subjects/") == (200, sorted(SUBJECTS))
    assert ask("/subjects", query={"subjectPrefix": "analytics", "offset": "1", "limit": "2"})[1] == [
        "analytics.alerts-value",
        "analytics.readings-value",
    ]
    assert ask("/subjects/iot.observations-value/versions") == (200, [1, 2])
    status, content = ask("/subjects/iot.gw.observations-value/versions/latest")
    assert (status, content["subject"], content["version"], content["id"]) == (200, "iot.gw.observations-value", 2, 6)
    assert json.loads(content["schema"]) == json.loads(SCHEMAS[6].text)
    assert ask("/subjects/iot.observations-value/versions/-1")[1]["id"] == 6
    assert ask("/subjects/iot-key/versions/1/schema") == (200, json.loads(SCHEMAS[1].text))
    assert ask("/subjects/iot-key/versions/1/referencedby") == (200, [])
    assert ask("/schemas/ids/1") == (200, {"schema": KEY_SCHEMA})
    assert ask("/schemas/ids/1/schema") == (200, json.loads(SCHEMAS[1].text))
    assert ask("/schemas/ids/6/versions") == (200, [{"subject": "iot.observations-value", "version": 2}])
    assert ask("/schemas/ids/6/subjects") == (200, ["iot.observations-value"])
    assert ask("/schemas/types") == (200, ["AVRO"])
    assert len(ask("/schemas")[1]) == len(SCHEMAS)
    assert len(ask("/schemas", query={"latestOnly": "true"})[1]) == len(SUBJECTS)
    assert ask("/contexts") == (200, ["."])
    assert ask("/config") == (200, {"compatibilityLevel": "BACKWARD_TRANSITIVE"})
    assert ask("/config/iot-key")[1]["error_code"] == 40408
    assert ask("/config/iot-key", query={"defaultToGlobal": "true"})[0] == 200
    assert ask("/mode") == (200, {"mode": "READONLY"})
    assert ask("/mode/iot-key")[1]["error_code"] == 40409
    assert ask("/mode/iot-key", query={"defaultToGlobal": "true"}) == (200, {"mode": "READONLY"})


@pytest.mark.parametrize(
    ("version", "code"),
    [("3", 40402), ("2147483647", 40402)]
    + [(v, 42202) for v in ("0", "x", "", "-2", "2147483648", "²", "1.0", "9" * 5000)],
)
def test_a_version_that_is_none(version: str, code: int) -> None:
    status, content = ask(f"/subjects/iot-key/versions/{version}/schema")
    assert (status, content["error_code"]) == (code // 100, code)


@pytest.mark.parametrize("number", ["0", "-1", "x", "1.0", "\u0661", "99", "9" * 5000])
def test_an_id_that_is_none(number: str) -> None:
    assert ask(f"/schemas/ids/{number}")[0] == 404


def test_a_new_field_with_a_default_is_compatible_and_one_without_is_told() -> None:
    content = json.loads(SCHEMAS[1].text)
    field = {"name": "site", "type": "string"}
    for extra, objection in (
        ({"default": ""}, []),
        ({}, ["it does not read version 1: /site: the writer has no such field, and the reader no default for it"]),
    ):
        grown = {**content, "fields": [*content["fields"], {**field, **extra}]}
        path = "/compatibility/subjects/iot-key/versions/latest"
        verdict = {"is_compatible": not objection}
        assert ask(path, "POST", {"schema": json.dumps(grown)}) == (200, verdict)
        verbose = ask(path, "POST", {"schema": json.dumps(grown)}, query={"verbose": "true"})
        assert verbose == (200, {**verdict, "messages": objection})
        assert ask("/compatibility/subjects/iot-key/versions", "POST", {"schema": json.dumps(grown)}) == (200, verdict)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff", 400),
        (b"[" * 100_000, 400),
        ([], 42201),
        ({}, 42201),
        ({"schema": 1}, 42201),
        ({"schema": {"type": "string"}}, 42201),
        ({"schema": "{"}, 42201),
        ({"schema": '"\\ud800"'}, 42201),
        ({"schema": '"string"', "schemaType": "JSON"}, 42201),
        ({"schema": '"string"', "schemaType": ["AVRO"]}, 42201),
        ({"schema": '"string"', "references": [{"name": "x"}]}, 42201),
        ({"schema": '"string"'}, None),
    ],
)
def test_a_body_that_is_no_schema_is_told_in_words(body: Any, code: int | None) -> None:
    for path, otherwise in (
        ("/subjects/iot-key", 40403),
        ("/subjects/iot-key/versions", 42205),
        ("/compatibility/subjects/iot-key/versions/latest", None),
    ):
        status, content = ask(path, "POST", body)
        expected = code or otherwise
        assert content.get("error_code") == expected
        assert status == (200 if expected is None else int(str(expected)[:3]))


def test_the_media_type_is_the_registrys_or_plain_json_where_it_is_asked_for() -> None:
    for accept, expected in (
        ("", CONTENT_TYPE),
        ("*/*", CONTENT_TYPE),
        ("application/json", "application/json"),
        ("application/vnd.schemaregistry.v1+json, application/json", CONTENT_TYPE),
    ):
        answer = VIEW.respond(Request(method="GET", path=("subjects",), fields={"accept": accept}))
        assert answer.content_type == expected
    assert ask("/subjects/iot-key", "POST", {"schema": KEY_SCHEMA}, content_type="text/html")[0] == 415
    assert (
        ask("/subjects/iot-key", "POST", {"schema": KEY_SCHEMA}, content_type="Application/JSON; charset=utf-8")[0]
        == 200
    )


def test_a_method_that_a_path_does_not_have_is_told_which_there_are() -> None:
    for path, method, allowed in (
        ("/subjects", "POST", "GET, HEAD"),
        ("/subjects/iot-key", "GET", "DELETE, POST"),
        ("/schemas/ids/1", "DELETE", "GET, HEAD"),
        ("/", "OPTIONS", "GET, HEAD, POST"),
    ):
        answer = VIEW.respond(Request(method=method, path=tuple(path[1:].split("/"))))
        assert (answer.status, answer.fields["Allow"]) == (405, allowed)
    assert VIEW.respond(Request(method="HEAD", path=("subjects",))).status == 200


SEGMENTS = st.sampled_from(
    ["subjects", "schemas", "ids", "versions", "config", "mode", "compatibility", "1", "latest", "iot-key", "..", ""]
) | st.text(max_size=8)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(SEGMENTS, max_size=6),
    st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]),
    st.dictionaries(
        st.sampled_from(["offset", "limit", "verbose", "subjectPrefix", "latestOnly"]), st.text(max_size=5)
    ),
    st.binary(max_size=40) | st.sampled_from([b'{"schema":"1"}', json.dumps({"schema": KEY_SCHEMA}).encode()]),
)
def test_any_request_has_an_answer_in_json(path: list[str], method: str, query: dict[str, str], body: bytes) -> None:
    answer = VIEW.respond(Request(method=method, path=tuple(path) or ("",), query=query, body=body))
    assert answer.status in (200, 400, 404, 405, 415, 422)
    json.loads(answer.body)
