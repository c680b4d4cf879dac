"""Names and units of LwM2M paths for Grafana, out of our object definitions (``schemas/lwm2m/objects.tsv``).

Owns which of Grafana's units a unit of a definition is, and the overrides and mappings that put both on what InfluxDB
calls by its path alone. Definitions leave the unit of most IPSO sensors to their resource 5701, which a device fills;
`USUAL` is what it is by custom, and the dashboard shows beside it what each device says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from grafana_foundation_sdk.models import dashboard

from schemas.lwm2m.nodes import ResourceType
from schemas.lwm2m.objects import Definitions, ObjectDefinition, Operation, ResourceDefinition

#: Units of definitions (SenML's, RFC 8428 section 12.1, and some of IPSO's own) as Grafana names them.
UNITS = {
    "s": "s",
    "ms": "ms",
    "min": "m",
    "%": "percent",
    "/100": "percent",
    "B": "decbytes",
    "KB": "deckbytes",
    "mV": "mvolt",
    "mA": "mamp",
    "W": "watt",
    "Wh": "watth",
    "var": "voltampreact",
    "varh": "suffix: varh",
    "deg": "degree",
    "m": "lengthm",
    "m/s": "velocityms",
    "dB": "dB",
    "dBm": "dBm",
    "lat": "degree",
    "lon": "degree",
    "Cel": "celsius",
    "%RH": "humidity",
}

#: What sensors measure in, where the definition says "see 5701": object id to a unit in the definitions' own words.
USUAL = {
    3301: "lx",
    3303: "Cel",
    3304: "%RH",
    3305: "W",
    3315: "Pa",
    3316: "V",
    3317: "A",
    3318: "Hz",
    3322: "kg",
    3323: "Pa",
    3324: "dB",
    3325: "ppm",
    3326: "pH",
    3327: "S/m",
    3328: "W",
    3330: "m",
}
UNITS |= {
    "lx": "lux",
    "Pa": "pressurepa",
    "V": "volt",
    "A": "amp",
    "Hz": "hertz",
    "kg": "masskg",
    "ppm": "ppm",
    "pH": "pH",
    "S/m": "suffix: S/m",
}

#: The resources of an IPSO sensor that are in its unit: value, minimum, maximum, range.
_MEASURED = frozenset({5700, 5601, 5602, 5603, 5604})
#: The types of resources by the field of InfluxDB that has their values (docs/sinks/influxdb.md).
FIELDS = {
    "value": frozenset({ResourceType.FLOAT, ResourceType.INTEGER, ResourceType.TIME}),
    "svalue": frozenset({ResourceType.STRING, ResourceType.OPAQUE, ResourceType.OBJLNK}),
    "bvalue": frozenset({ResourceType.BOOLEAN}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A resource that can be read, with its object."""

    object: ObjectDefinition
    resource: ResourceDefinition

    @property
    def name(self) -> str:
        """``Temperature``, ``Temperature, Min Measured Value``; of a core object ``Device, Battery Level``."""
        own = self.resource.id == 5700
        return self.object.name if own else f"{self.object.name}, {self.resource.name}"

    @property
    def unit(self) -> str | None:
        """In the words of the definition, or by custom."""
        usual = USUAL.get(self.object.id) if self.resource.id in _MEASURED else None
        return self.resource.unit or usual

    @property
    def grafana_unit(self) -> str | None:
        if self.resource.type is ResourceType.TIME:
            return "dateTimeAsIso"
        return UNITS[self.unit] if self.unit else None

    @property
    def pattern(self) -> str:
        """What finds its path, also that of a resource instance, at the end of a text; in JavaScript's form."""
        return rf"/(?:^| )\/{self.object.id}\/(\d+)\/{self.resource.id}(\/\d+)?$/"


def resources(field: str = "") -> Iterator[Named]:
    """Every resource that can be read, of every object in its newest version; ``field``: only those of this field."""
    known = Definitions.builtin()
    for object_id in sorted({one.id for one in known}):
        definition = known.object(object_id)
        if definition is None:
            continue
        for resource in definition.resources.values():
            readable = Operation.READ in resource.operations and resource.type is not None
            if readable and (not field or resource.type in FIELDS[field]):
                yield Named(object=definition, resource=resource)


def objects() -> list[tuple[str, str]]:
    """``(name with id, id)`` of every object of which something can be read."""
    found = {one.object.id: one.object.name for one in resources()}
    return [(f"{name} ({number})", str(number)) for number, name in found.items()]


def overrides() -> list[tuple[str, list[dashboard.DynamicConfigValue]]]:
    """For series that are called ``ENDPOINT PATH``: which of them gets which name and unit."""
    made = []
    for one in resources("value"):
        shown = f"${{__field.labels.ep}} {one.name} (${{__field.labels.path}})"
        properties = [dashboard.DynamicConfigValue(id_val="displayName", value=shown)]
        if one.grafana_unit is not None:
            properties.append(dashboard.DynamicConfigValue(id_val="unit", value=one.grafana_unit))
        made.append((one.pattern, properties))
    return made


def mappings(field: str) -> list[dashboard.ValueMapping]:
    """For a column of paths of values in ``field``: ``/3303/0/5700`` becomes ``Temperature [Cel] · /3303/0/5700``."""
    made: list[dashboard.ValueMapping] = []
    for one in resources(field):
        unit = f" [{one.unit}]" if one.unit else ""
        text = f"{one.name}{unit} · /{one.object.id}/$1/{one.resource.id}$2"
        options = dashboard.DashboardRegexMapOptions(
            pattern=one.pattern, result=dashboard.ValueMappingResult(text=text)
        )
        made.append(dashboard.RegexMap(options=options))
    return made
