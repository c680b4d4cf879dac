"""The metrics of a bootstrap server, collected when asked. No label has a device's name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from gateway.bootstrap.config_file import ConfigFile
    from gateway.bootstrap.interface import Interface
    from gateway.bootstrap.runs import Runs
    from gateway.coap.endpoint import Endpoint
    from gateway.coap.secure import SecureLine


class BootstrapMetrics(Collector):
    """What the parts have counted."""

    def __init__(
        self, config: ConfigFile, runs: Runs, interface: Interface, endpoint: Endpoint, secure: SecureLine | None
    ) -> None:
        self._config, self._runs, self._interface = config, runs, interface
        self._endpoint, self._secure = endpoint, secure
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "headwater_bootstrap_configuration_wrong",
            "1 while the configuration's file is wrong, and what was read before it is served.",
            value=int(self._config.wrong),
        )
        yield GaugeMetricFamily("headwater_bootstrap_running", "Runs that are under way.", value=len(self._runs))
        yield _by("runs", "Runs that came to their end, by how.", "outcome", self._runs.ended)
        yield _by("refused", "Bootstrap requests that were refused, by code.", "code", self._interface.refusals)
        yield CounterMetricFamily("headwater_bootstrap_packs", "Packs that were given.", value=self._runs.packs)
        yield CounterMetricFamily(
            "headwater_bootstrap_credentials_removed",
            "Credentials that were removed, as the device has others.",
            value=self._runs.removed,
        )
        yield _by("datagrams_dropped", "Datagrams dropped.", "reason", self._endpoint.dropped_datagrams)
        if self._secure is not None:
            yield _by("dtls_handshakes", "Handshakes that were completed.", "kind", self._secure.handshakes)
            yield _by("dtls_dropped", "DTLS records that were dropped.", "reason", self._secure.server.dropped)
            if (certificates := self._secure.certificates) is not None:
                yield GaugeMetricFamily(
                    "headwater_bootstrap_dtls_certificate_sessions",
                    "DTLS sessions with certificates.",
                    value=certificates.open_sessions,
                )
                yield _by(
                    "dtls_certificate_dropped",
                    "What came to nothing on the side of certificates.",
                    "reason",
                    certificates.dropped,
                )


def _by(name: str, documentation: str, label: str, counts: dict[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(f"headwater_bootstrap_{name}", documentation, labels=[label])
    for key, value in sorted(dict(counts).items()):
        family.add_metric([key], value)
    return family
