"""The schema files say what the contract says, field by field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import schemas.avro

FOLDER = Path(schemas.avro.__file__).parent
NAMESPACE = "io.zeelos.leshan.avro."

#: Fields in order; ``?`` is a union with null whose default is null, ``|`` a union without default.
VERSION_1 = {
    "AvroKey": "ep: string",
    "registration.AvroRegistrationResponse": "kind: registration.AvroRegistrationKind; body: "
    "registration.AvroRegistrationNew|registration.AvroRegistrationUpdate|registration.AvroRegistrationDelete",
    "registration.AvroRegistrationKind": "{NEW UPDATE DELETE}",
    "registration.AvroRegistrationNew": "ep: string; serverId: string; regDate: long; address: string; port: int; "
    "regAddr: string; regPort: int; lt: long; sms: string?; ver: string; bnd: registration.AvroBnd; regId: string; "
    "links: [registration.AvroLink]; attributes: <string>?; root: string; lastUp: long",
    "registration.AvroBnd": "{U UQ S SQ US UQS}",
    "registration.AvroLink": "url: string; at: <string>",
    "registration.AvroRegistrationUpdate": "ep: string; serverId: string; regId: string; address: string; port: int; "
    "lt: long?; sms: string?; bnd: registration.AvroBnd?; links: [registration.AvroLink]?; attributes: <string>?; "
    "lastUp: long",
    "registration.AvroRegistrationDelete": "ep: string; serverId: string; expired: boolean; lastUp: long",
    "request.AvroRequest": "serverId: string; ep: string; ticket: string; payload: request.AvroRequestPayload",
    "request.AvroRequestPayload": "kind: request.AvroRequestKind; path: string; "
    "contentFormat: request.AvroContentFormat; body: null|request.AvroCreateRequest|request.AvroExecuteRequest|"
    "request.AvroWriteAttributesRequest|request.AvroWriteRequest=null",
    "request.AvroRequestKind": "{read write writeAttributes execute observe observeCancel delete discover create}",
    "request.AvroContentFormat": "{TLV JSON_CODE TEXT_CODE OPAQUE_CODE LINK_CODE}",
    "request.AvroCreateRequest": "instance: resource.AvroInstanceResource",
    "request.AvroExecuteRequest": "parameters: string",
    "request.AvroWriteAttributesRequest": "observeSpec: string",
    "request.AvroWriteRequest": "mode: request.AvroWriteRequestMode; node: "
    "resource.AvroObjectResource|resource.AvroInstanceResource|resource.AvroResource",
    "request.AvroWriteRequestMode": "{REPLACE UPDATE}",
    "resource.AvroObjectResource": "id: int; kind: resource.AvroResourceKind; "
    "instances: [resource.AvroInstanceResource]",
    "resource.AvroResourceKind": "{OBJECT INSTANCE MULTIPLE_RESOURCE SINGLE_RESOURCE}",
    "resource.AvroInstanceResource": "id: int; kind: resource.AvroResourceKind; resources: [resource.AvroResource]; "
    "multipleResources: [resource.AvroMultipleResource]?",
    "resource.AvroResource": "id: int; path: string; kind: resource.AvroResourceKind; type: resource.AvroType; "
    "value: string|double|long|boolean",
    "resource.AvroType": "{STRING FLOAT INTEGER BOOLEAN OPAQUE TIME OBJLNK}",
    "resource.AvroMultipleResource": "id: int; path: string; kind: resource.AvroResourceKind; "
    "type: resource.AvroType; resources: <resource.AvroResource>",
    "response.AvroResponse": "ticket: string; serverId: string; ep: string; path: string; timestamp: long; "
    "rep: response.AvroResponsePayload",
    "response.AvroResponseObserve": "ticket: string; observationId: string; serverId: string; ep: string; "
    "path: string; timestamp: long; rep: response.AvroResponsePayload",
    "response.AvroResponsePayload": "code: response.AvroResponseCode; kind: request.AvroRequestKind; "
    "body: null|response.AvroReadResponseBody|response.AvroDiscoverResponse|response.AvroCreateResponse|"
    "response.AvroGenericResponse=null",
    "response.AvroResponseCode": "{CREATED DELETED CHANGED CONTENT BAD_REQUEST UNAUTHORIZED METHOD_NOT_ALLOWED "
    "FORBIDDEN NOT_FOUND NOT_ACCEPTABLE REQUEST_ENTITY_INCOMPLETE PRECONDITION_FAILED REQUEST_ENTITY_TOO_LARGE "
    "UNSUPPORTED_CONTENT_FORMAT INTERNAL_SERVER_ERROR UNKNOWN}",
    "response.AvroReadResponseBody": "content: resource.AvroObjectResource|resource.AvroInstanceResource|"
    "resource.AvroResource|resource.AvroMultipleResource",
    "response.AvroDiscoverResponse": "objectLinks: string",
    "response.AvroCreateResponse": "location: string",
    "response.AvroGenericResponse": "message: string",
    "analytics.AvroAggregate": "serverId: string; ep: string; path: string?; start: long; end: long; count: long; "
    "min: double; max: double; mean: double; sum: double; last: double",
    "analytics.AvroStatistics": "serverId: string; ep: string; path: string; timestamp: long; mean: double; "
    "std_dev: double; variance: double; stream_length: long",
    "analytics.AvroEnrichedReading": "serverId: string; ep: string; path: string; timestamp: long; value: double; "
    "mean: double; std_dev: double; z_score: double; outlier: boolean",
    "analytics.AvroAlert": "id: string; rule: string; serverId: string; ep: string; path: string; severity: string; "
    "state: analytics.AvroAlertState; value: double; threshold: double; since: long; timestamp: long; summary: string",
    "analytics.AvroAlertState": "{FIRING RESOLVED}",
    "command.AvroCommandKey": "ep: string; request: string",
    "command.AvroCommandStatus": "serverId: string; ep: string; ticket: string; kind: string; path: string; "
    "state: command.AvroCommandState; since: long; received: long; expires: long; attempts: int; message: string",
    "command.AvroCommandState": "{QUEUED SENT ANSWERED EXPIRED FAILED}",
}

#: What version 2 says differently.
VERSION_2 = {
    "request.AvroRequest": VERSION_1["request.AvroRequest"] + "; paths: [string]=[]; expires: long?",
    "request.AvroRequestKind": "{read write writeAttributes execute observe observeCancel delete discover create "
    "readComposite writeComposite observeComposite observeCompositeCancel send}",
    "request.AvroContentFormat": "{TLV JSON_CODE TEXT_CODE OPAQUE_CODE LINK_CODE SENML_JSON SENML_CBOR CBOR}",
    "resource.AvroResource": VERSION_1["resource.AvroResource"] + "; timestamp: long?",
}

#: What version 3 says differently from version 2.
VERSION_3 = {
    "request.AvroContentFormat": VERSION_2["request.AvroContentFormat"][:-1] + " LWM2M_CBOR}",
    "request.AvroRequestPayload": "kind: request.AvroRequestKind; path: string; "
    "contentFormat: request.AvroContentFormat; body: null|request.AvroCreateRequest|request.AvroExecuteRequest|"
    "request.AvroWriteAttributesRequest|request.AvroWriteRequest|request.AvroWriteCompositeRequest|"
    "request.AvroFileRequest=null",
    "request.AvroWriteCompositeRequest": "resources: [resource.AvroResource]",
    "request.AvroFileRequest": "sha256: string; size: long; name: string",
    "response.AvroResponsePayload": "code: response.AvroResponseCode; kind: request.AvroRequestKind; "
    "body: null|response.AvroReadResponseBody|response.AvroDiscoverResponse|response.AvroCreateResponse|"
    "response.AvroGenericResponse|response.AvroCompositeResponse=null",
    "response.AvroCompositeResponse": "resources: [resource.AvroResource]",
}

VERSIONS = {".v1.": VERSION_1, ".v2.": VERSION_1 | VERSION_2, ".v3.": VERSION_1 | VERSION_2 | VERSION_3}


def describe_types(schema: Any, found: dict[str, str]) -> str:
    """The name of a type, its nested types written into ``found``."""
    match schema:
        case str():
            return schema.removeprefix(NAMESPACE)
        case list():
            return "|".join(describe_types(branch, found) for branch in schema)
        case {"type": "array", "items": items}:
            return f"[{describe_types(items, found)}]"
        case {"type": "map", "values": values}:
            return f"<{describe_types(values, found)}>"
        case {"type": "enum", "name": name, "namespace": namespace, "symbols": symbols}:
            found[full := f"{namespace}.{name}".removeprefix(NAMESPACE)] = "{" + " ".join(symbols) + "}"
            return full
        case {"type": "record", "name": name, "namespace": namespace, "fields": fields}:
            full = f"{namespace}.{name}".removeprefix(NAMESPACE)
            found[full] = "; ".join(f"{field['name']}: {describe_field(field, found)}" for field in fields)
            return full
        case _:
            raise AssertionError(schema)


def describe_field(field: dict[str, Any], found: dict[str, str]) -> str:
    text = describe_types(field["type"], found)
    if "default" not in field:
        return text
    if text.startswith("null|") and text.count("|") == 1 and field["default"] is None:
        return text.removeprefix("null|") + "?"
    return f"{text}={json.dumps(field['default'])}"


FILES = sorted(FOLDER.glob("*.avsc"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_file_says_what_the_contract_says(file: Path) -> None:
    found: dict[str, str] = {}
    describe_types(json.loads(file.read_text(encoding="utf-8")), found)
    expected = next(every for version, every in VERSIONS.items() if version in file.name)
    assert found == {name: expected[name] for name in found}


def test_files_of_version_1_hold_every_record_of_the_contract() -> None:
    found: dict[str, str] = {}
    for file in FILES:
        if ".v1." in file.name:
            describe_types(json.loads(file.read_text(encoding="utf-8")), found)
    assert found.keys() == VERSION_1.keys()
