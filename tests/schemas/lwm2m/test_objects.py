"""The built-in facts, and the look-up by path and version."""

import pytest

from schemas.lwm2m.nodes import ResourceType
from schemas.lwm2m.objects import (
    Definitions,
    ObjectDefinition,
    Operation,
    ResourceDefinition,
    read_table,
    version_key,
)
from schemas.lwm2m.path import Path

BUILTIN = Definitions.builtin()


def _facts(path: str, version: str | None = None) -> tuple[str, ResourceType | None, bool, str]:
    found = BUILTIN.resource(Path.parse(path), version)
    assert isinstance(found, ResourceDefinition)
    return found.name, found.type, found.multiple, "".join(sorted(o.value for o in found.operations))


def test_every_object_that_was_promised_is_known() -> None:
    known = {definition.id for definition in BUILTIN}
    # 3307 and 3309 are not in the public registry.
    assert known == {*range(8), 9, 21, 25, *range(3300, 3348)} - {3307, 3309}


@pytest.mark.parametrize(
    ("path", "facts"),
    [
        ("/1/0/1", ("Lifetime", ResourceType.INTEGER, False, "RW")),
        ("/1/0/6", ("Notification Storing When Disabled or Offline", ResourceType.BOOLEAN, False, "RW")),
        ("/3/0/0", ("Manufacturer", ResourceType.STRING, False, "R")),
        ("/3/0/4", ("Reboot", None, False, "E")),
        ("/3/0/6", ("Available Power Sources", ResourceType.INTEGER, True, "R")),
        ("/3/0/13", ("Current Time", ResourceType.TIME, False, "RW")),
        ("/4/0/4", ("IP Addresses", ResourceType.STRING, True, "R")),
        ("/5/0/0", ("Package", ResourceType.OPAQUE, False, "W")),
        ("/6/0/0", ("Latitude", ResourceType.FLOAT, False, "R")),
        ("/9/0/12", ("Activation State", ResourceType.BOOLEAN, False, "R")),
        ("/3303/0/5700", ("Sensor Value", ResourceType.FLOAT, False, "R")),
        ("/3303/7/5605", ("Reset Min and Max Measured Values", None, False, "E")),
        ("/3311/0/5850", ("On/Off", ResourceType.BOOLEAN, False, "RW")),
        ("/3333/0/5506", ("Current Time", ResourceType.TIME, False, "RW")),
    ],
)
def test_facts_of_well_known_resources(path: str, facts: tuple[str, ResourceType | None, bool, str]) -> None:
    assert _facts(path) == facts


def test_a_resource_instance_has_the_definition_of_its_resource() -> None:
    assert BUILTIN.resource(Path(3, 0, 6, 1)) is BUILTIN.resource(Path(3, 0, 6))


@pytest.mark.parametrize("path", ["/", "/3", "/3/0", "/3/0/999", "/60000/0/0"])
def test_no_definition_at_other_paths(path: str) -> None:
    assert BUILTIN.resource(Path.parse(path)) is None


def test_without_a_version_the_newest_counts() -> None:
    newest = BUILTIN.object(0)
    assert newest is not None
    assert newest.version == "1.2"


def test_versions_differ_in_their_resources() -> None:
    # SNI came with version 1.1 of the Security object.
    assert BUILTIN.resource(Path(0, 0, 14), "1.0") is None
    assert BUILTIN.resource(Path(0, 0, 14), "1.1") is not None


def test_an_unknown_minor_version_is_taken_for_the_newest_known_one() -> None:
    assert BUILTIN.object(3, "1.9") == BUILTIN.object(3)


@pytest.mark.parametrize("version", ["9.0", "0.1", "", "1", "1.0.0", "x", "\u0661.\u0660"])
def test_an_unknown_major_version_or_no_version_has_no_definition(version: str) -> None:
    assert BUILTIN.object(3, version) is None
    assert BUILTIN.resource(Path(3, 0, 0), version) is None


