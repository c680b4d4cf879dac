"""What Headwater is to reach, and whether measured figures do: pure, no process and no file.

A target is a row: a figure of ours, taken as the median of the runs, against the same figure of a yardstick that was
measured in the same run (as a ratio), or against a number.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

#: Figures of one subject by name; one list entry a run. A figure that a run does not have is left out.
Runs = Sequence[Mapping[str, float]]

#: The subjects that are compared: the gateway and its peers, the replicator and MirrorMaker 2, the memory measurement,
#: the handshakes, the gateway and Leshan over DTLS, the sinks and their stores' bare clients, the analytics jobs and
#: Quix Streams alone.
HEADWATER, TUNED, DEFAULT = "headwater", "leshan-tuned", "leshan"
REPLICATOR, MIRROR = "replicator", "mirrormaker2"
MEMORY = "memory"
DTLS = "dtls"
COAPS, COAPS_PEER = "headwater over DTLS", "leshan-tuned over DTLS"
FIRMWARE = "firmware"
SINK, BARE_CLIENT = "sinks", "bare clients"
JOB, QUIX = "analytics jobs", "plain Quix Streams"


class Bound(Enum):
    """Which way a target points."""

    AT_LEAST = "≥"
    AT_MOST = "≤"
    BELOW = "<"

    def holds(self, value: float, limit: float) -> bool:
        """Is ``value`` on the right side of ``limit``?"""
        if self is Bound.AT_LEAST:
            return value >= limit
        return value <= limit if self is Bound.AT_MOST else value < limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One row. With ``against`` None ``limit`` is in the figure's own unit, else it is the ratio ours / yardstick."""

    label: str
    subject: str
    figure: str
    bound: Bound
    limit: float
    against: str | None = None

    @property
    def wanted(self) -> str:
        """The target in words, such as ``≥ 1.5x``."""
        return f"{self.bound.value} {self.limit:,g}{'' if self.against is None else 'x'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A target with what was measured; ``ratio`` is None where there is no yardstick or it measured zero."""

    target: Target
    ours: float
    yardstick: float | None
    ratio: float | None
    reached: bool


def _server(label: str, figure: str, bound: Bound, limit: float) -> Target:
    return Target(label=label, subject=HEADWATER, figure=figure, bound=bound, limit=limit, against=TUNED)


def _own(subject: str, label: str, figure: str, bound: Bound, limit: float) -> Target:
    return Target(label=label, subject=subject, figure=figure, bound=bound, limit=limit)


def _mirror(label: str, figure: str) -> Target:
    return Target(label=label, subject=REPLICATOR, figure=figure, bound=Bound.AT_LEAST, limit=1.0, against=MIRROR)


def _sink(label: str, name: str) -> Target:
    figure = f"{name} per_s"
    return Target(label=label, subject=SINK, figure=figure, bound=Bound.AT_LEAST, limit=0.6, against=BARE_CLIENT)


def _job(name: str) -> Target:
    figure = f"{name} per_s"
    label = f"job {name}, records/s in one process"
    return Target(label=label, subject=JOB, figure=figure, bound=Bound.AT_LEAST, limit=0.7, against=QUIX)


def _flat(name: str) -> Target:
    label = f"job {name}, memory at the end by that after a tenth of the readings"
    return _own(JOB, label, f"{name} growth", Bound.AT_MOST, 1.1)


