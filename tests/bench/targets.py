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

#: The subjects that are compared: the gateway and its peers; a bare loop over a socket, a gateway with 20,000
#: devices and one of two processes; the replicator and MirrorMaker 2, and the replicator after a WAN cut; the memory
#: measurement, the handshakes, the gateway and Leshan over DTLS, the sinks and their stores' bare clients, the
#: analytics jobs and Quix Streams alone; how figures grow, the whole way on one machine, the edge stack in
#: containers.
HEADWATER, TUNED, DEFAULT = "headwater", "leshan-tuned", "leshan"
FLOOR, SCALE, PROCESSES = "bare loop", "many devices", "several processes"
REPLICATOR, MIRROR = "replicator", "mirrormaker2"
CATCHING_UP = "catching up"
MEMORY = "memory"
DTLS = "dtls"
COAPS, COAPS_PEER = "headwater over DTLS", "leshan-tuned over DTLS"
FIRMWARE = "firmware"
SINK, BARE_CLIENT = "sinks", "bare clients"
JOB, QUIX = "analytics jobs", "plain Quix Streams"
GROWTH, END_TO_END = "growth", "end to end"
EDGE_MEMORY = "edge memory"


#: What is measured while others use more cores than that is marked.
DISTURBED = 0.3


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
    #: The yardstick's figure where it has another name.
    beside: str = ""

    @property
    def wanted(self) -> str:
        """The target in words, such as ``≥ 1.5x``."""
        return f"{self.bound.value} {self.limit:,g}{'' if self.against is None else 'x'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A target with what was measured; ``ratio`` is None where there is no yardstick or it measured zero."""

    target: Target
    ours: Spread
    yardstick: Spread | None
    ratio: float | None
    reached: bool
    #: The most cores that others used while one of the two was measured.
    others: float = 0.0


def _own(subject: str, label: str, figure: str, bound: Bound, limit: float) -> Target:
    return Target(label=label, subject=subject, figure=figure, bound=bound, limit=limit)


def _server(label: str, figure: str, bound: Bound, limit: float) -> Target:
    return Target(label=label, subject=HEADWATER, figure=figure, bound=bound, limit=limit, against=TUNED)


