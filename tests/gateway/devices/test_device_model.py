"""The operations on a device's objects, without a socket."""

from __future__ import annotations

import random

import pytest

from gateway.devices.client import DeviceConfig, Version
from gateway.devices.model import BadValue, Holding, Model, NoSuchPath, NotPermitted
from gateway.devices.sensor import Sensor, Tally
from schemas.lwm2m.nodes import Instance, MultipleResource, Object, Resource, ResourceType, values
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path

NOW = 1_700_000_000_123


def sensor(version: Version = Version.V1_1) -> Sensor:
    return Sensor(
        DeviceConfig(endpoint="ep", server_host="127.0.0.1", server_port=5683, version=version),
        lifetime=300,
        tally=Tally(),
        random_source=random.Random(1),
        clock=lambda: NOW,
    )


@pytest.fixture
def model() -> Model:
    return sensor().model


def resource(path: str, kind: ResourceType, value: str | int | float | bool) -> Resource:
    return Resource(path=Path.parse(path), type=kind, value=value)


def test_read_gives_objects_instances_and_resources(model: Model) -> None:
    temperatures = model.read(Path(3303))
    assert isinstance(temperatures, Object)
    assert [one.path for one in temperatures.instances] == [Path(3303, 0), Path(3303, 1)]
    assert model.read(Path(3, 0, 0)) == resource("/3/0/0", ResourceType.STRING, "Headwater")
    assert model.read(Path(3, 0, 6, 1)) == resource("/3/0/6/1", ResourceType.INTEGER, 5)
    sources = model.read(Path(3, 0, 6))
    assert isinstance(sources, MultipleResource)
    assert [one.value for one in sources.instances] == [1, 5]


def test_read_of_an_instance_leaves_executable_resources_out(model: Model) -> None:
    device = model.read(Path(3, 0))
    assert isinstance(device, Instance)
    ids = [one.path.resource_id for one in device.resources]
    assert ids == [0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16]


@pytest.mark.parametrize("path", ["/4", "/3303/7", "/3/0/77", "/3/0/6/9", "/3/0/0/0"])
def test_what_is_not_there_cannot_be_read(model: Model, path: str) -> None:
    with pytest.raises(NoSuchPath):
        model.read(Path.parse(path))


def test_an_executable_resource_cannot_be_read(model: Model) -> None:
    with pytest.raises(NotPermitted):
        model.read(Path(3, 0, 4))


def test_the_clock_is_read_in_whole_seconds_and_can_be_set(model: Model) -> None:
    assert model.value(Path(3, 0, 13)) == 1_700_000_000_000
    model.write(resource("/3/0/13", ResourceType.TIME, 1_000_000_000_000), replace=True)
    assert model.value(Path(3, 0, 13)) == 1_000_000_000_000


def test_a_write_tells_who_listens(model: Model) -> None:
    changed: list[Path] = []
    model.on_change.append(changed.append)
    model.write(resource("/3/0/14", ResourceType.STRING, "+02:00"), replace=True)
    assert changed == [Path(3, 0, 14)]
    assert model.value(Path(3, 0, 14)) == "+02:00"


@pytest.mark.parametrize(
    ("node", "refusal"),
    [
        (resource("/3303/0/5700", ResourceType.FLOAT, 1.0), NotPermitted),
        (resource("/3/0/4", ResourceType.STRING, "x"), NotPermitted),
        (resource("/3/0/14", ResourceType.INTEGER, 2), BadValue),
        (resource("/1/0/1", ResourceType.INTEGER, 0), BadValue),
        (resource("/1/0/1", ResourceType.BOOLEAN, True), BadValue),
        (resource("/1/7/1", ResourceType.INTEGER, 60), NoSuchPath),
        (resource("/3/0/14/0", ResourceType.STRING, "x"), NoSuchPath),
    ],
)
def test_a_write_that_does_not_fit_is_refused(model: Model, node: Resource, refusal: type[Exception]) -> None:
    with pytest.raises(refusal):
        model.write(node, replace=True)


