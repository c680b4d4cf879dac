"""What every process tells of itself to Prometheus, whatever it does: its build, whether it is ready, its gateway.

Owns the two series that all kinds of processes share and their labels, and the standard ones of a process (CPU, memory,
start time, open files), which Prometheus's client keeps for its global registry alone. Counts nothing of the work.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from enum import Enum
from functools import cache
from importlib import metadata
from pathlib import Path

from prometheus_client import REGISTRY, CollectorRegistry, ProcessCollector, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from security.expiry import watch_expiry

# A gauge beside each counter that says when it began would double the series; a restart shows in
# `process_start_time_seconds`.
disable_created_metrics()  # type: ignore[no-untyped-call]  # annotated in no version so far


#: None: the process is of use; a text: why it is not.
Ready = Callable[[], str | None]


class Component(Enum):
    """The kinds of processes, by the value of the label ``component``."""

    GATEWAY = "gateway"
    REPLICATOR = "replicator"
    SINK = "sink"
    ANALYTICS = "analytics"
    SCHEMAS = "schemas"
    BOOTSTRAP = "bootstrap"
    CAMPAIGNS = "campaigns"


@cache
def version() -> str:
    """The version that is installed; "unknown" where it runs from a folder that was never installed."""
    try:
        return metadata.version("headwater")
    except metadata.PackageNotFoundError:
        return "unknown"


class ProcessMetrics(Collector):
    """Build and readiness of one process, asked for at every scrape. ``gateways``: whom it serves, ``*`` for all."""

    def __init__(self, component: Component, gateways: Collection[str], ready: Ready) -> None:
        self._component = component.value
        self._gateways = sorted(set(gateways))
        self._ready = ready

    def collect(self) -> Iterator[Metric]:
        build = GaugeMetricFamily(
            "headwater_build_info",
            "Always 1; the labels say what runs and for which gateway (* for all).",
            labels=["component", "gateway", "version", "python"],
        )
        ready = GaugeMetricFamily(
            "headwater_ready",
            "1 while the process is of use, as /readyz says, else 0.",
            labels=["component", "gateway"],
        )
        is_ready = self._is_ready()
        for gateway in self._gateways:
            build.add_metric([self._component, gateway, version(), platform.python_version()], 1)
            ready.add_metric([self._component, gateway], is_ready)
        yield build
        yield ready

    def _is_ready(self) -> int:
        try:
            return int(self._ready() is None)
        except Exception:  # noqa: BLE001  /readyz tells of it; the other metrics are to be seen all the same
            return 0


class _Shown(Collector):
    """All that another registry has, with further labels on every sample."""

    def __init__(self, registry: CollectorRegistry, labels: Mapping[str, str]) -> None:
        self._registry = registry
        self._labels = labels

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            shown = Metric(family.name, family.documentation, family.type, family.unit)
            shown.samples = [one._replace(labels={**self._labels, **one.labels}) for one in family.samples]
            yield shown


def of_gateway(registry: CollectorRegistry, gateway: str) -> CollectorRegistry:
    """A registry that shows ``registry`` with the label ``gateway`` on every sample."""
    shown = CollectorRegistry(auto_describe=False)
    shown.register(_Shown(registry, {"gateway": gateway}))
    return shown


def with_process(
    registry: CollectorRegistry,
    component: Component,
    gateways: Collection[str],
    ready: Ready,
    *,
    tls: Iterable[Path | None] = (),
    certificates: Iterable[Path | None] = (),
) -> CollectorRegistry:
    """A registry that shows ``registry``, and beside it what is common to all processes.

    ``gateways``: whom the process serves, ``*`` for all of them; ``ready``: as `connectors.health` asks it; ``tls``:
    the folders of the identities with which it speaks TLS, whose expiry is shown, and ``certificates``: other files of
    such.
    """
    shown = CollectorRegistry(auto_describe=False)
    shown.register(ProcessMetrics(component, gateways, ready))
    if registry is not REGISTRY:
        ProcessCollector(registry=shown)
    watch_expiry(shown, tls, certificates)
    shown.register(_Shown(registry, {}))
    return shown
