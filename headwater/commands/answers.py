"""Sending a request and showing its answer: what all verbs share."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from headwater.commands.base import complain
from headwater.exits import Exit, Stop
from headwater.options import Asking, ContentFormat, Output, Where
from headwater.terminal import printable

if TYPE_CHECKING:
    from cloud.requests import Exchange
    from schemas.avro.records import Request, RequestBody, RequestKind, Response


def from_now(seconds: float) -> int:
    """Epoch milliseconds."""
    return round((time.time() + seconds) * 1000)


def do(
    kind: RequestKind,
    ep: str,
    path: str,
    body: RequestBody | None,
    where: Where,
    asking: Asking,
    *,
    paths: Sequence[str] = (),
    form: ContentFormat | None = None,
) -> None:
    """Make the request of one verb, send it and show its answer; ends with exit code 1 where the answer is an error.

    ``paths`` are the targets of a composite operation, whose ``path`` is the root.
    """
    from cloud.requests import new_ticket
    from schemas.avro.records import Request, RequestFormat, RequestPayload

    content_format = RequestFormat.TLV if form is None else RequestFormat[form.name]
    request = Request(
        server_id=where.gateway,
        ep=ep,
        ticket=asking.ticket or new_ticket(),
        payload=RequestPayload(kind=kind, path=path, content_format=content_format, body=body, paths=tuple(paths)),
        expires=None if asking.expires is None else from_now(asking.expires),
    )
    send(request, where, asking)


def send(request: Request, where: Where, asking: Asking) -> None:
    """As `do`, with a request that is there already."""
    from cloud.requests import ask
    from schemas.avro.records import ResponseCode

    try:
        exchange = ask(where.cluster, where.gateway, request, timeout=asking.timeout)
    except KeyboardInterrupt:
        told = f"interrupted; if the request was sent already it stays in its topic (ticket {request.ticket})"
        raise Stop(Exit.INTERRUPTED, told) from None
    response = exchange.response
    good = response.rep.code in (
        ResponseCode.CONTENT,
        ResponseCode.CHANGED,
        ResponseCode.CREATED,
        ResponseCode.DELETED,
    )
    if asking.output is Output.JSON:
        from headwater.output import print_json

        print_json(_answer_json(exchange))
    elif good:
        _show(response)
    if not good:
        words = _message(response)
        targets = " ".join(request.payload.paths) or request.payload.path
        complain(f"{request.ep} {targets}: {response.rep.code.value}" + (f": {words}" if words else ""))
        raise typer.Exit(Exit.REFUSED)


def _message(response: Response) -> str:
    from schemas.avro.records import GenericBody

    return printable(response.rep.body.message) if isinstance(response.rep.body, GenericBody) else ""


def _answer_json(exchange: Exchange) -> Mapping[str, Any]:
    """The reply as in its topic, and what helps programs: the values with their names, whether it is an error."""
    from headwater.known_models import known
    from headwater.output import value_json
    from schemas.avro.records import CompositeBody, ReadBody, values_told
    from schemas.avro.serde import to_json

    response = exchange.response
    answer = to_json(response)
    if isinstance(response.rep.body, ReadBody | CompositeBody):
        definitions = known()
        answer["values"] = [value_json(definitions, one) for one in values_told(response.rep.body)]
    answer["seconds"] = round(exchange.seconds, 3)
    return answer


def _show(response: Response) -> None:
    from headwater.known_models import known
    from headwater.output import console, table, value_row
    from schemas.avro.records import CompositeBody, CreateBody, DiscoverBody, ReadBody, values_told

    match response.rep.body:
        case ReadBody() | CompositeBody() as body:
            definitions = known()
            rows = [value_row(definitions, one) for one in values_told(body)]
            console().print(table(("path", "name", "value", "unit"), rows))
        case DiscoverBody() as body:
            console().print(table(("path", "name", "attributes"), _links(body.object_links)))
        case CreateBody() as body:
            typer.echo(printable(f"{response.ep} created {body.location or response.path}"))
        case _:
            words = _message(response)
            done = f"{response.ep} {response.path}: {response.rep.code.value.lower()}"
            typer.echo(printable(done + (f" ({words})" if words else "")))


def _links(text: str) -> list[tuple[str, str, str]]:
    from headwater.known_models import known
    from headwater.output import name_of
    from schemas.lwm2m.link import parse_links
    from schemas.lwm2m.path import Path, PathError

    rows = []
    for link in parse_links(text):
        try:
            name = name_of(known(), Path.parse(link.url))
        except PathError:
            name = ""
        rows.append((link.url, name, " ".join(f"{key}={value}" for key, value in link.attributes.items())))
    return rows