TARGETS: tuple[Target, ...] = (
    _server("notifications, confirmable and durable, /s", "notify_max landed_per_s", Bound.AT_LEAST, 1.5),
    _server("CPU-seconds per 10,000 notifications", "notify_max cpu_s_per_10k", Bound.AT_MOST, 0.5),
    _server("p99 of a notification's acknowledgement, ms", "notify_max ack_p99_ms", Bound.AT_MOST, 0.5),
    _own(HEADWATER, "acknowledged notifications that are in the topic, share", "notify_max landed_share",
         Bound.AT_LEAST, 1.0),
    _server("registrations /s", "register per_s", Bound.AT_LEAST, 0.5),
    _server("updates /s", "update per_s", Bound.AT_LEAST, 0.3),
    _server("commands /s, 64 in flight", "read per_s", Bound.AT_LEAST, 0.5),
    _own(HEADWATER, "commands without the right reply", "read bad", Bound.AT_MOST, 0.0),
    _mirror("replication, records/s from the start of the process", "per_s_total"),
    _mirror("replication, records/s after the first record", "per_s_after_first"),
    _own(REPLICATOR, "records that did not arrive", "lat_missing", Bound.AT_MOST, 0.0),
    _own(REPLICATOR, "replicator, peak memory, MiB", "rss_highest_mb", Bound.BELOW, 80.0),
    _own(MEMORY, "gateway, peak memory, MiB", "rss_peak_mb", Bound.BELOW, 120.0),
    _own(MEMORY, "acknowledged notifications that are in the topic, share (memory run)", "landed_share",
         Bound.AT_LEAST, 1.0),
    _own(DTLS, "DTLS handshakes that came to nothing", "lost", Bound.AT_MOST, 0.0),
    _own(DTLS, "memory of a DTLS session, bytes", "session_bytes", Bound.BELOW, 4096.0),
    Target(label="notifications over DTLS-PSK, confirmable and durable, /s", subject=COAPS, figure="notify_max per_s",
           bound=Bound.AT_LEAST, limit=1.0, against=COAPS_PEER),
    _own(COAPS, "acknowledged notifications over DTLS-PSK that are in the topic, share", "landed_share",
         Bound.AT_LEAST, 1.0),
    _own(COAPS, "notifications over DTLS-PSK that were given up or refused", "lost", Bound.AT_MOST, 0.0),
    _own(FIRMWARE, "images of 50 devices that fetched at once and did not come whole", "damaged", Bound.AT_MOST, 0.0),
    _own(FIRMWARE, "p99 of a notification's acknowledgement, by that before they fetched", "p99_ratio",
         Bound.AT_MOST, 2.0),
    _sink("Cassandra, notifications/s", "cassandra"),
    _sink("Elasticsearch, notifications/s", "elasticsearch"),
    _sink("InfluxDB, notifications/s", "influxdb"),
    _sink("OrientDB, changed registrations/s", "orientdb"),
    _sink("Parquet, notifications/s", "parquet"),
    _sink("Prometheus, notifications/s", "prometheus"),
    _sink("Redis, notifications/s", "redis"),
    _sink("SQLite, notifications/s", "sqlite"),
    _sink("webhook, notifications/s", "webhook"),
    _own(SINK, "one worker into InfluxDB, notifications/s", "influxdb worker per_s", Bound.AT_LEAST, 10_000),
    _own(SINK, "one worker into SQLite, notifications/s", "sqlite worker per_s", Bound.AT_LEAST, 10_000),
    _own(SINK, "one worker into OrientDB, changed registrations/s", "orientdb worker per_s", Bound.AT_LEAST, 1_000),
    *(_job(name) for name in ("aggregate", "max-temperature", "statistics", "outliers", "join", "filter")),
    *(_flat(name) for name in ("aggregate", "max-temperature", "statistics", "outliers", "join", "filter")),
)  # fmt: skip

