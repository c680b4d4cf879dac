"""``headwater replay``: a store from the log, once more."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater import reach
from headwater.afresh import AssumeOption, redecoder_of
from headwater.commands.base import command, complain
from headwater.exits import Exit, Stop
from headwater.known_models import folder
from headwater.options import CLOUD, AnyGatewayOption, KafkaOption, KafkaTlsOption, Output, OutputOption, moment
from headwater.sink_choice import OneSink, chosen

if TYPE_CHECKING:
    from connectors.replay import Plan, Tally


def register(app: typer.Typer) -> None:
    """Add ``replay`` to ``app``."""
    command(app, "replay", panel="Processes", logs=True)(replay)


def replay(
    which: OneSink,
    from_: Annotated[
        int | None,
        typer.Option("--from", metavar="TIME", parser=moment, help="From this time on; else from the beginning."),
    ] = None,
    to: Annotated[
        int | None,
        typer.Option("--to", metavar="TIME", parser=moment, help="Up to this time, without it; else up to now."),
    ] = None,
    redecode: Annotated[
        bool,
        typer.Option(
            "--redecode", help="Decode values afresh that came before the model of their object was imported."
        ),
    ] = False,
    assume_version: AssumeOption = None,
    gateway: AnyGatewayOption = None,
    kafka: KafkaOption = CLOUD,
    kafka_tls: KafkaTlsOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Rebuild a store from Kafka: write a span of time of a sink's topics into it once more, and end.

    A TIME is 2026-03-01T12:00:00Z (UTC without a zone), seconds or milliseconds since 1970, or so long ago: -2h (s, m,
    h, d, w). It is compared with that of the Kafka record. The store is the one of the sink's table in the file of
    `headwater sink run`, or any other: a copy of the table with another bucket, another --file.

    The sink that runs is not disturbed: no consumer group is used, and no offset changes. Writes are idempotent, so
    what is in the store already stays as it is, and a replay that was cut short (Ctrl-C, a crash) is run again. What
    cannot be decoded or is refused is counted and shown; it becomes no new dead letter, and the exit code is 1.

    With --redecode, values of objects that were not known when they came are stored as the models of .headwater/models
    (HEADWATER_DEFINITIONS; with --file --definitions) read them: into an empty store always, and into one that has them
    as they came where it can correct (sqlite, influxdb, elasticsearch).

    \b
    Examples:
    headwater replay --from -2h --sink influxdb --sinks sinks.toml --kafka cloud:9092
    headwater replay --from 2026-03-01T00:00:00Z --to 2026-03-02T00:00:00Z --sink influxdb --gateway rock64
    headwater replay --file rebuilt.db --gateway '*'
    headwater replay --file rebuilt.db --gateway rock64 --redecode
    """
    from cloud.interrupts import interruptible
    from connectors.replay import left, plan_replay
    from connectors.replay import replay as run_replay
    from connectors.sinks import SinkConfigError
    from headwater.output import print_json
    from headwater.running import run_thread_until_stopped

    if from_ is not None and to is not None and from_ >= to:
        raise Stop(
            Exit.USAGE, f"--from is not before --to ({_moment(from_)} and {_moment(to)}): nothing is between them"
        )
    settings = chosen(which, gateway, reach.cluster(kafka, kafka_tls))
    plan = interruptible(lambda: plan_replay(settings, from_ms=from_, to_ms=to))
    began = time.monotonic()
    change = None
    if redecode:
        change = redecoder_of(plan, folder(which.definitions), None, assume_version).every
    try:
        with Progress(plan) as progress:
            tally = run_thread_until_stopped(lambda stop: run_replay(plan, stop, progress.report, change=change))
    except SinkConfigError as exc:
        raise Stop(Exit.USAGE, f"{settings.where}: {exc}" if settings.where else str(exc)) from exc
    seconds = time.monotonic() - began
    open_places = left(plan, tally)
    if output is Output.JSON:
        print_json(_summary(plan, tally, seconds))
    else:
        _tell(plan, tally, seconds)
    if open_places:
        places = ", ".join(
            f"{topic} {number} at {tally.done[topic, number]} of {plan.spans[topic, number].end}"
            for topic, number in sorted(open_places)
        )
        complain(f"stopped before the end ({places}). Run it again: what is in the store is not written twice.")
        raise typer.Exit(Exit.INTERRUPTED)
    if tally.refused:
        raise typer.Exit(Exit.REFUSED)


def _moment(milliseconds: int | None) -> str | None:
    from headwater.values import moment as shown

    return None if milliseconds is None else shown(milliseconds)


def _summary(plan: Plan, tally: Tally, seconds: float) -> dict[str, Any]:
    return {
        "sink": plan.settings.sink,
        "gateway": plan.settings.gateway,
        "from": plan.from_ms,
        "to": plan.to_ms,
        "complete": all(tally.done[place] >= span.end for place, span in plan.spans.items()),
        "stored": tally.stored,
        "redecoded": tally.redecoded,
        "refused": tally.refused,
        "refusals": [
            {"topic": r.topic, "partition": r.partition, "offset": r.offset, "stage": r.stage, "reason": r.reason}
            for r in tally.refusals
        ],
        "partitions": [
            {
                "topic": topic,
                "partition": number,
                "from": span.first,
                "next": tally.done[topic, number],
                "end": span.end,
            }
            for (topic, number), span in sorted(plan.spans.items())
        ],
        "seconds": round(seconds, 3),
    }


def _tell(plan: Plan, tally: Tally, seconds: float) -> None:
    from headwater.output import console, table

    whose = "all gateways" if plan.settings.gateway == "*" else plan.settings.gateway
    span = f"from {_moment(plan.from_ms) or 'the beginning'} to {_moment(plan.to_ms) or 'now'}"
    refused = f", {tally.refused} refused" if tally.refused else ""
    afresh = f" ({tally.redecoded} decoded afresh)" if tally.redecoded else ""
    stored = f"{tally.stored} records stored{afresh}{refused}"
    typer.echo(f"{plan.settings.sink}, {whose}, {span}: {stored} in {seconds:.1f} s")
    if tally.refusals:
        rows = [(f"{r.topic} {r.partition}:{r.offset}", r.stage, r.reason) for r in tally.refusals]
        console().print(table(("refused", "stage", "reason"), rows))
        if tally.refused > len(rows):
            typer.echo(f"… and {tally.refused - len(rows)} more")


class Progress:
    """Shows how far a replay is, on stderr: a bar on a terminal; elsewhere only why it waits, if it does."""

    def __init__(self, plan: Plan) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._plan = plan
        self._waits: str | None = None
        self._terminal = sys.stderr.isatty()
        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not self._terminal,
            transient=True,
        )
        total = sum(span.end - span.first for span in plan.spans.values())
        self._task = self._bar.add_task(f"replay into {plan.settings.sink}", total=total)

    def report(self, tally: Tally) -> None:
        """See `connectors.replay.replay`."""
        from headwater.terminal import printable

        done = sum(tally.done[place] - span.first for place, span in self._plan.spans.items())
        waits = f"the store takes nothing now, trying again: {printable(tally.waits)}" if tally.waits else None
        self._bar.update(self._task, completed=done, description=waits or f"replay into {self._plan.settings.sink}")
        if waits is not None and waits != self._waits and not self._terminal:
            sys.stderr.write(f"{waits}\n")
            sys.stderr.flush()
        self._waits = waits

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
