"""What every row of `FORMATS` must do: give back what it wrote, and never fail with anything but a `CodecError`."""

from __future__ import annotations

import json
from pathlib import Path as FilePath

import cbor2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas.lwm2m.composite import ETCH
from schemas.lwm2m.errors import CodecError, NotInThisFormat, UnknownFormat, WrongPath, WrongValue
from schemas.lwm2m.formats import FORMATS, ContentFormat, decode, decode_series, encode
from schemas.lwm2m.nodes import (
    Instance,
    MultipleResource,
    Node,
    Object,
    ObjectLink,
    Resource,
    ResourceType,
    Value,
    values,
)
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path

#: The built-in definitions, and an object 32769 with a resource of every type.
DEFINITIONS = (
    Definitions.builtin().load_folder(FilePath(__file__).parents[1] / "data" / "oma").with_versions({32769: "1.2"})
)
EVERY = pytest.mark.parametrize("fmt", sorted(FORMATS), ids=lambda fmt: ContentFormat(fmt).name)
TREES = [fmt for fmt, codec in FORMATS.items() if not codec.single_value]

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
_INTEGER = st.integers(-(2**63), 2**63 - 1)
_FLOAT = st.floats(allow_nan=False, allow_infinity=False)
_SECONDS = st.integers(-(10**11), 10**11).map(lambda seconds: seconds * 1000)
_LINK = st.builds(ObjectLink, st.integers(0, 65535), st.integers(0, 65535))
VALUES: dict[ResourceType, st.SearchStrategy[Value]] = {
    ResourceType.STRING: _TEXT,
    ResourceType.FLOAT: _FLOAT,
    ResourceType.INTEGER: _INTEGER,
    ResourceType.TIME: _SECONDS,
    ResourceType.BOOLEAN: st.booleans(),
    ResourceType.OPAQUE: st.binary(max_size=40),
    ResourceType.OBJLNK: _LINK,
}
#: Resources of object 32769 by type; 2 and 7 are multiple, 2 is unsigned, 9 is a Corelnk.
SINGLE = {
    0: ResourceType.STRING,
    1: ResourceType.FLOAT,
    3: ResourceType.INTEGER,
    4: ResourceType.BOOLEAN,
    5: ResourceType.OPAQUE,
    6: ResourceType.TIME,
}
#: The types that a format which carries one value can carry; the others are in every one.
CARRIES = {
    ContentFormat.LINK: {ResourceType.STRING},
    ContentFormat.OPAQUE: {ResourceType.OPAQUE},
}
BASE = Path(32769, 0)


def _resource(path: Path, kind: ResourceType) -> st.SearchStrategy[Resource]:
    return VALUES[kind].map(lambda value: Resource(path=path, type=kind, value=value))


def _multiple(path: Path, kind: ResourceType, value: st.SearchStrategy[Value]) -> st.SearchStrategy[MultipleResource]:
    return st.dictionaries(st.integers(0, 65535), value, min_size=1, max_size=4).map(
        lambda by_id: MultipleResource(
            path=path,
            type=kind,
            instances=tuple(Resource(path=path.child(i), type=kind, value=by_id[i]) for i in sorted(by_id)),
        )
    )


def _resources(base: Path) -> st.SearchStrategy[Instance]:
    choices: dict[int, st.SearchStrategy[Resource | MultipleResource]] = {
        i: _resource(base.child(i), kind) for i, kind in SINGLE.items()
    }
    choices[2] = _multiple(base.child(2), ResourceType.INTEGER, st.integers(0, 2**63 - 1))
    choices[7] = _multiple(base.child(7), ResourceType.OBJLNK, _LINK)
    chosen = st.lists(st.sampled_from(sorted(choices)), unique=True, min_size=1)
    return chosen.flatmap(lambda ids: st.tuples(*(choices[i] for i in sorted(ids)))).map(
        lambda resources: Instance(path=base, resources=resources)
    )


