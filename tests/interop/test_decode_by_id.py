"""A consumer that knows only the published ids and schema files decodes every kind of record: none of our code."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import fastavro
import pytest

from schemas.avro.records import RequestKind
from tests.interop.gateway_process import GatewayProcess
from tests.interop.leshan_device import LeshanDevice

pytestmark = [pytest.mark.interop, pytest.mark.kafka]

SCHEMAS = Path(__file__).parents[2] / "schemas" / "avro"


def decode(data: bytes) -> tuple[str, dict[str, Any]]:
    """Confluent's wire format: a zero, the id in four bytes big-endian, then Avro binary."""
    assert data[0] == 0
    number = int.from_bytes(data[1:5], "big")
    entry = next(one for one in json.loads((SCHEMAS / "ids.json").read_text()) if one["id"] == number)
    schema = fastavro.parse_schema(json.loads((SCHEMAS / entry["file"]).read_text()))
    stream = io.BytesIO(data[5:])
    record = fastavro.schemaless_reader(stream, schema, None)
    assert not stream.read(), "bytes are left over"
    assert isinstance(record, dict)
    return entry["record"], record


def test_every_topic_is_decoded_by_schema_id_alone(gateway: GatewayProcess, leshan: LeshanDevice) -> None:
    topics, ep = gateway.topics, leshan.endpoint
    reply = gateway.ask(ep, RequestKind.READ, "/3/0/0")
    leshan.set("/3303/0/5700", "17.75")

    registration = gateway.raw(topics.registrations, lambda one: ep.encode() in (one.value() or b""))
    name, record = decode(registration.value() or b"")
    assert (name, record["kind"]) == ("io.zeelos.leshan.avro.registration.AvroRegistrationResponse", "NEW")
    assert (record["body"]["ep"], record["body"]["serverId"]) == (ep, gateway.gateway_id)
    name, key = decode(registration.key() or b"")
    assert (name, key) == ("io.zeelos.leshan.avro.AvroKey", {"ep": ep})

    request = gateway.raw(topics.requests, lambda one: reply.ticket.encode() in (one.value() or b""))
    name, record = decode(request.value() or b"")
    assert name == "io.zeelos.leshan.avro.request.AvroRequest"
    assert (record["ep"], record["payload"]["kind"], record["payload"]["path"]) == (ep, "read", "/3/0/0")

    answer = gateway.raw(topics.replies, lambda one: reply.ticket.encode() in (one.value() or b""))
    name, record = decode(answer.value() or b"")
    assert name == "io.zeelos.leshan.avro.response.AvroResponse"
    assert (record["ep"], record["rep"]["code"]) == (ep, "CONTENT")
    assert record["rep"]["body"]["content"]["value"] == "Eclipse Leshan"
    assert decode(answer.key() or b"")[1] == {"ep": ep}

    def is_told(message: Any) -> bool:
        _, told = decode(message.value())
        content = (told["rep"]["body"] or {}).get("content", {})
        return bool(told["ep"] == ep and content.get("value") == 17.75)

    notification = gateway.raw(topics.observations, is_told)
    name, record = decode(notification.value() or b"")
    assert name == "io.zeelos.leshan.avro.response.AvroResponseObserve"
    assert (record["path"], record["serverId"], record["rep"]["kind"]) == (
        "/3303/0/5700",
        gateway.gateway_id,
        "observe",
    )
    content = record["rep"]["body"]["content"]
    assert (content["id"], content["path"], content["type"]) == (5700, "/3303/0/5700", "FLOAT")
