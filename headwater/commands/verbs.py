"""The verbs: one command to one device, and its answer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.commands.answers import do, from_now, send
from headwater.commands.base import command
from headwater.commands.server_verbs import disable, trigger_bootstrap, trigger_update
from headwater.exits import Exit, Stop
from headwater.options import (
    Asking,
    ContentFormat,
    EndpointArgument,
    FormatOption,
    OwnAttributes,
    PathArgument,
    PathsArgument,
    ValueType,
    Where,
    lwm2m_path,
)

if TYPE_CHECKING:
    from schemas.avro.records import RequestBody, RequestKind

PANEL = "Devices"


def register(app: typer.Typer) -> None:
    """Add the verbs to ``app``."""
    for name, function in VERBS.items():
        command(app, name, panel=PANEL, dashes=name in ("write", "create"))(function)


def read(
    ep: EndpointArgument, paths: PathsArgument, where: Where, asking: Asking, *, form: FormatOption = None
) -> None:
    """Read an object, an instance, a resource or a resource instance of a device.

    Several paths are read in one message (Read-Composite, LwM2M 1.1), and so is / with all that a device has; what the
    device does not have of them is left out.

    \b
    Examples:
    headwater read sensor-1 /3303/0/5700 --gateway rock64 --kafka cloud:9092
    headwater read sensor-1 /3 --gateway rock64 --output json
    headwater read sensor-1 /3/0/0 /3303/0/5700 /1/0/1 --gateway rock64
    """
    from schemas.avro.records import RequestKind

    _on(RequestKind.READ, RequestKind.READ_COMPOSITE, ep, paths, where, asking, form)


def observe(
    ep: EndpointArgument,
    paths: PathsArgument,
    where: Where,
    asking: Asking,
    *,
    own: OwnAttributes,
    form: FormatOption = None,
) -> None:
    """Observe: the device tells every change from now on, into the topic iot.GW.observations.

    Several paths are observed together (Observe-Composite, LwM2M 1.1): one observation, and a record for each path that
    a notification tells of.

    A device of LwM2M 1.2 can be given how often and on which change it tells for this observation alone; for an older
    one: headwater attributes.

    \b
    Examples:
    headwater observe sensor-1 /3303/0/5700 --gateway rock64
    headwater observe sensor-1 /3303/0/5700 --pmin 5 --pmax 60 --gateway rock64
    headwater observe sensor-1 /3303/0/5700 /3304/0/5700 --gateway rock64
    headwater tail observations --gateway rock64
    """
    from schemas.avro.records import RequestKind

    _on(RequestKind.OBSERVE, RequestKind.OBSERVE_COMPOSITE, ep, paths, where, asking, form, _query(own.spec))


def _query(spec: str) -> RequestBody | None:
    """What goes into the query of a request, in the body that it has in the topic."""
    from schemas.avro.records import WriteAttributesRequest

    return WriteAttributesRequest(observe_spec=spec) if spec else None


def cancel(
    ep: EndpointArgument, paths: PathsArgument, where: Where, asking: Asking, *, form: FormatOption = None
) -> None:
    """Cancel the observation of a path; or of several that are observed together, which must be just these.

    \b
    Examples:
    headwater cancel sensor-1 /3303/0/5700 --gateway rock64
    headwater cancel sensor-1 /3303/0/5700 /3304/0/5700 --gateway rock64
    """
    from schemas.avro.records import RequestKind

    _on(RequestKind.OBSERVE_CANCEL, RequestKind.OBSERVE_COMPOSITE_CANCEL, ep, paths, where, asking, form)


def _on(
    plain: RequestKind,
    composite: RequestKind,
    ep: str,
    paths: list[str],
    where: Where,
    asking: Asking,
    form: ContentFormat | None,
    body: RequestBody | None = None,
) -> None:
    """The operation on one path, or its composite one on several; only that has the root as a target."""
    if len(paths) == 1 and paths != ["/"]:
        do(plain, ep, paths[0], body, where, asking, form=form)
    else:
        do(composite, ep, "/", body, where, asking, paths=paths, form=form)


def discover(
    ep: EndpointArgument,
    path: PathArgument,
    where: Where,
    asking: Asking,
    *,
    depth: Annotated[
        int | None,
        typer.Option(
            "--depth",
            metavar="N",
            min=0,
            max=3,
            help="How many levels below PATH (LwM2M 1.2); 3 has the instances of resources. Else as the device has it.",
        ),
    ] = None,
) -> None:
    """Ask a device what it has below a path, and which notification attributes are set there.

    \b
    Examples:
    headwater discover sensor-1 /3303 --gateway rock64
    headwater discover sensor-1 /3303 --depth 1 --gateway rock64
    """
    from schemas.avro.records import RequestKind

    do(RequestKind.DISCOVER, ep, path, _query("" if depth is None else f"depth={depth}"), where, asking)


def write(
    ep: EndpointArgument,
    path: PathArgument,
    value: Annotated[str, typer.Argument(metavar="VALUE", help="The value; ID=VALUE,… or JSON for an instance.")],
    where: Where,
    more: Annotated[
        list[str] | None, typer.Argument(metavar="PATH VALUE", help="More, to be written in the same message.")
    ] = None,
    *,
    update: Annotated[
        bool, typer.Option("--update", help="Of an instance, leave resources alone that are not given (else: replace).")
    ] = False,
    type: Annotated[
        ValueType | None, typer.Option("--type", help="The type of the value, where no definition knows it.")
    ] = None,
    form: FormatOption = None,
    asking: Asking,
) -> None:
    """Write a resource, a resource instance or an object instance.

    Several are written in one message (Write-Composite, LwM2M 1.1), all or none of them; of instances it writes the
    resources that are given and leaves the others alone.

    The type of a value comes from the object's definition. Times are ISO 8601 with zone, or seconds since 1970;
    bytes are hex (00ff), base64:AP8= or @FILE; links are 3303:0.

    \b
    Examples:
    headwater write sensor-1 /1/0/1 300 --gateway rock64
    headwater write sensor-1 /1/0 1=300,6=true --update --gateway rock64
    headwater write sensor-1 /1/0 '{"1": 300, "6": true}' --gateway rock64
    headwater write sensor-1 /30000/0/1 -4.5 --type float --gateway rock64
    headwater write sensor-1 /1/0/1 300 /3/0/14 +02 --gateway rock64
    """
    from headwater.known_models import known
    from headwater.values import Reader
    from schemas.avro.records import RequestKind, WriteCompositeRequest, WriteMode, WriteRequest
    from schemas.lwm2m.nodes import ResourceType, values
    from schemas.lwm2m.path import Path

    reader = Reader(definitions=known(), type=ResourceType[type.name] if type else None)
    node = reader.node(Path.parse(path), value)
    if not more:
        body = WriteRequest(mode=WriteMode.UPDATE if update else WriteMode.REPLACE, node=node)
        do(RequestKind.WRITE, ep, path, body, where, asking, form=form)
        return
    if len(more) % 2:
        raise typer.BadParameter(f"after {more[-1]!r} a value is missing; several are PATH VALUE PATH VALUE ...")
    others = [reader.node(Path.parse(lwm2m_path(more[i])), more[i + 1]) for i in range(0, len(more), 2)]
    resources = tuple(one for written in (node, *others) for one in values(written))
    do(RequestKind.WRITE_COMPOSITE, ep, "/", WriteCompositeRequest(resources=resources), where, asking, form=form)


def execute(
    ep: EndpointArgument,
    path: PathArgument,
    where: Where,
    asking: Asking,
    arguments: Annotated[
        str, typer.Argument(metavar="[ARGS]", help="Arguments, as the device takes them: 0='a',1.")
    ] = "",
) -> None:
    """Execute a resource. It is never executed twice for one ticket.

    \b
    Examples:
    headwater execute sensor-1 /3/0/4 --gateway rock64
    headwater execute sensor-1 /3303/0/5605 "0='all'" --gateway rock64
    """
    from schemas.avro.records import ExecuteRequest, RequestKind

    body = ExecuteRequest(parameters=arguments)
    do(RequestKind.EXECUTE, ep, path, body, where, asking)


def create(
    ep: EndpointArgument,
    path: PathArgument,
    values: Annotated[str, typer.Argument(metavar="VALUES", help="ID=VALUE,… or JSON.")],
    where: Where,
    *,
    type: Annotated[
        ValueType | None, typer.Option("--type", help="The type of the values, where no definition knows them.")
    ] = None,
    asking: Asking,
) -> None:
    """Create an object instance: at /object the device chooses the id, at /object/instance you do.

    \b
    Examples:
    headwater create sensor-1 /2/7 0=3303,1=0 --gateway rock64
    headwater create sensor-1 /3303 '{"5601": 1.5, "5602": 2}' --gateway rock64
    """
    from headwater.known_models import known
    from headwater.values import Reader
    from schemas.avro.records import CreateRequest, RequestKind
    from schemas.lwm2m.nodes import ResourceType
    from schemas.lwm2m.path import Path

    reader = Reader(definitions=known(), type=ResourceType[type.name] if type else None)
    instance = reader.new_instance(Path.parse(path), values)
    # The request goes to the object; the id of the new instance is in the body (OMA LwM2M Core 1.1, section 6.3.5).
    do(RequestKind.CREATE, ep, str(instance.path.parent), CreateRequest(instance=instance), where, asking)


def delete(ep: EndpointArgument, path: PathArgument, where: Where, asking: Asking) -> None:
    """Delete an object instance; of a device of LwM2M 1.2 also an instance of a resource that can be written.

    \b
    Examples:
    headwater delete sensor-1 /3303/7 --gateway rock64
    headwater delete sensor-1 /2/0/2/101 --gateway rock64
    """
    from schemas.avro.records import RequestKind

    do(RequestKind.DELETE, ep, path, None, where, asking)


def attributes(
    ep: EndpointArgument,
    path: PathArgument,
    spec: Annotated[
        str, typer.Argument(metavar="ATTRIBUTES", help="pmin, pmax, gt, lt, st, epmin, epmax, edge, con, hqmax.")
    ],
    where: Where,
    asking: Asking,
) -> None:
    """Set notification attributes: how often, and on which change, a device tells.

    A name without a value takes the attribute away.

    \b
    Examples:
    headwater attributes sensor-1 /3303/0/5700 'pmin=1&pmax=10&st=0.5' --gateway rock64
    headwater attributes sensor-1 /3303/0/5700 st --gateway rock64
    """
    from schemas.avro.records import RequestKind, WriteAttributesRequest

    body = WriteAttributesRequest(observe_spec=spec)
    do(RequestKind.WRITE_ATTRIBUTES, ep, path, body, where, asking)


def request(
    file: Annotated[FilePath, typer.Option("--file", "-f", metavar="REQUEST.json", help="The request; - for stdin.")],
    where: Where,
    asking: Asking,
) -> None:
    """Send a request in the JSON form of an AvroRequest, as a console producer takes it.

    \b
    Examples:
    headwater request --file request.json --gateway rock64
    echo '{"serverId": "rock64", "ep": "sensor-1", "ticket": "t1",
           "payload": {"kind": "read", "path": "/3/0/0", "contentFormat": "TLV", "body": null}}' |
      headwater request --file - --gateway rock64
    """
    from dataclasses import replace

    from schemas.avro.serde import request_from_json

    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is no UTF-8 text"
        raise Stop(Exit.USAGE, f"the request file {file} cannot be read: {reason}") from exc
    parsed = request_from_json(_with_ticket(text, asking.ticket))
    until = parsed.expires if asking.expires is None else from_now(asking.expires)
    send(replace(parsed, expires=until), where, asking)


def _with_ticket(text: str, ticket: str | None) -> Any:
    """The request's JSON with the ticket that was asked for, or a new one where it has none."""
    import json

    from cloud.requests import new_ticket

    try:
        content = json.loads(text)
    except ValueError:
        return text  # its reader says what is wrong, and where
    if isinstance(content, dict) and (ticket or not content.get("ticket")):
        content["ticket"] = ticket or new_ticket()
    return content


VERBS: Mapping[str, Callable[..., None]] = {
    "read": read,
    "observe": observe,
    "cancel": cancel,
    "discover": discover,
    "write": write,
    "execute": execute,
    "trigger-update": trigger_update,
    "trigger-bootstrap": trigger_bootstrap,
    "disable": disable,
    "create": create,
    "delete": delete,
    "attributes": attributes,
    "request": request,
}
