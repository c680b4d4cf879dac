"""Measures Headwater beside its yardsticks, in one run, and says of each target whether it is reached.

Owns what is run and what becomes of the figures. The load, the peers and MirrorMaker 2 are the yardstick's (the folder
of ``--yardstick`` with its ``run.py`` and ``mm2_bench.py``), the verdicts are `targets`', the memory run is `memory`'s.
Nothing is installed and nothing stays behind but the yardstick's own build outputs below ``BENCH_WORK``.

    python -m tests.bench.run --yardstick DIR [--quick] [--parts servers,replication,memory,dtls,coaps,…] [--write]

Exit code 0: everything measured reaches its target; 1: something does not; 2: it could not be measured.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from tests.bench.targets import (
    COAPS,
    COAPS_PEER,
    DEFAULT,
    DTLS,
    FIRMWARE,
    HEADWATER,
    MEMORY,
    MIRROR,
    REPLICATOR,
    TUNED,
    judge,
    shown_table,
    verdict_table,
)

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENT = REPOSITORY / "docs" / "benchmarks.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

#: The yardstick removes what it started when it is interrupted; Java takes its time.
_CLEAN_UP_SECONDS = 90.0

Measured = dict[str, list[dict[str, float]]]


class CannotMeasure(Exception):
    """A part could not be run; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured; seconds and minutes are those of the load, not of the whole run."""

    runs: int
    peers: tuple[str, ...]
    steps: tuple[str, ...]
    seconds: float
    clients: int
    records: int
    mirror_seconds: float
    minutes: float
    sink_records: int
    job_records: int
    job_memory_records: int
    job_memory_of: str


FULL = Plan(
    runs=3,
    peers=(TUNED, DEFAULT),
    steps=("register", "update", "notify_max", "notify_1000", "non", "read"),
    seconds=20,
    clients=5000,
    records=1_000_000,
    mirror_seconds=30,
    minutes=10,
    sink_records=60_000,
    job_records=300_000,
    job_memory_records=10_000_000,
    job_memory_of="statistics,aggregate,max-temperature,outliers,join,filter",
)
QUICK = Plan(
    runs=1,
    peers=(TUNED,),
    steps=("register", "update", "notify_max", "read"),
    seconds=5,
    clients=5000,
    records=200_000,
    mirror_seconds=3,
    minutes=0.5,
    sink_records=40_000,
    job_records=100_000,
    job_memory_records=500_000,
    job_memory_of="statistics",
)


def servers(options: argparse.Namespace, plan: Plan, folder: Path) -> Measured:
    """The gateway and the Leshan peers under the same load; figures are named ``STEP FIGURE``."""
    theirs = json.loads((options.yardstick / "servers.json").read_text())
    entries = {**{name: theirs[name] for name in plan.peers}, HEADWATER: entry(folder)}
    listed, found = folder / "servers.json", folder / "servers-measured.json"
    listed.write_text(json.dumps(entries))
    quiet = [*_given("--quiet", options.quiet), *_given("--quiet-wait", options.quiet_wait)]
    _drive(
        options.yardstick / "run.py",
        *("--servers", listed, "--use", ",".join(entries), "--runs", plan.runs, "--only", ",".join(plan.steps)),
        *("--clients", plan.clients, "--seconds", plan.seconds, *quiet, *_given("--retries", options.retries)),
        *("--out", found),
    )
    return {
        name: [
            {f"{step} {figure}": value for step, figures in run.items() for figure, value in _numbers(figures)}
            for run in runs
        ]
        for name, runs in json.loads(found.read_text()).items()
    }


def entry(folder: Path) -> dict[str, Any]:
    """Our line of the yardstick's table of servers; state goes below ``folder``."""
    schemas = REPOSITORY / "schemas" / "avro"
    pinned = json.loads((schemas / "ids.json").read_text())
    request = next(one for one in pinned if one["subject"] == "iot.management.req-value" and one["version"] == 1)
    read = {
        "serverId": "{gw}",
        "ep": "${ep}",
        "ticket": "${ticket}",
        "payload": {"kind": "read", "path": "${path}", "contentFormat": "TEXT_CODE", "body": None},
    }
    return {
        "cmd": [
            *(_headwater(), "gateway", "--id", "{gw}", "--kafka", "{bootstrap}", "--coap", "127.0.0.1:{port}"),
            *("--state", str(folder / "state-{gw}"), "--metrics", "0", "--observe", "/3303/*/5700"),
        ],
        "schema": str(schemas / request["file"]),
        "wire_id": request["id"],
        "read": json.dumps(read),
    }


