"""The options that several commands share, each in one place: its name, its help, its check.

Owns no default that differs between commands; those stand at the command. What always goes together is a dataclass: a
command that has a parameter of such a type has an option for each of its fields.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.exits import Exit, Stop

if TYPE_CHECKING:
    from connectors.kafka import Cluster
    from gateway.dtls_certificates.settings import CertificateFiles


class Output(Enum):
    TABLE = "table"
    JSON = "json"


class ValueType(Enum):
    """`schemas.lwm2m.nodes.ResourceType` as people type it; its own class so that the help loads no schemas."""

    STRING = "string"
    FLOAT = "float"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    OPAQUE = "opaque"
    TIME = "time"
    OBJLNK = "objlnk"


class ContentFormat(Enum):
    """`schemas.avro.records.RequestFormat` as people type it, as `ValueType`."""

    TLV = "tlv"
    JSON_CODE = "json"
    TEXT_CODE = "text"
    OPAQUE_CODE = "opaque"
    SENML_JSON = "senml-json"
    SENML_CBOR = "senml-cbor"
    CBOR = "cbor"
    LWM2M_CBOR = "lwm2m-cbor"


class SensorVersion(Enum):
    V1_0 = "1.0"
    V1_1 = "1.1"
    V1_2 = "1.2"


def listening_address(text: str) -> str:
    """HOST:PORT, ``[IPv6]:PORT`` to listen at, as given; port 0 is any that is free.

    Raises:
        typer.BadParameter: no host, or no port between 0 and 65535.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or (":" in host and not (host.startswith("[") and host.endswith("]"))):
        raise typer.BadParameter(f"{text!r} is not HOST:PORT, such as 127.0.0.1:9092 or [::1]:9092")
    if not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise typer.BadParameter(f"{text!r}: {port!r} is no port between 0 and 65535")
    return text


def address(text: str) -> str:
    """As `listening_address`, to speak to: port 0 is nobody's.

    Raises:
        typer.BadParameter: no host, or no port between 1 and 65535.
    """
    if int(listening_address(text).rpartition(":")[2]) == 0:
        raise typer.BadParameter(f"{text!r}: nobody can be reached at port 0")
    return text


def addresses(text: str) -> str:
    """One or more HOST:PORT with commas between them, as Kafka's clients take them."""
    return ",".join(address(part.strip()) for part in text.split(","))


def gateway_id(text: str) -> str:
    """A gateway id that can be part of a topic's name."""
    from schemas.avro.topics import Topics

    try:
        Topics(text)
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc
    return text


def gateway_or_all(text: str) -> str:
    """A gateway id, or ``*``."""
    return text if text == "*" else gateway_id(text)


def lwm2m_path(text: str) -> str:
    """A path such as /3303/0/5700, in its canonical form; ``3303/0`` is /3303/0."""
    from schemas.lwm2m.path import Path, PathError

    try:
        path = Path.parse(text)
    except PathError as exc:
        raise typer.BadParameter(str(exc)) from exc
    return str(path)


def moment(text: str) -> int:
    """A point in time as epoch milliseconds.

    Raises:
        typer.BadParameter: it is none.
    """
    from headwater.moments import parse_moment

    try:
        return parse_moment(text, round(time.time() * 1000))
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc


def endpoint_name(text: str) -> str:
    """An endpoint client name: any text that is not empty."""
    if not text.strip():
        raise typer.BadParameter("an endpoint's name cannot be empty")
    return text


