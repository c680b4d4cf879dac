"""The stores of the contract suite: one file and one row each, beside the sink's own in `connectors.sinks.SINKS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.stores.alertmanager import AlertmanagerStore
from tests.stores.cassandra import CassandraStore
from tests.stores.elasticsearch import ElasticsearchStore
from tests.stores.influxdb import InfluxdbStore, LeastInfluxdbStore
from tests.stores.orientdb import LeastOrientdbStore, OrientdbStore
from tests.stores.parquet import ParquetStore
from tests.stores.prometheus import PrometheusStore
from tests.stores.redis import RedisStore
from tests.stores.sqlite import SqliteStore
from tests.stores.store import Keeps, Store
from tests.stores.webhook import WebhookStore


class StoreKind(NamedTuple):
    """How a test comes by an empty store (in its folder, or on the session's server), and what it keeps."""

    make: Callable[[Path], Store]
    keeps: frozenset[Keeps]


BOTH = frozenset(Keeps)

#: By the name of the sink.
STORES: Mapping[str, StoreKind] = {
    "alertmanager": StoreKind(AlertmanagerStore, frozenset()),
    "cassandra": StoreKind(CassandraStore, BOTH),
    "elasticsearch": StoreKind(ElasticsearchStore, BOTH),
    "influxdb": StoreKind(InfluxdbStore, frozenset({Keeps.HISTORY})),
    "orientdb": StoreKind(OrientdbStore, frozenset({Keeps.GRAPH})),
    "parquet": StoreKind(ParquetStore, frozenset({Keeps.HISTORY})),
    "prometheus": StoreKind(PrometheusStore, frozenset({Keeps.NUMBERS})),
    "redis": StoreKind(RedisStore, BOTH),
    "sqlite": StoreKind(SqliteStore, BOTH),
    "webhook": StoreKind(WebhookStore, BOTH),
}

#: A sink's name, a dash, and another way in which it speaks to its store. ``least`` is as in a deployed fleet: as a
#: user that may do no more than the sink has to.
OTHER_WAYS: Mapping[str, StoreKind] = {
    "influxdb-least": StoreKind(LeastInfluxdbStore, frozenset({Keeps.HISTORY})),
    "orientdb-http": StoreKind(partial(OrientdbStore, protocol="http"), frozenset({Keeps.GRAPH})),
    "orientdb-least": StoreKind(LeastOrientdbStore, frozenset({Keeps.GRAPH})),
    "orientdb-least-http": StoreKind(partial(LeastOrientdbStore, protocol="http"), frozenset({Keeps.GRAPH})),
}
