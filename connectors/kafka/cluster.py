"""How a cluster is reached, and the clients to it.

Owns the settings under which nothing acknowledged is lost.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from connectors.kafka.client_log import Seldom
from security.certificate_dates import read_dates
from security.errors import SecurityError
from security.identities import Identity
from security.secrets import read_bounded
from security.tls_files import CA, CERTIFICATE, KEY

_log = logging.getLogger("headwater.kafka")
_log.addFilter(Seldom())


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """How to reach one Kafka cluster; ``options`` are librdkafka settings (timeouts) added to every client.

    ``tls`` is the folder of the identity with which TLS is spoken; None: none is. Its files are read by each new
    client; one that is there goes on with what it read, for new connections too (tried with librdkafka 2.12).
    """

    bootstrap: str
    options: Mapping[str, str] = field(default_factory=dict, repr=False)
    tls: Path | None = None

    @property
    def tls_settings(self) -> dict[str, str]:
        """What librdkafka is told of it."""
        if self.tls is None:
            return {}
        return {
            "security.protocol": "ssl",
            "ssl.ca.location": str(self.tls / CA),
            "ssl.certificate.location": str(self.tls / CERTIFICATE),
            "ssl.key.location": str(self.tls / KEY),
        }

    @property
    def speaker(self) -> str:
        """Whom Kafka takes us for, in words."""
        if self.tls is None:
            return "a client without an identity"
        try:
            return Identity.parse(read_dates(read_bounded(self.tls / CERTIFICATE))[0].name).principal
        except (SecurityError, ValueError):
            return f"the identity in {self.tls}"


def producer(cluster: Cluster, **options: Any) -> Producer:
    """An idempotent producer with acks=all that keeps order and never gives a record up by itself.

    With the gapless guarantee a record that fails fails the whole producer, so the delivery report of the last record
    of a partition also vouches for all before it. Option names are librdkafka's with ``_`` for ``.``.
    """
    settings: dict[str, Any] = {
        "enable.idempotence": True,
        "enable.gapless.guarantee": True,
        "message.timeout.ms": 0,
        "linger.ms": 2,
        # A broker that comes back should be found at once, not after librdkafka's ten seconds.
        "reconnect.backoff.max.ms": 1000,
    }
    return Producer(_settings(cluster, settings, options), logger=_log)


def consumer(cluster: Cluster, group: str, **options: Any) -> Consumer:
    """A consumer that commits only when told to, starts at the earliest record and reads committed data only."""
    settings: dict[str, Any] = {
        "group.id": group,
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
        "reconnect.backoff.max.ms": 1000,
    }
    return Consumer(_settings(cluster, settings, options), logger=_log)


@contextmanager
def glance(cluster: Cluster, group: str, **options: Any) -> Iterator[Consumer]:
    """A `consumer` for a look at topics, offsets or records, and then no more; it joins no group.

    A thread of its own closes it: librdkafka (2.8) often takes a whole second to let a client go.
    """
    reader = consumer(cluster, group, **options)
    try:
        yield reader
    finally:
        threading.Thread(target=reader.close, name="kafka-close", daemon=True).start()


def admin(cluster: Cluster) -> AdminClient:
    """A client for topics and offsets."""
    client = _Admin(_settings(cluster, {"reconnect.backoff.max.ms": 1000}, {}), logger=_log)
    client.cluster = cluster
    return client


class _Admin(AdminClient):  # type: ignore[misc]  # confluent_kafka has no types
    """Knows its cluster, for what is said of a refusal."""

    cluster: Cluster


def cluster_of(client: AdminClient) -> Cluster | None:
    """The cluster that a client of `admin` was made for."""
    return client.cluster if isinstance(client, _Admin) else None


def _settings(cluster: Cluster, base: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    # Callbacks (error_cb, on_commit) are the Python client's own and keep their names.
    given = {name if callable(value) else name.replace("_", "."): value for name, value in options.items()}
    return {"bootstrap.servers": cluster.bootstrap, **base, **cluster.tls_settings, **cluster.options, **given}
