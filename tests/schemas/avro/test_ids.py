"""The pinned schema ids: an id that was given out means the same schema for ever."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from fastavro import schemaless_reader, schemaless_writer
from fastavro.schema import fingerprint, parse_schema, to_parsing_canonical_form

import schemas.avro

FOLDER = Path(schemas.avro.__file__).parent
ROWS: list[dict[str, Any]] = json.loads((FOLDER / "ids.json").read_text(encoding="utf-8"))

#: A copy by hand: a change of a file together with ids.json still fails here. Lines are added, never changed.
PINNED = {
    1: ("iot-key", 1, "8d77dee80ed3ac1242cd1cac5f95eaf5bdde2235e6cf0a11a3d35863bbbe8eb4"),
    2: ("iot.registrations-value", 1, "9efcb5d0ce638b283d0731073d26a4a6739367071ec66a7283796ee23013a027"),
    3: ("iot.observations-value", 1, "9c0625a913e21a100c5bd92202a371a4678675d9fc5fa18a6b5455a175da88d0"),
    4: ("iot.management.req-value", 1, "ffbd75932944ec65f984018d2e5e9684bdf8e725d12fd5adcdb2ad4f9fb7c325"),
    5: ("iot.management.rep-value", 1, "1c7a54a030b4bbc3ffd523425af26e319548705ae0ffc4d7690802b7d9c46f0b"),
    6: ("iot.observations-value", 2, "fe80162a12498d4f4fb8b70b5c6ee2aa9f1d2d9007b3d4bbcb23e9e66babb117"),
    7: ("iot.management.req-value", 2, "3836a46001791aeef3fa5725f8a533383d8515c8f99a4c94308359b2fb8d7c11"),
    8: ("iot.management.rep-value", 2, "c59518ce7c719dbc8dc031821ec78095e5ef5ac9374205d2e60e21bc456dd912"),
    9: ("analytics.aggregates-value", 1, "75c06f9d8b8f19aeb8578e0871420130340b14d9801ca15474c315ae938a221a"),
    10: ("analytics.statistics-value", 1, "3e4356fa5d2587ec62b4f834700ee141bf9b1e08b11aea290f6ba5e06e5496a2"),
    11: ("analytics.readings-value", 1, "a4256564dd75579c0123da0e105868a1a3afce981580e98cc8adee0874e1e8bc"),
    12: ("analytics.alerts-value", 1, "bab3e914db9de071a4705242aef0249b9bd9db685f6165c864a6363b65cde17a"),
    13: ("iot.management.req-value", 3, "6190b7d5177bd2f80104d7ca64cbd29c4470c09596c04f75f332590e4fee5e22"),
    14: ("iot.management.rep-value", 3, "adfe4cbf6ab15ca606b4f38fcd558d9cdb45ed261ec2a9bdd75d3e8e170ab8f5"),
    15: ("iot.commands-key", 1, "77017e609e2f12bd219d16c2d463568ef3c4468c134617dfc4ef2ae51aff4c04"),
    16: ("iot.commands-value", 1, "538274f9c5d9dd65bb6cf723eb353ae15d769d359271b62a957e0fc75c30fcab"),
}


def load(row: dict[str, Any]) -> Any:
    return json.loads((FOLDER / row["file"]).read_text(encoding="utf-8"))


def test_given_out_ids_stay() -> None:
    assert {row["id"]: (row["subject"], row["version"], row["fingerprint"]) for row in ROWS} == PINNED


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["file"])
def test_file_has_the_pinned_fingerprint(row: dict[str, Any]) -> None:
    schema = load(row)
    assert fingerprint(to_parsing_canonical_form(schema), "SHA-256") == row["fingerprint"]
    assert f"{schema['namespace']}.{schema['name']}" == row["record"]


def test_ids_versions_and_files_are_used_once() -> None:
    for column in ("id", "file", "fingerprint"):
        values = [row[column] for row in ROWS]
        assert len(values) == len(set(values)), column
    assert len({(row["subject"], row["version"]) for row in ROWS}) == len(ROWS)
    assert all(0 < row["id"] < 2**31 for row in ROWS)


def test_versions_of_a_subject_count_from_one_with_growing_ids() -> None:
    for subject in {row["subject"] for row in ROWS}:
        mine = sorted((row["version"], row["id"]) for row in ROWS if row["subject"] == subject)
        assert [version for version, _ in mine] == list(range(1, len(mine) + 1))
        assert [an_id for _, an_id in mine] == sorted(an_id for _, an_id in mine)


def test_every_schema_file_is_pinned() -> None:
    assert {path.name for path in FOLDER.glob("*.avsc")} == {row["file"] for row in ROWS}


def reply(subject: str) -> dict[str, Any]:
    """A version 1 record of the subject as plain Avro values, written here by hand."""
    resource = {"id": 6, "path": "/1/0/6", "kind": "SINGLE_RESOURCE", "type": "INTEGER", "value": ("long", 7)}
    payload = {
        "code": "CONTENT",
        "kind": "read",
        "body": (
            "io.zeelos.leshan.avro.response.AvroReadResponseBody",
            {"content": ("io.zeelos.leshan.avro.resource.AvroResource", resource)},
        ),
    }
    common = {"ticket": "t", "serverId": "s", "ep": "e", "path": "/1/0/6", "timestamp": 1, "rep": payload}
    if subject == "iot.observations-value":
        return {**common, "observationId": "o"}
    if subject == "iot.management.rep-value":
        return common
    write = {"mode": "REPLACE", "node": ("io.zeelos.leshan.avro.resource.AvroResource", resource)}
    body = ("io.zeelos.leshan.avro.request.AvroWriteRequest", write)
    return {
        "serverId": "s",
        "ep": "e",
        "ticket": "t",
        "payload": {"kind": "write", "path": "/1/0/6", "contentFormat": "TLV", "body": body},
    }


@pytest.mark.parametrize("new", [row for row in ROWS if row["version"] > 1], ids=lambda row: row["file"])
def test_newer_versions_read_what_version_1_wrote(new: dict[str, Any]) -> None:
    old = next(row for row in ROWS if row["subject"] == new["subject"] and row["version"] == 1)
    writer, reader = parse_schema(load(old), {}), parse_schema(load(new), {})
    out = BytesIO()
    schemaless_writer(out, writer, reply(new["subject"]))
    out.seek(0)
    read: Any = schemaless_reader(out, writer, reader)
    if new["subject"] == "iot.management.req-value":
        assert read["paths"] == []
        assert read["expires"] is None
        resource = read["payload"]["body"]["node"]
    else:
        resource = read["rep"]["body"]["content"]
    assert resource == {
        "id": 6,
        "path": "/1/0/6",
        "kind": "SINGLE_RESOURCE",
        "type": "INTEGER",
        "value": 7,
        "timestamp": None,
    }
