"""Text, opaque, CBOR: the formats of one value (OMA LwM2M Core 1.1, appendix C; RFC 8949, appendix A)."""

import math

import pytest

from schemas.lwm2m import cbor, opaque, text
from schemas.lwm2m.errors import CodecError, MalformedPayload, NotInThisFormat, WrongValue
from schemas.lwm2m.nodes import ObjectLink, Resource, ResourceType, Value
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path

BUILTIN = Definitions.builtin()
STRING, FLOAT, INTEGER = Path(3, 0, 0), Path(3303, 0, 5700), Path(3, 0, 9)
BOOLEAN, OPAQUE, TIME = Path(1, 0, 6), Path(5, 0, 0), Path(3, 0, 13)
UNKNOWN = Path(60000, 0, 1)


@pytest.mark.parametrize(
    ("payload", "path", "value"),
    [
        (b"Open Mobile Alliance", STRING, "Open Mobile Alliance"),
        (b"", STRING, ""),
        ("Kelvin °".encode(), STRING, "Kelvin °"),
        (b"21.5", FLOAT, 21.5),
        (b"-21", FLOAT, -21.0),
        (b"1e-3", FLOAT, 0.001),
        (b".5", FLOAT, 0.5),
        (b"100", INTEGER, 100),
        (b"-9223372036854775808", INTEGER, -(2**63)),
        (b"9223372036854775807", INTEGER, 2**63 - 1),
        (b"1", BOOLEAN, True),
        (b"0", BOOLEAN, False),
        (b"AP8=", OPAQUE, b"\x00\xff"),
        (b"1367491215", TIME, 1367491215000),
        (b"1367491215.5", TIME, 1367491215500),
        (b"21.5", UNKNOWN, "21.5"),
    ],
)
def test_text_is_read_by_the_type_of_the_resource(payload: bytes, path: Path, value: Value) -> None:
    node = text.decode(payload, path, BUILTIN)
    assert node.value == value
    assert type(node.value) is type(value)


@pytest.mark.parametrize(
    ("payload", "path", "words"),
    [
        (b"warm", FLOAT, "no decimal number"),
        (b"", FLOAT, "no decimal number"),
        (b" 21.5", FLOAT, "no decimal number"),
        (b"2_1", FLOAT, "no decimal number"),
        (b"nan", FLOAT, "no decimal number"),
        (b"inf", FLOAT, "no decimal number"),
        (b"0x10", FLOAT, "no decimal number"),
        ("\u0662\u0661".encode(), FLOAT, "no decimal number"),
        (b"1e999", FLOAT, "too large"),
        (b"21.5", INTEGER, "no whole number"),
        (b"9223372036854775808", INTEGER, "too large"),
        (b"1" * 5000, INTEGER, "no whole number"),
        (b"true", BOOLEAN, "0 or 1"),
        (b"AP8", OPAQUE, "base64"),
        (b"A P8=", OPAQUE, "base64"),
        ("ä".encode(), OPAQUE, "base64"),
        (b"now", TIME, "seconds since 1970"),
        (b"99999999999999999999", TIME, "out of range"),
        (b"\xff", STRING, "UTF-8"),
        (b"1", Path(3, 0, 6), "several instances"),
        (b"1", Path(3, 0), "no resource"),
    ],
)
def test_text_that_does_not_fit_is_refused_in_words(payload: bytes, path: Path, words: str) -> None:
    with pytest.raises(CodecError, match=words):
        text.decode(payload, path, BUILTIN)


@pytest.mark.parametrize(
    ("kind", "path", "value", "payload"),
    [
        (ResourceType.FLOAT, FLOAT, 1e-7, b"0.0000001"),
        (ResourceType.FLOAT, FLOAT, 1e16, b"10000000000000000"),
        (ResourceType.BOOLEAN, BOOLEAN, True, b"1"),
        (ResourceType.TIME, TIME, 1367491215000, b"1367491215"),
        (ResourceType.TIME, TIME, 1000000, b"1000"),
        (ResourceType.TIME, TIME, 1500, b"1.5"),
        (ResourceType.OBJLNK, UNKNOWN, ObjectLink(3303, 0), b"3303:0"),
        (ResourceType.OPAQUE, OPAQUE, b"\x00\xff", b"AP8="),
    ],
)
def test_text_is_written_without_exponent_and_in_seconds(
    kind: ResourceType, path: Path, value: Value, payload: bytes
) -> None:
    assert text.encode(Resource(path=path, type=kind, value=value), BUILTIN) == payload


def test_a_number_that_text_does_not_have_is_not_written() -> None:
    with pytest.raises(NotInThisFormat, match="inf"):
        text.encode(Resource(path=FLOAT, type=ResourceType.FLOAT, value=math.inf), BUILTIN)


def test_opaque_is_the_bytes() -> None:
    assert opaque.decode(b"\x00\xff", OPAQUE, BUILTIN).value == b"\x00\xff"
    assert opaque.decode(b"\x00\xff", UNKNOWN, BUILTIN).type is ResourceType.OPAQUE
    with pytest.raises(WrongValue, match="STRING"):
        opaque.decode(b"x", STRING, BUILTIN)
    with pytest.raises(NotInThisFormat, match="OPAQUE"):
        opaque.encode(Resource(path=STRING, type=ResourceType.STRING, value="x"), BUILTIN)


