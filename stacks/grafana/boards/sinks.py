"""The sinks: how far each is behind, how fast it writes, and what it could not store."""

from __future__ import annotations

from stacks.grafana.panels import BAD, GOOD, WARN, Board, choice, figure, prom, rows, series

_S = 'sink=~"$sink", group=~"$group"'
_T = f'{_S}, topic=~"$topic"'


def _rate(name: str, by: str = "sink") -> str:
    return f"sum by ({by}) (rate({name}{{{_S}}}[$__rate_interval]))"


BOARD = Board(
    uid="headwater-sinks",
    title="Headwater: sinks",
    description="What carries records into the stores: lag, rates, dead letters, time of a write.",
    variables=[
        choice("sink", "Sink", "The stores.", "label_values(headwater_sink_records_total, sink)"),
        choice(
            "group",
            "Group",
            "Consumer groups; instances of one group share the work.",
            'label_values(headwater_sink_records_total{sink=~"$sink"}, group)',
        ),
        choice(
            "topic", "Topic", "Topics that they read.", 'label_values(headwater_sink_lag_records{sink=~"$sink"}, topic)'
        ),
    ],
    rows=[
        (
            "",
            [
                figure(
                    "Behind",
                    "Records between the reading position and the end, transaction markers counted.",
                    "short",
                    prom(f"sum(headwater_sink_lag_records{{{_T}}})"),
                    span=6,
                    steps=((0, GOOD), (10_000, WARN), (1_000_000, BAD)),
                ),
                figure(
                    "Written",
                    "Records per second, into all stores.",
                    "ops",
                    prom(f"sum(rate(headwater_sink_records_total{{{_S}}}[$__rate_interval]))"),
                    span=6,
                ),
                figure(
                    "Dead letters",
                    "Records of the time shown that could not be stored; they are in the dead-letter topic.",
                    "short",
                    prom(f"round(sum(increase(headwater_sink_dead_letters_total{{{_S}}}[$__range])))"),
                    span=6,
                    steps=((0, GOOD), (1, BAD)),
                ),
                figure(
                    "Stores that take nothing",
                    "Sinks that wait, as their store asked for a pause or does not answer.",
                    "short",
                    prom(f"sum(headwater_sink_waiting{{{_S}}})"),
                    span=6,
                    steps=((0, GOOD), (1, BAD)),
                ),
            ],
        ),
        (
            "How far behind",
            [
                series(
                    "Lag",
                    "By sink and group, all partitions together.",
                    "short",
                    prom(f"sum by (sink, group) (headwater_sink_lag_records{{{_T}}})", "{{sink}} {{group}}"),
                ),
                rows(
                    "Lag by partition",
                    "Each partition is read by one instance of the group.",
                    prom(f"sum by (sink, group, topic, partition) (headwater_sink_lag_records{{{_T}}})", instant=True),
                    span=12,
                    hidden=("Time",),
                    renamed={"Value": "records behind"},
                ),
            ],
        ),
        (
            "How much",
            [
                series(
                    "Records written",
                    "Again where they came again; each is in the store once.",
                    "ops",
                    prom(_rate("headwater_sink_records_total"), "{{sink}}"),
                ),
                series(
                    "Records in a batch",
                    "Mean of the batches handed to commit.",
                    "short",
                    prom(
                        f"{_rate('headwater_sink_records_total')} / ({_rate('headwater_sink_batches_total')} > 0)",
                        "{{sink}}",
                    ),
                ),
                series(
                    "Time of a write",
                    "Of a batch into the store: the median and the slowest of 100.",
                    "s",
                    prom(
                        f"histogram_quantile(0.5, {_rate('headwater_sink_write_seconds_bucket', 'sink, le')})",
                        "{{sink}} median",
                    ),
                    prom(
                        f"histogram_quantile(0.99, {_rate('headwater_sink_write_seconds_bucket', 'sink, le')})",
                        "{{sink}} 99 %",
                    ),
                ),
                series(
                    "Busy",
                    "Part of the time in which the store writes; near 1 it is what limits: start more instances.",
                    "percentunit",
                    prom(_rate("headwater_sink_write_seconds_sum"), "{{sink}}"),
                ),
            ],
        ),
        (
            "What is wrong",
            [
                series(
                    "Dead letters",
                    "By sink and the stage at which it failed.",
                    "ops",
                    prom(_rate("headwater_sink_dead_letters_total", "sink, stage"), "{{sink}} {{stage}}"),
                ),
                series(
                    "Retries and failed commits",
                    "Times that a store asked to be left alone, and commits that Kafka did not take.",
                    "ops",
                    prom(_rate("headwater_sink_retries_total"), "{{sink}} retries"),
                    prom(_rate("headwater_sink_commit_failures_total"), "{{sink}} failed commits"),
                ),
            ],
        ),
    ],
)
