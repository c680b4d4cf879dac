"""The replicator: edge and cloud, both directions, exactly once.

Owns what belongs to the whole process: which lanes there are, their threads, their health, and how they end. What one
lane does is in `lane`; where it stands is in `ledger`.

========= ================================= ============ ======================================
lane      carries                           direction    when the line is thin
========= ================================= ============ ======================================
replies   replies, registrations, commands  edge → cloud goes first
bulk      all other uplink topics           edge → cloud gives way
commands  requests                          cloud → edge goes first
========= ================================= ============ ======================================

Each lane has its own connections, producer and transactions, so that a reply never waits behind a megabyte of
observations that is under way, and a lane whose target is away does not hold up the other direction. The topics of the
two directions are disjoint, so nothing comes back.
"""

from __future__ import annotations

import math
import os
import socket
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry

from connectors.health import serve_health
from connectors.kafka import Cluster, admin
from connectors.process_metrics import Component, of_gateway, with_process
from connectors.replicator.bandwidth import Bandwidth, Urgency
from connectors.replicator.errors import Fenced, ReplicatorError, SameCluster, Stuck
from connectors.replicator.lane import Lane
from connectors.replicator.meter import Meter
from connectors.replicator.metrics import Metrics
from connectors.replicator.spec import LaneSpec, Tenure
from schemas.avro.topics import Topics

__all__ = ["Fenced", "ReplicatorError", "ReplicatorSettings", "SameCluster", "Stuck", "run"]

# A lane whose loop has not come round for so long hangs; every step of it has a timeout well below.
_HANGS_AFTER = 120.0
_DRAIN = 8.5


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicatorSettings:
    """One replicator process.

    ``bandwidth``: bytes a second, both directions together, counted before compression; None: no cap. ``topics``:
    further topics that go from the edge to the cloud. ``metrics_port``: None serves nothing, 0 takes a free port.
    """

    gateway: str
    edge: Cluster
    cloud: Cluster
    topics: tuple[str, ...] = ()
    bandwidth: float | None = None
    compression: str = "lz4"
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"
    #: A file of API keys; then /metrics is for their holders only.
    metrics_keys: Path | None = None

    def __post_init__(self) -> None:
        own = Topics(self.gateway)
        if self.bandwidth is not None and not (math.isfinite(self.bandwidth) and self.bandwidth > 0):
            raise ValueError(f"a bandwidth of {self.bandwidth} bytes a second: it has to be more than 0")
        for topic in self.topics:
            if topic in own.downlink:
                raise ValueError(f"topic {topic} goes from the cloud to the edge; carried back it would never end")
            if topic.startswith(("__", "headwater.replicator.")):
                raise ValueError(f"topic {topic} is Kafka's or the replicator's own")


def lanes(settings: ReplicatorSettings) -> tuple[LaneSpec, ...]:
    """The table of lanes for one gateway."""
    own = Topics(settings.gateway)
    urgent = tuple(topic for topic in own.uplink if topic in (own.replies, own.registrations, own.commands))
    bulk = tuple(dict.fromkeys(topic for topic in (*own.uplink, *settings.topics) if topic not in urgent))
    up, down = (settings.edge, settings.cloud), (settings.cloud, settings.edge)
    table: Sequence[tuple[str, Urgency, tuple[Cluster, Cluster], tuple[str, ...]]] = (
        ("replies", Urgency.URGENT, up, urgent),
        ("bulk", Urgency.BULK, up, bulk),
        ("commands", Urgency.URGENT, down, own.downlink),
    )
    return tuple(
        LaneSpec(
            name=name,
            number=number,
            lanes=len(table),
            gateway=settings.gateway,
            urgency=urgency,
            source=source,
            target=target,
            topics=topics,
            compression=settings.compression,
            tell_source=source is settings.edge,
        )
        for number, (name, urgency, (source, target), topics) in enumerate(table)
    )


def run(settings: ReplicatorSettings, stop: threading.Event, *, registry: CollectorRegistry | None = None) -> None:
    """Replicate until ``stop`` is set; what is under way then is finished, and it returns within ten seconds.

    Cut lines and brokers that are away are waited for, for ever.

    Raises:
        Fenced: another replicator of the gateway took over.
        SameCluster: edge and cloud are the same cluster.
        Stuck: a thread ended with an error that nobody foresaw, or hangs.
        OSError: the metrics port is taken.
    """
    registry = registry or CollectorRegistry()
    metrics = Metrics(registry)
    bandwidth = None if settings.bandwidth is None else Bandwidth(settings.bandwidth, time.monotonic)
    ended = threading.Event()
    failures: list[BaseException] = []
    where = f"{socket.gethostname()}, process {os.getpid()}, since {time.strftime('%Y-%m-%d %H:%M:%S %Z')}"
    tenure = Tenure(uuid.uuid4().hex, where)
    edge, cloud = admin(settings.edge), admin(settings.cloud)
    running = []
    for spec in lanes(settings):
        source, target = (edge, cloud) if spec.source is settings.edge else (cloud, edge)
        lane = Lane(spec, source=source, target=target, tenure=tenure, metrics=metrics, stop=ended, bandwidth=bandwidth)
        metrics.begin(spec.name, spec.topics)
        running.append(lane)
    meter = Meter(running, metrics, ended, lambda: time.time_ns() // 1_000_000)

    def supervised(part: Lane | Meter) -> None:
        try:
            part.run()
        except BaseException as exc:  # noqa: BLE001  whatever it is, the process must end with it and not limp on
            failures.append(exc)
            ended.set()

    with ExitStack() as cleanup:
        if settings.metrics_port is not None:
            server = serve_health(
                settings.metrics_port,
                host=settings.metrics_host,
                keys=settings.metrics_keys,
                registry=with_process(
                    of_gateway(registry, settings.gateway),
                    Component.REPLICATOR,
                    (settings.gateway,),
                    lambda: _trouble(running),
                    tls=(settings.edge.tls, settings.cloud.tls),
                ),
                live=lambda: _hangs(running),
                ready=lambda: _trouble(running),
            )
            cleanup.callback(server.close)
        threads = [
            threading.Thread(target=supervised, args=(part,), name=name, daemon=True)
            for name, part in [*((lane.spec.name, lane) for lane in running), ("meter", meter)]
        ]
        for thread in threads:
            thread.start()
        while not stop.wait(0.1) and not ended.is_set():
            pass
        ended.set()
        deadline = time.monotonic() + _DRAIN
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
    for failure in failures:
        if isinstance(failure, ReplicatorError):
            raise failure
        raise Stuck(f"{type(failure).__name__}: {failure}") from failure


def _hangs(running: Sequence[Lane]) -> str | None:
    now = time.monotonic()
    late = [lane.spec.name for lane in running if now - lane.turned > _HANGS_AFTER]
    return f"no turn for {_HANGS_AFTER:.0f} s in lane {', '.join(late)}" if late else None


def _trouble(running: Sequence[Lane]) -> str | None:
    said = [f"{lane.spec.name}: {lane.trouble}" for lane in running if lane.trouble is not None]
    return "; ".join(said) or None
