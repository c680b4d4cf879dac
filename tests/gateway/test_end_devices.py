"""What object 25 says, and what is left out of it."""

from __future__ import annotations

from gateway.end_devices import GATEWAY, MOST_BEHIND, Reason, end_devices
from schemas.lwm2m import formats
from schemas.lwm2m.formats import ContentFormat
from schemas.lwm2m.nodes import Object
from schemas.lwm2m.path import Path
from tests.gateway_device import DEFINITIONS, OBJECTS, Instances, object_25


def _told(instances: Instances) -> Object:
    node = formats.decode(ContentFormat.TLV, object_25(instances), Path(25), DEFINITIONS)
    assert isinstance(node, Object)
    return node


def test_each_instance_is_a_device_below_its_gateways_name() -> None:
    found, complaints = end_devices(
        "gw", _told({7: ("urn:dev:1", "dev7", "</dev7/3/0>,</3303>;ver=1.1"), 2: ("a b", "x", "")})
    )
    assert complaints == []
    assert {name: (one.prefix, one.said.paths) for name, one in found.items()} == {
        "gw/a b": ("x", ()),
        "gw/urn:dev:1": ("dev7", (Path(3, 0), Path(3303))),
    }
    assert found["gw/urn:dev:1"].said.object_versions == {3303: "1.1"}


def test_an_object_without_instances_is_no_device() -> None:
    assert end_devices("gw", Object(path=GATEWAY)) == ({}, [])


def test_of_two_with_one_name_or_prefix_the_lower_instance_counts() -> None:
    found, complaints = end_devices(
        "gw",
        _told({0: ("a", "p0", OBJECTS), 1: ("a", "p1", OBJECTS), 2: ("b", "p0", OBJECTS), 3: ("c", "p1", OBJECTS)}),
    )
    assert {name: one.prefix for name, one in found.items()} == {"gw/a": "p0", "gw/c": "p1"}
    assert [(one.about, one.reason) for one in complaints] == [
        ("/25/1", Reason.NAME_TWICE),
        ("/25/2", Reason.PREFIX_TWICE),
    ]


def test_what_makes_no_sense_is_left_out_by_itself() -> None:
    found, complaints = end_devices(
        "gw",
        _told(
            {
                0: ("", "p0", OBJECTS),
                1: ("x" * 253, "p1", OBJECTS),
                2: ("line\nbreak", "p2", OBJECTS),
                3: ("c", "3303", OBJECTS),
                4: ("d", "../rd", OBJECTS),
                5: ("e", "p5", "<<>"),
                6: ("x" * 252, "p6", OBJECTS),
            }
        ),
    )
    assert [len(name) for name in found] == [255]
    assert [one.reason for one in complaints] == [
        *[Reason.NO_NAME] * 3,
        *[Reason.NO_PREFIX] * 2,
        Reason.NO_LINKS,
    ]


def test_there_are_a_thousand_and_no_more() -> None:
    found, complaints = end_devices("gw", _told({i: (f"d{i}", f"p{i}", "") for i in range(MOST_BEHIND + 5)}))
    assert len(found) == MOST_BEHIND
    assert [one.reason for one in complaints] == [Reason.TOO_MANY] and "1,005" in complaints[0].words
