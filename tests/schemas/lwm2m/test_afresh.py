"""What came before its model was known, read by the model: the same as if it had been known at once."""

from __future__ import annotations

from pathlib import Path as FilePath

import pytest

from schemas.avro import serde
from schemas.avro.records import Notification, ReadBody
from schemas.lwm2m import formats
from schemas.lwm2m.afresh import afresh
from schemas.lwm2m.formats import ContentFormat
from schemas.lwm2m.nodes import Instance, MultipleResource, Node, Object, ObjectLink, Resource, ResourceType, Value
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path
from tests.sink_samples import notification

OWN = FilePath(__file__).parents[2] / "data" / "oma"
NOTHING = Definitions()
BOILER = Definitions().load_folder(OWN).with_versions({32769: "1.2"})
HERE = Path(32769, 0)


def _resource(an_id: int, kind: ResourceType, value: Value, instance: int | None = None) -> Resource:
    path = HERE.child(an_id)
    return Resource(path=path if instance is None else path.child(instance), type=kind, value=value)


def _multiple(an_id: int, kind: ResourceType, *values: Value) -> MultipleResource:
    instances = tuple(_resource(an_id, kind, value, number) for number, value in enumerate(values))
    return MultipleResource(path=HERE.child(an_id), type=kind, instances=instances)


RESOURCES: tuple[Resource | MultipleResource, ...] = (
    _resource(0, ResourceType.STRING, "Kessel é"),
    _resource(1, ResourceType.FLOAT, 71.5),
    _resource(1, ResourceType.FLOAT, 71.0),
    _multiple(2, ResourceType.INTEGER, 0, 200, 40_000, 2**40),
    _resource(3, ResourceType.INTEGER, -300),
    _resource(4, ResourceType.BOOLEAN, True),
    _resource(5, ResourceType.OPAQUE, b"\x00\xff\x10"),
    _resource(6, ResourceType.TIME, 1_700_000_000_000),
    _multiple(7, ResourceType.OBJLNK, ObjectLink(3303, 0), ObjectLink(65535, 65535)),
    _resource(9, ResourceType.STRING, "</3303/0>"),
)
WHOLE = Instance(path=HERE, resources=RESOURCES[:2] + RESOURCES[3:])

#: Where a value is in one of these, nothing but its bytes says what it is.
CARRY_ALL = (
    ContentFormat.TLV,
    ContentFormat.SENML_JSON,
    ContentFormat.SENML_CBOR,
    ContentFormat.JSON,
)


def _in_the_log(content: Node) -> Node:
    """As a consumer gets what the gateway wrote."""
    assert isinstance(content, Object | Instance | Resource | MultipleResource)
    said = serde.decode(serde.encode(notification(content)))
    assert isinstance(said, Notification) and isinstance(said.rep.body, ReadBody)
    return said.rep.body.content


def _none(why: str) -> None:
    raise AssertionError(why)


@pytest.mark.parametrize("content_format", CARRY_ALL)
@pytest.mark.parametrize(
    "node", [*RESOURCES, WHOLE, Object(path=Path(32769), instances=(WHOLE,))], ids=lambda node: str(node.path)
)
def test_it_is_as_if_the_model_had_been_known(node: Node, content_format: ContentFormat) -> None:
    payload = formats.encode(content_format, node, BOILER)
    right = _in_the_log(formats.decode(content_format, payload, node.path, BOILER))
    raw = _in_the_log(formats.decode(content_format, payload, node.path, NOTHING))
    assert afresh(raw, BOILER, _none) == right
    # Twice is as once, and what was right stays the very same.
    assert afresh(right, BOILER, _none) is right


@pytest.mark.parametrize("content_format", [ContentFormat.TEXT, ContentFormat.CBOR])
@pytest.mark.parametrize(
    "node", [one for one in RESOURCES if isinstance(one, Resource)], ids=lambda node: str(node.path)
)
def test_a_value_alone_is_as_if_the_model_had_been_known(node: Resource, content_format: ContentFormat) -> None:
    payload = formats.encode(content_format, node, BOILER)
    right = _in_the_log(formats.decode(content_format, payload, node.path, BOILER))
    raw = _in_the_log(formats.decode(content_format, payload, node.path, NOTHING))
    assert afresh(raw, BOILER, _none) == right


def test_opaque_bytes_stay_opaque() -> None:
    image = RESOURCES[6]
    raw = formats.decode(ContentFormat.OPAQUE, b"\x00\xff\x10", image.path, NOTHING)
    assert afresh(raw, BOILER, _none) is raw == image


@pytest.mark.parametrize(
    "node",
    [
        _resource(1, ResourceType.OPAQUE, b"abc"),
        _resource(1, ResourceType.STRING, "warm"),
        _resource(1, ResourceType.BOOLEAN, True),
        _resource(3, ResourceType.FLOAT, 1.5),
        _resource(3, ResourceType.TIME, 1_000),
        _resource(4, ResourceType.INTEGER, 1),
        _multiple(2, ResourceType.INTEGER, 5, -1),
    ],
)
def test_what_does_not_fit_stays_as_it_came_and_is_told(node: Resource | MultipleResource) -> None:
    told: list[str] = []
    around = Instance(path=HERE, resources=(RESOURCES[0], node) if node.path != RESOURCES[0].path else (node,))
    # A type that is right already is not looked at again, whatever its value.
    expected = 0 if isinstance(node, MultipleResource) else 1
    assert afresh(around, BOILER, told.append) is around
    assert len(told) == expected
    assert all("/32769/0/" in why for why in told)


def test_of_a_multiple_resource_all_instances_or_none() -> None:
    told: list[str] = []
    mixed = _multiple(2, ResourceType.STRING, "5", "many")
    assert afresh(mixed, BOILER, told.append) is mixed
    assert len(told) == 1
    assert afresh(_multiple(2, ResourceType.STRING, "5", "6"), BOILER, _none) == _multiple(
        2, ResourceType.INTEGER, 5, 6
    )


def test_the_other_values_of_an_instance_are_read_all_the_same_and_keep_the_devices_time() -> None:
    told: list[str] = []
    good = Resource(path=HERE.child(1), type=ResourceType.INTEGER, value=70, timestamp=1_234)
    bad = _resource(4, ResourceType.STRING, "perhaps")
    found = afresh(Instance(path=HERE, resources=(good, bad)), BOILER, told.append)
    read = Resource(path=HERE.child(1), type=ResourceType.FLOAT, value=70.0, timestamp=1_234)
    assert found == Instance(path=HERE, resources=(read, bad))
    assert len(told) == 1


def test_what_no_model_knows_stays_the_very_same() -> None:
    node = Instance(
        path=Path(40000, 0), resources=(Resource(path=Path(40000, 0, 1), type=ResourceType.OPAQUE, value=b"\1"),)
    )
    assert afresh(node, BOILER, _none) is node
    assert afresh(WHOLE, Definitions().load_folder(OWN).with_versions({}), _none) == WHOLE
