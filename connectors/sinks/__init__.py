"""The stores that records flow into: one file a store, one row of `SINKS` each.

A sink is one module here (its code and its sample configuration), its page ``docs/sinks/NAME.md`` and a row below; the
suite ``tests/contracts/test_sinks.py`` then holds it to `Sink`. A store's client library is imported when the sink is
opened, so that a process needs only the libraries of the stores that it writes to.
"""

from __future__ import annotations

from collections.abc import Mapping

from connectors.sinks import (
    alertmanager,
    cassandra,
    elasticsearch,
    influxdb,
    orientdb,
    parquet,
    prometheus,
    redis,
    sqlite,
    webhook,
)
from connectors.sinks.sink import (
    RejectedRecords,
    RetryLater,
    Sink,
    SinkConfigError,
    SinkError,
    SinkKind,
    SinkRecord,
)

__all__ = [
    "SINKS",
    "RejectedRecords",
    "RetryLater",
    "Sink",
    "SinkConfigError",
    "SinkError",
    "SinkKind",
    "SinkRecord",
]

SINKS: Mapping[str, SinkKind] = {
    "alertmanager": alertmanager.KIND,
    "cassandra": cassandra.KIND,
    "elasticsearch": elasticsearch.KIND,
    "influxdb": influxdb.KIND,
    "orientdb": orientdb.KIND,
    "parquet": parquet.KIND,
    "prometheus": prometheus.KIND,
    "redis": redis.KIND,
    "sqlite": sqlite.KIND,
    "webhook": webhook.KIND,
}