GatewayOption = Annotated[
    str,
    typer.Option("--gateway", metavar="GW", parser=gateway_id, help="The gateway's id, as in its topics' names."),
]
KafkaOption = Annotated[
    str, typer.Option("--kafka", metavar="HOST:PORT", parser=addresses, help="Kafka, of the cloud or of the edge.")
]
KafkaTlsOption = Annotated[
    Path | None,
    typer.Option(
        "--kafka-tls",
        metavar="DIR",
        help="Speak TLS with Kafka, with the identity in this folder: ca.pem, cert.pem, key.pem.",
    ),
]
AnyGatewayOption = Annotated[
    str | None,
    typer.Option(
        "--gateway", metavar="GW", parser=gateway_or_all, help="The gateway's id, '*' for all; else as in the file."
    ),
]
CoapsOption = Annotated[
    str,
    typer.Option("--coaps", metavar="HOST:PORT", parser=listening_address, help="Where devices reach it over DTLS."),
]
MakeCredentialsOption = Annotated[
    bool,
    typer.Option("--make-credentials", help="Make --credentials, empty, if it is not there; keys may come later."),
]
MetricsOption = Annotated[
    int | None,
    typer.Option("--metrics", metavar="PORT", min=0, max=65535, help="Serve /metrics, /healthz and /readyz there."),
]
MetricsHostOption = Annotated[
    str, typer.Option("--metrics-host", metavar="HOST", help="The address of the metrics; 0.0.0.0 in a container.")
]
MetricsKeysOption = Annotated[
    Path | None,
    typer.Option(
        "--metrics-keys", metavar="FILE", help="Give /metrics only to API keys of this file with metrics:read."
    ),
]
DefinitionsOption = Annotated[
    Path | None, typer.Option("--definitions", metavar="DIR", help="A folder of OMA LwM2M XML files.")
]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="A table for people, or JSON.")]
TimeoutOption = Annotated[
    float, typer.Option("--timeout", metavar="S", min=0.1, max=86400, help="Seconds to wait for the reply.")
]
TicketOption = Annotated[
    str | None, typer.Option("--ticket", metavar="T", help="The request's ticket; a new unique one when left out.")
]
ExpiresOption = Annotated[
    float | None,
    typer.Option(
        "--expires",
        metavar="S",
        min=0.001,
        max=31536000,
        help="Do not send it to the device later than S seconds from now.",
    ),
]
#: Of virtual devices.
LifetimeOption = Annotated[
    int, typer.Option("--lifetime", metavar="S", min=1, max=2**31 - 1, help="Lifetime of the registration.")
]
SensorVersionOption = Annotated[SensorVersion, typer.Option("--lwm2m", help="The LwM2M version that it announces.")]
QueueOption = Annotated[bool, typer.Option("--queue", help="Queue mode: it sleeps between its messages.")]
JournalOption = Annotated[
    Path | None,
    typer.Option("--journal", metavar="FILE", help="Write each acknowledged notification there, one JSON a line."),
]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Repeat the readings of a run.")]
EndpointArgument = Annotated[
    str, typer.Argument(metavar="EP", parser=endpoint_name, help="The device's endpoint client name.")
]
PathArgument = Annotated[
    str, typer.Argument(metavar="PATH", parser=lwm2m_path, help="An LwM2M path, such as /3303/0/5700.")
]

PathsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="PATH", parser=lwm2m_path, help="LwM2M paths, such as /3303/0/5700; several are one operation."
    ),
]
FormatOption = Annotated[
    ContentFormat | None,
    typer.Option("--format", help="The content format to speak with the device; left out, one that fits it is chosen."),
]

