"""The process that carries out the campaigns of one gateway: the worker's thread, its health and its metrics."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cloud.campaigns.plan import Standing, overview
from cloud.campaigns.worker import Worker
from connectors.health import serve_health
from connectors.kafka import Cluster
from connectors.process_metrics import Component, with_process

#: A loop that has not come round for so long hangs; each of its steps has a timeout below.
_HANGS_AFTER = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignSettings:
    """One process. ``metrics_port``: None serves nothing, 0 takes a free port."""

    gateway: str
    kafka: Cluster
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"
    #: A file of API keys; then /metrics is for their holders only.
    metrics_keys: Path | None = None


class _Metrics(Collector):
    def __init__(self, gateway: str, worker: Worker) -> None:
        self._gateway = gateway
        self._worker = worker

    def collect(self) -> Iterator[Metric]:
        standings: Counter[str] = Counter()
        phases: Counter[str] = Counter()
        for one in list(self._worker.book.campaigns.values()):
            seen = overview(one.plan, one.control, dict(one.devices))
            standings[seen.standing.value] += 1
            if seen.standing is not Standing.DONE:
                for phase, count in seen.counts.items():
                    phases[phase.value] += count
                phases["waiting"] += seen.waiting
        campaigns = GaugeMetricFamily(
            "headwater_campaigns", "Campaigns, by how they stand.", labels=["gateway", "standing"]
        )
        for name, count in sorted(standings.items()):
            campaigns.add_metric([self._gateway, name], count)
        devices = GaugeMetricFamily(
            "headwater_campaigns_devices", "Devices of campaigns that are not done.", labels=["gateway", "phase"]
        )
        for name, count in sorted(phases.items()):
            devices.add_metric([self._gateway, name], count)
        requests = CounterMetricFamily(
            "headwater_campaigns_requests", "Requests that were sent for campaigns.", labels=["gateway"]
        )
        requests.add_metric([self._gateway], self._worker.requests_sent)
        yield campaigns
        yield devices
        yield requests


def run(settings: CampaignSettings, stop: threading.Event) -> None:
    """Carry campaigns out until ``stop`` is set.

    Raises:
        TakenOver: another process does so now.
        OSError: the metrics port is taken.
    """
    worker = Worker(settings.kafka, settings.gateway)
    health = None
    if settings.metrics_port is not None:
        registry = CollectorRegistry()
        registry.register(_Metrics(settings.gateway, worker))
        health = serve_health(
            settings.metrics_port,
            host=settings.metrics_host,
            keys=settings.metrics_keys,
            registry=with_process(
                registry,
                Component.CAMPAIGNS,
                (settings.gateway,),
                lambda: worker.trouble,
                tls=(settings.kafka.tls,),
            ),
            live=lambda: _hangs(worker),
            ready=lambda: worker.trouble,
        )
    try:
        worker.run(stop)
    finally:
        if health is not None:
            health.close()


def _hangs(worker: Worker) -> str | None:
    hangs = worker.trouble is None and time.monotonic() - worker.turned > _HANGS_AFTER
    return f"the campaigns did not go on for {_HANGS_AFTER:.0f} s" if hangs else None
