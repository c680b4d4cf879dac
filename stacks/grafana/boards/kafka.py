"""Every Kafka of the fleet, edges and cloud: health, throughput, requests, access, the Java process.

Its metrics are those of the JMX exporter's agent by ``stacks/monitoring/kafka-jmx.yml``.
"""

from __future__ import annotations

from functools import partial

from stacks.grafana import panels
from stacks.grafana.panels import BAD, GOOD, WARN, Board, choice, figure, rows, series

#: Their Java is scraped every 30 s only (stacks/monitoring/prometheus.yml).
prom = partial(panels.prom, interval="30s")

_HOST = "label_values(kafka_host_info, host)"
#: The agent tells the host once; the other series are joined to it by their scrape.
NAMED = ' * on (job, instance) group_left (host) kafka_host_info{host=~"$kafka"}'
KAFKA = choice("kafka", "Kafka", "The hosts on which a Kafka runs.", _HOST)


def _all(expr: str, how: str = "sum") -> str:
    return f"{how}(({expr}){NAMED})"


def _by(expr: str, how: str = "sum", *kept: str) -> str:
    return f"{how} by ({', '.join(('host', *kept))}) (({expr}){NAMED})"


def _rate(name: str, how: str = "sum", *kept: str) -> str:
    return _by(f"rate({name}[$__rate_interval])", how, *kept)


BOARD = Board(
    uid="headwater-kafka",
    title="Headwater: Kafka",
    description="Every Kafka of the fleet, edges and cloud: health, throughput, requests, access, Java.",
    variables=[KAFKA],
    rows=[
        (
            "",
            [
                figure("Brokers", "That answer.", "short", prom('count(kafka_host_info{host=~"$kafka"})')),
                figure(
                    "Without a controller",
                    "Brokers where no controller is active; each of ours is its own.",
                    "short",
                    prom(_all("1 - kafka_controller_active")),
                    steps=((0, GOOD), (1, BAD)),
                ),
                figure(
                    "Offline partitions",
                    "Without a leader: nothing can be written or read there.",
                    "short",
                    prom(_all("kafka_controller_offline_partitions")),
                    steps=((0, GOOD), (1, BAD)),
                ),
                figure(
                    "Too few replicas",
                    "Partitions that take no records with acks=all, as too few replicas are in sync.",
                    "short",
                    prom(_all("kafka_server_under_min_isr_partitions")),
                    steps=((0, GOOD), (1, BAD)),
                ),
                figure(
                    "Partitions", "Replicas on all brokers together.", "short", prom(_all("kafka_server_partitions"))
                ),
                figure(
                    "On the disk",
                    "Bytes of all partitions.",
                    "bytes",
                    prom(_all("sum by (job, instance) (kafka_log_size_bytes)")),
                ),
            ],
        ),
        (
            "Throughput",
            [
                series(
                    "Records in",
                    "That were produced.",
                    "ops",
                    prom(_rate("kafka_server_messages_in_total"), "{{host}}"),
                ),
                series(
                    "Bytes in and out",
                    "Produced, and fetched by consumers.",
                    "Bps",
                    prom(_rate("kafka_server_in_bytes_total"), "{{host}} in"),
                    prom(_rate("kafka_server_out_bytes_total"), "{{host}} out"),
                ),
                series(
                    "Requests",
                    "That were answered, by kind.",
                    "reqps",
                    prom(_rate("kafka_network_requests_total", "sum", "request"), "{{host}} {{request}}"),
                ),
                series(
                    "Time of a request",
                    "The slowest of 100, from arrival to answer; that of a fetch has the wait for records in it.",
                    "s",
                    prom(
                        _by('kafka_network_request_seconds{percentile="99"}', "max", "request"), "{{host}} {{request}}"
                    ),
                ),
            ],
        ),
        (
            "Room left",
            [
                series(
                    "Idle request handlers",
                    "Share of the last minute in which they had nothing to do; below 0.3 the broker is at its end. "
                    "Kafka adds those of its controller, which are idle all the time: that 1 is taken off.",
                    "percentunit",
                    prom(_by("clamp(kafka_server_request_handler_idle_ratio - 1, 0, 1)", "min"), "{{host}}"),
                    steps=((0, BAD), (0.1, WARN), (0.3, GOOD)),
                ),
                series(
                    "Idle network threads",
                    "Share of time in which they had nothing to do.",
                    "percentunit",
                    prom(_by("kafka_network_processor_idle_ratio", "min"), "{{host}}"),
                    steps=((0, BAD), (0.1, WARN), (0.3, GOOD)),
                ),
                series(
                    "Heap in use",
                    "Of Java.",
                    "bytes",
                    prom(_by('jvm_memory_used_bytes{area="heap"}'), "{{host}} in use"),
                    prom(_by('jvm_memory_max_bytes{area="heap"}'), "{{host}} most"),
                ),
                series(
                    "Garbage collection",
                    "Part of the time that Java spends on it.",
                    "percentunit",
                    prom(_rate("jvm_gc_collection_seconds_sum"), "{{host}}"),
                ),
            ],
        ),
        (
            "Access",
            [
                series(
                    "Connections",
                    "Open ones, by listener.",
                    "short",
                    prom(_by("kafka_server_connections", "sum", "listener"), "{{host}} {{listener}}"),
                ),
                series(
                    "Refused",
                    "Connections without a certificate that is taken, and what the ACLs denied.",
                    "ops",
                    prom(_rate("kafka_server_failed_authentications_total"), "{{host}} no certificate"),
                    prom(_by("kafka_server_denied_per_minute / 60"), "{{host}} denied"),
                ),
                series(
                    "Failed requests",
                    "To produce or to fetch.",
                    "reqps",
                    prom(_rate("kafka_server_failed_requests_total", "sum", "request"), "{{host}} {{request}}"),
                ),
                rows(
                    "Brokers",
                    "Which version of Kafka runs where, and how many topics its cluster has.",
                    prom(_by("kafka_version_info", "max", "node_id", "version"), instant=True),
                    prom(_by("kafka_controller_topics", "max"), instant=True),
                    span=12,
                    hidden=("Time", "Value #A"),
                    renamed={"node_id": "node", "Value #B": "topics"},
                ),
            ],
        ),
    ],
)