#: Figures that are shown without a target: what they are called, whose, and beside whom.
SHOWN: tuple[tuple[str, str, str], ...] = (
    ("1 MiB to each of 50 devices at once, s", FIRMWARE, "took_s"),
    ("CPU-ms of the gateway per megabyte of images", FIRMWARE, "cpu_ms_per_mb"),
    ("first registrations of a fresh process /s", HEADWATER, "register cold_per_s"),
    ("CPU-seconds per 10,000 registrations", HEADWATER, "register cpu_s_per_10k"),
    ("CPU-seconds per 10,000 updates", HEADWATER, "update cpu_s_per_10k"),
    ("peak memory after notifications at full rate, MiB", HEADWATER, "notify_max rss_peak_mb"),
    ("p50 of the acknowledgement at full rate, ms", HEADWATER, "notify_max ack_p50_ms"),
    ("p99 of the acknowledgement at 1,000/s, ms", HEADWATER, "notify_1000 ack_p99_ms"),
    ("p50 from sending to a Kafka consumer at 1,000/s, ms", HEADWATER, "notify_1000 e2e_p50_ms"),
    ("p99 from sending to a Kafka consumer at 1,000/s, ms", HEADWATER, "notify_1000 e2e_p99_ms"),
    ("CPU-seconds per 10,000 notifications at 1,000/s", HEADWATER, "notify_1000 cpu_s_per_10k"),
    ("non-confirmable at 5,000/s: share in the topic", HEADWATER, "non landed_share"),
    ("CPU-seconds per 10,000 non-confirmable", HEADWATER, "non cpu_s_per_10k"),
    ("p50 of a command, one at a time, ms", HEADWATER, "read seq_p50_ms"),
    ("p99 of a command, 64 in flight, ms", HEADWATER, "read p99_ms_64"),
    ("CPU-seconds per 10,000 commands", HEADWATER, "read cpu_s_per_10k"),
    ("handshakes /s, 64 under way", DTLS, "per_s"),
    ("p50 of a handshake, ms", DTLS, "p50_ms"),
    ("p99 of a handshake, ms", DTLS, "p99_ms"),
    ("CPU-milliseconds of the gateway a handshake", DTLS, "cpu_ms_each"),
    ("CPU-seconds per 10,000 notifications at full rate", COAPS, "notify_max cpu_s_per_10k"),
    ("p50 of the acknowledgement at full rate, ms", COAPS, "notify_max ack_p50_ms"),
    ("p99 of the acknowledgement at full rate, ms", COAPS, "notify_max ack_p99_ms"),
    ("p50 of the acknowledgement at 1,000/s, ms", COAPS, "notify_1000 ack_p50_ms"),
    ("p99 of the acknowledgement at 1,000/s, ms", COAPS, "notify_1000 ack_p99_ms"),
    ("CPU-seconds per 10,000 notifications at 1,000/s", COAPS, "notify_1000 cpu_s_per_10k"),
    ("notifications that a device said again", COAPS, "retried"),
    ("peak memory, MiB", COAPS, "rss_peak_mb"),
    ("CPU-seconds per 10,000 records", REPLICATOR, "cpu_s_per_10k"),
    ("highest memory, MiB", REPLICATOR, "rss_highest_mb"),
    ("p50 from edge to cloud at 1,000/s, ms", REPLICATOR, "lat_p50_ms"),
    ("p99 from edge to cloud at 1,000/s, ms", REPLICATOR, "lat_p99_ms"),
)


def median(runs: Runs, figure: str) -> float | None:
    """The median over the runs that have the figure."""
    found = [run[figure] for run in runs if figure in run]
    return statistics.median(found) if found else None


def judge(measured: Mapping[str, Runs]) -> list[Verdict]:
    """A verdict for every target whose figures were measured; ``measured`` is by subject."""
    verdicts = []
    for target in TARGETS:
        ours = median(measured.get(target.subject, ()), target.figure)
        yardstick = None if target.against is None else median(measured.get(target.against, ()), target.figure)
        if ours is None or (target.against is not None and yardstick is None):
            continue
        ratio = ours / yardstick if yardstick else None
        compared = ours if target.against is None else ratio
        reached = compared is not None and target.bound.holds(compared, target.limit)
        verdicts.append(Verdict(target=target, ours=ours, yardstick=yardstick, ratio=ratio, reached=reached))
    return verdicts


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """The targets as a Markdown table."""
    lines = ["| figure | Headwater | yardstick | ratio | wanted | |", "|---|---|---|---|---|---|"]
    for one in verdicts:
        beside = "" if one.target.against is None else f"{number(one.yardstick)} ({one.target.against})"
        ratio = "" if one.ratio is None else f"{one.ratio:.2f}"
        reached = "reached" if one.reached else "**not reached**"
        lines.append(
            f"| {one.target.label} | {number(one.ours)} | {beside} | {ratio} | {one.target.wanted} | {reached} |"
        )
    return "\n".join(lines)


def shown_table(measured: Mapping[str, Runs], subject: str, beside: Sequence[str]) -> str:
    """The figures without a target of one subject, with those of the yardsticks; empty if nothing was measured."""
    lines = []
    for label, whose, figure in SHOWN:
        if whose == subject and (ours := median(measured.get(subject, ()), figure)) is not None:
            others = [number(median(measured.get(name, ()), figure)) for name in beside]
            lines.append(f"| {' | '.join((label, number(ours), *others))} |")
    if not lines:
        return ""
    return "\n".join((f"| figure | {' | '.join((subject, *beside))} |", "|---" * (len(beside) + 2) + "|", *lines))


def number(value: float | None) -> str:
    """Three digits that matter, thousands with commas, ``-`` for nothing."""
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