def test_a_write_of_an_instance_changes_all_or_nothing(model: Model) -> None:
    good, bad = resource("/1/0/1", ResourceType.INTEGER, 60), resource("/1/0/2", ResourceType.INTEGER, -1)
    with pytest.raises(BadValue):
        model.write(Instance(path=Path(1, 0), resources=(good, bad)), replace=False)
    assert model.value(Path(1, 0, 1)) == 300
    model.write(Instance(path=Path(1, 0), resources=(good,)), replace=False)
    assert model.value(Path(1, 0, 1)) == 60
    assert model.value(Path(1, 0, 2)) == 0


def test_create_takes_the_lowest_free_id_and_delete_frees_it(model: Model) -> None:
    made = model.create(3303, None, [resource("/3303/0/5750", ResourceType.STRING, "attic")])
    assert made == Path(3303, 2)
    assert model.value(Path(3303, 2, 5750)) == "attic"
    model.delete(Path(3303, 0))
    assert model.instances(3303) == [1, 2]
    assert model.create(3303, None, []) == Path(3303, 0)


def test_resource_instance_comes_and_goes_where_it_can_be_written() -> None:
    told: list[Path] = []
    rights = Holding(contents={2: {0: 15, 1: 1}})
    model = Model(Definitions.builtin(), {(2, 0): rights, (3, 0): Holding(contents={6: {0: 1}})})
    model.on_change.append(told.append)
    model.write(resource("/2/0/2/7", ResourceType.INTEGER, 3), replace=True)
    model.delete(Path(2, 0, 2, 1))
    assert rights.contents[2] == {0: 15, 7: 3}
    assert [str(path) for path in model.below(Path(2, 0, 2))] == ["/2/0/2/0", "/2/0/2/7"]
    assert told == [Path(2, 0, 2, 7), Path(2, 0, 2, 1)]
    with pytest.raises(NoSuchPath):
        model.delete(Path(2, 0, 2, 1))
    for stays in ("/3/0/6/0", "/2/0/2", "/2/0"):
        with pytest.raises(NotPermitted):
            model.delete(Path.parse(stays))


def test_create_and_delete_are_refused_where_the_object_does_not_allow_them(model: Model) -> None:
    with pytest.raises(NotPermitted):
        model.create(3, None, [])
    with pytest.raises(NoSuchPath):
        model.create(9, None, [])
    with pytest.raises(BadValue):
        model.create(3303, 0, [])
    with pytest.raises(NotPermitted):
        model.delete(Path(3, 0))
    with pytest.raises(NoSuchPath):
        model.delete(Path(3303, 9))


def test_measuring_moves_the_values_within_their_extremes() -> None:
    device = sensor()
    for _ in range(50):
        device.measure()
    for instance in (Path(3303, 0), Path(3303, 1), Path(3304, 0)):
        value, low, high = (device.model.value(instance.child(i)) for i in (5700, 5601, 5602))
        assert isinstance(low, float)
        assert isinstance(value, float)
        assert isinstance(high, float)
        assert low <= value <= high
        assert low < high


def test_a_created_sensor_is_measured_too() -> None:
    device = sensor()
    made = device.model.create(3303, None, [])
    before = device.model.value(made.child(5700))
    device.measure()
    assert device.model.value(made.child(5700)) != before


def test_reset_takes_the_extremes_to_the_value_of_the_moment() -> None:
    device = sensor()
    for _ in range(20):
        device.measure()
    device.model.execute(Path(3303, 0, 5605), "")
    value = device.model.value(Path(3303, 0, 5700))
    assert device.model.value(Path(3303, 0, 5601)) == value == device.model.value(Path(3303, 0, 5602))


def test_a_version_1_0_device_has_no_resources_of_later_objects() -> None:
    model = sensor(Version.V1_0).model
    known = {(one.path.object_id, one.path.resource_id) for o in model.objects for one in values(model.read(Path(o)))}
    assert (3303, 5700) in known
    assert (3303, 5750) not in known
