"""Topics as `connectors.kafka` makes them on a real broker."""

from __future__ import annotations

import pytest

from connectors.kafka import Cluster, KafkaError, KafkaException, admin, ensure_topics, topic_configs
from schemas.avro.topics import Topics

pytestmark = pytest.mark.kafka

CLOCK = "message.timestamp.after.max.ms"


def test_a_broker_that_refuses_the_setting_for_clocks_gets_the_topic_without_it(
    kafka: Cluster, gateway_id: str
) -> None:
    # Brokers before 3.6 refuse its name; this one refuses the value, with the same error.
    ordinary, refused = f"{gateway_id}-ordinary", f"{gateway_id}-refused"
    made = ensure_topics(
        kafka,
        {ordinary: 1, refused: 2},
        config={refused: {CLOCK: "-1", "max.message.bytes": "5000"}},
    )
    assert sorted(made) == [ordinary, refused]
    client = admin(kafka)
    settings = topic_configs(client, [ordinary, refused])
    assert settings[ordinary][CLOCK] == str(2**63 - 1)
    assert settings[refused]["max.message.bytes"] == "5000"
    assert settings[refused][CLOCK] != "-1"


def test_any_other_setting_that_is_refused_is_told(kafka: Cluster, gateway_id: str) -> None:
    with pytest.raises(KafkaException) as told:
        ensure_topics(kafka, {gateway_id: 1}, config={gateway_id: {"no.such.setting": "1"}})
    assert told.value.args[0].code() == KafkaError.INVALID_CONFIG


def test_a_gateways_topics_have_their_settings_wherever_they_are_made(kafka: Cluster, gateway_id: str) -> None:
    topics = Topics(gateway_id)
    ensure_topics(kafka, topics.partitions())
    settings = topic_configs(admin(kafka), [topics.commands, topics.replies])
    assert settings[topics.commands]["cleanup.policy"].replace(" ", "") in ("compact,delete", "delete,compact")
    assert settings[topics.commands]["retention.ms"] == str(7 * 86_400_000)
    assert settings[topics.replies]["cleanup.policy"] == "delete"
