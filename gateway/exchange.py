"""The values of one exchange with a device: what is asked, what came back, and what can go wrong on the way.

Pure data, shared by `gateway.operations`, `gateway.replies`, the command loop and the CoAP endpoint. Owns the choice of
a content format from what was asked, the device's version and its ``ct``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from schemas.avro.records import RequestFormat, ResponseCode
from schemas.lwm2m import composite
from schemas.lwm2m.formats import ContentFormat
from schemas.lwm2m.path import Path

#: Larger payloads go in blocks (RFC 7959): 1024 is the largest block, and a datagram then stays below 1,280 bytes.
MOST_IN_ONE_DATAGRAM = 1024


class Method(IntEnum):
    """CoAP method codes (RFC 7252, section 12.1.1; RFC 8132, section 6)."""

    GET = 1
    POST = 2
    PUT = 3
    DELETE = 4
    #: RFC 8132.
    FETCH = 5
    IPATCH = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class CoapRequest:
    """A request to a device, without the token and message id that the endpoint gives it."""

    method: Method
    #: With the registration's alternate path in front.
    uri_path: tuple[str, ...]
    uri_query: tuple[str, ...] = ()
    accept: int | None = None
    content_format: int | None = None
    #: 0 to observe, 1 to cancel (RFC 7641, section 2).
    observe: int | None = None
    payload: bytes = b""
    #: What a composite request reads, observes or stops observing, as its payload says; none lies within another.
    paths: tuple[Path, ...] = ()
    #: The SHA-256 of the file that must be here for it, and whether that is the payload, in blocks.
    file: str | None = None
    pushes: bool = False
    #: False when asking twice may do it twice (execute, create): interrupted, it is answered "outcome unknown".
    repeatable: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class CoapResponse:
    """What a device answered; ``code`` is the byte of RFC 7252, section 3, so 2.05 is 0x45."""

    code: int
    content_format: int | None = None
    payload: bytes = b""
    location: tuple[str, ...] = ()
    observe: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceView:
    """What of a registration decides how a device is spoken to."""

    ep: str
    #: The LwM2M version it registered with: "1.0", "1.1", ...
    version: str = "1.0"
    #: The path of the link with ``rt="oma.lwm2m"`` (OMA LwM2M Core 1.1, section 6.2.1), "/" without one.
    root: str = "/"
    #: The ``ct`` of that link; None when it has none.
    content_formats: frozenset[int] | None = None
    #: The ``ver`` of object links, by object id.
    object_versions: Mapping[int, str] = field(default_factory=dict)
    #: What stands in front of its names in a payload, where it is behind a gateway (`schemas.lwm2m.prefixes`).
    prefix: str = ""
    #: Where it finds the gateway's files: a URI to which the hash of one is added.
    files: str = ""

    @property
    def is_1_0(self) -> bool:
        """True for LwM2M 1.0: no SenML, no resource instances as targets, no composite operations."""
        return self.version.strip() in ("", "1", "1.0")

    @property
    def spoken(self) -> str:
        """The version of LwM2M, for people and comparisons."""
        return "1.0" if self.is_1_0 else self.version.strip()

    @property
    def is_before_1_2(self) -> bool:
        """True for LwM2M 1.0 and 1.1: no LwM2M CBOR, nothing in the query of an Observe or a Discover."""
        return self.is_1_0 or self.version.strip() == "1.1"


# Failures: why there is no response of the device. Each becomes a reply by the table in `gateway.replies`.


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedOut:
    """The device did not answer within ``seconds``."""

    seconds: float


@dataclass(frozen=True, slots=True)
class NotRegistered:
    """No device of that name is registered here."""


@dataclass(frozen=True, slots=True)
class Expired:
    """The time until which the request was to be sent has passed; it was not sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpiredUnanswered:
    """The time until which the request was to be answered has passed; it was sent before, and the device may have
    executed it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The gateway did not send the request, because it makes no sense as it is."""

    words: str
    code: ResponseCode = ResponseCode.BAD_REQUEST


@dataclass(frozen=True, slots=True)
class OutcomeUnknown:
    """A request that must not be repeated was interrupted: it may or may not have been executed."""


