"""Settings of sinks, and several of them from one file."""

from __future__ import annotations

import re

import pytest

from connectors.kafka import Cluster
from connectors.sink_settings import ALL_GATEWAYS, SinkSettings, Source, sinks_from_toml
from connectors.sinks import SINKS, SinkConfigError

KAFKA = Cluster(bootstrap="127.0.0.1:1")


def settings(gateway: str = "gw1", source: Source = Source.TOPICS) -> SinkSettings:
    return SinkSettings(sink="sqlite", gateway=gateway, kafka=KAFKA, source=source)


def test_the_group_tells_the_sink_and_the_gateway() -> None:
    assert settings().group_id == "headwater-sink-sqlite-gw1"
    assert settings(source=Source.DEAD_LETTERS).group_id == "headwater-deadletters-sqlite-gw1"
    assert settings(ALL_GATEWAYS).group_id != settings("all").group_id


def test_one_gateways_topics_are_named() -> None:
    assert settings().subscription() == ["iot.gw1.registrations", "iot.gw1.observations", "iot.gw1.management.rep"]
    assert settings(source=Source.DEAD_LETTERS).subscription() == ["iot.gw1.deadletter"]


def test_the_pattern_of_all_gateways_matches_theirs_and_nothing_else() -> None:
    patterns = settings(ALL_GATEWAYS).subscription()
    assert all(pattern.startswith("^") for pattern in patterns)

    def matches(topic: str) -> bool:
        return any(re.search(pattern, topic) for pattern in patterns)

    assert matches("iot.rock64.observations")
    assert matches("iot.a.b-c_d.management.rep")
    assert not matches("iot.rock64.deadletter")
    assert not matches("iot.rock64.management.req")
    assert not matches("iot...observations")
    assert not matches("xiot.rock64.observations")
    assert not matches("iot.rock64.observations.old")


@pytest.mark.parametrize("name", sorted(SINKS))
def test_the_sample_configuration_of_every_sink_is_a_configuration(name: str) -> None:
    (found,) = sinks_from_toml(SINKS[name].sample_config, gateway="gw1", kafka=KAFKA)
    assert found.sink == name
    assert found.options


def test_several_sinks_in_one_file() -> None:
    first, second = sinks_from_toml(
        '[[sqlite]]\nfile = "a.db"\n[[sqlite]]\nfile = "b.db"\ngroup = "archive"\n', gateway="*", kafka=KAFKA
    )
    assert (first.options, first.group_id) == ({"file": "a.db"}, "headwater-sink-sqlite-*")
    assert (second.options, second.group_id) == ({"file": "b.db"}, "archive")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no sink is configured; there are: .*sqlite"),
        ("[sqlite", "is no TOML"),
        ("sqlite = 3", "should be a table"),
        ("[oracle]\n", "no sink 'oracle'"),
        ("[sqlite]\ngroup = 3\n", "group of sqlite"),
        ('[[sqlite]]\nfile = "a"\n[[sqlite]]\nfile = "b"\n', "share a consumer group"),
    ],
)
def test_what_is_wrong_in_the_file_is_told(text: str, says: str) -> None:
    with pytest.raises(SinkConfigError, match=says):
        sinks_from_toml(text, gateway="gw1", kafka=KAFKA)