def _mirror(label: str, figure: str, bound: Bound, limit: float) -> Target:
    return Target(label=label, subject=REPLICATOR, figure=figure, bound=bound, limit=limit, against=MIRROR)


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
    _server("notifications, confirmable and durable, /s", "notify_max landed_per_s", Bound.AT_LEAST, 2.5),
    _server("CPU-seconds per 10,000 notifications", "notify_max cpu_s_per_10k", Bound.AT_MOST, 0.25),
    Target(label="CPU-seconds per 10,000 notifications, by a bare recvfrom/sendto loop", subject=HEADWATER,
           figure="notify_max cpu_s_per_10k", bound=Bound.AT_MOST, limit=2.0, against=FLOOR, beside="cpu_s_per_10k"),
    _server("p99 of a notification's acknowledgement, ms", "notify_max ack_p99_ms", Bound.AT_MOST, 0.5),
    _own(HEADWATER, "acknowledged notifications that are in the topic, share", "notify_max landed_share",
         Bound.AT_LEAST, 1.0),
    _server("CPU-seconds per 10,000 notifications at 1,000/s", "notify_1000 cpu_s_per_10k", Bound.AT_MOST, 0.25),
    _server("p99 from sending to a Kafka consumer at 1,000/s, ms", "notify_1000 e2e_p99_ms", Bound.AT_MOST, 1.0),
    _server("registrations /s", "register per_s", Bound.AT_LEAST, 1.5),
    _server("updates /s", "update per_s", Bound.AT_LEAST, 1.2),
    _server("p50 of a command, one at a time, ms", "read seq_p50_ms", Bound.AT_MOST, 0.7),
    _server("commands /s, 64 in flight", "read per_s", Bound.AT_LEAST, 1.2),
    _own(HEADWATER, "commands without the right reply", "read bad", Bound.AT_MOST, 0.0),
    _own(SCALE, "20,000 devices with 40,000 observations from cold, s", "cold_s", Bound.BELOW, 60.0),
    _own(SCALE, "20,000 devices, peak memory of the gateway, MiB (200 MB)", "rss_peak_mb", Bound.BELOW, 190.7),
    _own(SCALE, "20,000 devices, from a restart to the first accepted notification, s", "restart_s", Bound.BELOW, 5.0),
    Target(label="CPU-seconds per 10,000 notifications with 20,000 devices, by that with 100", subject=SCALE,
           figure="cpu_s_per_10k_many", bound=Bound.AT_MOST, limit=1.2, against=SCALE, beside="cpu_s_per_10k_few"),
    Target(label="notifications/s of two processes, each with a tenth of a core, by one", subject=PROCESSES,
           figure="per_s_2", bound=Bound.AT_LEAST, limit=1.7, against=PROCESSES, beside="per_s_1"),
    _mirror("replication, records/s from the start of the process", "per_s_total", Bound.AT_LEAST, 3.0),
    _mirror("replication, records/s after the first record", "per_s_after_first", Bound.AT_LEAST, 3.0),
    _mirror("p50 from edge to cloud at 1,000/s, ms", "lat_p50_ms", Bound.AT_MOST, 0.7),
    _own(REPLICATOR, "records that did not arrive", "lat_missing", Bound.AT_MOST, 0.0),
    _own(REPLICATOR, "replicator, peak memory, MiB", "rss_highest_mb", Bound.BELOW, 80.0),
    Target(label="catching up after a WAN cut, records/s", subject=CATCHING_UP, figure="per_s_after_cut",
           bound=Bound.AT_LEAST, limit=3.0, against=MIRROR, beside="per_s_after_first"),
    _own(CATCHING_UP, "the longest that a command waits while it catches up, ms", "command_max_ms",
         Bound.AT_MOST, 2000.0),
    _own(CATCHING_UP, "the longest that a reply waits while it catches up, ms", "reply_max_ms", Bound.AT_MOST, 2000.0),
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
    _own(EDGE_MEMORY, "edge stack in containers, largest sum by RSS, bytes", "rss", Bound.AT_MOST, 300e6),
    _own(EDGE_MEMORY, "edge stack in containers, largest sum by PSS, bytes", "pss", Bound.AT_MOST, 300e6),
    _own(END_TO_END, "devices to InfluxDB, acknowledged notifications that are there, share", "stored_share",
         Bound.AT_LEAST, 1.0),
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
    ("non-confirmable at 5,000/s: share in the topic", HEADWATER, "non landed_share"),
    ("CPU-seconds per 10,000 non-confirmable", HEADWATER, "non cpu_s_per_10k"),
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
    ("notifications/s that it acknowledges, unread", FLOOR, "per_s"),
    ("CPU-seconds per 10,000 of them", FLOOR, "cpu_s_per_10k"),
    ("p50 of the acknowledgement, ms", FLOOR, "ack_p50_ms"),
    ("p99 of the acknowledgement, ms", FLOOR, "ack_p99_ms"),
    ("devices", SCALE, "devices"),
    ("registrations /s from cold, each with two observations", SCALE, "registrations_per_s"),
    ("memory when all are registered, MiB", SCALE, "rss_registered_mb"),
    ("memory after the restart, MiB", SCALE, "rss_restarted_mb"),
    ("CPU-seconds per 10,000 notifications, one process", PROCESSES, "cpu_s_per_10k_1"),
    ("CPU-seconds per 10,000 notifications, two processes together", PROCESSES, "cpu_s_per_10k_2"),
    ("share of its CPU that the process used", PROCESSES, "used_1"),
    ("share of its CPU that each of two used, at least", PROCESSES, "used_2"),
    ("records/s without a cut", CATCHING_UP, "per_s_without_cut"),
    ("from the end of the cut to the first record, s", CATCHING_UP, "first_after_restore_s"),
    ("p50 of a command while it catches up, ms", CATCHING_UP, "command_p50_ms"),
    ("p50 of a reply while it catches up, ms", CATCHING_UP, "reply_p50_ms"),
    ("notifications/s that are sustained", END_TO_END, "sustained_per_s"),
    ("p99 of the acknowledgement then, ms", END_TO_END, "sustained ack_p99_ms"),
    ("the first rate that was not sustained, /s", END_TO_END, "limit_per_s"),
    ("stored in InfluxDB then, /s", END_TO_END, "limit stored_per_s"),
    ("at its end not acknowledged", END_TO_END, "limit not acknowledged"),
    ("at its end waiting in the edge's Kafka", END_TO_END, "limit not replicated"),
    ("at its end waiting in the cloud's Kafka", END_TO_END, "limit not stored"),
    ("CPU-seconds per 10,000 records", REPLICATOR, "cpu_s_per_10k"),
    ("highest memory, MiB", REPLICATOR, "rss_highest_mb"),
    ("p99 from edge to cloud at 1,000/s, ms", REPLICATOR, "lat_p99_ms"),
)


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of a figure over its runs, and the smallest and largest of them."""

    median: float
    least: float
    most: float
    runs: int

    def __str__(self) -> str:
        between = f" ({number(self.least)} to {number(self.most)})" if self.least != self.most else ""
        return number(self.median) + between


def spread(runs: Runs, figure: str) -> Spread | None:
    """Over the runs that have the figure."""
    found = [run[figure] for run in runs if figure in run]
    return Spread(statistics.median(found), min(found), max(found), len(found)) if found else None


def judge(measured: Mapping[str, Runs]) -> list[Verdict]:
    """A verdict for every target whose figures were measured; ``measured`` is by subject."""
    verdicts = []
    for target in TARGETS:
        ours, yardstick = spread(measured.get(target.subject, ()), target.figure), None
        if target.against is not None:
            yardstick = spread(measured.get(target.against, ()), target.beside or target.figure)
        if ours is None or (target.against is not None and yardstick is None):
            continue
        ratio = ours.median / yardstick.median if yardstick is not None and yardstick.median else None
        compared = ours.median if target.against is None else ratio
        reached = compared is not None and target.bound.holds(compared, target.limit)
        others = max(_others(measured.get(name or "", ()), target.figure) for name in (target.subject, target.against))
        verdicts.append(
            Verdict(target=target, ours=ours, yardstick=yardstick, ratio=ratio, reached=reached, others=others)
        )
    return verdicts


def _others(runs: Runs, figure: str) -> float:
    """What others used in the step of the figure, which is its first word, or in the whole run."""
    step = f"{figure.partition(' ')[0]} other_cores"
    return max((run.get(step, run.get("other_cores", 0.0)) for run in runs), default=0.0)


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """The targets as a Markdown table: medians, and from the least to the most where runs differ.

    What was measured while others used more than `DISTURBED` cores is marked.
    """
    lines = ["| figure | Headwater | yardstick | ratio | wanted | |", "|---|---|---|---|---|---|"]
    for one in verdicts:
        beside = "" if one.yardstick is None else f"{one.target.against}: {one.yardstick}"
        ratio = "" if one.ratio is None else f"{one.ratio:.2f}"
        reached = "reached" if one.reached else "**not reached**"
        if one.others > DISTURBED:
            reached += f", disturbed ({one.others:.2f})"
        lines.append(f"| {one.target.label} | {one.ours} | {beside} | {ratio} | {one.target.wanted} | {reached} |")
    return "\n".join(lines)


def shown_table(measured: Mapping[str, Runs], subject: str, beside: Sequence[str]) -> str:
    """The figures without a target of one subject, with those of the yardsticks; empty if nothing was measured."""
    lines = []
    for label, whose, figure in SHOWN:
        if whose == subject and (ours := spread(measured.get(subject, ()), figure)) is not None:
            others = [spread(measured.get(name, ()), figure) or "-" for name in beside]
            lines.append(f"| {' | '.join(map(str, (label, ours, *others)))} |")
    if not lines:
        return ""
    return "\n".join((f"| figure | {' | '.join((subject, *beside))} |", "|---" * (len(beside) + 2) + "|", *lines))


def number(value: float) -> str:
    """Three digits that matter, thousands with commas."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