@dataclass(frozen=True, slots=True)
class DeviceReset:
    """The device answered with a Reset message (RFC 7252, section 4.2): it could not process the request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overloaded:
    """Too many commands wait, for this device or in all; ``words`` say which bound it was."""

    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayFault:
    """Something in the gateway failed on this request; ``words`` say what."""

    words: str


Failure = (
    TimedOut
    | NotRegistered
    | Expired
    | ExpiredUnanswered
    | Refused
    | OutcomeUnknown
    | DeviceReset
    | Overloaded
    | GatewayFault
)


class RefusedRequest(Exception):
    """A request that is not sent; ``refused`` becomes the reply."""

    def __init__(self, words: str, code: ResponseCode = ResponseCode.BAD_REQUEST) -> None:
        super().__init__(words)
        self.refused = Refused(words=words, code=code)


#: What the contract's names mean on the wire.
CONTENT_FORMATS: dict[RequestFormat, ContentFormat] = {
    RequestFormat.TLV: ContentFormat.TLV,
    RequestFormat.JSON_CODE: ContentFormat.JSON,
    RequestFormat.TEXT_CODE: ContentFormat.TEXT,
    RequestFormat.OPAQUE_CODE: ContentFormat.OPAQUE,
    RequestFormat.LINK_CODE: ContentFormat.LINK,
    RequestFormat.SENML_JSON: ContentFormat.SENML_JSON,
    RequestFormat.SENML_CBOR: ContentFormat.SENML_CBOR,
    RequestFormat.CBOR: ContentFormat.CBOR,
    RequestFormat.LWM2M_CBOR: ContentFormat.LWM2M_CBOR,
}

#: For a device that names its formats but not the one asked for: what to take instead, first come first served. SenML
#: is before LwM2M CBOR, since a device can give the times of its values in it.
_INSTEAD: dict[ContentFormat, tuple[ContentFormat, ...]] = {
    ContentFormat.TLV: (
        ContentFormat.SENML_CBOR,
        ContentFormat.LWM2M_CBOR,
        ContentFormat.SENML_JSON,
        ContentFormat.JSON,
    ),
    ContentFormat.JSON: (ContentFormat.SENML_JSON,),
}
#: The numbers of TLV and JSON before they were registered; some LwM2M 1.0 devices know no others.
_OLD_NUMBERS = {ContentFormat.TLV: ContentFormat.TLV_OLD, ContentFormat.JSON: ContentFormat.JSON_OLD}
_SENML = (ContentFormat.SENML_JSON, ContentFormat.SENML_CBOR)
_SENML_NAMES = (*_SENML, *composite.ETCH.values())


def choose_format(asked: RequestFormat, device: DeviceView) -> ContentFormat:
    """The content format to speak with ``device``.

    TLV is what every request carries that asks for nothing in particular, so it gives way to what a 1.1 device says it
    has. In LwM2M 1.0 a device must know TLV, and its ``ct`` only names what it has besides (OMA LwM2M 1.0, sections
    5.3.1 and 6.4). All else is sent as asked: ``ct`` need not be complete, and the device says 4.06 or 4.15 if it has
    to.

    Raises:
        RefusedRequest: SenML for a device of LwM2M 1.0, or LwM2M CBOR for one of 1.1, that does not announce it.
    """
    wanted = CONTENT_FORMATS[asked]
    named = device.content_formats or frozenset()
    too_new = device.is_1_0 if wanted in _SENML else wanted is ContentFormat.LWM2M_CBOR and device.is_before_1_2
    if too_new and wanted not in named:
        raise RefusedRequest(
            f"{device.ep} speaks LwM2M {device.spoken}, which has no {asked.value}; "
            "ask for TLV and the gateway chooses what fits"
        )
    if device.content_formats is not None and wanted not in named:
        old = _OLD_NUMBERS.get(wanted)
        if old is not None and not named.isdisjoint(_OLD_NUMBERS.values()):
            return old
        if not device.is_1_0:
            return next((other for other in _INSTEAD.get(wanted, ()) if other in named), wanted)
    return wanted


def choose_composite_format(asked: RequestFormat, device: DeviceView) -> ContentFormat:
    """The content format of a composite operation with ``device``, as `choose_format`.

    TLV, which has no place for paths, gives way to the best format that the device names, SenML CBOR where it names
    none of them.

    Raises:
        RefusedRequest: a device of LwM2M 1.0 or behind a gateway, a format that has no composite operations, or LwM2M
            CBOR for a device of 1.1 that does not announce it.
    """
    if device.is_1_0:
        raise RefusedRequest(
            f"{device.ep} speaks LwM2M 1.0, which has no composite operations; ask for each path by itself"
        )
    if device.prefix:
        raise RefusedRequest(
            f"{device.ep} is behind a gateway, which takes composite operations for itself alone; "
            "ask for each path by itself"
        )
    if asked is not RequestFormat.TLV:
        chosen = choose_format(asked, device)
        if chosen in composite.FORMATS:
            return chosen
        raise RefusedRequest(
            f"composite operations are carried in SENML_CBOR, SENML_JSON or LWM2M_CBOR, not in {asked.value}; "
            "ask for TLV and the gateway chooses what fits"
        )
    named = device.content_formats or frozenset()
    return next((one for one in composite.FORMATS if one in named), ContentFormat.SENML_CBOR)


def format_of_paths(spoken: ContentFormat, device: DeviceView) -> ContentFormat:
    """The content format in which a request names paths whose values are wanted in ``spoken``.

    LwM2M CBOR is for values: clients that have it (Anjay 3.14) read no paths in it. They go in SenML beside it, but for
    a device that names LwM2M CBOR and no SenML.
    """
    if spoken is ContentFormat.LWM2M_CBOR:
        named = device.content_formats or frozenset()
        if named.isdisjoint(_SENML_NAMES):
            spoken = ContentFormat.LWM2M_CBOR if spoken in named else ContentFormat.SENML_CBOR
        elif named.isdisjoint((ContentFormat.SENML_CBOR, ContentFormat.SENML_ETCH_CBOR)):
            spoken = ContentFormat.SENML_JSON
        else:
            spoken = ContentFormat.SENML_CBOR
    return format_in_request(spoken, device)


def format_in_request(spoken: ContentFormat, device: DeviceView) -> ContentFormat:
    """SenML by its name of RFC 8790 for a device that names that; anything else as it is."""
    etch = composite.ETCH.get(spoken)
    return spoken if etch is None or etch not in (device.content_formats or ()) else etch
