"""The file that describes a fleet: one cloud, any number of gateways, who may use it, what watches it.

Owns the form of the file and what is wrong with one, in words. It opens nothing but that file, and knows no Docker.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from schemas.avro.topics import InvalidGatewayId, validate_gateway_id
from schemas.lwm2m.path import PathError, PathPattern
from security.acls import JOBS

#: Names of Swarm's services (63) and secrets (64) hold the gateway's id and some thirty signs more.
MAX_GATEWAY = 30

_SIZE = re.compile(r"([1-9][0-9]*)\s*(B|kB|MB|GB|TB)?")
_SPAN = re.compile(r"([1-9][0-9]*)\s*(s|min|h|d)")
_SIZES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SPANS = {"s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*")
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
#: As ``headwater replicate --bandwidth`` takes it.
_RATE = re.compile(r"(?=.*[1-9])[0-9]{1,6}(\.[0-9]+)?[kM]?|[1-9][0-9]{0,10}")


class FleetError(ValueError):
    """The file is not right; the text names the file, the place in it, and what would be right."""


def _gateway(text: str) -> str:
    try:
        validate_gateway_id(text)
    except InvalidGatewayId as exc:
        raise ValueError(str(exc)) from exc
    if len(text) > MAX_GATEWAY:
        raise ValueError(f"a gateway's id on a Swarm has at most {MAX_GATEWAY} signs, {text!r} has {len(text)}")
    if not _HOST.fullmatch(text):
        raise ValueError(
            f"{text!r} is part of the name by which its Kafka is reached: letters, digits, and '-' and '.' inside"
        )
    if text in ("cloud", "fleet", "all", "none"):
        raise ValueError(f"no gateway may be called {text!r}: secrets and labels of that name are not a gateway's")
    return text


def _node(text: str) -> str:
    if not _LABEL.fullmatch(text):
        raise ValueError(f"{text!r} is no name of a node, as `docker node ls` shows them")
    return text


def _pattern(text: str) -> str:
    try:
        PathPattern.parse(text)
    except PathError as exc:
        raise ValueError(str(exc)) from exc
    return "/" + text.strip("/")


def _host(text: str) -> str:
    try:
        ip_address(text)
    except ValueError as exc:
        if not _HOST.fullmatch(text):
            raise ValueError(f"{text!r} is no name or address of a host, without a port") from exc
    return text


def _user(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*", text) or len(text) > 50:
        raise ValueError(f"{text!r} is no name of a user: letters, digits, '-', '_', and single dots inside")
    return text


def _milliseconds(value: object) -> object:
    found = _SPAN.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"{value!r} is no span of time such as 12h or 7d")
    return int(found[1]) * _SPANS[found[2]]


def _bytes(value: object) -> object:
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"{value!r} is no size such as 500MB or 4GB")
    return int(found[1]) * _SIZES[found[2] or "B"]


def _settings(value: object) -> object:
    if not isinstance(value, Mapping):
        raise ValueError("NAME: value pairs are expected, as in stacks/settings/*.env")
    for name in value:
        if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
            raise ValueError(f"{name!r} is no variable of the stack files, such as GATEWAY_MEMORY")
    # YAML makes numbers and truth values of what Compose takes as text.
    return {name: str(one).lower() if isinstance(one, bool) else str(one) for name, one in value.items()}


def _job(text: str) -> str:
    if text not in JOBS:
        raise ValueError(f"there is no job {text!r}; there are: {', '.join(JOBS)}")
    return text


def _rate(value: object) -> object:
    # Bytes a second may be a plain number, which YAML does not read as text.
    text = str(value) if type(value) is int else value
    if not isinstance(text, str) or not _RATE.fullmatch(text):
        raise ValueError(f"{value!r} is no number of bytes a second, such as 64k or 2M")
    return text


GatewayId = Annotated[str, AfterValidator(_gateway)]
NodeName = Annotated[str, AfterValidator(_node)]
Pattern = Annotated[str, AfterValidator(_pattern)]
Host = Annotated[str, AfterValidator(_host)]
UserName = Annotated[str, AfterValidator(_user)]
Milliseconds = Annotated[int, BeforeValidator(_milliseconds)]
Bytes = Annotated[int, BeforeValidator(_bytes)]
JobName = Annotated[str, AfterValidator(_job)]
Rate = Annotated[str, BeforeValidator(_rate)]
Settings = Annotated[Mapping[str, str], BeforeValidator(_settings)]
Port = Annotated[int, Field(ge=1, le=65535)]
Profile = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
#: How many of each sink run.
Sinks = Mapping[Literal["influxdb", "orientdb"], Annotated[int, Field(ge=0, le=100)]]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Retention(_Part):
    """How long Kafka keeps what nobody has to fetch any more; as its file says where a field is missing."""

    time: Milliseconds | None = None
    size: Bytes | None = None


class Job(_Part):
    """An analytics job of a gateway. ``options`` is a TOML file, relative to the fleet's file."""

    options: Path | None = None
    edge: bool = False


