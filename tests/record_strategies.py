"""Records of every kind, as Hypothesis draws them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from schemas.avro.analytics_records import Aggregate, Alert, AlertState, EnrichedReading, Statistics
from schemas.avro.command_records import CommandKey, CommandPhase, CommandStatus
from schemas.avro.records import (
    Binding,
    CompositeBody,
    CreateBody,
    CreateRequest,
    DiscoverBody,
    ExecuteRequest,
    FileRequest,
    GenericBody,
    Key,
    Link,
    Notification,
    ReadBody,
    Record,
    Registration,
    RegistrationDelete,
    RegistrationKind,
    RegistrationNew,
    RegistrationUpdate,
    Request,
    RequestFormat,
    RequestKind,
    RequestPayload,
    Response,
    ResponseCode,
    ResponsePayload,
    WriteAttributesRequest,
    WriteCompositeRequest,
    WriteMode,
    WriteRequest,
)
from schemas.lwm2m.nodes import Instance, MultipleResource, Node, Object, ObjectLink, Resource, ResourceType, Value
from schemas.lwm2m.path import Path

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
longs = st.integers(-(2**63), 2**63 - 1)
ids = st.integers(0, 65534)
ports = st.integers(0, 65535)
maps = st.dictionaries(texts, texts, max_size=3)
links = st.lists(st.builds(Link, url=texts, at=maps), max_size=3).map(tuple)

VALUES: dict[ResourceType, st.SearchStrategy[Value]] = {
    ResourceType.STRING: texts,
    ResourceType.FLOAT: st.floats(allow_nan=False),
    ResourceType.INTEGER: longs,
    ResourceType.BOOLEAN: st.booleans(),
    ResourceType.OPAQUE: st.binary(max_size=20),
    ResourceType.TIME: longs,
    ResourceType.OBJLNK: st.builds(ObjectLink, ports, ports),
}


@st.composite
def a_value(draw: st.DrawFn, path: Path, kind: ResourceType | None = None) -> Resource:
    kind = kind or draw(st.sampled_from(ResourceType))
    return Resource(path=path, type=kind, value=draw(VALUES[kind]), timestamp=draw(st.none() | longs))


@st.composite
def a_multiple(draw: st.DrawFn, path: Path) -> MultipleResource:
    kind = draw(st.sampled_from(ResourceType))
    keys = sorted(draw(st.sets(ids, max_size=3)))
    return MultipleResource(path=path, type=kind, instances=tuple(draw(a_value(path.child(key), kind)) for key in keys))


@st.composite
def an_instance(draw: st.DrawFn, path: Path) -> Instance:
    keys = sorted(draw(st.sets(ids, max_size=4)))
    return Instance(
        path=path,
        resources=tuple(draw(a_value(path.child(key)) | a_multiple(path.child(key))) for key in keys),
    )


@st.composite
def an_object(draw: st.DrawFn, path: Path) -> Object:
    keys = sorted(draw(st.sets(ids, max_size=3)))
    return Object(path=path, instances=tuple(draw(an_instance(path.child(key))) for key in keys))


@st.composite
def nodes(draw: st.DrawFn, *, writable: bool = False) -> Any:
    path = Path(draw(ids), draw(ids), draw(ids), draw(ids))
    choices: list[st.SearchStrategy[Node]] = [
        an_object(path.parent.parent.parent),
        an_instance(path.parent.parent),
        a_value(path.parent),
        a_value(path),
    ]
    return draw(st.one_of(choices if writable else [*choices, a_multiple(path.parent)]))


#: Of resources and resource instances anywhere on a device.
several = st.lists((st.builds(Path, ids, ids, ids) | st.builds(Path, ids, ids, ids, ids)).flatmap(a_value), max_size=4)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    body = draw(
        st.none()
        | st.builds(ExecuteRequest, parameters=texts)
        | st.builds(WriteAttributesRequest, observe_spec=texts)
        | st.builds(WriteRequest, mode=st.sampled_from(WriteMode), node=nodes(writable=True))
        | st.builds(CreateRequest, instance=st.builds(Path, ids, ids).flatmap(an_instance))
        | st.builds(WriteCompositeRequest, resources=several.map(tuple))
        | st.builds(
            FileRequest,
            sha256=st.from_regex("[0-9a-f]{64}", fullmatch=True),
            size=st.integers(0, 2**63 - 1),
            name=texts,
        )
    )
    path = str(Path(draw(ids)))
    if isinstance(body, WriteRequest):
        path = str(body.node.path)
    elif isinstance(body, CreateRequest):
        path = str(body.instance.path)
    return Request(
        server_id=draw(texts),
        ep=draw(texts),
        ticket=draw(texts),
        payload=RequestPayload(
            kind=draw(st.sampled_from(RequestKind)),
            path=path,
            content_format=draw(st.sampled_from(RequestFormat)),
            body=body,
            paths=tuple(draw(st.lists(st.builds(Path, ids, ids).map(str), max_size=2))),
        ),
        expires=draw(st.none() | st.integers(0, 2**63 - 1)),
    )


@st.composite
def replies(draw: st.DrawFn) -> Response | Notification:
    body = draw(
        st.none()
        | st.builds(ReadBody, content=nodes())
        | st.builds(DiscoverBody, object_links=texts)
        | st.builds(CreateBody, location=texts)
        | st.builds(GenericBody, message=texts)
        | st.builds(CompositeBody, resources=several.map(tuple))
    )
    # Only an instance without resources needs the record's path; any other record may have any text there.
    rep = ResponsePayload(code=draw(st.sampled_from(ResponseCode)), kind=draw(st.sampled_from(RequestKind)), body=body)
    path = str(body.content.path) if isinstance(body, ReadBody) else draw(texts)
    # One notification is of one node; the nodes of a composite one are a record each.
    if isinstance(body, CompositeBody) or draw(st.booleans()):
        return Response(
            ticket=draw(texts), server_id=draw(texts), ep=draw(texts), path=path, timestamp=draw(longs), rep=rep
        )
    return Notification(
        ticket=draw(texts),
        observation_id=draw(texts),
        server_id=draw(texts),
        ep=draw(texts),
        path=path,
        timestamp=draw(longs),
        rep=rep,
    )


news = st.builds(
    RegistrationNew,
    ep=texts,
    server_id=texts,
    reg_date=longs,
    address=texts,
    port=ports,
    reg_addr=texts,
    reg_port=ports,
    lt=longs,
    ver=texts,
    bnd=st.sampled_from(Binding),
    reg_id=texts,
    links=links,
    root=texts,
    last_up=longs,
    sms=st.none() | texts,
    attributes=st.none() | maps,
)
updates = st.builds(
    RegistrationUpdate,
    ep=texts,
    server_id=texts,
    reg_id=texts,
    address=texts,
    port=ports,
    last_up=longs,
    lt=st.none() | longs,
    sms=st.none() | texts,
    bnd=st.none() | st.sampled_from(Binding),
    links=st.none() | links,
    attributes=st.none() | maps,
)
deletes = st.builds(RegistrationDelete, ep=texts, server_id=texts, expired=st.booleans(), last_up=longs)
registrations = st.builds(Registration, kind=st.sampled_from(RegistrationKind), body=news | updates | deletes)
numbers = st.floats(allow_nan=False)
of_series = {"server_id": texts, "ep": texts, "path": texts, "timestamp": longs}
of_analytics = st.one_of(
    st.builds(
        Aggregate,
        server_id=texts,
        ep=texts,
        path=st.none() | texts,
        start=longs,
        end=longs,
        count=longs,
        **dict.fromkeys(("min", "max", "mean", "sum", "last"), numbers),
    ),
    st.builds(Statistics, **of_series, **dict.fromkeys(("mean", "std_dev", "variance"), numbers), stream_length=longs),
    st.builds(
        EnrichedReading,
        **of_series,
        **dict.fromkeys(("value", "mean", "std_dev", "z_score"), numbers),
        outlier=st.booleans(),
    ),
    st.builds(
        Alert,
        **of_series,
        **dict.fromkeys(("id", "rule", "severity", "summary"), texts),
        state=st.sampled_from(AlertState),
        value=numbers,
        threshold=numbers,
        since=longs,
    ),
)
of_commands = st.one_of(
    st.builds(CommandKey, ep=texts, request=texts),
    st.builds(
        CommandStatus,
        **dict.fromkeys(("server_id", "ep", "ticket", "kind", "path", "message"), texts),
        **dict.fromkeys(("since", "received", "expires"), longs),
        state=st.sampled_from(CommandPhase),
        attempts=st.integers(0, 2**31 - 1),
    ),
)
records: st.SearchStrategy[Record] = st.one_of(
    st.builds(Key, ep=texts), registrations, requests(), replies(), of_analytics, of_commands
)