SINGLES = st.sampled_from(sorted(SINGLE)).flatmap(lambda i: _resource(BASE.child(i), SINGLE[i]))
INSTANCES = _resources(BASE)
OBJECTS = (
    st.lists(st.integers(0, 65534), unique=True, min_size=1, max_size=3)
    .flatmap(lambda ids: st.tuples(*(_resources(Path(32769, i)) for i in sorted(ids))))
    .map(lambda instances: Object(path=Path(32769), instances=instances))
)
NODES: st.SearchStrategy[Node] = st.one_of(
    SINGLES,
    INSTANCES,
    OBJECTS,
    _multiple(BASE.child(2), ResourceType.INTEGER, st.integers(0, 2**63 - 1)),
    _multiple(BASE.child(7), ResourceType.OBJLNK, _LINK),
    _resource(Path(32769, 0, 7, 3), ResourceType.OBJLNK),
)
PATHS = st.sampled_from(
    [
        *(BASE.child(i) for i in range(10)),
        *(Path(32769, 0, 7, 3), Path(32769), BASE, Path(60000, 1, 2), Path(60000, 1), Path(60000), Path()),
        *(Path(3), Path(3, 0), Path(3, 0, 6), Path(3303, 0, 5700)),
    ]
)


def test_every_content_format_has_a_codec() -> None:
    # SenML-ETCH is another name of SenML in requests.
    assert set(FORMATS) == set(ContentFormat) - set(ETCH.values())


@pytest.mark.parametrize("fmt", TREES, ids=lambda fmt: ContentFormat(fmt).name)
@given(node=NODES)
@settings(max_examples=60, deadline=None)
def test_any_node_is_read_as_it_was_written(fmt: int, node: Node) -> None:
    payload = encode(fmt, node, DEFINITIONS)
    assert decode(fmt, payload, node.path, DEFINITIONS) == node
    assert decode_series(fmt, payload, node.path, DEFINITIONS) == [node]


@EVERY
@pytest.mark.parametrize("resource_id", sorted(SINGLE))
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_a_single_value_is_read_as_it_was_written(fmt: int, resource_id: int, data: st.DataObject) -> None:
    kind = SINGLE[resource_id]
    if fmt == ContentFormat.LINK:
        resource_id, kind = 9, ResourceType.STRING
        node = Resource(path=BASE.child(9), type=kind, value=data.draw(st.sampled_from(["", "</3/0>;ver=1.1,</4>"])))
    else:
        node = data.draw(_resource(BASE.child(resource_id), kind))
    if kind not in CARRIES.get(ContentFormat(fmt), set(ResourceType)):
        with pytest.raises(NotInThisFormat):
            encode(fmt, node, DEFINITIONS)
        return
    assert decode(fmt, encode(fmt, node, DEFINITIONS), node.path, DEFINITIONS) == node


@pytest.mark.parametrize("fmt", [ContentFormat.SENML_JSON, ContentFormat.SENML_CBOR, ContentFormat.JSON])
@given(
    node=INSTANCES,
    times=st.lists(st.integers(2**28 * 1000, 4 * 10**12), unique=True, min_size=1, max_size=3),
)
@settings(max_examples=30, deadline=None)
def test_times_of_the_device_are_kept(fmt: int, node: Instance, times: list[int]) -> None:
    single = next((r for r in node.resources if isinstance(r, Resource)), None)
    if single is None:
        return
    stamped = [Resource(path=single.path, type=single.type, value=single.value, timestamp=t) for t in sorted(times)]
    for one in stamped:
        payload = encode(fmt, one, DEFINITIONS)
        assert decode(fmt, payload, one.path, DEFINITIONS) == one


@EVERY
@given(payload=st.binary(max_size=200), path=PATHS)
@settings(max_examples=150, deadline=None)
def test_random_bytes_give_a_node_of_the_path_or_an_error(fmt: int, payload: bytes, path: Path) -> None:
    _never_fails_otherwise(fmt, payload, path)


@EVERY
@given(node=NODES, path=PATHS, data=st.data())
@settings(max_examples=100, deadline=None)
def test_mutated_payloads_give_a_node_of_the_path_or_an_error(
    fmt: int, node: Node, path: Path, data: st.DataObject
) -> None:
    try:
        payload = bytearray(encode(fmt, node, DEFINITIONS))
    except NotInThisFormat:
        return
    for _ in range(data.draw(st.integers(0, 3))):
        if payload:
            payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    _never_fails_otherwise(fmt, bytes(payload), data.draw(st.sampled_from([node.path, path])))


