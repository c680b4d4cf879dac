"""What ``--redecode`` does: the stores get the values of an object right that came before its model was known.

`connectors.redecode` says what becomes of a record; here are the options, which stores are meant, and what is told.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater import reach
from headwater.afresh import AssumeOption, redecoder_of
from headwater.commands.base import complain
from headwater.commands.replay import Progress
from headwater.exits import Exit, Stop
from headwater.options import CLOUD, AnyGatewayOption, KafkaOption, KafkaTlsOption, Output, moment
from headwater.sink_choice import SINKS_FILE, OneSink, SinkOption, SinksOption, SqliteFileOption, chosen, sinks_of

if TYPE_CHECKING:
    from connectors.redecode import Redecoder
    from connectors.replay import Plan, Tally
    from connectors.sink_settings import SinkSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Redecoding:
    """The options of ``--redecode``: which stores, whose records, from when on."""

    sink: SinkOption = None
    sinks: SinksOption = None
    file: SqliteFileOption = None
    since: Annotated[
        int | None,
        typer.Option("--since", metavar="TIME", parser=moment, help="From this time on; else from the beginning."),
    ] = None
    assume_version: AssumeOption = None
    gateway: AnyGatewayOption = None
    kafka: KafkaOption = CLOUD
    kafka_tls: KafkaTlsOption = None

    def check(self) -> None:
        """Raises Stop where it is clear before anything is imported that no store is meant."""
        self.stores()

    def stores(self) -> list[SinkSettings]:
        """The stores that are to be corrected.

        Raises:
            Stop: there is none, or what is said of them is wrong.
        """
        from connectors.sinks import SINKS

        cluster = reach.cluster(self.kafka, self.kafka_tls)
        one = OneSink(sink=self.sink, sinks=self.sinks, file=self.file)
        if self.file is not None or self.sink is not None or (self.sinks is None and not SINKS_FILE.exists()):
            every = [chosen(one, self.gateway, cluster)]
        else:
            every = sinks_of(self.sinks or SINKS_FILE, self.gateway, cluster)
            every = every if self.gateway is None else [replace(each, gateway=self.gateway) for each in every]
        found = [each for each in every if SINKS[each.sink].corrects]
        if not found:
            able = ", ".join(name for name, kind in sorted(SINKS.items()) if kind.corrects)
            raise Stop(
                Exit.USAGE,
                f"{', '.join(each.sink for each in every)}: what is there cannot be corrected in place (in {able} it "
                "can); give it another place, or empty it, and fill it with `headwater replay --redecode`",
            )
        return found


def redecode_stores(
    redecoding: Redecoding, place: Path, objects: Collection[int], output: Output
) -> tuple[list[dict[str, Any]], bool]:
    """Correct the values of ``objects`` in the stores; what came of it for each store, and whether all is right now."""
    summaries = []
    complete = True
    for settings in redecoding.stores():
        summary = _redecode(settings, redecoding, place, objects)
        summaries.append(summary)
        if output is Output.TABLE:
            _tell(summary)
        if not summary["complete"]:
            complain("stopped before the end. Run it again: what is corrected stays so.")
            raise typer.Exit(Exit.INTERRUPTED)
        complete = complete and not any(summary[what] for what in ("unannounced", "misfits", "refused", "behind"))
    return summaries, complete


def _redecode(settings: SinkSettings, redecoding: Redecoding, place: Path, objects: Collection[int]) -> dict[str, Any]:
    from cloud.interrupts import interruptible
    from connectors.redecode import KINDS
    from connectors.replay import plan_replay, replay
    from connectors.sinks import SinkConfigError
    from headwater.running import run_thread_until_stopped

    began = time.monotonic()
    plan = interruptible(lambda: plan_replay(settings, from_ms=redecoding.since, to_ms=None, kinds=KINDS))
    redecoder = redecoder_of(plan, place, objects, redecoding.assume_version)
    try:
        with Progress(plan) as progress:
            tally = run_thread_until_stopped(
                lambda stop: replay(plan, stop, progress.report, change=redecoder.only_changed)
            )
    except SinkConfigError as exc:
        raise Stop(Exit.USAGE, f"{settings.where}: {exc}" if settings.where else str(exc)) from exc
    return _summary(plan, tally, redecoder, interruptible(lambda: _behind(plan)), time.monotonic() - began)


def _behind(plan: Plan) -> int:
    """How many records of the span the running sink has still to store, as they came; 0 where none runs."""
    from connectors.kafka import KafkaException, TopicPartition, consumer

    reader = consumer(plan.settings.kafka, plan.settings.group_id)
    try:
        places = reader.committed([TopicPartition(*place) for place in plan.spans], timeout=10)
    except KafkaException:
        return 0  # not allowed to ask; that the sinks should have caught up is in the help
    finally:
        reader.close()
    ends = {place: span.end for place, span in plan.spans.items()}
    return sum(max(0, ends[one.topic, one.partition] - one.offset) for one in places if one.offset >= 0)


def _summary(plan: Plan, tally: Tally, redecoder: Redecoder, behind: int, seconds: float) -> dict[str, Any]:
    found = redecoder.found
    return {
        "sink": plan.settings.sink,
        "gateway": plan.settings.gateway,
        "since": plan.from_ms,
        "complete": all(tally.done[place] >= span.end for place, span in plan.spans.items()),
        "seen": found.seen,
        "corrected": tally.redecoded,
        "unannounced": found.unannounced,
        "misfits": found.misfits,
        "reasons": found.reasons,
        "refused": tally.refused,
        "behind": behind,
        "seconds": round(seconds, 3),
    }


def _tell(summary: dict[str, Any]) -> None:
    typer.echo(
        f"{summary['sink']}, {summary['gateway']}: {summary['corrected']} of {summary['seen']} records of these "
        f"objects corrected in {summary['seconds']:.1f} s"
    )
    if summary["unannounced"]:
        complain(
            f"{summary['unannounced']} records are of devices whose registration is no longer in the log, so the "
            "version of their object is not known: they stay as they are. If you know it, say --assume-version"
        )
    if summary["misfits"]:
        complain(f"{summary['misfits']} values do not fit the model and stay as they came, such as:")
        for why in summary["reasons"]:
            typer.echo(f"  {why}", err=True)
    if summary["refused"]:
        complain(f"{summary['refused']} records were refused or cannot be read; `headwater deadletter list` has them")
    if summary["behind"]:
        complain(
            f"the sink that runs has {summary['behind']} records of this time still to store, as they came: run this "
            "again when it has caught up"
        )
