"""LwM2M device management operations as rows of a table: from a request record to the CoAP request.

Owns what OMA LwM2M Core 1.1, section 6.3 and the transport binding's table 6.4.3-1 say of each operation: method,
targets, query, formats. Pure: it sends nothing and looks at no clock. What makes no sense is refused here, in words,
before it costs a message; what only the device can know (whether a resource is writable) is left to the device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from gateway.exchange import (
    MOST_IN_ONE_DATAGRAM,
    CoapRequest,
    CoapResponse,
    DeviceReset,
    DeviceView,
    Expired,
    ExpiredUnanswered,
    Failure,
    GatewayFault,
    Method,
    NotRegistered,
    OutcomeUnknown,
    Overloaded,
    Refused,
    RefusedRequest,
    TimedOut,
    choose_composite_format,
    choose_format,
    format_in_request,
    format_of_paths,
)
from gateway.queries import depth, own_attributes, written_attributes
from gateway.replies import reply
from schemas.avro.records import (
    CreateRequest,
    ExecuteRequest,
    FileRequest,
    Request,
    RequestBody,
    RequestFormat,
    RequestKind,
    RequestPayload,
    WriteAttributesRequest,
    WriteCompositeRequest,
    WriteMode,
    WriteRequest,
)
from schemas.files import is_hash
from schemas.lwm2m import composite, formats, prefixes
from schemas.lwm2m.errors import CodecError
from schemas.lwm2m.formats import ContentFormat
from schemas.lwm2m.nodes import Instance, MultipleResource, Node, Object, Resource, ResourceType
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import MAX_ID, Path, PathError

__all__ = [
    "OPERATIONS",
    "CoapRequest",
    "CoapResponse",
    "DeviceReset",
    "DeviceView",
    "Expired",
    "ExpiredUnanswered",
    "Failure",
    "GatewayFault",
    "Method",
    "NotRegistered",
    "Operation",
    "OutcomeUnknown",
    "Overloaded",
    "Refused",
    "RefusedRequest",
    "TimedOut",
    "build",
    "reply",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """One request, parsed as far as all operations have it in common."""

    operation: Operation
    body: Any
    content_format: RequestFormat
    path: Path
    #: Of a composite operation, as they came.
    paths: tuple[str, ...]
    device: DeviceView
    definitions: Definitions

    def to(self, **more: Any) -> CoapRequest:
        root = tuple(filter(None, self.device.root.split("/")))
        return CoapRequest(
            uri_path=root + tuple(map(str, self.path.ids)),
            **{"method": self.operation.method, "repeatable": self.operation.repeatable, **more},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One row: how an operation goes over the wire."""

    method: Method
    #: The depths of its targets (0 root, 1 object, 2 instance, 3 resource, 4 resource instance), and their name.
    depths: tuple[int, ...]
    targets: str
    make: Callable[[_Asked], CoapRequest]
    #: The body that the request must have; None: it needs none.
    body: type[RequestBody] | None = None
    repeatable: bool = True


def _delete(asked: _Asked) -> CoapRequest:
    if asked.path.depth == 4 and asked.device.is_before_1_2:
        raise RefusedRequest(
            f"{asked.device.ep} speaks LwM2M {asked.device.spoken}, in which a resource instance like {asked.path} "
            f"cannot be deleted (1.2 can); replace {asked.path.parent} by the instances that are to stay"
        )
    return asked.to()


def _read(asked: _Asked) -> CoapRequest:
    return asked.to(accept=_readable_format(asked))


def _observe(asked: _Asked) -> CoapRequest:
    return asked.to(accept=_readable_format(asked), observe=0, uri_query=_own(asked))


def _own(asked: _Asked) -> tuple[str, ...]:
    if not isinstance(asked.body, WriteAttributesRequest):
        return ()
    return own_attributes(asked.body.observe_spec, asked.path, asked.device, asked.definitions)


def _cancel(asked: _Asked) -> CoapRequest:
    return asked.to(accept=_readable_format(asked), observe=1)


def _discover(asked: _Asked) -> CoapRequest:
    query = depth(asked.body.observe_spec, asked.device) if isinstance(asked.body, WriteAttributesRequest) else ()
    return asked.to(accept=ContentFormat.LINK, uri_query=query)


def _execute(asked: _Asked) -> CoapRequest:
    if asked.device.is_1_0 and (asked.path.object_id, asked.path.resource_id) == (1, 9):
        raise RefusedRequest(
            f"{asked.device.ep} speaks LwM2M 1.0, which has no Bootstrap-Request Trigger (/1/x/9); 1.1 has it"
        )
    if not isinstance(asked.body, ExecuteRequest) or not asked.body.parameters:
        return asked.to()
    # The contract's own example sends "param1,param2", which section 6.3.5's grammar would not have: as it came, then.
    return asked.to(content_format=ContentFormat.TEXT, payload=asked.body.parameters.encode())