@EVERY
@given(node=st.one_of(SINGLES, INSTANCES))
@settings(max_examples=15, deadline=None)
def test_a_payload_cut_anywhere_never_fails_otherwise(fmt: int, node: Node) -> None:
    try:
        payload = encode(fmt, node, DEFINITIONS)
    except NotInThisFormat:
        return
    for end in range(len(payload)):
        _never_fails_otherwise(fmt, payload[:end], node.path)


_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), _TEXT, st.binary(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.one_of(
                st.sampled_from(
                    ["bn", "bt", "bv", "bver", "n", "t", "v", "vs", "vb", "vd", "vlo", "e", "sv", "bv", "ov", "x_"]
                ),
                st.integers(-6, 9),
            ),
            st.one_of(inner, st.sampled_from(["/3/0/", "/32769/0/", "0", "1", "6/0", "AAA="])),
            max_size=5,
        ),
    ),
    max_leaves=20,
)


_LEVEL = st.one_of(
    st.sampled_from([0, 1, 2, 3, 7, 32769, 65536, -1]),
    st.lists(st.sampled_from([0, 1, 2, 7, 32769]), max_size=5).map(tuple),
    st.sampled_from([1.0, "3", True, None, b"3"]),
)
_LEVELS = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), _TEXT, st.binary(max_size=5)),
    lambda inner: st.one_of(st.dictionaries(_LEVEL, inner, max_size=4), st.lists(inner, max_size=2)),
    max_leaves=12,
)


@given(value=st.one_of(_LEVELS, st.dictionaries(_LEVEL, _LEVELS, min_size=1, max_size=3)), path=PATHS)
@settings(max_examples=300, deadline=None)
@example(value={32769: {0: {1: 10**400}}}, path=BASE)
@example(value={(32769, 0): {1: 1}, (32769, 0, 1): 1}, path=BASE)
def test_any_maps_in_maps_never_fail_otherwise(value: object, path: Path) -> None:
    _never_fails_otherwise(ContentFormat.LWM2M_CBOR, cbor2.dumps(value), path)


@given(value=_JSON, path=PATHS)
@settings(max_examples=300, deadline=None)
@example(value=[{-2: "/32769/0/1", 2: 10**400}], path=Path(32769, 0, 1))
def test_well_formed_json_and_cbor_with_any_content_never_fail_otherwise(value: object, path: Path) -> None:
    _never_fails_otherwise(ContentFormat.SENML_CBOR, cbor2.dumps(value), path)
    _never_fails_otherwise(ContentFormat.CBOR, cbor2.dumps(value), path)
    _never_fails_otherwise(ContentFormat.LWM2M_CBOR, cbor2.dumps(value), path)
    text = json.dumps(value, default=lambda raw: raw.decode("latin-1")).encode()
    _never_fails_otherwise(ContentFormat.SENML_JSON, text, path)
    _never_fails_otherwise(ContentFormat.JSON, text, path)


def _never_fails_otherwise(fmt: int, payload: bytes, path: Path) -> None:
    try:
        nodes = decode_series(fmt, payload, path, DEFINITIONS, 1_700_000_000_000)
    except CodecError as exc:
        assert str(exc)
        return
    for node in nodes:
        assert path.contains(node.path)
        assert path.depth == 0 or node.path == path
        for value in values(node):
            assert node.path.contains(value.path)
            assert (
                type(value.value)
                is {
                    ResourceType.STRING: str,
                    ResourceType.FLOAT: float,
                    ResourceType.INTEGER: int,
                    ResourceType.TIME: int,
                    ResourceType.BOOLEAN: bool,
                    ResourceType.OPAQUE: bytes,
                    ResourceType.OBJLNK: ObjectLink,
                }[value.type]
            )
            if isinstance(value.value, str):
                value.value.encode()


