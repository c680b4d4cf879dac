"""What one sink of one process is told: which store, whose topics, which group, how large its batches are.

Owns the settings and the file form in which several sinks are given at once. Opens no connection.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from connectors.kafka import Cluster
from connectors.sinks import SINKS, SinkConfigError
from schemas.avro.topics import FAMILIES, TopicKind, Topics, validate_gateway_id

#: As the gateway: every gateway's topics, those too that appear later.
ALL_GATEWAYS = "*"

#: Any gateway id, in the regular expressions of librdkafka.
_ANY_ID = r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*"


class Source(Enum):
    """What is read."""

    #: The gateway's topics, until it is told to stop.
    TOPICS = "topics"
    #: The dead letters that this sink refused or could not decode, once each, up to the present end.
    DEAD_LETTERS = "dead letters"


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkSettings:
    """One sink of one process. ``options`` are the sink's own, see its ``sample_config``."""

    sink: str
    gateway: str
    kafka: Cluster
    options: Mapping[str, object] = field(default_factory=dict)
    #: The consumer group; a new name reads everything from the beginning, so it also replays into any store.
    group: str | None = None
    source: Source = Source.TOPICS
    batch_records: int = 2000
    batch_bytes: int = 4 * 1024 * 1024
    #: How long a batch waits to be filled.
    linger_s: float = 0.2
    #: How long Kafka keeps the partitions of a member that vanished, before others (or itself, started anew) get them.
    session_s: float = 10.0
    #: Where /healthz, /readyz and /metrics are served; None: nowhere. Port 0 takes a free one.
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"

    def __post_init__(self) -> None:
        if self.sink not in SINKS:
            raise SinkConfigError(f"there is no sink {self.sink!r}; there are: {', '.join(sorted(SINKS))}")
        if self.gateway != ALL_GATEWAYS:
            validate_gateway_id(self.gateway)
        elif self.source is Source.DEAD_LETTERS:
            raise SinkConfigError("dead letters are tried again one gateway at a time: name it")
        if self.batch_records < 1 or self.batch_bytes < 1 or self.linger_s < 0:
            raise SinkConfigError("a batch has at least one record and one byte, and waits no negative time")

    @property
    def group_id(self) -> str:
        """``headwater-sink-<sink>-<gateway>`` unless one was given."""
        if self.group:
            return self.group
        prefix = "headwater-sink" if self.source is Source.TOPICS else "headwater-deadletters"
        return f"{prefix}-{self.sink}-{self.gateway}"

    def subscription(self) -> list[str]:
        """Topic names, or for all gateways librdkafka's patterns (``^…``)."""
        kinds = SINKS[self.sink].topics if self.source is Source.TOPICS else (TopicKind.DEADLETTER,)
        if self.gateway != ALL_GATEWAYS:
            return [Topics(self.gateway).name(kind) for kind in kinds]
        return [f"^{FAMILIES[k].prefix}\\.{_ANY_ID}\\.{re.escape(FAMILIES[k].suffix)}$" for k in kinds]


def sinks_from_toml(text: str, *, gateway: str, kafka: Cluster) -> list[SinkSettings]:
    """The sinks of a configuration file: a table for each, named as the sink, as in its ``sample_config``.

    Two of one kind are an array of tables (``[[sqlite]]``), each with a ``group`` of its own.

    Raises:
        SinkConfigError: no TOML, no sink in it, a sink that does not exist, or two that share a group.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise SinkConfigError(f"the configuration of the sinks is no TOML: {exc}") from exc
    found = []
    for name, content in document.items():
        for table in content if isinstance(content, list) else [content]:
            if not isinstance(table, dict):
                raise SinkConfigError(f"{name!r} should be a table of a sink's options: [{name}]")
            options = dict(table)
            group = options.pop("group", None)
            if group is not None and not isinstance(group, str):
                raise SinkConfigError(f"group of {name} is a text, not {group!r}")
            found.append(SinkSettings(sink=name, gateway=gateway, kafka=kafka, options=options, group=group))
    groups = [settings.group_id for settings in found]
    if not found:
        raise SinkConfigError(f"no sink is configured; there are: {', '.join(sorted(SINKS))}")
    if len(set(groups)) < len(groups):
        raise SinkConfigError("two sinks share a consumer group, so each would get only a part: give each a group")
    return found
