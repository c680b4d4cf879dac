"""The topics of every Kafka: what comes in, what goes out, what is on the disk and how far back it reaches.

Its metrics are those of the JMX exporter's agent by ``stacks/monitoring/kafka-jmx.yml``.
"""

from __future__ import annotations

from stacks.grafana.boards.kafka import KAFKA, NAMED, prom
from stacks.grafana.panels import Board, choice, figure, rows, series

_T = '{topic=~"$topic"}'


def _all(expr: str) -> str:
    return f"sum(({expr}){NAMED})"


def _by(expr: str, *kept: str) -> str:
    return f"sum by ({', '.join(('host', 'topic', *kept))}) (({expr}){NAMED})"


def _rate(name: str) -> str:
    return f"rate({name}{_T}[$__rate_interval])"


_KEPT = f"kafka_log_end_offset{_T} - kafka_log_start_offset{_T}"
_LEGEND = "{{host}} {{topic}}"

BOARD = Board(
    uid="headwater-kafka-topics",
    title="Headwater: Kafka topics",
    description="What comes into each topic, what goes out, and what is on the disk.",
    variables=[
        KAFKA,
        choice(
            "topic",
            "Topic",
            "Topics with records; Kafka's own begin with two underscores.",
            "label_values(kafka_log_size_bytes, topic)",
        ),
    ],
    rows=[
        (
            "",
            [
                figure(
                    "Topics", "Of those chosen.", "short", prom(f"count(count by (topic) (kafka_log_size_bytes{_T}))")
                ),
                figure("Partitions", "All together.", "short", prom(f"count((kafka_log_size_bytes{_T}){NAMED})")),
                figure("Records in", "Per second.", "ops", prom(_all(_rate("kafka_topic_messages_in_total")))),
                figure("Bytes in", "Per second.", "Bps", prom(_all(_rate("kafka_topic_in_bytes_total")))),
                figure(
                    "Bytes out", "Per second, to consumers.", "Bps", prom(_all(_rate("kafka_topic_out_bytes_total")))
                ),
                figure("On the disk", "All partitions.", "bytes", prom(_all(f"kafka_log_size_bytes{_T}"))),
            ],
        ),
        (
            "In and out",
            [
                series(
                    "Records in",
                    "By topic; a transaction's markers are counted.",
                    "ops",
                    prom(_by(_rate("kafka_topic_messages_in_total")), _LEGEND),
                    span=24,
                ),
                series("Bytes in", "By topic.", "Bps", prom(_by(_rate("kafka_topic_in_bytes_total")), _LEGEND)),
                series(
                    "Bytes out",
                    "Fetched by consumers, by topic.",
                    "Bps",
                    prom(_by(_rate("kafka_topic_out_bytes_total")), _LEGEND),
                ),
            ],
        ),
        (
            "On the disk",
            [
                series(
                    "Size",
                    "Bytes, all partitions of a topic.",
                    "bytes",
                    prom(_by(f"kafka_log_size_bytes{_T}"), _LEGEND),
                ),
                series(
                    "Offsets kept",
                    "From the first that is still there to the end, all partitions of a topic.",
                    "short",
                    prom(_by(_KEPT), _LEGEND),
                ),
                rows(
                    "Partitions",
                    "Size, first offset that is still there, end.",
                    prom(_by(f"kafka_log_size_bytes{_T}", "partition"), instant=True),
                    prom(_by(f"kafka_log_start_offset{_T}", "partition"), instant=True),
                    prom(_by(f"kafka_log_end_offset{_T}", "partition"), instant=True),
                    hidden=("Time",),
                    renamed={"Value #A": "bytes", "Value #B": "first offset", "Value #C": "end"},
                ),
            ],
        ),
    ],
)
