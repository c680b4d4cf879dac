"""What one sink of one process is told: which store, whose topics, which group, how large its batches are.

Owns the settings and the file form in which several sinks are given at once. Opens no connection.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field

from connectors.kafka import Cluster
from connectors.sinks import SINKS, SinkConfigError
from connectors.sinks.options import SinkOptions, parse_options
from schemas.avro.topics import FAMILIES, InvalidGatewayId, TopicKind, Topics, validate_gateway_id

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
    #: Not shown: they may hold a password.
    options: Mapping[str, object] = field(default_factory=dict, repr=False)
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
    #: A file of API keys; then /metrics is for their holders only.
    metrics_keys: Path | None = None
    #: The table of the configuration file that says this, for errors; empty where there is none.
    where: str = ""

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
        """``headwater-sink-<sink>-<gateway>`` unless one was given; that of dead letters is always one of its own."""
        prefix = "headwater-sink" if self.source is Source.TOPICS else "headwater-deadletters"
        own = f"{self.sink}-{self.gateway}"
        if self.group and self.group != f"headwater-sink-{own}":
            # In the group of the running sink it would take partitions from it, and leave its topics.
            return self.group if self.source is Source.TOPICS else f"{self.group}-deadletters"
        return f"{prefix}-{own}"

    def subscription(self) -> list[str]:
        """Topic names, or for all gateways librdkafka's patterns (``^…``)."""
        return list(self.families())

    def families(self) -> dict[str, TopicKind]:
        """Of which family each name or pattern of the `subscription` is."""
        kinds = SINKS[self.sink].topics if self.source is Source.TOPICS else (TopicKind.DEADLETTER,)
        if self.gateway != ALL_GATEWAYS:
            return {Topics(self.gateway).name(kind): kind for kind in kinds}
        return {f"^{FAMILIES[k].prefix}\\.{_ANY_ID}\\.{re.escape(FAMILIES[k].suffix)}$": k for k in kinds}


class RunnerOptions(SinkOptions):
    """What every table of the configuration file may say beside the sink's own options; as in `SinkSettings`."""

    model_config = ConfigDict(strict=True)

    gateway: str = ""
    group: str = Field("", min_length=1)
    batch_records: int = Field(0, ge=1)
    batch_bytes: int = Field(0, ge=1)
    linger_s: float = Field(0.0, ge=0, le=60, allow_inf_nan=False)


def sinks_from_toml(
    text: str, *, gateway: str | None, kafka: Cluster, environment: Mapping[str, str] | None = None
) -> list[SinkSettings]:
    """The sinks of a configuration file: a table for each, named as the sink, as in its ``sample_config``.

    Two of one kind are an array of tables (``[[sqlite]]``), each with a ``group`` of its own. A table may also hold
    `RunnerOptions`, whose ``gateway`` goes before the one given here, and any option by the name of a variable of
    ``environment`` that holds it: ``password_env = "STORE_PASSWORD"`` stands for ``password``.

    Raises:
        SinkConfigError: no TOML, no sink in it, a sink that does not exist, an option of the runner that is none, a
            variable that is not there, no gateway, or two that share a group; the text names the table and the key.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise SinkConfigError(f"the configuration of the sinks is no TOML: {exc}") from exc
    found = []
    for name, content in document.items():
        tables = content if isinstance(content, list) else [content]
        for number, table in enumerate(tables, 1):
            where = f"[{name}]" if content is not tables else f"[[{name}]] number {number}"
            try:
                found.append(_sink(name, where, table, gateway, kafka, environment or {}))
            except (SinkConfigError, InvalidGatewayId) as exc:
                raise SinkConfigError(f"{where}: {exc}") from exc
    if not found:
        raise SinkConfigError(f"no sink is configured; there are: {', '.join(sorted(SINKS))}")
    by_group: dict[str, SinkSettings] = {}
    for settings in found:
        other = by_group.setdefault(settings.group_id, settings)
        if other is not settings:
            raise SinkConfigError(
                f"{other.where} and {settings.where} share a consumer group, {settings.group_id}, so each would get "
                'only a part: give one of them another, such as group = "archive"'
            )
    return found


def _sink(
    name: str, where: str, table: object, gateway: str | None, kafka: Cluster, environment: Mapping[str, str]
) -> SinkSettings:
    if not isinstance(table, dict):
        if name in SINKS:
            raise SinkConfigError(f"{name!r} should be a table of the sink's options, headed by [{name}]")
        raise SinkConfigError(f"{name!r} stands in no sink's table; put it below the line of one, such as [sqlite]")
    if name not in SINKS:
        near = difflib.get_close_matches(name, SINKS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise SinkConfigError(
            f"there is no sink {name!r}; {hint}there are: {', '.join(sorted(SINKS))} (each is a table of its options)"
        )
    own: Mapping[str, Any] = {key: table[key] for key in table if key in RunnerOptions.model_fields}
    told = parse_options(name, RunnerOptions, own).model_dump(exclude_unset=True)
    whose = told.pop("gateway", gateway)
    if whose is None:
        raise SinkConfigError(f'no gateway: say gateway = "rock64" there ("{ALL_GATEWAYS}" for all), or --gateway')
    options = _from_environment({key: value for key, value in table.items() if key not in own}, environment)
    return SinkSettings(sink=name, gateway=whose, kafka=kafka, options=options, where=where, **told)


def _from_environment(options: Mapping[str, object], environment: Mapping[str, str]) -> dict[str, object]:
    """``options`` with those in their places that ``…_env`` says where to find. No text that it raises holds one."""
    found: dict[str, object] = {}
    for key, value in options.items():
        name = key.removesuffix("_env")
        if name == key:
            found[key] = value
            continue
        if name in options:
            raise SinkConfigError(f"{name} and {key} say the same: keep one of them")
        if not isinstance(value, str) or not environment.get(value):
            # Not its name: people put the secret itself there.
            raise SinkConfigError(f"{key}: the environment has no variable of that name, or an empty one")
        found[name] = environment[value]
    return found