#: 64 KiB of what could make a careless reader slow or deep.
HOSTILE = {
    "zeros": bytes(65536),
    "empty TLV entries": bytes.fromhex("C000") * 32768,
    "nested TLV": bytes.fromhex("08007F") * 21845,
    "brackets": b"[" * 65536,
    "braces": b'{"e":' * 13000,
    "nested arrays in CBOR": b"\x81" * 65536,
    "endless arrays in CBOR": b"\x9f" * 65536,
    "a long base name before many records": b'[{"bn":"/' + b"1" * 32000 + b'"}' + b',{"n":"1"}' * 3300 + b"]",
    "many records": b'[{"bn":"/3/0/"}' + b',{"n":"9","v":1}' * 4000 + b"]",
    "many instances": b"[" + b",".join(b'{"n":"/3/0/6/%d","v":1}' % i for i in range(2800)) + b"]",
    "digits": b"[" + b"9" * 65000 + b"]",
    "a huge exponent": b'[{"n":"/3303/0/5700","v":1e' + b"9" * 60000 + b"}]",
    "an unclosed string": b'"' + b"\\" * 65535,
    "unclosed quotes of links": b'</>;a="' * 9000,
    "spaces in links": b"</>;a" + b" " * 65000 + b"x",
    "many links": b"</1/0>," * 9362 + b"</2>",
    "attributes of a link": b"</1>" + b";a" * 32000,
    "a huge decimal fraction": bytes.fromhex("81a200") + b"\x6c/3303/0/5700" + bytes.fromhex("02c4821a3b9aca0001"),
    "base64": b"A" * 65536,
    "a long text": b"\xc3\xa4" * 32768,
}


# Linear readers take a few milliseconds, quadratic ones would take minutes.
@pytest.mark.timeout(60)
@EVERY
@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_hostile_payloads_are_read_in_proportion_to_their_size(fmt: int, name: str) -> None:
    payload = HOSTILE[name]
    for path in (Path(3), Path(3, 0), Path(3, 0, 6), Path(3, 0, 9), Path(60000, 0, 0), Path(32769, 0, 9)):
        _never_fails_otherwise(fmt, payload, path)


@EVERY
def test_a_single_value_format_refuses_what_may_be_several(fmt: int) -> None:
    if FORMATS[fmt].single_value:
        for path in (Path(), Path(3), Path(3, 0), Path(3, 0, 6)):
            with pytest.raises(NotInThisFormat):
                decode(fmt, b"1", path, DEFINITIONS)
        with pytest.raises(NotInThisFormat):
            encode(fmt, Instance(path=Path(3, 0)), DEFINITIONS)
    else:
        empty = encode(fmt, MultipleResource(path=Path(3, 0, 6), type=ResourceType.INTEGER), DEFINITIONS)
        assert decode(fmt, empty, Path(3, 0, 6), DEFINITIONS) == MultipleResource(
            path=Path(3, 0, 6), type=ResourceType.INTEGER
        )


@EVERY
def test_a_value_in_the_wrong_type_is_not_written(fmt: int) -> None:
    for kind, value in ((ResourceType.STRING, "21.5"), (ResourceType.BOOLEAN, True), (ResourceType.INTEGER, "x")):
        with pytest.raises(WrongValue, match="/3303/0/5700"):
            encode(fmt, Resource(path=Path(3303, 0, 5700), type=kind, value=value), DEFINITIONS)


@EVERY
def test_a_whole_number_is_written_as_a_float_where_the_resource_is_one(fmt: int) -> None:
    if fmt in CARRIES:
        return
    number = Resource(path=Path(3303, 0, 5700), type=ResourceType.INTEGER, value=21)
    node = decode(fmt, encode(fmt, number, DEFINITIONS), number.path, DEFINITIONS)
    assert node == Resource(path=number.path, type=ResourceType.FLOAT, value=21.0)


@EVERY
def test_a_node_with_values_of_another_path_is_not_written(fmt: int) -> None:
    stray = Resource(path=Path(5, 0, 1), type=ResourceType.STRING, value="coap://elsewhere")
    for node in (
        Instance(path=Path(3, 0), resources=(stray,)),
        Resource(path=Path(3, 0, 70000), type=ResourceType.STRING, value=""),
    ):
        with pytest.raises(WrongPath):
            encode(fmt, node, DEFINITIONS)


@pytest.mark.parametrize("fmt", [-1, 41, 65000, 99999])
def test_an_unknown_format_is_named(fmt: int) -> None:
    with pytest.raises(UnknownFormat, match=str(fmt)):
        decode(fmt, b"", Path(3), DEFINITIONS)
    with pytest.raises(UnknownFormat, match=str(fmt)):
        encode(fmt, Object(path=Path(3)), DEFINITIONS)