#: The contract's places of the two Kafkas, as seen from their own machine.
CLOUD, EDGE = "127.0.0.1:9092", "127.0.0.1:9082"


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Which gateway, and the Kafka through which it is spoken to."""

    gateway: GatewayOption
    kafka: KafkaOption = CLOUD
    kafka_tls: KafkaTlsOption = None

    @property
    def cluster(self) -> Cluster:
        """That Kafka, and as whom it is spoken to.

        Raises:
            Stop: the folder of the identity cannot be used.
        """
        from headwater.reach import cluster

        return cluster(self.kafka, self.kafka_tls)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnCertificate:
    """The certificate of a server that devices with certificates reach over DTLS."""

    coaps_cert: Annotated[
        Path | None,
        typer.Option("--coaps-cert", metavar="FILE", help="Its certificate (PEM), for devices with certificates."),
    ] = None
    coaps_key: Annotated[
        Path | None,
        typer.Option("--coaps-key", metavar="FILE", help="The key of --coaps-cert (PEM, EC), its owner's alone."),
    ] = None
    coaps_ca: Annotated[
        Path | None,
        typer.Option("--coaps-ca", metavar="FILE", help="Authorities (PEM) of devices' certificates of usage 0 and 1."),
    ] = None
    coaps_cert_sessions: Annotated[
        int,
        typer.Option("--coaps-cert-sessions", metavar="N", min=1, help="Most sessions with certificates; 82 KB each."),
    ] = 1000

    def files(self, credentials: str | None) -> CertificateFiles | None:
        """What is given of it, beside the devices' ``credentials``.

        Raises:
            Stop: it does not fit together.
        """
        from gateway.dtls_certificates.settings import CertificateFiles

        if (self.coaps_cert is None) != (self.coaps_key is None):
            raise Stop(Exit.USAGE, "--coaps-cert FILE and --coaps-key FILE belong together: give both, or none")
        if self.coaps_cert is None or self.coaps_key is None:
            if self.coaps_ca is not None:
                raise Stop(
                    Exit.USAGE, "--coaps-ca is for devices with certificates: give --coaps-cert and --coaps-key too"
                )
            return None
        if credentials is None:
            raise Stop(
                Exit.USAGE,
                "--coaps-cert is for devices with certificates: say which these are with headwater credentials add "
                "--x509, and --credentials FILE here",
            )
        return CertificateFiles(
            certificate=self.coaps_cert,
            key=self.coaps_key,
            authorities=self.coaps_ca,
            most_sessions=self.coaps_cert_sessions,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """How a request is sent and its answer shown; times in seconds."""

    timeout: TimeoutOption = 30.0
    ticket: TicketOption = None
    expires: ExpiresOption = None
    output: OutputOption = Output.TABLE


_OWN = "Attributes of its own"


def _own(flag: str, metavar: str, words: str, most: int | None = None) -> Any:
    least = None if metavar == "X" else 0
    return typer.Option(f"--{flag}", metavar=metavar, min=least, max=most, help=words, rich_help_panel=_OWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnAttributes:
    """What an observation begins with, by the names of the notification attributes; None: it is not given.

    `edge` has another flag: ``--edge`` and its variable are a Kafka's.
    """

    pmin: Annotated[int | None, _own("pmin", "S", "The least seconds between two notifications.")] = None
    pmax: Annotated[int | None, _own("pmax", "S", "The most seconds between two notifications.")] = None
    gt: Annotated[float | None, _own("gt", "X", "Tell when the value crosses X.")] = None
    lt: Annotated[float | None, _own("lt", "X", "Tell when the value crosses X; below --gt.")] = None
    st: Annotated[float | None, _own("st", "X", "Tell when the value has changed by X.")] = None
    epmin: Annotated[int | None, _own("epmin", "S", "The least seconds between two looks at the value.")] = None
    epmax: Annotated[int | None, _own("epmax", "S", "The most seconds between two looks at the value.")] = None
    edge: Annotated[int | None, _own("boolean-edge", "0|1", "Of a boolean: tell when it falls (0), rises (1).", 1)] = (
        None
    )
    con: Annotated[int | None, _own("con", "0|1", "Whether notifications are confirmable.", 1)] = None
    hqmax: Annotated[int | None, _own("hqmax", "N", "How many to keep while they cannot be sent.")] = None

    @property
    def spec(self) -> str:
        """``pmin=5&pmax=60``; empty where none is given."""
        from schemas.lwm2m.attributes import Attribute, Attributes, format_spec

        given = {attribute: getattr(self, attribute.value) for attribute in Attribute}
        return format_spec(Attributes({name: value for name, value in given.items() if value is not None}))