@pytest.mark.parametrize(
    ("payload", "path", "value"),
    [
        ("00", INTEGER, 0),
        ("17", INTEGER, 23),
        ("1818", INTEGER, 24),
        ("1903e8", INTEGER, 1000),
        ("1a000f4240", INTEGER, 1000000),
        ("1b000000e8d4a51000", INTEGER, 1000000000000),
        ("20", INTEGER, -1),
        ("3903e7", INTEGER, -1000),
        ("f93c00", INTEGER, 1),
        ("f90000", FLOAT, 0.0),
        ("fb3ff199999999999a", FLOAT, 1.1),
        ("fa47c35000", FLOAT, 100000.0),
        ("f97bff", FLOAT, 65504.0),
        ("01", FLOAT, 1.0),
        ("f97c00", FLOAT, math.inf),
        ("c48221196ab3", FLOAT, 273.15),
        ("f5", BOOLEAN, True),
        ("f4", BOOLEAN, False),
        ("4401020304", OPAQUE, b"\x01\x02\x03\x04"),
        ("6449455446", STRING, "IETF"),
        ("62c3bc", STRING, "ü"),
        ("7f657374726561646d696e67ff", STRING, "streaming"),
        ("c11a514b67b0", TIME, 1363896240000),
        ("c1fb41d452d9ec200000", TIME, 1363896240500),
        ("1a514b67b0", TIME, 1363896240000),
        ("01", UNKNOWN, 1),
        ("f93e00", UNKNOWN, 1.5),
        ("c11a514b67b0", UNKNOWN, 1363896240000),
        # Tag 0, a date and time as text: appendix A has the first, Zephyr's client tells its clock like the second.
        ("c074323031332d30332d32315432303a30343a30305a", TIME, 1363896240000),
        ("c07819323031332d30332d32315432303a30343a30302d30303a3030", TIME, 1363896240000),
        ("c0781d323031332d30332d32315432323a30343a30302e3530302b30323a3030", UNKNOWN, 1363896240500),
        ("4401020304", UNKNOWN, b"\x01\x02\x03\x04"),
    ],
)
def test_cbor_scalars_of_rfc_8949(payload: str, path: Path, value: Value) -> None:
    node = cbor.decode(bytes.fromhex(payload), path, BUILTIN)
    assert node.value == value
    assert type(node.value) is type(value)


@pytest.mark.parametrize(
    ("payload", "path", "error", "words"),
    [
        ("", INTEGER, MalformedPayload, "no valid CBOR"),
        ("18", INTEGER, MalformedPayload, "no valid CBOR"),
        ("0000", INTEGER, MalformedPayload, "after 1 of 2 bytes"),
        ("80", INTEGER, MalformedPayload, "collection"),
        ("a0", INTEGER, MalformedPayload, "collection"),
        ("f6", INTEGER, MalformedPayload, "null"),
        ("f7", INTEGER, MalformedPayload, "must be a number"),
        ("ff", INTEGER, MalformedPayload, "no valid CBOR"),
        ("c249010000000000000000", INTEGER, MalformedPayload, "tag"),
        ("c074323031332d30332d32315432303a30343a3030", TIME, MalformedPayload, "no valid CBOR"),
        ("c073323031332d30332d32315432303a30343a3030", TIME, MalformedPayload, "tag 0.*with a zone"),
        ("c06432303133", TIME, MalformedPayload, "tag 0.*with a zone"),
        ("c01a514b67b0", TIME, MalformedPayload, "tag 0.*with a zone"),
        ("c074323031332d30332d32315432303a30343a30305a", INTEGER, WrongValue, "is a time"),
        ("c16161", TIME, MalformedPayload, "must be a number"),
        ("c11a514b67b0", INTEGER, WrongValue, "is a time"),
        ("d82363285b29", STRING, MalformedPayload, "tag"),
        ("d81c81d81d00", STRING, MalformedPayload, "tag"),
        ("62c328", STRING, MalformedPayload, "no valid CBOR"),
        ("1bffffffffffffffff", INTEGER, WrongValue, "too large"),
        ("f93e00", INTEGER, WrongValue, "whole"),
        ("6431302e35", FLOAT, WrongValue, "FLOAT, but the value is a text"),
        ("01", BOOLEAN, WrongValue, "BOOLEAN, but"),
        ("01", Path(3, 0, 6), NotInThisFormat, "several instances"),
    ],
)
def test_cbor_that_does_not_fit_is_refused_in_words(
    payload: str, path: Path, error: type[CodecError], words: str
) -> None:
    with pytest.raises(error, match=words):
        cbor.decode(bytes.fromhex(payload), path, BUILTIN)


def test_cbor_time_has_tag_1() -> None:
    assert cbor.encode(Resource(path=TIME, type=ResourceType.TIME, value=1363896240000), BUILTIN) == bytes.fromhex(
        "c11a514b67b0"
    )
