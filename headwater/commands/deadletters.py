"""``headwater deadletter``: what could not be handled, why, and once more."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.commands.base import command, complain
from headwater.exits import Exit, Stop
from headwater.options import Output, OutputOption, Where, moment
from headwater.sink_choice import OneSink, chosen

if TYPE_CHECKING:
    import threading

    from connectors.dead_letter_log import Letter

#: Bytes of a value that cannot be decoded which are shown to people; JSON has all.
SHOWN_BYTES = 512


def register(app: typer.Typer) -> None:
    """Add the group to ``app``."""
    letters = typer.Typer(help="What could not be handled or stored, and why.", no_args_is_help=True)
    command(letters, "list", group="deadletter")(list_)
    command(letters, "show", group="deadletter")(show)
    command(letters, "retry", group="deadletter", logs=True)(retry)
    app.add_typer(letters, name="deadletter", rich_help_panel="Processes")


def list_(
    where: Where,
    stage: Annotated[
        str | None,
        typer.Option("--stage", metavar="STAGE", help="Only of this stage: decode, sink:sqlite, command, sink, …"),
    ] = None,
    since: Annotated[
        int | None,
        typer.Option(
            "--since", metavar="TIME", parser=moment, help="Only those since then: -2h, 2026-03-01T12:00:00Z."
        ),
    ] = None,
    output: Annotated[
        Output | None, typer.Option("--output", "-o", help="A table for people, or JSON (when piped: JSON).")
    ] = None,
) -> None:
    """Show the dead letters of a gateway: records that could not be handled, kept as they came, with the reason.

    One JSON object a line when piped. A stage is given in full (sink:sqlite) or without what is behind its colon (sink,
    for every sink).

    \b
    Examples:
    headwater deadletter list --gateway rock64 --kafka cloud:9092
    headwater deadletter list --gateway rock64 --stage sink:influxdb --since -2h
    headwater deadletter list --gateway rock64 | jq -r .reason | sort | uniq -c
    """
    from cloud.interrupts import interruptible
    from connectors.dead_letter_log import read_letters
    from headwater.output import console, print_line, table

    as_json = output is Output.JSON or (output is None and not sys.stdout.isatty())

    def work() -> None:
        rows = []
        for one in read_letters(where.cluster, where.gateway, since_ms=since):
            if stage is not None and stage not in (one.stage, (one.stage or "").partition(":")[0]):
                continue
            if as_json:
                print_line(letter_json(one))
            else:
                rows.append(_row(one))
        if as_json:
            return
        if rows:
            console().print(table(("place", "time", "stage", "reason", "origin", "endpoint"), rows))
        else:
            typer.echo(f"gateway {where.gateway} has no dead letters" + (" of that kind" if stage or since else ""))

    interruptible(work)


def _row(one: Letter) -> tuple[str, ...]:
    from headwater.values import moment as shown_moment

    origin = one.origin
    return (
        f"{one.raw.partition}:{one.raw.offset}",
        shown_moment(one.raw.timestamp),
        one.stage or "",
        one.reason or "",
        "" if origin is None else f"{origin.topic} {origin.partition}:{origin.offset}",
        one.ep or "",
    )


def letter_json(one: Letter) -> dict[str, Any]:
    """A dead letter without its record, as ``--output json`` gives it; times are epoch milliseconds."""
    origin = one.origin
    return {
        "partition": one.raw.partition,
        "offset": one.raw.offset,
        "timestamp": one.raw.timestamp,
        "stage": one.stage,
        "reason": one.reason,
        "ep": one.ep,
        "origin": None
        if origin is None
        else {
            "topic": origin.topic,
            "partition": origin.partition,
            "offset": origin.offset,
            "timestamp": origin.timestamp,
        },
    }


def show(
    place: Annotated[
        str, typer.Argument(metavar="PARTITION:OFFSET", help="As in the list; the offset alone with one partition.")
    ],
    where: Where,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show one dead letter: why it is one, and the record, decoded, or its bytes where it cannot be.

    \b
    Examples:
    headwater deadletter show 0:17 --gateway rock64 --kafka cloud:9092
    headwater deadletter show 17 --gateway rock64 --output json | jq .record
    """
    from cloud.interrupts import interruptible
    from connectors.dead_letter_log import NoSuchLetter, read_letter
    from headwater.output import print_json

    partition, offset = _place(place)
    try:
        one = interruptible(lambda: read_letter(where.cluster, where.gateway, partition=partition, offset=offset))
    except NoSuchLetter as exc:
        raise Stop(Exit.USAGE, f"{exc} (headwater deadletter list shows them)") from exc
    content = _content(one)
    if output is Output.JSON:
        print_json(letter_json(one) | content)
    else:
        _print(one, content)


