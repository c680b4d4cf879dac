"""Settings of sinks, and several of them from one file."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from connectors.kafka import Cluster
from connectors.sink_settings import ALL_GATEWAYS, RunnerOptions, SinkSettings, Source, sinks_from_toml
from connectors.sinks import SINKS, SinkConfigError

KAFKA = Cluster(bootstrap="127.0.0.1:1")


def settings(gateway: str = "gw1", source: Source = Source.TOPICS) -> SinkSettings:
    return SinkSettings(sink="sqlite", gateway=gateway, kafka=KAFKA, source=source)


def test_the_group_tells_the_sink_and_the_gateway() -> None:
    assert settings().group_id == "headwater-sink-sqlite-gw1"
    assert settings(source=Source.DEAD_LETTERS).group_id == "headwater-deadletters-sqlite-gw1"
    assert settings(ALL_GATEWAYS).group_id != settings("all").group_id


def test_one_gateways_topics_are_named() -> None:
    assert settings().subscription() == [
        "iot.gw1.registrations",
        "iot.gw1.observations",
        "iot.gw1.management.rep",
        "analytics.gw1.joined",
    ]
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


def test_a_table_may_say_its_own_gateway_group_and_batches() -> None:
    text = """
    [[sqlite]]
    file = "a.db"
    [[sqlite]]
    file = "b.db"
    gateway = "rock64"
    batch_records = 10
    batch_bytes = 100000
    linger_s = 1
    """
    first, second = sinks_from_toml(text, gateway="gw1", kafka=KAFKA)
    assert (first.gateway, first.batch_records, first.options) == ("gw1", 2000, {"file": "a.db"})
    assert (second.gateway, second.batch_records, second.batch_bytes, second.linger_s) == ("rock64", 10, 100_000, 1.0)
    assert second.options == {"file": "b.db"}
    assert second.where == "[[sqlite]] number 2"


def test_without_any_gateway_it_says_where_to_name_one() -> None:
    with pytest.raises(SinkConfigError, match=r"^\[sqlite\]: no gateway: .*--gateway"):
        sinks_from_toml("[sqlite]\n", gateway=None, kafka=KAFKA)


def test_an_option_may_come_from_the_environment_and_none_is_shown() -> None:
    text = "[sqlite]\npassword_env = 'STORE'\nsecret = 'inline'\n"
    (found,) = sinks_from_toml(text, gateway="gw1", kafka=KAFKA, environment={"STORE": " geheim\n"})
    assert found.options == {"password": " geheim\n", "secret": "inline"}
    assert not any(word in repr(found) for word in ("geheim", "inline"))


@pytest.mark.parametrize("name", sorted(SINKS))
def test_every_secret_of_a_sink_may_be_in_a_file(name: str) -> None:
    own = set(re.findall(r"^(?:# )?(\w+) =", SINKS[name].sample_config, re.MULTILINE))
    assert {f"{secret}_file" for secret in own & {"password", "token", "secret"}} <= own
    assert not any(option.endswith("_env") for option in own)


def test_dead_letters_are_never_read_in_the_group_of_the_running_sink() -> None:
    running = replace(settings(), group="archive")
    again = replace(running, source=Source.DEAD_LETTERS)
    assert (running.group_id, again.group_id) == ("archive", "archive-deadletters")


@pytest.mark.parametrize("name", sorted(SINKS))
def test_no_sink_has_an_option_of_the_name_of_one_of_the_runner(name: str) -> None:
    own = set(re.findall(r"^(?:# )?(\w+) =", SINKS[name].sample_config, re.MULTILINE))
    assert own
    assert not own & RunnerOptions.model_fields.keys()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no sink is configured; there are: .*sqlite"),
        ("[sqlite", "is no TOML"),
        ("sqlite = 3", "should be a table"),
        ("[oracle]\n", "no sink 'oracle'"),
        ("[sqlite]\ngroup = 3\n", r"^\[sqlite\]: group of the sink sqlite: .*string"),
        ('kafka = "x:1"\n[sqlite]\n', "'kafka' stands in no sink's table"),
        ("[sqlight]\n", r"^\[sqlight\]: there is no sink 'sqlight'; did you mean 'sqlite'"),
        ("[sqlite]\ngateway = 'a b'\n", r"^\[sqlite\]: gateway id 'a b'"),
        (
            "[sqlite]\nbatch_records = 0\n",
            r"^\[sqlite\]: batch_records of the sink sqlite: .*greater than or equal to 1",
        ),
        ("[sqlite]\nbatch_bytes = true\n", r"^\[sqlite\]: batch_bytes of the sink sqlite: .*integer"),
        ("[sqlite]\nlinger_s = nan\n", r"^\[sqlite\]: linger_s of the sink sqlite: "),
        ("[[sqlite]]\n[[sqlite]]\ngroup = ''\n", r"^\[\[sqlite\]\] number 2: group of the sink sqlite: "),
        ("[sqlite]\ntoken_env = 'NO_SUCH'\n", r"^\[sqlite\]: token_env: the environment has no variable"),
        ("[sqlite]\npassword_env = 3\n", "password_env: the environment has no variable"),
        ("[sqlite]\nsecret = 'a'\nsecret_env = 'b'\n", "secret and secret_env say the same"),
        ('[[sqlite]]\nfile = "a"\n[[sqlite]]\nfile = "b"\n', "share a consumer group"),
    ],
)
def test_what_is_wrong_in_the_file_is_told(text: str, says: str) -> None:
    with pytest.raises(SinkConfigError, match=says):
        sinks_from_toml(text, gateway="gw1", kafka=KAFKA)


def test_a_wrong_option_is_told_in_the_words_of_the_file() -> None:
    with pytest.raises(SinkConfigError) as one:
        SINKS["cassandra"].open({"contact_points": "127.0.0.1"})
    assert str(one.value) == "contact_points of the sink cassandra: input should be a valid list"
    with pytest.raises(SinkConfigError) as two:
        SINKS["alertmanager"].open({"url": "http://127.0.0.1:9093", "user": "writer"})
    assert str(two.value) == (
        "the sink alertmanager: a user goes with a password, either as password or as password_file"
    )
