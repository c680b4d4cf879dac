"""``headwater tail``: the records of a topic as they come, decoded."""

from __future__ import annotations

import base64
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater import reach
from headwater.commands.base import Patience, command
from headwater.exits import Exit, Stop
from headwater.options import CLOUD, KafkaOption, KafkaTlsOption, Output, gateway_id
from headwater.terminal import printable

if TYPE_CHECKING:
    from cloud.feed import Item
    from schemas.avro.records import AnalyticsRecord, Record, Request


def register(app: typer.Typer) -> None:
    """Add ``tail`` to ``app``."""
    command(app, "tail", panel="Devices")(tail)


def tail(
    topic: Annotated[
        str, typer.Argument(metavar="TOPIC", help="A topic's full name, or with --gateway its family: observations.")
    ],
    gateway: Annotated[
        str | None,
        typer.Option("--gateway", metavar="GW", parser=gateway_id, help="The gateway's id, for a family's name."),
    ] = None,
    kafka: KafkaOption = CLOUD,
    kafka_tls: KafkaTlsOption = None,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="All that the topic holds, then what comes.")
    ] = False,
    count: Annotated[int | None, typer.Option("--count", "-n", min=1, help="End after so many records.")] = None,
    output: Annotated[
        Output | None, typer.Option("--output", "-o", help="Lines for people, or JSON (when piped: JSON).")
    ] = None,
) -> None:
    """Show the records of a topic as they come, decoded; one JSON object a line when piped.

    The JSON is the record with its field names in the topic; _kafka beside them tells topic, partition, offset, time,
    key and headers. A record that cannot be decoded is shown as such, with the reason. Families: registrations,
    observations, requests, replies, maxper30sec, commands, deadletter.

    \b
    Examples:
    headwater tail observations --gateway rock64
    headwater tail iot.rock64.registrations --from-beginning -n 10
    headwater tail replies --gateway rock64 | jq -r '.ticket + " " + .rep.code'
    """
    from cloud.feed import Feed, Start
    from cloud.interrupts import interruptible
    from headwater.output import print_line

    name = topic_name(topic, gateway)
    as_json = output is Output.JSON or (output is None and not sys.stdout.isatty())
    start = Start.BEGINNING if from_beginning else Start.END
    left = count
    try:
        with interruptible(lambda: Feed(reach.cluster(kafka, kafka_tls), [name], start=start)) as feed:
            patience = Patience()
            while True:
                items = feed.poll()
                if not items:
                    patience.with_kafka(feed.silence())
                for item in items:
                    if as_json:
                        print_line(item_json(item))
                    else:
                        typer.echo(item_line(item))
                        sys.stdout.flush()
                    if left is not None:
                        left -= 1
                        if left == 0:
                            return
    except KeyboardInterrupt:
        return


def topic_name(text: str, gateway: str | None) -> str:
    """The full name of a topic that was given in full, or by its family and the gateway.

    Raises:
        Stop: a family without a gateway, or no family at all.
    """
    from schemas.avro.topics import FAMILIES, TopicKind, Topics

    by_name = {kind.value: kind for kind in TopicKind} | {row.suffix: kind for kind, row in FAMILIES.items()}
    if text in by_name:
        if gateway is None:
            raise Stop(Exit.USAGE, f"{text} is a family of topics: say whose, with --gateway, or give the full name")
        return Topics(gateway).name(by_name[text])
    if "." in text:
        return text
    raise Stop(
        Exit.USAGE,
        f"{text!r} is no topic: give a full name (iot.rock64.observations) or a family with --gateway: "
        + ", ".join(kind.value for kind in TopicKind),
    )


def item_json(item: Item) -> dict[str, Any]:
    """The record's fields, or ``error`` and ``valueBase64``; and where it lies under ``_kafka``."""
    from schemas.avro.serde import to_json

    content: dict[str, Any]
    if item.record is None:
        content = {"error": item.error, "valueBase64": base64.b64encode(item.value).decode("ascii")}
    else:
        content = to_json(item.record)
    place = {
        "topic": item.topic,
        "partition": item.partition,
        "offset": item.offset,
        "timestamp": item.timestamp,
        "key": None if item.key is None else to_json(item.key),
        "headers": {name: header_value(name, value) for name, value in item.headers},
    }
    return content | {"_kafka": place}


