"""Replication between edge and cloud: how far behind, how fast, and how long the edge's retention still lasts."""

from __future__ import annotations

from stacks.grafana.panels import BAD, GOOD, WARN, Board, choice, figure, gateways, prom, rows, series

_G = 'gateway=~"$gateway"'
_T = f'{_G}, topic=~"$topic"'


def _rate(name: str, by: str, labels: str = _T) -> str:
    return f"sum by ({by}) (rate({name}{{{labels}}}[$__rate_interval]))"


BOARD = Board(
    uid="headwater-replication",
    title="Headwater: replication",
    description="Edge to cloud and back, exactly once: lag, throughput, what the edge's retention leaves.",
    variables=[
        gateways(),
        choice(
            "topic",
            "Topic",
            "Topics that the replicator carries.",
            'label_values(headwater_replicator_lag_records{gateway=~"$gateway"}, topic)',
        ),
    ],
    rows=[
        (
            "",
            [
                figure(
                    "Lanes connected",
                    "Of all lanes (up and down of each gateway), the part that reaches both its sides.",
                    "percentunit",
                    prom(f"avg(headwater_replicator_connected{{{_G}}})"),
                    steps=((0, BAD), (0.5, WARN), (1, GOOD)),
                ),
                figure(
                    "Records behind",
                    "Offsets of the source that the target does not have yet; transaction markers are counted.",
                    "short",
                    prom(f"sum(headwater_replicator_lag_records{{{_T}}})"),
                    steps=((0, GOOD), (10_000, WARN), (1_000_000, BAD)),
                ),
                figure(
                    "Time behind",
                    "Age of the oldest record that the target does not have.",
                    "s",
                    prom(f"max(headwater_replicator_lag_seconds{{{_T}}})"),
                    steps=((0, GOOD), (300, WARN), (3600, BAD)),
                ),
                figure(
                    "Retention left",
                    "Until the source's retention deletes what is not replicated; infinite if nothing is at stake.",
                    "s",
                    prom(f"min(headwater_replicator_retention_left_seconds{{{_T}}})"),
                    steps=((0, BAD), (86_400, WARN), (3 * 86_400, GOOD)),
                ),
                figure(
                    "Lost to retention",
                    "Offsets that the source's retention deleted before they were replicated, since the start.",
                    "short",
                    prom(f"sum(headwater_replicator_records_lost_to_retention_total{{{_T}}})"),
                    steps=((0, GOOD), (1, BAD)),
                ),
                figure(
                    "Refused",
                    "Records larger than the target's topic takes, left out, since the start.",
                    "short",
                    prom(f"sum(headwater_replicator_records_refused_total{{{_T}}})"),
                    steps=((0, GOOD), (1, BAD)),
                ),
            ],
        ),
        (
            "How far behind",
            [
                series(
                    "Records behind",
                    "By topic, all partitions together.",
                    "short",
                    prom(
                        f"sum by (gateway, topic) (headwater_replicator_lag_records{{{_T}}})", "{{gateway}} {{topic}}"
                    ),
                ),
                series(
                    "Time behind",
                    "Age of the oldest record that the target does not have, by topic.",
                    "s",
                    prom(
                        f"max by (gateway, topic) (headwater_replicator_lag_seconds{{{_T}}})", "{{gateway}} {{topic}}"
                    ),
                    steps=((0, GOOD), (300, WARN), (3600, BAD)),
                ),
            ],
        ),
        (
            "How much",
            [
                series(
                    "Records",
                    "In committed transactions, by lane.",
                    "ops",
                    prom(_rate("headwater_replicator_records_total", "gateway, lane"), "{{gateway}} {{lane}}"),
                ),
                series(
                    "Records by topic",
                    "In committed transactions.",
                    "ops",
                    prom(_rate("headwater_replicator_records_total", "topic"), "{{topic}}"),
                    stack=True,
                ),
                series(
                    "Payload",
                    "Keys, values and headers of those records, before compression.",
                    "Bps",
                    prom(_rate("headwater_replicator_payload_bytes_total", "gateway, lane"), "{{gateway}} {{lane}}"),
                ),
                series(
                    "Commit time",
                    "From the last record handed over to the transaction committed: the median and the slowest of 100.",
                    "s",
                    prom(
                        "histogram_quantile(0.5, "
                        + _rate("headwater_replicator_commit_seconds_bucket", "lane, le", _G)
                        + ")",
                        "{{lane}} median",
                    ),
                    prom(
                        "histogram_quantile(0.99, "
                        + _rate("headwater_replicator_commit_seconds_bucket", "lane, le", _G)
                        + ")",
                        "{{lane}} 99 %",
                    ),
                ),
            ],
        ),
        (
            "What is wrong",
            [
                series(
                    "Connected",
                    "1 while the lane reaches both its sides.",
                    "none",
                    prom(f"min by (gateway, lane) (headwater_replicator_connected{{{_G}}})", "{{gateway}} {{lane}}"),
                    high=1,
                ),
                series(
                    "Begun anew",
                    "Times a lane had to begin anew from the target's word, per second.",
                    "ops",
                    prom(_rate("headwater_replicator_restarts_total", "gateway, lane", _G), "{{gateway}} {{lane}}"),
                ),
                rows(
                    "Partitions",
                    "Behind now, by partition: records, seconds, and what retention leaves.",
                    prom(
                        f"sum by (gateway, topic, partition) (headwater_replicator_lag_records{{{_T}}})", instant=True
                    ),
                    prom(
                        f"max by (gateway, topic, partition) (headwater_replicator_lag_seconds{{{_T}}})", instant=True
                    ),
                    prom(
                        f"min by (gateway, topic, partition) (headwater_replicator_retention_left_seconds{{{_T}}})",
                        instant=True,
                    ),
                    hidden=("Time",),
                    renamed={
                        "Value #A": "records behind",
                        "Value #B": "seconds behind",
                        "Value #C": "seconds of retention left",
                    },
                ),
            ],
        ),
    ],
)
