"""One run of a load: the devices, where their reads come from, and what is made of what they measured.

Owns the order of things: the files are there before the first device starts, and are written however the load ends.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from connectors.kafka import Cluster, KafkaException, Unreachable
from gateway.devices.load.audit import Audit, AuditError
from gateway.devices.load.audited import AuditResult
from gateway.devices.load.engine import Activity, Engine, Outcome, make_room, resolve
from gateway.devices.load.jtl import JtlError, JtlWriter
from gateway.devices.load.plan import Plan
from gateway.devices.load.report import ReportError, machine, write_page
from gateway.devices.load.results import TICK, Results
from gateway.devices.load.summary import Summary, Threads
from headwater.load_reads import KafkaReads
from schemas.avro.topics import Topics
from security.credentials.kinds import Oscore, Psk


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The files that are asked for."""

    jtl: Path | None = None
    report: Path | None = None
    overwrite: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Auditing:
    """Hold it against the observations topic of ``gateway``; ``patience`` in seconds as that of `Audit.finish`."""

    cluster: Cluster
    gateway: str
    patience: float


@dataclass(slots=True, kw_only=True)
class Ended:
    """How a load ended. ``audit`` is None if there is none; ``trouble`` tells what went wrong beside the load."""

    plan: Plan
    outcome: Outcome
    results: Results
    written: Written
    audit: AuditResult | None = None
    trouble: list[str] = field(default_factory=list)

    @property
    def error_percent(self) -> float:
        total = self.results.timeline.total()
        return 100 * total.errors / total.count if total.count else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRun:
    """All that a load needs; ``server`` is HOST:PORT, ``summary`` the seconds between two lines."""

    plan: Plan
    server: str
    #: By endpoint: DTLS with a pre-shared key, or OSCORE; in the clear without.
    keys: Mapping[str, Psk | Oscore] = field(default_factory=dict)
    #: The Kafka by way of which devices are read, and their gateway.
    reading: tuple[Cluster, str] | None = None
    auditing: Auditing | None = None
    written: Written = field(default_factory=Written)
    summary: int = 30
    seed: int | None = None


def run_load(run: LoadRun, stop: threading.Event, tell: Callable[[str], None], shown: Callable[[Ended], None]) -> Ended:
    """Run it until it is done, or ``stop`` is set; lines go to ``tell`` meanwhile.

    ``shown`` is called once all is measured and written, before the audit, which may take its time.

    Raises:
        CannotLoad: there are not enough files or ports.
        JtlError: a file cannot be written.
        OSError: the server's name does not resolve.
        Unreachable, TopicMissing, KafkaException: the Kafka of the reads, or of the audit.
    """
    plan, written, auditing = run.plan, run.written, run.auditing
    host, _, port = run.server.rpartition(":")
    address = resolve(host.strip("[]"), int(port))
    for file in (written.jtl, written.report):
        if file is not None and file.exists() and not written.overwrite:
            raise JtlError(f"{file}: there is such a file already; name another, or say --overwrite")
    make_room(plan.threads)
    activity = Activity(plan.threads)
    trouble: list[str] = []

    def at_work() -> Threads:
        return Threads(active=activity.active, started=activity.started, finished=activity.finished)

    with contextlib.ExitStack() as stack:
        reads = None if run.reading is None else stack.enter_context(KafkaReads(*run.reading, plan.patience))
        audit = None if auditing is None else stack.enter_context(_audit(auditing))
        if audit is not None and not audit.has_topic:
            tell(f"there is no topic {audit.topic} yet; it is read from its beginning once there is")
        writer = None if written.jtl is None else JtlWriter(written.jtl, url=run.server, overwrite=written.overwrite)
        lines = Summary(tell, now_ms=_now_ms(), interval=run.summary, threads=at_work)
        results = Results(jtl=writer, summary=lines, threads=at_work)
        next_tick = 0.0
        warned = False

        def watch(_: Activity) -> None:
            nonlocal next_tick, warned
            if (now := time.monotonic()) >= next_tick:
                next_tick = now + TICK
                results.tick(_now_ms())
            if engine.unreachable and not warned:
                warned = True
                if not results.timeline.total().count:
                    tell(f"nobody listens at {run.server} yet; a device tries for 62 to 93 s (RFC 7252 section 4.2)")

        engine = Engine(
            plan,
            address,
            results,
            audit,
            reads=reads,
            keys=run.keys,
            watch=watch,
            activity=activity,
            seed=run.seed,
        )
        try:
            outcome = engine.run(stop)
        finally:
            results.close(_now_ms())
        trouble += [one for one in (results.failure, None if reads is None else reads.failure) if one is not None]
        ended = Ended(plan=plan, outcome=outcome, results=results, written=written, trouble=trouble)
        _write_report(run, ended)
        shown(ended)
        if audit is not None and auditing is not None:
            try:
                ended.audit = audit.finish(patience=auditing.patience, progress=_progress(tell))
            except (AuditError, Unreachable, KafkaException) as exc:
                trouble.append(f"the audit could not be made: {exc}")
            else:
                if not audit.has_topic:
                    trouble.append(f"there is no topic {audit.topic}: is --gateway {auditing.gateway} right?")
                _write_report(run, ended)
    return ended


@contextlib.contextmanager
def _audit(auditing: Auditing) -> Iterator[Audit]:
    audit = Audit(auditing.cluster, Topics(auditing.gateway).observations)
    audit.start()
    try:
        yield audit
    finally:
        audit.close()


def _progress(tell: Callable[[str], None]) -> Callable[[int, int], None]:
    """Says how far the audit is, when there is something new to say."""
    said = (0, 0)

    def progress(there: int, wanted: int) -> None:
        nonlocal said
        if (there, wanted) != said:
            said = there, wanted
            tell(f"audit: {there} of {wanted} acknowledged values are in the topic")

    return progress


def _write_report(run: LoadRun, ended: Ended) -> None:
    if run.written.report is None:
        return
    plan, seconds = run.plan, f"{ended.outcome.seconds:.1f} s"
    kinds = ", ".join(f"{one.kind.value} ({one.weight})" for one in plan.shares)
    told = {
        "server": run.server,
        "devices": str(plan.threads),
        "kinds": kinds if len(plan.shares) > 1 else plan.shares[0].kind.value,
        "ramp-up": f"{plan.ramp_up:g} s",
        "ran": f"{seconds}, and was stopped" if ended.outcome.stopped else seconds,
        "machine": machine(),
    }
    try:
        write_page(ended.results.timeline, run.written.report, title="Headwater load", run=told, audit=ended.audit)
    except ReportError as exc:
        ended.trouble.append(str(exc))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