def _write_attributes(asked: _Asked) -> CoapRequest:
    spec = asked.body.observe_spec
    return asked.to(uri_query=written_attributes(spec, asked.path, asked.device, asked.definitions))


def _write_file(asked: _Asked, file: FileRequest) -> CoapRequest:
    """Its bytes to a resource that takes them (push), or where the device fetches it to one that takes a URI (pull)."""
    if asked.path.depth != 3:
        raise RefusedRequest(f"a file is the value of a resource, and {asked.path} is {_LEVELS[asked.path.depth]}")
    if not is_hash(file.sha256):
        raise RefusedRequest(f"{file.sha256[:80]!r} is no SHA-256 in small hex, by which a file is known")
    if asked.device.prefix:
        raise RefusedRequest(
            f"{asked.device.ep} is behind a gateway, which takes files for itself alone: firmware and software of the "
            "devices behind it are its own to bring"
        )
    known = asked.definitions.resource(asked.path)
    if known is not None and known.type is ResourceType.STRING:
        node = Resource(path=asked.path, type=ResourceType.STRING, value=asked.device.files + file.sha256)
        content_format, payload = _encoded(asked, node)
        return asked.to(content_format=content_format, payload=payload, file=file.sha256)
    if known is not None and known.type is not ResourceType.OPAQUE:
        raise RefusedRequest(f"{asked.path} takes neither the bytes of a file nor a URI")
    return asked.to(content_format=ContentFormat.OPAQUE, file=file.sha256, pushes=True)


def _write(asked: _Asked) -> CoapRequest:
    if isinstance(asked.body, FileRequest):
        return _write_file(asked, asked.body)
    body: WriteRequest = asked.body
    node = _fit(body.node, asked.path, body.mode)
    content_format, payload = _encoded(asked, node)
    method = Method.PUT
    # Updating a single value is replacing it; POST on it would be an execute.
    if body.mode is WriteMode.UPDATE and not isinstance(node, Resource):
        if isinstance(node, MultipleResource) and asked.device.is_1_0:
            raise RefusedRequest(
                f"{asked.device.ep} speaks LwM2M 1.0, which can replace {asked.path} but not update it"
            )
        method = Method.POST
    return asked.to(method=method, content_format=content_format, payload=payload)


def _create(asked: _Asked) -> CoapRequest:
    body: CreateRequest = asked.body
    instance = body.instance
    if instance.path.parent != asked.path:
        raise RefusedRequest(f"the instance in the body is {instance.path}, which is not below the target {asked.path}")
    node: Node = Object(path=asked.path, instances=(instance,))
    if instance.path.instance_id == MAX_ID:
        # The device chooses the id: TLV then carries the resources alone (section 6.3.6); SenML names need an id. A
        # ``ct`` without TLV is no hindrance: it need not be complete.
        if asked.content_format is not RequestFormat.TLV:
            raise RefusedRequest(
                "only TLV can leave the new instance's id to the device; ask for TLV, or give an id, like "
                f"{asked.path.child(0)}"
            )
        old = choose_format(asked.content_format, asked.device) is ContentFormat.TLV_OLD
        chosen = ContentFormat.TLV_OLD if old else ContentFormat.TLV
        return asked.to(content_format=chosen, payload=_payload(asked, chosen, instance))
    content_format, payload = _encoded(asked, node)
    return asked.to(content_format=content_format, payload=payload)


def _read_composite(asked: _Asked) -> CoapRequest:
    return _fetch(asked)


def _observe_composite(asked: _Asked) -> CoapRequest:
    request = _in_one_datagram(_fetch(asked, observe=0))
    return replace(request, uri_query=_own(asked))


def _cancel_composite(asked: _Asked) -> CoapRequest:
    return _in_one_datagram(_fetch(asked, observe=1))


def _fetch(asked: _Asked, observe: int | None = None) -> CoapRequest:
    paths = _composite_paths(asked)
    chosen = choose_composite_format(asked.content_format, asked.device)
    named_in = format_of_paths(chosen, asked.device)
    try:
        payload = composite.encode_paths(named_in, paths)
    except CodecError as exc:
        raise RefusedRequest(str(exc)) from exc
    return asked.to(accept=chosen, content_format=named_in, payload=payload, paths=paths, observe=observe)