def test_definitions_of_a_device_follow_the_versions_that_it_announced() -> None:
    device = BUILTIN.with_versions({0: "1.0", 3: "7.0", 3303: "nonsense", 60000: "1.0"})
    assert device.resource(Path(0, 0, 14)) is None
    assert device.resource(Path(3, 0, 0)) is None
    assert device.resource(Path(3303, 0, 5700)) == BUILTIN.resource(Path(3303, 0, 5700), "1.0")


def _two_versions() -> Definitions:
    def object_of(version: str, **types: ResourceType) -> ObjectDefinition:
        resources = {
            int(name[1:]): ResourceDefinition(
                id=int(name[1:]), name=name, operations=frozenset(), multiple=False, mandatory=False, type=kind
            )
            for name, kind in types.items()
        }
        return ObjectDefinition(
            id=40000, name="Thing", version=version, multiple=False, mandatory=False, resources=resources
        )

    return Definitions(
        [
            object_of("1.0", r0=ResourceType.FLOAT),
            object_of("1.1", r0=ResourceType.STRING, r1=ResourceType.TIME),
            object_of("1.2", r1=ResourceType.STRING, r2=ResourceType.OPAQUE),
            object_of("2.0", r0=ResourceType.INTEGER),
        ]
    )


def _types(definitions: Definitions) -> list[ResourceType | None]:
    return [found.type if (found := definitions.of(40000, i)) else None for i in range(3)]


def test_without_a_version_an_object_is_of_1_0_and_later_minors_only_add_to_it() -> None:
    both = _two_versions()
    # Section 7.2.2: a link without ver= is of version 1.0, whatever newer versions are known.
    expected = [ResourceType.FLOAT, ResourceType.TIME, ResourceType.OPAQUE]
    assert _types(both.with_versions({})) == expected
    assert _types(both.with_versions({40000: "abc"})) == expected
    assert _types(both.with_versions({40000: "1.0"})) == [ResourceType.FLOAT, None, None]
    assert _types(both.with_versions({40000: "2.0"})) == [ResourceType.INTEGER, None, None]
    assert _types(both.with_versions({40000: "2.7"})) == [ResourceType.INTEGER, None, None]
    assert _types(both.with_versions({40000: "3.0"})) == [None, None, None]


def test_without_a_version_an_object_known_in_version_2_only_is_unknown() -> None:
    newest = Definitions(one for one in _two_versions() if one.version == "2.0")
    assert _types(newest.with_versions({})) == [None, None, None]
    assert _types(newest.with_versions({40000: "2.0"})) == [ResourceType.INTEGER, None, None]


def test_devices_with_the_same_versions_share_their_definitions() -> None:
    assert BUILTIN.with_versions({0: "1.0", 1: "1.0"}) is BUILTIN.with_versions({1: "1.0", 0: "1.0"})
    assert BUILTIN.with_versions({}) is BUILTIN.with_versions({60000: "1.0", 3: "nonsense"})
    assert BUILTIN.with_versions({3: "8.0"}) is BUILTIN.with_versions({3: "9.0"})


def test_unsigned_integers_are_marked() -> None:
    unsigned = BUILTIN.resource(Path(0, 0, 16))
    assert unsigned is not None
    assert unsigned.unsigned and unsigned.type is ResourceType.INTEGER


def test_executables_have_no_type_and_everything_else_has_one() -> None:
    for definition in BUILTIN:
        for resource in definition.resources.values():
            assert (resource.type is None) == (Operation.EXECUTE in resource.operations), (definition.id, resource)


def test_versions_sort_as_numbers() -> None:
    assert sorted(["1.10", "1.9", "1.0"], key=version_key) == ["1.0", "1.9", "1.10"]  # type: ignore[arg-type]  # none is None


def test_a_bad_row_of_the_table_is_named() -> None:
    with pytest.raises(ValueError, match="line 2"):
        read_table("object\t1\t1.0\tX\tsingle\toptional\n\t0\tName\tR\tsingle\toptional\tSTRANGE\t-")
