"""The gateway's metrics, collected when asked: the hot paths count in plain integers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from gateway.access import Access
    from gateway.coap.secure import SecureLine
    from gateway.oscore.line import OscoreLine
    from gateway.parts import Parts
    from gateway.several.crossing import Crossing

Number = Callable[[], float]
Labelled = Callable[[], dict[str, int]]
_Family = type[CounterMetricFamily] | type[GaugeMetricFamily]


class GatewayMetrics(Collector):
    """Gauges and counters by name; each is read from its callable at every scrape."""

    def __init__(self, gateway: str) -> None:
        self._gateway = gateway
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self._gauges: list[tuple[str, str, Number]] = []
        self._counters: list[tuple[str, str, Number]] = []
        self._labelled: list[tuple[_Family, str, str, str, Labelled]] = []

    def gauge(self, name: str, documentation: str, read: Number) -> None:
        self._gauges.append((f"headwater_gateway_{name}", documentation, read))

    def counter(self, name: str, documentation: str, read: Number) -> None:
        self._counters.append((f"headwater_gateway_{name}", documentation, read))

    def counters(self, name: str, documentation: str, label: str, read: Labelled) -> None:
        """A counter for each key that ``read`` gives, as the value of ``label``."""
        self._labelled.append((CounterMetricFamily, f"headwater_gateway_{name}", documentation, label, read))

    def gauges(self, name: str, documentation: str, label: str, read: Labelled) -> None:
        """A gauge for each key that ``read`` gives, as the value of ``label``."""
        self._labelled.append((GaugeMetricFamily, f"headwater_gateway_{name}", documentation, label, read))

    def collect(self) -> Iterator[Metric]:
        for name, documentation, read in self._gauges:
            gauge = GaugeMetricFamily(name, documentation, labels=["gateway"])
            gauge.add_metric([self._gateway], read())
            yield gauge
        for name, documentation, read in self._counters:
            counter = CounterMetricFamily(name, documentation, labels=["gateway"])
            counter.add_metric([self._gateway], read())
            yield counter
        for family, name, documentation, label, read_all in self._labelled:
            labelled = family(name, documentation, labels=["gateway", label])
            for key, value in sorted(dict(read_all()).items()):
                labelled.add_metric([self._gateway, key], value)
            yield labelled


def describe_dtls(metrics: GatewayMetrics, line: SecureLine, access: Access) -> None:
    """What a gateway with DTLS shows beside."""
    server = line.server
    metrics.gauge("dtls_sessions", "Established DTLS sessions.", lambda: server.open_sessions)
    metrics.gauge("dtls_handshakes_open", "Handshakes that are under way.", lambda: server.open_handshakes)
    metrics.counters("dtls_handshakes", "Handshakes that were completed.", "kind", lambda: line.handshakes)
    metrics.counters("dtls_dropped", "DTLS records that were dropped.", "reason", lambda: server.dropped)
    metrics.counters("dtls_unsent", "Messages that could not be sent over DTLS.", "reason", lambda: line.unsent)
    metrics.counter("dtls_flights_repeated", "Flights that were said again.", lambda: server.retransmitted_flights)
    metrics.counter("dtls_moved", "Sessions whose device came from another address.", lambda: line.moved)
    metrics.counter(
        "dtls_revoked", "Sessions that were ended as their key was removed or changed.", lambda: line.revoked
    )
    if (certificates := line.certificates) is not None:
        metrics.gauge(
            "dtls_certificate_sessions", "DTLS sessions with certificates.", lambda: certificates.open_sessions
        )
        metrics.gauge(
            "dtls_certificate_sessions_resumable",
            "Sessions with certificates that are kept to be resumed.",
            lambda: certificates.resumable_sessions,
        )
        metrics.gauge(
            "dtls_certificate_handshakes_open",
            "Handshakes with certificates that are under way.",
            lambda: certificates.open_handshakes,
        )
        metrics.counters(
            "dtls_certificate_dropped",
            "What came to nothing on the side of certificates.",
            "reason",
            lambda: certificates.dropped,
        )
    metrics.counter("credentials_unreadable", "Looks into the credentials that failed.", lambda: access.failures)


def describe_oscore(metrics: GatewayMetrics, line: OscoreLine) -> None:
    """What a gateway whose devices may speak OSCORE shows beside."""
    metrics.gauge("oscore_contexts", "Security contexts of OSCORE in use.", lambda: len(line))
    metrics.counter("oscore_opened", "Messages with OSCORE that were opened.", lambda: line.opened)
    metrics.counter("oscore_renewed", "Keys of OSCORE that a device had derived anew.", lambda: line.renewed)
    metrics.counters("oscore_refused", "Messages with OSCORE that came to nothing.", "reason", lambda: line.refused)


def describe_crossing(metrics: GatewayMetrics, crossing: Crossing) -> None:
    """What one of several processes shows beside."""
    metrics.counter("handed_on", "Datagrams handed to the process that owns their device.", lambda: crossing.handed_on)
    metrics.counter("handed_here", "Datagrams that other processes handed over.", lambda: crossing.handed_here)
    metrics.counters("handed_lost", "Datagrams that could not be handed over.", "reason", lambda: crossing.dropped)
    metrics.counter("dtls_sessions_handed_on", "DTLS sessions given to their owner.", lambda: crossing.sessions_moved)


def describe(metrics: GatewayMetrics, parts: Parts) -> None:
    """Everything that a running gateway shows."""
    registrations, batches, plain = parts.registrations, parts.batches, parts.notifications
    endpoint, uplink, state = parts.endpoint, parts.uplink, parts.state
    commands = parts.commands.loop
    metrics.gauge("devices", "Registered devices.", lambda: len(parts.registry))
    metrics.gauges(
        "devices_by_version", "Registered devices, by LwM2M version.", "version", lambda: parts.registry.by_version
    )
    metrics.gauge("devices_behind", "Of the registered devices, those behind a gateway.", lambda: len(parts.behind))
    metrics.counters(
        "devices_behind_refused",
        "Devices that a gateway told of and that were not registered.",
        "reason",
        lambda: parts.behind.refused,
    )
    metrics.gauge("observations", "Established observations.", lambda: len(parts.table))
    metrics.gauge("uplink_under_way", "Delivery reports of the edge Kafka that are awaited.", lambda: uplink.under_way)
    metrics.gauge("accepting", "1 while what comes can be made durable.", lambda: int(uplink.accepting))
    metrics.counter("registrations", "Register requests that were accepted.", lambda: registrations.registered)
    metrics.counter("updates", "Update requests that were accepted.", lambda: registrations.updated)
    metrics.counter("deregistrations", "De-register requests.", lambda: registrations.deregistered)
    metrics.counter("expired", "Registrations whose lifetime ran out.", lambda: registrations.expired)
    metrics.counter(
        "registrations_refused",
        "Requests answered 5.03, or left without an answer.",
        lambda: registrations.changes.refused,
    )
    bare = registrations.bare
    metrics.counter(
        "journal_failed",
        "Turns of updates that the disk refused, and that waited for Kafka.",
        lambda: bare.journal.failed,
    )
    metrics.counter("journal_said_again", "Updates of the journal that Kafka did not have.", lambda: bare.said_again)
    metrics.counter("journal_dropped", "Updates of the journal whose registration was gone.", lambda: bare.dropped)
    metrics.counter("notifications", "Notifications taken.", lambda: batches.taken)
    metrics.counter("notification_duplicates", "Notifications that came again.", lambda: batches.duplicates)
    metrics.counter("notifications_refused", "Notifications left unacknowledged: no Kafka.", lambda: batches.refused)
    metrics.counter("notifications_late", "Notifications that came after a newer one.", lambda: batches.late)
    metrics.counters("notifications_dropped", "Notifications not recorded.", "reason", lambda: plain.dropped)
    metrics.counter("sends", "Sends that were recorded.", lambda: parts.sends.taken)
    metrics.counter("sends_repeated", "Sends that came again and were recorded already.", lambda: parts.sends.repeated)
    metrics.counters("sends_refused", "Sends not recorded.", "reason", lambda: parts.sends.refused)
    metrics.counter("observations_established", "Observe requests that succeeded.", lambda: parts.observing.established)
    metrics.counter("observations_refused", "Observe requests that a device refused.", lambda: parts.observing.refused)
    metrics.counter("first_reads", "Answers to what is read at registrations.", lambda: parts.first_reads.answered)
    metrics.gauge("first_reads_waiting", "Devices of which something is to be read.", lambda: parts.first_reads.devices)
    metrics.gauge("commands_waiting", "Commands without a durable reply.", lambda: commands.unanswered)
    metrics.counters(
        "commands", "Commands that came to their end, by how.", "outcome", lambda: commands.answering.outcomes
    )
    metrics.counter("commands_repeated", "Requests that came again.", lambda: commands.repeated)
    metrics.counters(
        "dead_letters",
        "Records put into the dead-letter topic, by stage.",
        "stage",
        lambda: {"command": commands.undecodable, "gateway:decode": plain.dropped["undecodable payload"]},
    )
    files = parts.files
    metrics.gauge("files", "Files for devices that are here.", lambda: len(files.cache))
    metrics.gauge("files_bytes", "Their bytes.", lambda: files.cache.size)
    metrics.gauge("file_requests_waiting", "Blocks that wait for their turn.", lambda: files.server.waiting)
    metrics.counter("files_completed", "Files for devices that came whole.", lambda: files.cache.completed)
    metrics.counters("files_dropped", "Files, or pieces, that were dropped.", "reason", lambda: files.dropped)
    metrics.counter("file_blocks", "Blocks of files that devices fetched.", lambda: files.server.blocks)
    metrics.counter("file_bytes", "Their bytes.", lambda: files.server.sent_bytes)
    metrics.counters(
        "file_requests_refused", "Requests for files that got none.", "reason", lambda: files.server.refused
    )
    metrics.counter("datagrams", "Datagrams received.", lambda: endpoint.receiving.received)
    metrics.counters("datagrams_dropped", "Datagrams dropped.", "reason", lambda: endpoint.dropped_datagrams)
    metrics.counter("records", "Records handed to the producer.", lambda: uplink.sent)
    metrics.counter("records_failed", "Records that the producer did not take or lost.", lambda: uplink.failed)
    metrics.counter("state_groups", "Groups written to the state file.", lambda: state.groups_written)
    metrics.counter("state_groups_failed", "Groups that the disk refused.", lambda: state.groups_failed)