class Cloud(_Part):
    """The cloud's node and what runs there; ``profile`` is a file in stacks/settings."""

    node: NodeName
    profile: Profile = "cloud"
    retention: Retention = Retention()
    grafana_port: Port = 3000
    settings: Settings = Field(default_factory=dict)


class X509(_Part):
    """The certificate of a server of devices: PEM files on this machine, relative to the fleet's file. ``ca`` has the
    authorities that devices' certificates of usage 0 and 1 must come from."""

    cert: Path
    key: Path
    ca: Path | None = None

    def within(self, folder: Path) -> X509:
        """With paths that are relative to ``folder``."""
        update = {"cert": folder / self.cert, "key": folder / self.key, "ca": self.ca and folder / self.ca}
        return self.model_copy(update=update)


class Bootstrap(_Part):
    """The bootstrap server of a gateway. ``config`` is a file as docs/bootstrap.md has it, relative to the fleet's
    file; with ``insecure`` whoever asks at ``coap_port`` gets a key; with ``x509`` devices may have certificates."""

    config: Path
    coap_port: Port = 5693
    coaps_port: Port = 5694
    insecure: bool = False
    x509: X509 | None = None


class Gateway(_Part):
    """One gateway; ``profile`` is a file in stacks/settings, mostly its architecture. With ``insecure`` devices may
    speak in the clear, at ``coap_port``, else there is OSCORE alone; ``coaps_port`` is the next one if it is None. With
    ``x509`` they may have certificates; ``credentials`` are taken up when it starts, a file as `headwater credentials
    import` takes it. Its devices are spread on so many ``processes``. ``campaigns``: whether somebody carries out those
    of its devices; ``file_host`` is where these fetch images, its node's name if it is None."""

    node: NodeName
    profile: Profile
    coap_port: Port = 5683
    coaps_port: Port | None = None
    insecure: bool = False
    bootstrap: Bootstrap | None = None
    x509: X509 | None = None
    credentials: Path | None = None
    observe: tuple[Pattern, ...] = ()
    read_on_register: tuple[Pattern, ...] = ()
    processes: Annotated[int, Field(ge=1, le=64)] = 1
    retention: Retention = Retention()
    replicator: Literal["edge", "cloud"] = "edge"
    bandwidth: Rate | None = None
    campaigns: bool = False
    file_host: Host | None = None
    sinks: Sinks = Field(default_factory=dict)
    analytics: Mapping[JobName, Job | None] = Field(default_factory=dict)
    version: str | None = None
    settings: Settings = Field(default_factory=dict)

    @model_validator(mode="after")
    def _can_be_spread(self) -> Gateway:
        if self.processes > 1 and self.x509 is not None:
            raise ValueError("processes does not go with x509: a session with a certificate is one process's for good")
        return self

    @property
    def ports(self) -> dict[str, int]:
        """What is published over UDP on its node, by the field that says it."""
        found = {"coap_port": self.coap_port, "coaps_port": self.coaps_port or self.coap_port + 1}
        if self.bootstrap is not None:
            found |= {
                "bootstrap.coap_port": self.bootstrap.coap_port,
                "bootstrap.coaps_port": self.bootstrap.coaps_port,
            }
        return found


class User(_Part):
    """Somebody with a certificate: of which gateways (``*`` is all) he sees what devices say, and of which he may give
    commands to the devices as well."""

    see: tuple[GatewayId | Literal["*"], ...] = ()
    command: tuple[GatewayId | Literal["*"], ...] = ()


