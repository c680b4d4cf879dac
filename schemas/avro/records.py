"""The records of the topics, as frozen dataclasses. Field names are the Avro names in snake_case.

Bytes are made in `schemas.avro.serde`; the schemas are the ``.avsc`` files beside this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from schemas.avro.analytics_records import Aggregate, Alert, AnalyticsRecord, EnrichedReading, Statistics
from schemas.avro.command_records import CommandKey, CommandPhase, CommandRecord, CommandStatus
from schemas.lwm2m.nodes import Instance, MultipleResource, Object, Resource, values

__all__ = [
    "Aggregate",
    "Alert",
    "AnalyticsRecord",
    "Binding",
    "CommandKey",
    "CommandPhase",
    "CommandStatus",
    "CompositeBody",
    "CreateBody",
    "CreateRequest",
    "DiscoverBody",
    "EnrichedReading",
    "ExecuteRequest",
    "FileRequest",
    "GenericBody",
    "Key",
    "Link",
    "Notification",
    "ReadBody",
    "Record",
    "Registration",
    "RegistrationDelete",
    "RegistrationKind",
    "RegistrationNew",
    "RegistrationUpdate",
    "Request",
    "RequestBody",
    "RequestFormat",
    "RequestKind",
    "RequestPayload",
    "Response",
    "ResponseBody",
    "ResponseCode",
    "ResponsePayload",
    "Statistics",
    "WriteAttributesRequest",
    "WriteCompositeRequest",
    "WriteMode",
    "WriteRequest",
    "values_told",
]


class RegistrationKind(Enum):
    NEW = "NEW"
    UPDATE = "UPDATE"
    DELETE = "DELETE"


class Binding(Enum):
    U = "U"
    UQ = "UQ"
    S = "S"
    SQ = "SQ"
    US = "US"
    UQS = "UQS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """The key of every record: the endpoint client name."""

    ep: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One link of a registration: ``</3303/0>;ver=1.1`` is url="/3303/0", at={"ver": "1.1"}."""

    url: str
    at: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrationNew:
    ep: str
    server_id: str
    reg_date: int
    address: str
    port: int
    reg_addr: str
    reg_port: int
    lt: int
    ver: str
    bnd: Binding
    reg_id: str
    links: tuple[Link, ...]
    root: str
    last_up: int
    sms: str | None = None
    attributes: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrationUpdate:
    ep: str
    server_id: str
    reg_id: str
    address: str
    port: int
    last_up: int
    lt: int | None = None
    sms: str | None = None
    bnd: Binding | None = None
    links: tuple[Link, ...] | None = None
    attributes: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrationDelete:
    ep: str
    server_id: str
    expired: bool
    last_up: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """AvroRegistrationResponse."""

    kind: RegistrationKind
    body: RegistrationNew | RegistrationUpdate | RegistrationDelete


class RequestKind(Enum):
    """AvroRequestKind; those from READ_COMPOSITE on are of version 2 of the schema."""

    READ = "read"
    WRITE = "write"
    WRITE_ATTRIBUTES = "writeAttributes"
    EXECUTE = "execute"
    OBSERVE = "observe"
    OBSERVE_CANCEL = "observeCancel"
    DELETE = "delete"
    DISCOVER = "discover"
    CREATE = "create"
    READ_COMPOSITE = "readComposite"
    WRITE_COMPOSITE = "writeComposite"
    OBSERVE_COMPOSITE = "observeComposite"
    OBSERVE_COMPOSITE_CANCEL = "observeCompositeCancel"
    SEND = "send"


class RequestFormat(Enum):
    """AvroContentFormat; those from SENML_JSON on are of version 2 of the schema, LWM2M_CBOR is of version 3."""

    TLV = "TLV"
    JSON_CODE = "JSON_CODE"
    TEXT_CODE = "TEXT_CODE"
    OPAQUE_CODE = "OPAQUE_CODE"
    LINK_CODE = "LINK_CODE"
    SENML_JSON = "SENML_JSON"
    SENML_CBOR = "SENML_CBOR"
    CBOR = "CBOR"
    LWM2M_CBOR = "LWM2M_CBOR"