def _place(text: str) -> tuple[int | None, int]:
    head, colon, tail = text.partition(":")
    numbers = (head, tail) if colon else (text,)
    if not all(part.isascii() and part.isdigit() and len(part) <= 19 for part in numbers):
        raise typer.BadParameter(f"{text!r} is no PARTITION:OFFSET, such as 0:17", param_hint="PARTITION:OFFSET")
    return (int(head), int(tail)) if colon else (None, int(text))


def _content(one: Letter) -> dict[str, Any]:
    """``record``, or why there is none and the bytes; and the headers that came with it."""
    from connectors.dead_letters import OURS
    from headwater.commands.tail import header_value
    from schemas.avro.serde import SerdeError, decode, to_json

    value = one.raw.value
    content: dict[str, Any] = {"record": None, "error": None, "valueHex": None if value is None else value.hex()}
    try:
        content["record"] = to_json(decode(value or b""))
    except SerdeError as exc:
        content["error"] = "it has no value" if value is None else str(exc)
    content["headers"] = {name: header_value(name, said) for name, said in one.raw.headers if name not in OURS}
    return content


def _print(one: Letter, content: dict[str, Any]) -> None:
    import json

    from headwater.output import console, table
    from headwater.terminal import printable, printable_json

    place, time, stage, reason, origin, ep = _row(one)
    rows = [
        ("place", place),
        ("time", time),
        ("stage", stage),
        ("reason", reason),
        ("origin", origin),
        ("endpoint", ep),
    ]
    rows += [(f"header {name}", str(value)) for name, value in content["headers"].items()]
    console().print(table(("", ""), [row for row in rows if row[1]]))
    if content["record"] is not None:
        typer.echo(printable_json(json.dumps(content["record"], ensure_ascii=False, indent=2)))
        return
    typer.echo(printable(f"The record cannot be decoded: {content['error']}"))
    value = one.raw.value or b""
    for start in range(0, min(len(value), SHOWN_BYTES), 16):
        line = value[start : start + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "·" for byte in line)
        typer.echo(f"{start:6x}  {line.hex(' '):47}  {text}")
    if len(value) > SHOWN_BYTES:
        typer.echo(f"… {len(value)} bytes in all; --output json has them")


def retry(where: Where, which: OneSink, output: OutputOption = Output.TABLE) -> None:
    """Offer a sink once more what it refused or could not decode, and end.

    Each dead letter is tried once, under the identity of the record that it was made from; what is refused again is a
    new dead letter, for the next time. Other stages' are left alone. It ends with 1 if some were refused again.

    \b
    Examples:
    headwater deadletter retry --gateway rock64 --kafka cloud:9092 --sink influxdb --sinks sinks.toml
    headwater deadletter retry --gateway rock64 --file headwater.db
    """
    from cloud.interrupts import interruptible
    from connectors.kafka import TopicMissing, partition_counts
    from connectors.runner import Runner, Source
    from connectors.sinks import SinkConfigError
    from headwater.output import print_json
    from headwater.running import run_thread_until_stopped
    from schemas.avro.topics import Topics

    topics = Topics(where.gateway).partitions()
    chosen_sink = replace(chosen(which, where.gateway, where.cluster), source=Source.DEAD_LETTERS)
    if not interruptible(lambda: partition_counts(where.cluster, list(topics))):
        raise TopicMissing(f"gateway {where.gateway} has no topics at {where.kafka}; is its id right?")
    runner = Runner(chosen_sink)

    def run(stop: threading.Event) -> bool:
        runner.run(stop)
        return not stop.is_set()

    try:
        complete = run_thread_until_stopped(run)
    except SinkConfigError as exc:
        raise Stop(Exit.USAGE, f"{chosen_sink.where}: {exc}" if chosen_sink.where else str(exc)) from exc
    sink = chosen_sink.sink
    if output is Output.JSON:
        print_json(
            {
                "sink": sink,
                "gateway": where.gateway,
                "stored": runner.stored,
                "refused": runner.buried,
                "complete": complete,
            }
        )
    elif runner.stored or runner.buried:
        typer.echo(f"dead letters of the sink {sink}: {runner.stored} stored, {runner.buried} refused again")
    else:
        typer.echo(f"the sink {sink} has no dead letters of {where.gateway} that were not tried again already")
    if not complete:
        complain("stopped before the end; run it again for the rest")
        raise typer.Exit(Exit.INTERRUPTED)
    if runner.buried:
        complain(f"{runner.buried} were refused again; headwater deadletter list --gateway {where.gateway} tells why")
        raise typer.Exit(Exit.REFUSED)