def header_value(name: str, value: bytes | None) -> str | int | None:
    """A header as it is shown."""
    # The gateway notes CoAP's message id and Observe number as unsigned integers; all other headers of ours are text.
    if value is not None and name.startswith("coap."):
        return int.from_bytes(value, "big")
    return None if value is None else value.decode("utf-8", "backslashreplace")


def item_line(item: Item) -> str:
    """One line for people."""
    from headwater.values import moment

    when = moment(item.timestamp)[11:] if item.timestamp >= 0 else "-"
    words = f"cannot be decoded: {item.error}" if item.record is None else summary(item.record)
    told = "".join(
        f" [{name}: {header_value(name, value)}]" for name, value in item.headers if name in ("error", "stage")
    )
    return printable(f"{when}  {item.partition}/{item.offset}  {words}{told}")


def summary(record: Record) -> str:
    """What a record says, in a few words."""
    from headwater.known_models import known
    from headwater.output import unit_of
    from headwater.values import shown
    from schemas.avro.records import (
        Aggregate,
        Alert,
        CommandKey,
        CommandStatus,
        CompositeBody,
        CreateBody,
        DiscoverBody,
        EnrichedReading,
        GenericBody,
        Key,
        Notification,
        ReadBody,
        Registration,
        Request,
        Response,
        Statistics,
        values_told,
    )

    match record:
        case Key():
            return f"{record.ep}  key"
        case Registration():
            return f"{record.body.ep}  {record.kind.value.lower()} registration"
        case Request():
            return f"{record.ep}  {record.payload.kind.value} {_targets(record)}  ticket {record.ticket}"
        case CommandKey():
            return f"{record.ep}  key of request {record.request}"
        case CommandStatus():
            words = f"  {record.message}" if record.message else ""
            return (
                f"{record.ep}  {record.kind} {record.path}  ticket {record.ticket}  {record.state.value.lower()}{words}"
            )
        case Aggregate() | Statistics() | EnrichedReading() | Alert():
            return result_words(record)
        case Notification() | Response():
            pass
    head = f"{record.ep}  {record.rep.kind.value} {record.path}  {record.rep.code.value}"
    if isinstance(record, Response):
        head += f"  ticket {record.ticket}"
    match record.rep.body:
        case ReadBody() | CompositeBody() as body:
            definitions = known()
            told = values_told(body)
            parts = [
                ("" if str(one.path) == record.path else f"{one.path}=")
                + f"{shown(one)} {unit_of(definitions, one.path)}".rstrip()
                for one in told[:8]
            ]
            return f"{head}  {', '.join(parts)}" + (f", … ({len(told)} values)" if len(told) > 8 else "")
        case GenericBody() as body:
            return f"{head}  {body.message}"
        case DiscoverBody() as body:
            return f"{head}  {body.object_links}"
        case CreateBody() as body:
            return f"{head}  {body.location}"
        case None:
            return head


def result_words(record: AnalyticsRecord) -> str:
    """What an analytics job found, in a few words."""
    from headwater.values import moment
    from schemas.avro.records import Aggregate, Alert, EnrichedReading, Statistics

    match record:
        case Aggregate():
            window = f"{moment(record.start)[11:]} to {moment(record.end)[11:]}"
            numbers = ", ".join(
                f"{name} {number:g}"
                for name, number in (
                    ("min", record.min),
                    ("max", record.max),
                    ("mean", record.mean),
                    ("sum", record.sum),
                    ("last", record.last),
                )
            )
            return f"{record.ep}  {record.path or 'all paths'}  {window}  count {record.count}, {numbers}"
        case Statistics():
            return (
                f"{record.ep}  {record.path}  mean {record.mean:g}, std_dev {record.std_dev:g}, "
                f"variance {record.variance:g}, stream_length {record.stream_length}"
            )
        case EnrichedReading():
            flag = "  outlier" if record.outlier else ""
            return f"{record.ep}  {record.path}  {record.value:g}, z-score {record.z_score:.2f}{flag}"
        case Alert():
            return f"{record.ep}  {record.path}  {record.state.value.lower()} {record.severity}  {record.summary}"


def _targets(request: Request) -> str:
    """The path of a request, or the paths of a composite one."""
    from schemas.avro.records import WriteCompositeRequest

    payload = request.payload
    paths = list(payload.paths)
    if isinstance(payload.body, WriteCompositeRequest):
        paths = [str(one.path) for one in payload.body.resources]
    return " ".join(paths[:8]) + (f" … ({len(paths)} paths)" if len(paths) > 8 else "") or payload.path
