"""Replies to requests: from a device's response, or from the reason why there is none, to the one record.

Pure: `reply` never raises on anything that a device sends. Response codes are those of OMA LwM2M Core 1.1, section 6.4,
and RFC 7252, section 12.1.2; error texts are written for the person who sent the command.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from gateway.exchange import (
    CoapResponse,
    DeviceReset,
    DeviceView,
    Expired,
    ExpiredUnanswered,
    Failure,
    GatewayFault,
    NotRegistered,
    OutcomeUnknown,
    Overloaded,
    Refused,
    RefusedRequest,
    TimedOut,
    choose_composite_format,
    choose_format,
)
from schemas.avro.records import (
    CompositeBody,
    CreateBody,
    CreateRequest,
    DiscoverBody,
    GenericBody,
    ReadBody,
    Request,
    RequestKind,
    Response,
    ResponseBody,
    ResponseCode,
    ResponsePayload,
    WriteCompositeRequest,
)
from schemas.lwm2m import composite, formats, prefixes
from schemas.lwm2m.errors import CodecError
from schemas.lwm2m.formats import ContentFormat
from schemas.lwm2m.nodes import ResourceType
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import MAX_ID, Path, PathError

#: How much of a device's own words (RFC 7252, section 5.5.2: diagnostic payload) goes into a reply, in bytes.
MAX_DIAGNOSTIC: Final = 1024
#: So many paths of a composite request are in the words about it.
_MOST_NAMED: Final = 8

#: The reply code by CoAP code; every other code is UNKNOWN, with the code in the words.
CODES: dict[int, ResponseCode] = {
    0x41: ResponseCode.CREATED,
    0x42: ResponseCode.DELETED,
    0x44: ResponseCode.CHANGED,
    0x45: ResponseCode.CONTENT,
    0x80: ResponseCode.BAD_REQUEST,
    0x81: ResponseCode.UNAUTHORIZED,
    0x83: ResponseCode.FORBIDDEN,
    0x84: ResponseCode.NOT_FOUND,
    0x85: ResponseCode.METHOD_NOT_ALLOWED,
    0x86: ResponseCode.NOT_ACCEPTABLE,
    0x88: ResponseCode.REQUEST_ENTITY_INCOMPLETE,
    0x8C: ResponseCode.PRECONDITION_FAILED,
    0x8D: ResponseCode.REQUEST_ENTITY_TOO_LARGE,
    0x8F: ResponseCode.UNSUPPORTED_CONTENT_FORMAT,
    0xA0: ResponseCode.INTERNAL_SERVER_ERROR,
}

#: What an error of the device means for the person who asked; ``{path}`` and ``{verb}`` are filled in.
ERROR_WORDS: dict[ResponseCode, str] = {
    ResponseCode.BAD_REQUEST: "the device does not understand this {verb} of {path}",
    ResponseCode.UNAUTHORIZED: "the device does not allow this server to {verb} {path}",
    ResponseCode.FORBIDDEN: "the device forbids to {verb} {path}",
    ResponseCode.NOT_FOUND: "the device has no {path}",
    ResponseCode.METHOD_NOT_ALLOWED: "the device does not allow to {verb} {path}: it is not made for that",
    ResponseCode.NOT_ACCEPTABLE: "the device cannot give {path} in the content format that was asked for",
    ResponseCode.REQUEST_ENTITY_INCOMPLETE: "the device lost a block of the request to {verb} {path}; ask again",
    ResponseCode.PRECONDITION_FAILED: "the device says that a condition for this {verb} of {path} is not met",
    ResponseCode.REQUEST_ENTITY_TOO_LARGE: "what was sent to {path} is too large for the device",
    ResponseCode.UNSUPPORTED_CONTENT_FORMAT: "the device cannot read the content format in which {path} was sent",
    ResponseCode.INTERNAL_SERVER_ERROR: "the device failed to {verb} {path}",
}


#: 5.03, which the contract's codes do not have.
_UNAVAILABLE: Final = 0xA3


class _Unusable(Exception):
    """The device's success makes no sense; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Context:
    request: Request
    path: Path
    device: DeviceView
    definitions: Definitions
    #: When the response came, epoch milliseconds.
    now_ms: int

    @property
    def targets(self) -> str:
        """What the request was about, for people: its path, or the paths of a composite one."""
        payload = self.request.payload
        paths = list(payload.paths)
        if isinstance(payload.body, WriteCompositeRequest):
            paths = [str(one.path) for one in payload.body.resources]
        if not paths:
            return str(self.path)
        return ", ".join(paths[:_MOST_NAMED]) + (f" and {len(paths) - _MOST_NAMED} more" * (len(paths) > _MOST_NAMED))


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How the success of one kind of request is recognised and read."""

    verb: str
    success: tuple[ResponseCode, ...]
    body: Callable[[CoapResponse, _Context], ResponseBody | None]


def _nothing(response: CoapResponse, context: _Context) -> None:
    return None


def _content(response: CoapResponse, context: _Context) -> ReadBody:
    content_format = response.content_format
    if content_format is None:
        content_format = _unstated_format(context)
    try:
        # One reply a request: of a history that a device gives, the newest value of each resource.
        payload = response.payload
        if context.device.prefix:
            payload = prefixes.own(content_format, payload, context.device.prefix)
        node = formats.decode(content_format, payload, context.path, context.definitions, received_ms=context.now_ms)
    except CodecError as exc:
        raise _Unusable(f"the device's answer cannot be read: {exc}") from exc
    return ReadBody(content=node)


def _cancelled(response: CoapResponse, context: _Context) -> ReadBody | None:
    # A cancellation by GET brings the value once more; one that needed no message brings nothing.
    return _content(response, context) if response.payload else None


def _contents(response: CoapResponse, context: _Context) -> CompositeBody:
    content_format, request = response.content_format, context.request.payload
    try:
        if content_format is None:
            content_format = choose_composite_format(request.content_format, context.device)
        paths = composite.covering(map(Path.parse, request.paths))
        found = composite.decode_values(
            content_format, response.payload, paths, context.definitions, received_ms=context.now_ms
        )
    except (CodecError, RefusedRequest) as exc:
        raise _Unusable(f"the device's answer cannot be read: {exc}") from exc
    # What the device does not have it leaves out (OMA LwM2M Core 1.1, section 6.3.8).
    return CompositeBody(resources=tuple(found))


def _all_cancelled(response: CoapResponse, context: _Context) -> CompositeBody | None:
    return _contents(response, context) if response.payload else None


def _links(response: CoapResponse, context: _Context) -> DiscoverBody:
    if response.content_format not in (None, ContentFormat.LINK):
        raise _Unusable(f"the device answered in content format {response.content_format}, not in link format (40)")
    try:
        text = response.payload.decode()
        prefix = context.device.prefix
        return DiscoverBody(object_links=prefixes.strip_links(text, prefix) if prefix else text)
    except UnicodeDecodeError as exc:
        raise _Unusable("the device's links are no valid UTF-8") from exc


def _location(response: CoapResponse, context: _Context) -> CreateBody:
    segments = response.location
    root = tuple(filter(None, context.device.root.split("/")))
    if root and segments[: len(root)] == root:
        segments = segments[len(root) :]
    if segments:
        return CreateBody(location="/" + "/".join(segments))
    body = context.request.payload.body
    if isinstance(body, CreateRequest) and body.instance.path.instance_id not in (None, MAX_ID):
        return CreateBody(location=str(body.instance.path))
    return CreateBody(location=str(context.path))


#: Every kind of request with its row.
ANSWERS: dict[RequestKind, Answer] = {
    RequestKind.READ: Answer(verb="read", success=(ResponseCode.CONTENT,), body=_content),
    RequestKind.WRITE: Answer(verb="write", success=(ResponseCode.CHANGED,), body=_nothing),
    RequestKind.WRITE_ATTRIBUTES: Answer(verb="write attributes of", success=(ResponseCode.CHANGED,), body=_nothing),
    RequestKind.EXECUTE: Answer(verb="execute", success=(ResponseCode.CHANGED,), body=_nothing),
    RequestKind.OBSERVE: Answer(verb="observe", success=(ResponseCode.CONTENT,), body=_content),
    RequestKind.OBSERVE_CANCEL: Answer(
        verb="stop observing", success=(ResponseCode.CONTENT, ResponseCode.DELETED), body=_cancelled
    ),
    RequestKind.DELETE: Answer(verb="delete", success=(ResponseCode.DELETED,), body=_nothing),
    RequestKind.DISCOVER: Answer(verb="discover", success=(ResponseCode.CONTENT,), body=_links),
    RequestKind.CREATE: Answer(verb="create below", success=(ResponseCode.CREATED,), body=_location),
    RequestKind.READ_COMPOSITE: Answer(verb="read", success=(ResponseCode.CONTENT,), body=_contents),
    RequestKind.WRITE_COMPOSITE: Answer(verb="write", success=(ResponseCode.CHANGED,), body=_nothing),
    RequestKind.OBSERVE_COMPOSITE: Answer(verb="observe", success=(ResponseCode.CONTENT,), body=_contents),
    RequestKind.OBSERVE_COMPOSITE_CANCEL: Answer(
        verb="stop observing", success=(ResponseCode.CONTENT, ResponseCode.DELETED), body=_all_cancelled
    ),
}
_OTHER = Answer(verb="do this to", success=(), body=_nothing)

#: The reply to each failure, code and words: a device that is not registered is NOT_FOUND; a request that expired is
#: PRECONDITION_FAILED, since its own condition ("not after") is what failed and it was certainly not executed; UNKNOWN
#: is kept for where nobody knows what the device did.
FAILURES: dict[type[Any], tuple[ResponseCode | None, Callable[[Any, Request, str], str]]] = {
    TimedOut: (
        ResponseCode.UNKNOWN,
        lambda f, request, gateway: (
            f"no answer within {f.seconds:g} s; the device {request.ep} may be asleep or unreachable"
        ),
    ),
    NotRegistered: (
        ResponseCode.NOT_FOUND,
        lambda f, request, gateway: f"no device {request.ep} is registered at {gateway}",
    ),
    Expired: (
        ResponseCode.PRECONDITION_FAILED,
        lambda f, request, gateway: f"the request expired before it could be sent to {request.ep}; it was not executed",
    ),
    ExpiredUnanswered: (
        ResponseCode.UNKNOWN,
        lambda f, request, gateway: (
            f"the request expired without an answer of {request.ep}, to which it was sent: it may have been executed. "
            "Check the device before you ask again"
        ),
    ),
    Refused: (None, lambda f, request, gateway: f.words),
    OutcomeUnknown: (
        ResponseCode.UNKNOWN,
        lambda f, request, gateway: (
            f"outcome unknown: the request was sent to {request.ep}, but no answer arrived; it may have been executed, "
            "so it is not repeated. Check the device before you ask again"
        ),
    ),
    DeviceReset: (
        ResponseCode.UNKNOWN,
        lambda f, request, gateway: (
            f"the device {request.ep} rejected the request as a message that it cannot process (CoAP Reset)"
        ),
    ),
    Overloaded: (ResponseCode.INTERNAL_SERVER_ERROR, lambda f, request, gateway: f.words),
    GatewayFault: (ResponseCode.INTERNAL_SERVER_ERROR, lambda f, request, gateway: f"the gateway failed: {f.words}"),
}


def reply(
    request: Request,
    response: CoapResponse | Failure,
    *,
    now_ms: int,
    server_id: str,
    definitions: Definitions,
    device: DeviceView | None,
) -> Response:
    """The one reply to ``request``.

    ``server_id`` is the gateway's id, ``device`` the registration at the time of the response (None: there is none).
    """
    kind = request.payload.kind
    try:
        path: Path | None = Path.parse(request.payload.path)
    except PathError:
        path = None
    code: ResponseCode
    body: ResponseBody | None
    if isinstance(response, CoapResponse):
        view = device or DeviceView(ep=request.ep)
        context = _Context(
            request=request,
            path=path or Path(),
            device=view,
            definitions=definitions.with_versions(view.object_versions),
            now_ms=now_ms,
        )
        code, body = _answered(response, context)
    else:
        row_code, words = FAILURES[type(response)]
        code = row_code or (response.code if isinstance(response, Refused) else ResponseCode.UNKNOWN)
        body = GenericBody(message=words(response, request, server_id))
    return Response(
        ticket=request.ticket,
        server_id=server_id,
        ep=request.ep,
        path=str(path) if path is not None else request.payload.path,
        timestamp=now_ms,
        rep=ResponsePayload(code=code, kind=kind, body=body),
    )


def _answered(response: CoapResponse, context: _Context) -> tuple[ResponseCode, ResponseBody | None]:
    answer = ANSWERS.get(context.request.payload.kind, _OTHER)
    code = CODES.get(response.code, ResponseCode.UNKNOWN)
    if code in answer.success:
        try:
            return code, answer.body(response, context)
        except _Unusable as exc:
            return ResponseCode.UNKNOWN, GenericBody(message=str(exc))
    dotted = f"{response.code >> 5}.{response.code & 31:02}"
    said = _diagnostic(response)
    if response.code == _UNAVAILABLE:
        words, code = f"the device cannot {answer.verb} {context.targets} now", ResponseCode.UNKNOWN
    elif code in ERROR_WORDS:
        words = ERROR_WORDS[code].format(path=context.targets, verb=answer.verb)
    else:
        words = f"the device answered with {dotted}, which is no answer to a request to {answer.verb} {context.targets}"
        code = ResponseCode.UNKNOWN
    return code, GenericBody(message=f"{words} ({dotted})" + (f"; it says: {said}" if said else ""))


def _diagnostic(response: CoapResponse) -> str:
    if response.content_format not in (None, ContentFormat.TEXT):
        return ""
    try:
        text = response.payload.decode()
    except UnicodeDecodeError:
        return ""
    # Cut between characters; and what ends up in terminals and stores must not steer them.
    text = text.encode()[:MAX_DIAGNOSTIC].decode(errors="ignore")
    return "".join(c if c.isprintable() else " " for c in text).strip()


def _unstated_format(context: _Context) -> int:
    # RFC 7252, section 3.1 leaves a payload without Content-Format to guessing. LwM2M devices that omit it send one
    # value as text; everything else can only be what was asked for.
    path = context.path
    definition = context.definitions.resource(path)
    if path.depth == 4 or (path.depth == 3 and not (definition and definition.multiple)):
        return ContentFormat.OPAQUE if definition and definition.type is ResourceType.OPAQUE else ContentFormat.TEXT
    try:
        return choose_format(context.request.payload.content_format, context.device)
    except RefusedRequest:
        return ContentFormat.TLV
