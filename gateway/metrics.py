"""The gateway's metrics, collected when asked: the hot paths count in plain integers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

Number = Callable[[], float]
Labelled = Callable[[], dict[str, int]]


class GatewayMetrics(Collector):
    """Gauges and counters by name; each is read from its callable at every scrape."""

    def __init__(self, gateway: str) -> None:
        self._gateway = gateway
        self._gauges: list[tuple[str, str, Number]] = []
        self._counters: list[tuple[str, str, Number]] = []
        self._labelled: list[tuple[str, str, str, Labelled]] = []

    def gauge(self, name: str, documentation: str, read: Number) -> None:
        self._gauges.append((f"headwater_gateway_{name}", documentation, read))

    def counter(self, name: str, documentation: str, read: Number) -> None:
        self._counters.append((f"headwater_gateway_{name}", documentation, read))

    def counters(self, name: str, documentation: str, label: str, read: Labelled) -> None:
        """A counter for each key that ``read`` gives, as the value of ``label``."""
        self._labelled.append((f"headwater_gateway_{name}", documentation, label, read))

    def collect(self) -> Iterator[Metric]:
        for name, documentation, read in self._gauges:
            gauge = GaugeMetricFamily(name, documentation, labels=["gateway"])
            gauge.add_metric([self._gateway], read())
            yield gauge
        for name, documentation, read in self._counters:
            counter = CounterMetricFamily(name, documentation, labels=["gateway"])
            counter.add_metric([self._gateway], read())
            yield counter
        for name, documentation, label, read_all in self._labelled:
            labelled = CounterMetricFamily(name, documentation, labels=["gateway", label])
            for key, value in sorted(dict(read_all()).items()):
                labelled.add_metric([self._gateway, key], value)
            yield labelled