def replication(options: argparse.Namespace, plan: Plan, folder: Path) -> Measured:
    """The replicator and MirrorMaker 2 with exactly-once on, run by run in turn."""
    ours = shlex.join(
        [
            *(_headwater(), "replicate", "--gateway", "bench", "--edge", "{edge}", "--cloud", "{cloud}"),
            *("--topic", "{topic}", "--metrics", "0"),
        ]
    )
    contenders: dict[str, tuple[str, ...]] = {MIRROR: (), REPLICATOR: ("--cmd", ours, "--target", "src")}
    quiet = [*_given("--quiet", options.quiet), *_given("--quiet-wait", options.quiet_wait)]
    measured: Measured = {name: [] for name in contenders}
    for run in range(plan.runs):
        for name, arguments in contenders.items():
            found = folder / f"{name}-{run}.json"
            _drive(
                options.yardstick / "mm2_bench.py",
                *("--runs", 1, "--eos", "on", "--records", plan.records, "--seconds", plan.mirror_seconds),
                *(*quiet, *arguments, "--out", found),
            )
            for figures in json.loads(found.read_text())["on"]:
                kept = dict(_numbers(figures))
                kept["rss_highest_mb"] = max(kept["rss_peak_mb"], kept["rss_end_mb"])
                measured[name].append(kept)
    return measured


def memory(_: argparse.Namespace, plan: Plan, folder: Path) -> Measured:
    """A gateway with 5,000 devices and 10,000 observations at full rate, once."""
    found = folder / "memory.json"
    _run([sys.executable, "-m", "tests.bench.memory", "--minutes", str(plan.minutes), "--out", str(found)], REPOSITORY)
    figures: dict[str, float] = json.loads(found.read_text())
    return {MEMORY: [{**figures, "landed_share": figures["landed"] / max(1.0, figures["acknowledged"])}]}


def sinks(_: argparse.Namespace, plan: Plan, folder: Path) -> Measured:
    """Every sink and its store's bare client, run by run in turn, and the workers from Kafka."""
    found = folder / "sinks.json"
    arguments = ("--runs", str(plan.runs), "--records", str(plan.sink_records), "--out", str(found))
    _run([sys.executable, "-m", "tests.bench.sinks", *arguments], REPOSITORY)
    measured: Measured = json.loads(found.read_text())
    return measured


def analytics(_: argparse.Namespace, plan: Plan, folder: Path) -> Measured:
    """Every job and the same fold in Quix Streams alone, run by run in turn; and a job's memory over many readings."""
    found = folder / "analytics.json"
    numbers = ("--runs", str(plan.runs), "--records", str(plan.job_records))
    watched = ("--memory-of", plan.job_memory_of, "--memory-records", str(plan.job_memory_records))
    command = [sys.executable, "-m", "tests.bench.analytics", *numbers, *watched, "--out", str(found)]
    _run(command, REPOSITORY)
    measured: Measured = json.loads(found.read_text())
    return measured


def dtls(_: argparse.Namespace, plan: Plan, folder: Path) -> Measured:
    """Handshakes of thousands of devices with a gateway, and the memory of their sessions, run by run."""
    measured: Measured = {DTLS: []}
    for run in range(plan.runs):
        found = folder / f"dtls-{run}.json"
        command = [sys.executable, "-m", "tests.bench.dtls", "--devices", str(plan.clients), "--out", str(found)]
        _run(command, REPOSITORY)
        measured[DTLS].append(json.loads(found.read_text()))
    return measured


def coaps(_: argparse.Namespace, plan: Plan, folder: Path) -> Measured:
    """Notifications over DTLS with pre-shared keys, the gateway and Leshan run by run in turn."""
    found = folder / "coaps.json"
    arguments = ("--runs", str(plan.runs), "--seconds", str(plan.seconds), "--out", str(found))
    _run([sys.executable, "-m", "tests.bench.coaps", *arguments], REPOSITORY)
    measured: Measured = json.loads(found.read_text())
    return measured


def firmware(_: argparse.Namespace, plan: Plan, folder: Path) -> Measured:
    """Images that fifty devices fetch at once, and the notifications meanwhile, run by run."""
    measured: Measured = {FIRMWARE: []}
    for run in range(plan.runs):
        found = folder / f"firmware-{run}.json"
        _run([sys.executable, "-m", "tests.bench.firmware", "--out", str(found)], REPOSITORY)
        measured[FIRMWARE].append(json.loads(found.read_text()))
    return measured


PARTS = {
    "servers": servers,
    "replication": replication,
    "memory": memory,
    "dtls": dtls,
    "coaps": coaps,
    "firmware": firmware,
    "sinks": sinks,
    "analytics": analytics,
}


def _headwater() -> str:
    return str(Path(sys.executable).with_name("headwater"))


