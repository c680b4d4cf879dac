"""The jobs on the stream: how far behind, what goes in and comes out, and what was left out."""

from __future__ import annotations

from stacks.grafana.panels import BAD, GOOD, WARN, Board, choice, figure, prom, rows, series

_J = 'name=~"$job", group=~"$group"'


def _rate(name: str, by: str = "name") -> str:
    return f"sum by ({by}) (rate({name}{{{_J}}}[$__rate_interval]))"


BOARD = Board(
    uid="headwater-analytics",
    title="Headwater: analytics",
    description="Jobs on the stream: lag, records in, results out, what was left out and why.",
    variables=[
        choice("job", "Job", "Jobs that run.", "label_values(headwater_analytics_records_total, name)"),
        choice(
            "group",
            "Group",
            "Consumer groups of the jobs.",
            'label_values(headwater_analytics_records_total{name=~"$job"}, group)',
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
                    prom(f"sum(headwater_analytics_lag_records{{{_J}}})"),
                    span=6,
                    steps=((0, GOOD), (10_000, WARN), (1_000_000, BAD)),
                ),
                figure(
                    "Records in",
                    "Per second, of all jobs.",
                    "ops",
                    prom(f"sum(rate(headwater_analytics_records_total{{{_J}}}[$__rate_interval]))"),
                    span=6,
                ),
                figure(
                    "Results out",
                    "Per second, of all jobs.",
                    "ops",
                    prom(f"sum(rate(headwater_analytics_results_total{{{_J}}}[$__rate_interval]))"),
                    span=6,
                ),
                figure(
                    "Begun anew",
                    "Times that jobs began within the time shown; the first time is counted.",
                    "short",
                    prom(f"round(sum(increase(headwater_analytics_starts_total{{{_J}}}[$__range])))"),
                    span=6,
                    steps=((0, GOOD), (3, WARN), (10, BAD)),
                ),
            ],
        ),
        (
            "In and out",
            [
                series("Records in", "By job.", "ops", prom(_rate("headwater_analytics_records_total"), "{{name}}")),
                series("Results out", "By job.", "ops", prom(_rate("headwater_analytics_results_total"), "{{name}}")),
                series(
                    "Lag",
                    "By job, all partitions together.",
                    "short",
                    prom(f"sum by (name) (headwater_analytics_lag_records{{{_J}}})", "{{name}}"),
                ),
                rows(
                    "Lag by partition",
                    "Each partition is read by one instance of the job.",
                    prom(f"sum by (name, topic, partition) (headwater_analytics_lag_records{{{_J}}})", instant=True),
                    span=12,
                    hidden=("Time",),
                    renamed={"name": "job", "Value": "records behind"},
                ),
            ],
        ),
        (
            "What was left out",
            [
                series(
                    "Readings left out",
                    "Late: after their window's grace. Skipped: no finite numbers. Crowded: of an endpoint with more "
                    "series than are kept. Ahead: their own time was too far ahead, the gateway's was taken.",
                    "ops",
                    prom(_rate("headwater_analytics_late_total"), "{{name}} late"),
                    prom(_rate("headwater_analytics_skipped_total"), "{{name}} skipped"),
                    prom(_rate("headwater_analytics_crowded_total"), "{{name}} crowded"),
                    prom(_rate("headwater_analytics_ahead_total"), "{{name}} ahead"),
                ),
                series(
                    "Lost and dead letters",
                    "About how many records Kafka deleted before they were read; records put aside, by stage.",
                    "ops",
                    prom(_rate("headwater_analytics_lost_records_total"), "{{name}} lost"),
                    prom(
                        _rate("headwater_analytics_dead_letters_total", "name, stage"), "{{name}} dead letter {{stage}}"
                    ),
                    prom(_rate("headwater_analytics_too_large_total"), "{{name}} result too large"),
                ),
            ],
        ),
    ],
)