def _in_one_datagram(request: CoapRequest) -> CoapRequest:
    # A request with Observe has the token of its notifications, which a transfer in blocks would not keep.
    if len(request.payload) > MOST_IN_ONE_DATAGRAM:
        raise RefusedRequest(
            f"{len(request.paths)} paths take {len(request.payload)} bytes, and what is observed together must be "
            f"named in {MOST_IN_ONE_DATAGRAM}; observe some of them by a request of their own"
        )
    return request


def _composite_paths(asked: _Asked) -> tuple[Path, ...]:
    try:
        paths = composite.covering(map(Path.parse, asked.paths))
    except PathError as exc:
        raise RefusedRequest(str(exc)) from exc
    if not paths:
        raise RefusedRequest("a composite operation needs its targets in `paths`, and there are none")
    reserved = next((path for path in paths if MAX_ID in path.ids), None)
    if reserved is not None:
        raise RefusedRequest(f"{reserved}: the id {MAX_ID} is reserved")
    return paths


def _write_composite(asked: _Asked) -> CoapRequest:
    resources = asked.body.resources
    chosen = choose_composite_format(asked.content_format, asked.device)
    if asked.paths:
        raise RefusedRequest("writeComposite has its paths in the resources of its body, not in `paths`")
    if not resources:
        raise RefusedRequest("there is no value in the body")
    written = Counter(one.path for one in resources)
    for path, times in written.items():
        if MAX_ID in path.ids:
            raise RefusedRequest(f"{path}: the id {MAX_ID} is reserved")
        if times > 1 or path.parent in written:
            raise RefusedRequest(f"{path} is to be written twice")
    try:
        payload = composite.encode_values(chosen, resources, asked.definitions)
    except CodecError as exc:
        raise RefusedRequest(str(exc)) from exc
    return asked.to(content_format=format_in_request(chosen, asked.device), payload=payload)


_ANY = "an object, an object instance, a resource or a resource instance"
_ROOT = "the root / (its targets are in `paths`)"

#: Every operation with its row; `build` refuses what has none.
OPERATIONS: dict[RequestKind, Operation] = {
    RequestKind.READ: Operation(method=Method.GET, depths=(1, 2, 3, 4), targets=_ANY, make=_read),
    RequestKind.WRITE: Operation(
        method=Method.PUT,
        depths=(2, 3, 4),
        targets="an object instance, a resource or a resource instance",
        make=_write,
        body=WriteRequest,
    ),
    RequestKind.WRITE_ATTRIBUTES: Operation(
        method=Method.PUT, depths=(1, 2, 3, 4), targets=_ANY, make=_write_attributes, body=WriteAttributesRequest
    ),
    RequestKind.EXECUTE: Operation(
        method=Method.POST, depths=(3,), targets="a resource", make=_execute, repeatable=False
    ),
    RequestKind.OBSERVE: Operation(method=Method.GET, depths=(1, 2, 3, 4), targets=_ANY, make=_observe),
    RequestKind.OBSERVE_CANCEL: Operation(method=Method.GET, depths=(1, 2, 3, 4), targets=_ANY, make=_cancel),
    RequestKind.DELETE: Operation(
        method=Method.DELETE, depths=(2, 4), targets="an object instance or a resource instance", make=_delete
    ),
    RequestKind.DISCOVER: Operation(
        method=Method.GET, depths=(1, 2, 3), targets="an object, an object instance or a resource", make=_discover
    ),
    RequestKind.CREATE: Operation(
        method=Method.POST,
        depths=(1,),
        targets="an object (the new instance's id is in the body)",
        make=_create,
        body=CreateRequest,
        repeatable=False,
    ),
    RequestKind.READ_COMPOSITE: Operation(method=Method.FETCH, depths=(0,), targets=_ROOT, make=_read_composite),
    RequestKind.WRITE_COMPOSITE: Operation(
        method=Method.IPATCH,
        depths=(0,),
        targets="the root / (each resource in the body has its own path)",
        make=_write_composite,
        body=WriteCompositeRequest,
    ),
    RequestKind.OBSERVE_COMPOSITE: Operation(method=Method.FETCH, depths=(0,), targets=_ROOT, make=_observe_composite),
    RequestKind.OBSERVE_COMPOSITE_CANCEL: Operation(
        method=Method.FETCH, depths=(0,), targets=_ROOT, make=_cancel_composite
    ),
}

#: What a read is made from; it needs none.
_NO_DEFINITIONS = Definitions()

_LEVELS = ("the root", "an object", "an object instance", "a resource", "a resource instance")


def build(request: Request, device: DeviceView, definitions: Definitions) -> CoapRequest:
    """The CoAP request that carries out ``request`` on ``device``.

    Raises:
        RefusedRequest: the request makes no sense, or not for this device; the words say why.
    """
    payload = request.payload
    if payload.kind is RequestKind.READ:
        try:
            return _remembered_read(
                payload.path, payload.content_format, device.version, device.root, device.content_formats
            )
        except RefusedRequest:
            pass  # said again below, in words about this device
    return _build(request, device, definitions)