def _given(name: str, value: float | None) -> list[str]:
    return [] if value is None else [name, str(value)]


def _numbers(figures: Mapping[str, Any]) -> Iterable[tuple[str, float]]:
    return [(name, float(value)) for name, value in figures.items() if isinstance(value, (int, float))]


def _drive(script: Path, *arguments: object) -> None:
    _run([sys.executable, str(script), *map(str, arguments)], script.parent)


def _run(command: Sequence[str], cwd: Path) -> None:
    """Run to its end. It has a session of its own, so that only we interrupt it, and wait while it cleans up."""
    process = subprocess.Popen(
        command,
        cwd=cwd,
        stdout=sys.stderr,
        start_new_session=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    try:
        code = process.wait()
    except BaseException:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_CLEAN_UP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise
    finally:
        # An interrupt may reach it between starting a process and noting it; what is left is in its group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
    if code:
        raise CannotMeasure(f"{Path(command[1]).name} ended with code {code}; what it said is above")


def machine() -> dict[str, str]:
    """What the figures were measured on; names nothing but kinds and versions."""
    cpu = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    held = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    work = Path(os.environ.get("BENCH_WORK") or Path(tempfile.gettempdir()) / "headwater-bench")
    brokers = [jar.stem for jar in sorted(work.glob("kafka-libs/kafka_*.jar"))]
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": f"{len(os.sched_getaffinity(0))} cores, {cpu}, {held / 1024**2:.0f} GiB, "
        f"{platform.system()} {platform.release().partition('-')[0]}",
        "Headwater": importlib.metadata.version("headwater"),
        "Python": platform.python_version(),
        "confluent-kafka": importlib.metadata.version("confluent-kafka"),
        "Kafka": brokers[-1].rpartition("-")[2] if brokers else "as the yardstick's",
        "Java": _java(),
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _java() -> str:
    java = shutil.which("java")
    if java is None:
        return "none"
    said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False).stderr
    return said.split('"')[1] if said.count('"') >= 2 else "unknown"


def report(saved: Mapping[str, Any]) -> str:
    """Everything that was measured, as Markdown."""
    measured: Measured = saved["measured"]
    facts = [f"- {name}: {value}" for name, value in saved["machine"].items()]
    facts.append(f"- {' and '.join(saved['plans'])}; medians of {_runs(measured)}")
    if (others := _others(measured)) is not None:
        facts.append(f"- programs outside the measurement used up to {others:.2f} cores during a step")
    peers = [name for name in (TUNED, DEFAULT) if name in measured]
    parts = [
        "## Targets",
        verdict_table(judge(measured)),
        *_section("## Gateway, beside the peer", shown_table(measured, HEADWATER, peers)),
        *_section("## Replicator, beside MirrorMaker 2 (exactly-once on)", shown_table(measured, REPLICATOR, [MIRROR])),
        *[_memory_section(figures) for figures in measured.get(MEMORY, ())],
        *_section("## DTLS with pre-shared keys", shown_table(measured, DTLS, ())),
        *_section("## Notifications over DTLS-PSK, beside the peer", shown_table(measured, COAPS, [COAPS_PEER])),
        *_section("## Images for many devices at once", shown_table(measured, FIRMWARE, ())),
        "## Measured on",
        "\n".join(facts),
    ]
    return "\n\n".join(parts)


def _runs(measured: Measured) -> str:
    """How often each was measured: what is said of one run is less than what is said of three."""
    return ", ".join(f"{len(runs)} run{'s'[: len(runs) != 1]} ({name})" for name, runs in measured.items())


def _others(measured: Measured) -> float | None:
    """The most cores that others used, over all steps: what is disturbed is to be seen as such."""
    return max(
        (
            value
            for runs in measured.values()
            for figures in runs
            for name, value in figures.items()
            if name.endswith("other_cores")
        ),
        default=None,
    )


def _section(title: str, table: str) -> list[str]:
    return [title, table] if table else []


def _memory_section(figures: Mapping[str, float]) -> str:
    shape = f"{figures['devices']:,.0f} devices, {figures['observations']:,.0f} observations"
    length = f"{figures['minutes']:g} minutes at full rate ({figures['per_s']:,.0f} notifications/s)"
    fate = f"{figures['acknowledged']:,.0f} acknowledged, {figures['landed']:,.0f} in the topic"
    rows = (
        ("started", "rss_start_mb"),
        ("all registered and observed", "rss_registered_mb"),
        ("at the end", "rss_end_mb"),
        ("peak", "rss_peak_mb"),
    )
    return "\n".join(
        (
            "## Memory of the gateway",
            "",
            f"{shape}, {length}: {fate}, {figures['lost']:.0f} given up by a device.",
            "",
            "| resident memory | MiB |",
            "|---|---|",
            *(f"| {label} | {figures[name]:.1f} |" for label, name in rows),
        )
    )