class Networks(_Part):
    """The networks that all share. ``encrypted`` adds IPsec between the nodes, beside Kafka's own TLS."""

    cloud: str = Field(default="cloudnet", pattern=r"^[a-z0-9][a-z0-9_.-]{0,40}$")
    monitoring: str = Field(default="monnet", pattern=r"^[a-z0-9][a-z0-9_.-]{0,40}$")
    encrypted: bool = False


def _one_of_each() -> Sinks:
    return {"influxdb": 1, "orientdb": 1}


class Fleet(_Part):
    """All of it."""

    fleet: str = Field(default="fleet", pattern=r"^[a-z0-9][a-z0-9-]{0,15}$")
    version: str = "0.1.0"
    prefix: str = Field(default="", pattern=r"^([a-z0-9][a-z0-9-]{0,20})?$")
    stacks: Path | None = None
    pki: Path = Path(".headwater/pki")
    secrets: Path = Path(".headwater/secrets")
    resolve_images: Literal["always", "changed", "never"] = "changed"
    images: Settings = Field(default_factory=dict)
    networks: Networks = Networks()
    cloud: Cloud
    gateways: Mapping[GatewayId, Gateway] = Field(default_factory=dict)
    sinks: Sinks = Field(default_factory=_one_of_each)
    users: Mapping[UserName, User] = Field(default_factory=dict)
    client: UserName = "operator"
    monitoring: bool = True

    @model_validator(mode="after")
    def _fits_together(self) -> Fleet:
        ports: dict[tuple[str, int], tuple[str, str]] = {}
        stacks: dict[str, str] = {}
        for name, gateway in self.gateways.items():
            for field, port in gateway.ports.items():
                other, its = ports.setdefault((gateway.node, port), (name, field))
                if (other, its) != (name, field):
                    raise ValueError(
                        f"two servers on the node {gateway.node} have the port {port}/udp, {its} of {other} and "
                        f"{field} of {name}: give one of them another {field}"
                    )
            other = stacks.setdefault(stack_word(name), name)
            if other != name:
                raise ValueError(
                    f"gateways {other} and {name} would have the same stack gw-{stack_word(name)}: rename one"
                )
        for name, user in self.users.items():
            for gateway_id in (*user.see, *user.command):
                if gateway_id != "*" and gateway_id not in self.gateways:
                    raise ValueError(f"user {name}: there is no gateway {gateway_id!r} in this fleet")
        return self


def stack_word(gateway: str) -> str:
    """A gateway's id as part of a stack's name, which Docker has in lower case and without dots."""
    return gateway.lower().replace(".", "-")


def load(path: Path) -> Fleet:
    """Read and check a fleet's file.

    Raises:
        FleetError: it cannot be read, is no YAML, or is not right.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """As SafeLoader, but a key that stands twice is an error: the first would be ignored silently."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key, _ in node.value:
                name = getattr(key, "value", None)
                if isinstance(name, str) and name in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{name!r} stands there twice", key.start_mark)
                seen.add(name if isinstance(name, str) else None)
            return super().construct_mapping(node, deep)

    try:
        content = yaml.load(path.read_text("utf-8"), Loader)
    except (OSError, UnicodeDecodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it is no UTF-8 text"
        raise FleetError(f"{path} cannot be read: {why}") from exc
    except yaml.YAMLError as exc:
        raise FleetError(f"{path} is no YAML: {' '.join(str(exc).split())}") from exc
    except RecursionError as exc:
        raise FleetError(f"{path} is no YAML of ours: it is nested too deeply") from exc
    if not isinstance(content, dict):
        raise FleetError(f"{path} does not describe a fleet: it needs at least `cloud:` with its node")
    try:
        return Fleet.model_validate(content)
    except ValidationError as exc:
        raise FleetError("\n".join(f"{path}: {_words(dict(one))}" for one in exc.errors())) from exc


def _words(error: dict[str, Any]) -> str:
    place = ".".join(str(part) for part in error["loc"] if part != "[key]")
    match error["type"]:
        case "missing":
            text = "is missing"
        case "extra_forbidden":
            text = "is not known here"
        case "tuple_type":
            text = "a list is expected, such as [one, other]"
        case "string_type":
            text = "text is expected; in quotes, if it reads as a number"
        case _:
            text = str(error["msg"]).removeprefix("Value error, ")
    return f"{place}: {text}" if place else text
