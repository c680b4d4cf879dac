"""What devices say, and what they were asked: values by device and path, and the log of commands, out of InfluxDB."""

from __future__ import annotations

from grafana_foundation_sdk.builders import table
from grafana_foundation_sdk.models import dashboard

from stacks.grafana.names import mappings, objects, overrides
from stacks.grafana.panels import (
    INFLUXDB,
    Board,
    Panel,
    Shape,
    choice,
    figure,
    fixed,
    influx,
    prom,
    rows,
    series,
)

_OF_DEVICES = '"serverId" =~ /^${gateway:regex}$/ AND "ep" =~ /^${device:regex}$/'
_CHOSEN = rf'$timeFilter AND {_OF_DEVICES} AND "path" =~ /^\/${{object:regex}}\// AND "path" =~ /^${{path:regex}}$/'
#: Replies belong to no observation. What a device sends of itself is no reply, and the first values of observations
#: that a gateway sets up of itself have the ticket "declared".
_REPLIES = (
    f"$timeFilter AND {_OF_DEVICES} AND \"observationId\" = '' AND \"kind\" != 'send' AND \"ticket\" != 'declared'"
)
#: A notification that was overtaken on its way is no newest value.
_NEWEST = f"{_CHOSEN} AND \"late\" = ''"


def _values() -> Panel:
    panel = series(
        "Numbers",
        "What devices tell of themselves (observations, Send), by resource: its name and unit are those of its "
        "definition (schemas/lwm2m), and where that leaves the unit to the device, the usual one. Means over the "
        "interval shown. What was read once is below.",
        "short",
        influx(
            f'SELECT mean("value") FROM "resources" WHERE {_CHOSEN} AND "kind" =~ /^(observe|send)/ '
            'GROUP BY time($__interval), "ep", "path" fill(none)',
            alias="$tag_ep $tag_path",
        ),
        span=24,
        height=12,
        low=None,
        points=True,
    )
    for pattern, properties in overrides():
        panel = panel.override_by_regexp(pattern, properties)
    return panel


def _newest(title: str, description: str, field: str, span: int) -> table.Panel:
    panel = rows(
        title,
        description,
        influx(
            f'SELECT last("{field}") AS "value" FROM "resources" WHERE {_NEWEST} GROUP BY "serverId", "ep", "path"',
            shape=Shape.TABLE,
        ),
        span=span,
        height=10,
        renamed={"serverId": "gateway", "ep": "device", "path": "resource"},
    )
    named = dashboard.DynamicConfigValue(id_val="mappings", value=mappings(field))
    # An override finds a column by the name that it has after all transformations.
    return panel.override_by_name("resource", [named])


BOARD = Board(
    uid="headwater-lwm2m",
    title="Headwater: LwM2M data",
    description="Values of devices by path, with names and units, and every command with its reply.",
    span="now-3h",
    variables=[
        choice(
            "gateway",
            "Gateway",
            "Gateways of which InfluxDB has values.",
            'SHOW TAG VALUES FROM "resources" WITH KEY = "serverId"',
            INFLUXDB,
        ),
        choice(
            "device",
            "Device",
            "Endpoint client names.",
            'SHOW TAG VALUES FROM "resources" WITH KEY = "ep" WHERE "serverId" =~ /^${gateway:regex}$/',
            INFLUXDB,
        ),
        fixed("object", "Object", "LwM2M objects that have a definition.", objects()),
        choice(
            "path",
            "Path",
            "Paths that the chosen devices have told of.",
            rf'SHOW TAG VALUES FROM "resources" WITH KEY = "path" WHERE {_OF_DEVICES}'
            r' AND "path" =~ /^\/${object:regex}\//',
            INFLUXDB,
        ),
    ],
    rows=[
        (
            "Values",
            [
                _values(),
                _newest("Newest numbers", "The last number of each resource, and when it came.", "value", 24),
                _newest(
                    "Newest texts",
                    "The last text of each resource; the unit in which a sensor measures is its resource 5701.",
                    "svalue",
                    12,
                ),
                _newest("Newest booleans", "The last boolean of each resource.", "bvalue", 12),
            ],
        ),
        (
            "Commands",
            [
                rows(
                    "Command log",
                    "Each command by its ticket, as its reply came: what was asked (kind, path), of whom, and what the "
                    "device answered. An empty code means that it answered with the values that stand beside it. "
                    "Every request gets exactly one reply; those without one yet are counted below.",
                    influx(
                        'SELECT "ticket", "serverId", "ep", "kind", "path", "code", "value", "svalue", "bvalue" '
                        f'FROM "resources" WHERE {_REPLIES} ORDER BY time DESC LIMIT 500',
                        shape=Shape.TABLE,
                    ),
                    height=12,
                    renamed={
                        "serverId": "gateway",
                        "ep": "device",
                        "kind": "request",
                        "value": "number",
                        "svalue": "text",
                        "bvalue": "boolean",
                    },
                    newest_first=True,
                ),
                series(
                    "Commands, by how they ended",
                    "As the gateways count them.",
                    "ops",
                    prom(
                        'sum by (outcome) (rate(headwater_gateway_commands_total{gateway=~"$gateway"}'
                        "[$__rate_interval]))",
                        "{{outcome}}",
                    ),
                    span=18,
                ),
                figure(
                    "Commands waiting",
                    "Requests without a durable reply yet; those for sleeping devices wait here.",
                    "short",
                    prom('sum(headwater_gateway_commands_waiting{gateway=~"$gateway"})'),
                    span=6,
                ),
            ],
        ),
    ],
)