def write(text: str) -> None:
    """Put ``text`` between the marks of the document.

    Raises:
        CannotMeasure: the document has no marks.
    """
    before, begin, rest = DOCUMENT.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise CannotMeasure(f"{DOCUMENT.relative_to(REPOSITORY)} has no {BEGIN} … {END}")
    DOCUMENT.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run the parts one after the other; returns what `report` takes, also written to ``--out`` after each part."""
    plan = QUICK if options.quick else FULL
    changed = {name: getattr(options, name) for name in ("steps", "runs", "seconds", "clients", "records", "minutes")}
    values = {name: getattr(plan, name) for name in plan.__slots__}
    plan = Plan(**{**values, **{name: value for name, value in changed.items() if value is not None}})
    measured: Measured = {}
    with tempfile.TemporaryDirectory(prefix="headwater-measured-", dir=_work()) as name:
        for part in options.parts:
            measured.update(PARTS[part](options, plan, Path(name)))
            saved = {
                "plans": ["quick" if options.quick else "full"],
                "machine": machine(),
                "measured": measured,
            }
            if options.out is not None:
                options.out.write_text(json.dumps(saved, indent=1))
    return saved


def _work() -> Path:
    work = Path(os.environ.get("BENCH_WORK") or Path(tempfile.gettempdir()) / "headwater-bench")
    work.mkdir(parents=True, exist_ok=True)
    return work


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tests.bench.run", description="Headwater beside its yardsticks: make bench ARGS='--quick'."
    )
    add = parser.add_argument
    add("--yardstick", type=Path, required=True, metavar="DIR", help="the folder of the load generator and the peers")
    add("--quick", action="store_true", help="one short run: what it says is rough")
    add("--parts", type=_parts, default=list(PARTS), metavar="A,B", help=f"of {', '.join(PARTS)} (all)")
    add("--write", action="store_true", help=f"write the figures into {DOCUMENT.relative_to(REPOSITORY)}")
    add("--out", type=Path, metavar="FILE", help="keep the figures there, as JSON")
    add("--from", dest="saved", type=Path, nargs="+", metavar="FILE", help="measure nothing, take the figures of --out")
    add("--steps", type=_steps, metavar="A,B", help=f"of {', '.join(FULL.steps)}")
    add("--runs", type=int, help="how often everything is measured, in turn")
    add("--seconds", type=float, help="of each notification step")
    add("--clients", type=int, help="of the registration step")
    add("--records", type=int, help="to replicate")
    add("--minutes", type=float, help="of the memory run")
    add("--quiet", type=float, metavar="CORES", help="what others may use before and during a step")
    add("--quiet-wait", type=float, metavar="S", help="most seconds to wait for that")
    add("--retries", type=int, help="repeats of a step that others disturbed")
    return parser.parse_args()


def _parts(text: str) -> list[str]:
    return _chosen(text, tuple(PARTS))


def _steps(text: str) -> tuple[str, ...]:
    return tuple(_chosen(text, FULL.steps))


def _chosen(text: str, known: Sequence[str]) -> list[str]:
    chosen = text.split(",")
    if unknown := [one for one in chosen if one not in known]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
    return chosen


def _needed(options: argparse.Namespace) -> None:
    if {"servers", "replication"} & set(options.parts):
        for name in ("run.py", "mm2_bench.py", "servers.json"):
            if not (options.yardstick / name).is_file():
                raise CannotMeasure(f"no yardstick in {options.yardstick} (no {name}); name it with --yardstick DIR")
        if missing := [tool for tool in ("cargo", "mvn", "java", "ss") if shutil.which(tool) is None]:
            raise CannotMeasure(f"the yardstick needs {', '.join(missing)}, which this machine does not have")


def _ended(signum: int, _: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt(signum)


def main() -> int:
    options = _options()
    signal.signal(signal.SIGTERM, _ended)
    # A shell that starts us in the background lets SIGINT be ignored, and our children would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if options.saved:
            files = [json.loads(file.read_text()) for file in options.saved]
            saved = {
                **files[-1],
                "plans": sorted({plan for one in files for plan in one["plans"]}),
                "measured": {k: v for one in files for k, v in one["measured"].items()},
            }
        else:
            options.yardstick = options.yardstick.resolve()
            _needed(options)
            saved = measure(options)
        text = report(saved)
        print(text)
        if options.write:
            write(text)
    except CannotMeasure as exc:
        print(f"make bench: {exc}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    verdicts = judge(saved["measured"])
    return 0 if verdicts and all(one.reached for one in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