class WriteMode(Enum):
    REPLACE = "REPLACE"
    UPDATE = "UPDATE"


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateRequest:
    instance: Instance


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecuteRequest:
    parameters: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteAttributesRequest:
    observe_spec: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteRequest:
    mode: WriteMode
    node: Object | Instance | Resource


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteCompositeRequest:
    """Version 3: what a composite write sets, resources (path depth 3) and resource instances (4), in any order."""

    resources: tuple[Resource, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRequest:
    """Version 3: the body of a write whose value is a file's bytes, which the gateway gets by their digest.

    ``sha256`` is 64 lower-case hexadecimal digits, ``size`` in bytes, ``name`` for people.
    """

    sha256: str
    size: int
    name: str


RequestBody = (
    CreateRequest | ExecuteRequest | WriteAttributesRequest | WriteRequest | WriteCompositeRequest | FileRequest
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestPayload:
    kind: RequestKind
    path: str
    content_format: RequestFormat = RequestFormat.TLV
    body: RequestBody | None = None
    #: Version 2: the targets of a composite operation.
    paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """AvroRequest: a command to a device, answered by exactly one Response with its ticket."""

    server_id: str
    ep: str
    ticket: str
    payload: RequestPayload
    #: Version 2: epoch ms after which the request is answered, not sent.
    expires: int | None = None


class ResponseCode(Enum):
    CREATED = "CREATED"
    DELETED = "DELETED"
    CHANGED = "CHANGED"
    CONTENT = "CONTENT"
    BAD_REQUEST = "BAD_REQUEST"
    UNAUTHORIZED = "UNAUTHORIZED"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    FORBIDDEN = "FORBIDDEN"
    NOT_FOUND = "NOT_FOUND"
    NOT_ACCEPTABLE = "NOT_ACCEPTABLE"
    REQUEST_ENTITY_INCOMPLETE = "REQUEST_ENTITY_INCOMPLETE"
    PRECONDITION_FAILED = "PRECONDITION_FAILED"
    REQUEST_ENTITY_TOO_LARGE = "REQUEST_ENTITY_TOO_LARGE"
    UNSUPPORTED_CONTENT_FORMAT = "UNSUPPORTED_CONTENT_FORMAT"
    INTERNAL_SERVER_ERROR = "INTERNAL_SERVER_ERROR"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadBody:
    """AvroReadResponseBody."""

    content: Object | Instance | Resource | MultipleResource


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoverBody:
    """AvroDiscoverResponse: the CoRE link format text as the device sent it."""

    object_links: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateBody:
    """AvroCreateResponse: the path of the new instance, as the device gave it."""

    location: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GenericBody:
    """AvroGenericResponse: words for people, above all on errors."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CompositeBody:
    """AvroCompositeResponse, of version 3: the values that a composite read found, by ascending path."""

    resources: tuple[Resource, ...]


ResponseBody = ReadBody | DiscoverBody | CreateBody | GenericBody | CompositeBody


def values_told(body: ResponseBody | None) -> list[Resource]:
    """Every single value that a reply or a notification holds, in order; none where it holds words or nothing."""
    if isinstance(body, ReadBody):
        return values(body.content)
    return list(body.resources) if isinstance(body, CompositeBody) else []


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponsePayload:
    code: ResponseCode
    kind: RequestKind
    body: ResponseBody | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """AvroResponse: the one reply to a Request."""

    ticket: str
    server_id: str
    ep: str
    path: str
    timestamp: int
    rep: ResponsePayload


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """AvroResponseObserve: one notification of an Observation (or a Send, kind SEND)."""

    ticket: str
    observation_id: str
    server_id: str
    ep: str
    path: str
    timestamp: int
    rep: ResponsePayload


Record = Key | Registration | Request | Response | Notification | AnalyticsRecord | CommandRecord