@lru_cache(maxsize=4096)
def _remembered_read(
    path: str, content_format: RequestFormat, version: str, root: str, content_formats: frozenset[int] | None
) -> CoapRequest:
    """A read as devices of that kind get it: most commands are reads, and most devices of a fleet are alike."""
    payload = RequestPayload(kind=RequestKind.READ, path=path, content_format=content_format)
    request = Request(server_id="", ep="", ticket="", payload=payload)
    device = DeviceView(ep="", version=version, root=root, content_formats=content_formats)
    return _build(request, device, _NO_DEFINITIONS)


def _build(request: Request, device: DeviceView, definitions: Definitions) -> CoapRequest:
    payload = request.payload
    operation = OPERATIONS.get(payload.kind)
    if operation is None:
        raise RefusedRequest(f"{payload.kind.value} is not supported by this gateway")
    try:
        path = Path.parse(payload.path)
    except PathError as exc:
        raise RefusedRequest(str(exc)) from exc
    if path.depth not in operation.depths:
        raise RefusedRequest(
            f"{payload.kind.value} needs {operation.targets} as its target; {path} is {_LEVELS[path.depth]}"
        )
    if MAX_ID in path.ids:
        raise RefusedRequest(f"{path}: the id {MAX_ID} is reserved")
    if path.depth == 4 and device.is_1_0:
        raise RefusedRequest(f"{device.ep} speaks LwM2M 1.0, in which a resource instance like {path} is no target")
    a_file = payload.kind is RequestKind.WRITE and isinstance(payload.body, FileRequest)
    if operation.body is not None and not a_file and not isinstance(payload.body, operation.body):
        raise RefusedRequest(f"{payload.kind.value} needs a body of type Avro{operation.body.__name__}")
    return operation.make(
        _Asked(
            operation=operation,
            body=payload.body,
            content_format=payload.content_format,
            path=path,
            paths=payload.paths,
            device=device,
            definitions=definitions.with_versions(device.object_versions),
        )
    )


def _readable_format(asked: _Asked) -> ContentFormat:
    chosen = choose_format(asked.content_format, asked.device)
    if chosen is ContentFormat.LINK:
        raise RefusedRequest("LINK_CODE is the format of discover; values come as TLV, text, opaque, JSON or SenML")
    if asked.path.depth < 3 and chosen in (ContentFormat.TEXT, ContentFormat.OPAQUE, ContentFormat.CBOR):
        raise RefusedRequest(
            f"{asked.content_format.value} carries one value, and {asked.path} is {_LEVELS[asked.path.depth]}; "
            "ask for TLV and the gateway chooses what fits"
        )
    return chosen


def _encoded(asked: _Asked, node: Node) -> tuple[ContentFormat, bytes]:
    chosen = choose_format(asked.content_format, asked.device)
    if chosen is ContentFormat.LINK:
        raise RefusedRequest("LINK_CODE is the format of discover; no value can be sent in it")
    return chosen, _payload(asked, chosen, node)


def _payload(asked: _Asked, content_format: ContentFormat, node: Node) -> bytes:
    try:
        payload = formats.encode(content_format, node, asked.definitions)
    except CodecError as exc:
        raise RefusedRequest(str(exc)) from exc
    return prefixes.join(content_format, payload, asked.device.prefix) if asked.device.prefix else payload


def _fit(node: Node, target: Path, mode: WriteMode) -> Node:
    """The node to send to ``target``: unwrapped from, or wrapped into, what the Avro record could express."""
    found: Node | None = node
    while found is not None and found.path.depth < target.depth and not isinstance(found, Resource):
        # An AvroWriteRequest has no multiple resource, so one comes inside its instance.
        below: tuple[Node, ...] = found.resources if isinstance(found, Instance) else found.instances
        found = below[0] if len(below) == 1 and below[0].path.contains(target) else None
    if found is not None and found.path == target:
        return found
    if isinstance(node, Resource) and target.contains(node.path):
        if mode is WriteMode.REPLACE:
            raise RefusedRequest(
                f"replacing {target} with {node.path} alone would drop all else in it; "
                f"address {node.path}, or use the mode UPDATE"
            )
        if target.depth == 2 and node.path.depth == 3:
            return Instance(path=target, resources=(node,))
        if target.depth == 3:
            return MultipleResource(path=target, type=node.type, instances=(node,))
    raise RefusedRequest(f"the value in the body is for {node.path}, but the target is {target}")
