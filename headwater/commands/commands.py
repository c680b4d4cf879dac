"""``headwater commands``: the commands to devices, and where each stands."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.commands.base import Patience, command
from headwater.commands.verbs import PANEL
from headwater.options import Output, OutputOption, Where, endpoint_name
from headwater.terminal import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cloud.command_view import Command, CommandTopics


class StateChoice(Enum):
    """`cloud.command_view.Standing` as people type it."""

    REQUESTED = "requested"
    QUEUED = "queued"
    SENT = "sent"
    ANSWERED = "answered"
    EXPIRED = "expired"
    FAILED = "failed"


def register(app: typer.Typer) -> None:
    """Add ``commands`` to ``app``."""
    command(app, "commands", panel=PANEL)(commands)


def commands(
    where: Where,
    ep: Annotated[
        str | None, typer.Argument(metavar="EP", parser=endpoint_name, help="The device; else all devices.")
    ] = None,
    state: Annotated[
        list[StateChoice] | None,
        # The first name is that of the variable and in a settings file, where `state` is a gateway's folder.
        typer.Option("--in-state", "--state", help="Only commands in this state; may be given again."),
    ] = None,
    last: Annotated[
        int, typer.Option("--last", "-n", metavar="N", min=1, max=100_000, help="Show the last N of them.")
    ] = 50,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Stay, and show each change on a line; Ctrl-C ends.")
    ] = False,
    timeout: Annotated[
        float,
        typer.Option("--timeout", metavar="S", min=0.1, max=86400, help="Seconds to wait for the topics to be read."),
    ] = 30.0,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show the commands to a device, the oldest first, and where each stands, from the gateway's topics.

    requested: in Kafka, and the gateway has not told of it (it does in a second or two, if it runs). queued: stored at
    the gateway until the device can hear it. sent: with the device. answered: by the device, be it with an error.
    expired: not answered in its time. failed: ended without an answer of the device. Attempts are counted since the
    gateway started.

    \b
    Examples:
    headwater commands sensor-1 --gateway rock64
    headwater commands --gateway rock64 --state queued --state sent
    headwater commands sensor-1 --gateway rock64 --follow --output json | jq -r '.ticket + " " + .state'
    """
    from cloud.command_view import CommandTopics, Standing
    from cloud.interrupts import interruptible
    from headwater.output import console, print_json

    wanted = {Standing(one.value) for one in state or StateChoice}

    def chosen(found: Iterable[Command]) -> list[Command]:
        return [one for one in found if (ep is None or one.ep == ep) and one.state in wanted]

    cluster = where.cluster
    try:
        with interruptible(lambda: CommandTopics(cluster, where.gateway, timeout=min(timeout, 10.0))) as topics:
            _catch_up(topics, where.kafka, timeout)
            there = sorted(chosen(topics.picture.commands.values()), key=lambda one: one.asked)[-last:]
            if follow:
                for one in there:
                    _line(one, output)
            elif output is Output.JSON:
                print_json([_json(one) for one in there])
            else:
                console().print(_table(there, ep))
            if topics.unseen is not None and Standing.REQUESTED in wanted:
                typer.echo(printable(f"requests that no gateway told of are not shown: {topics.unseen}"), err=True)
            patience = Patience()
            while follow:
                changed = topics.refresh()
                if not changed:
                    patience.with_kafka(topics.silence())
                for one in chosen(changed):
                    _line(one, output)
    except KeyboardInterrupt:
        if not follow:
            raise


def _catch_up(topics: CommandTopics, kafka: str, timeout: float) -> None:
    from connectors.kafka import Unreachable

    deadline = time.monotonic() + timeout
    while not topics.caught_up:
        if time.monotonic() > deadline:
            raise Unreachable(f"the topics at {kafka} were not read to their ends within {timeout:g} s; see --timeout")
        topics.refresh()


def _table(found: list[Command], ep: str | None) -> RenderableType:
    from rich.text import Text

    from headwater.output import table
    from headwater.values import moment

    if not found:
        return Text("no such command" + ("" if ep is None else f" to {ep}"))
    columns = ("ticket", "kind", "path", "state", "since", "expires", "attempts", "why")
    rows = [
        (
            one.ticket,
            one.kind,
            one.path,
            one.state.value,
            moment(one.since),
            "" if one.expires is None else moment(one.expires),
            "" if one.attempts is None else str(one.attempts),
            one.message,
        )
        for one in found
    ]
    if ep is not None:
        return table(columns, rows)
    return table(("endpoint", *columns), [(one.ep, *row) for one, row in zip(found, rows, strict=True)])


def _line(one: Command, output: Output) -> None:
    from headwater.output import print_line
    from headwater.values import moment

    if output is Output.JSON:
        print_line(_json(one))
        return
    tries = f"  attempts {one.attempts}" if one.attempts else ""
    words = f"  {one.message}" if one.message else ""
    what = f"{one.ep}  {one.kind} {one.path}  ticket {one.ticket}  {one.state.value}"
    typer.echo(printable(f"{moment(one.since)}  {what}{tries}{words}"))
    sys.stdout.flush()


def _json(one: Command) -> dict[str, Any]:
    return {
        "ep": one.ep,
        "ticket": one.ticket,
        "kind": one.kind,
        "path": one.path,
        "state": one.state.value,
        "since": one.since,
        "asked": one.asked,
        "expires": one.expires,
        "attempts": one.attempts,
        "message": one.message,
    }
