"""What `make bench` measures: a table of parts, and how much of each in a quick run and in a full one.

A part is a row of `PARTS`: a function that makes figures, by subject and run. Most are a tool of their own (a module
beside this one, which prints its figures as JSON): a new one is one row. The load, the peers and
MirrorMaker 2 are the yardstick's (the folder of ``--yardstick`` with its ``run.py`` and ``mm2_bench.py``).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from headwater.lean import LEAN
from tests.bench import quota
from tests.bench.machine import Others, busy_s, load_generator
from tests.bench.targets import (
    CATCHING_UP,
    DEFAULT,
    DTLS,
    EDGE_MEMORY,
    END_TO_END,
    FIRMWARE,
    FLOOR,
    GROWTH,
    HEADWATER,
    MEMORY,
    MIRROR,
    PROCESSES,
    REPLICATOR,
    SCALE,
    TUNED,
)
from tests.bench.watch import say

REPOSITORY = Path(__file__).resolve().parents[2]

#: The yardstick removes what it started when it is interrupted; Java takes its time.
_CLEAN_UP_SECONDS = 90.0
#: By subject, one entry a run: figures by name.
Measured = dict[str, list[dict[str, float]]]


#: How a part is run.
Run = Callable[[argparse.Namespace, "Plan", Path], Measured]


class CannotMeasure(Exception):
    """A part could not be run; the text says why."""


class NotHere(CannotMeasure):
    """This machine lacks what a part needs; the others can be measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured; seconds and minutes are those of the load, not of the whole run."""

    name: str
    runs: int
    peers: tuple[str, ...]
    steps: tuple[str, ...]
    seconds: float
    clients: int
    records: int
    mirror_seconds: float
    minutes: float
    sinks: str
    sink_records: int
    job_records: int
    job_memory_records: int
    job_memory_of: str
    #: What others may use (cores) while a run counts, how often it is repeated else, and how long quiet is waited for.
    quiet: float
    retries: int
    quiet_wait: float
    #: No part is begun that would not end by then, in seconds, and none goes on after it; None: all are measured.
    within: float | None


_SINKS = "cassandra,elasticsearch,influxdb,orientdb,parquet,prometheus,redis,sqlite,webhook"
FULL = Plan(
    name="full",
    runs=3,
    peers=(TUNED, DEFAULT),
    steps=("register", "update", "notify_max", "notify_1000", "non", "read"),
    seconds=20,
    clients=5000,
    records=1_000_000,
    mirror_seconds=30,
    minutes=10,
    sinks=_SINKS,
    sink_records=60_000,
    job_records=300_000,
    job_memory_records=10_000_000,
    job_memory_of="statistics,aggregate,max-temperature,outliers,join,filter",
    quiet=0.3,
    retries=2,
    quiet_wait=60,
    within=None,
)
QUICK = Plan(
    name="quick",
    runs=1,
    peers=(TUNED,),
    steps=("notify_max",),
    seconds=5,
    clients=1000,
    records=100_000,
    mirror_seconds=2,
    minutes=0.5,
    sinks="influxdb",
    sink_records=20_000,
    job_records=100_000,
    job_memory_records=0,
    job_memory_of="statistics",
    quiet=0.3,
    retries=0,
    quiet_wait=0,
    within=180,
)


def servers(options: argparse.Namespace, plan: Plan, folder: Path) -> Measured:
    """The gateway and the Leshan peers under the same load; figures are named ``STEP FIGURE``."""
    theirs = json.loads((options.yardstick / "servers.json").read_text())
    entries = {**{name: theirs[name] for name in plan.peers}, HEADWATER: entry(folder)}
    listed, found = folder / "servers.json", folder / "servers-measured.json"
    listed.write_text(json.dumps(entries))
    _drive(
        options.yardstick / "run.py",
        *("--servers", listed, "--use", ",".join(entries), "--runs", plan.runs, "--only", ",".join(plan.steps)),
        *("--clients", plan.clients, "--seconds", plan.seconds, *_quiet(plan), "--retries", plan.retries),
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
    measured: Measured = {name: [] for name in contenders}
    for run in range(plan.runs):
        for name, arguments in contenders.items():
            found = folder / f"{name}-{run}.json"
            command = [
                *("--runs", 1, "--eos", "on", "--records", plan.records, "--seconds", plan.mirror_seconds),
                *(*_quiet(plan), *arguments, "--out", found),
            ]
            measured[name].append(
                _least_disturbed(plan, partial(_mirrored, options.yardstick / "mm2_bench.py", command, found))[""][0]
            )
    return measured


def _mirrored(script: Path, command: Sequence[object], found: Path) -> Measured:
    others = _drive(script, *command)
    (figures,) = json.loads(found.read_text())["on"]
    kept = dict(_numbers(figures))
    highest = max(kept["rss_peak_mb"], kept["rss_end_mb"])
    return {"": [{**kept, "rss_highest_mb": highest, "other_cores": others}]}


#: What a tool is told, by the number of its run.
Arguments = Callable[[Plan, int], Sequence[object]]


def tool(module: str, arguments: Arguments = lambda plan, run: (), *, subject: str = "", once: bool = False) -> Run:
    """A part that is ``python -m tests.bench.MODULE``, started anew for each run, or `once`.

    What it prints is JSON: ``{subject: [figures]}``, or the figures alone, which are those of ``subject`` then.
    """

    def part(_: argparse.Namespace, plan: Plan, folder: Path) -> Measured:
        measured: Measured = {}
        for run in range(1 if once else plan.runs):
            found = folder / f"{module}-{run}.json"
            command = [sys.executable, "-m", f"tests.bench.{module}", *map(str, arguments(plan, run))]
            # What is measured once is so because it takes long.
            rules = replace(plan, retries=0) if once else plan
            for name, runs in _least_disturbed(rules, partial(_tool, command, found, subject)).items():
                measured.setdefault(name, []).extend(runs)
        return measured

    return part


def _tool(command: Sequence[str], found: Path, subject: str) -> Measured:
    others = _run(command, REPOSITORY, found)
    try:
        said = json.loads(found.read_text())
    except ValueError as exc:
        raise CannotMeasure(f"{command[2]} printed no figures: {exc}") from exc
    runs: Measured = said if all(isinstance(one, list) for one in said.values()) else {subject: [said]}
    return {name: [{**dict(_numbers(figures)), "other_cores": others} for figures in one] for name, one in runs.items()}


def _least_disturbed(plan: Plan, measure: Callable[[], Measured]) -> Measured:
    """Measure, again if others disturbed it; the run in which they did least counts."""
    best: tuple[float, Measured] | None = None
    for attempt in range(plan.retries + 1):
        _wait_for_quiet(plan)
        try:
            measured = measure()
        except CannotMeasure as exc:
            if best is None:
                raise
            say(f"the repeat failed, what was measured before it counts: {exc}")
            break
        disturbed = max(figures["other_cores"] for runs in measured.values() for figures in runs)
        if best is None or disturbed < best[0]:
            best = disturbed, measured
        if best[0] <= plan.quiet:
            break
        if attempt < plan.retries:
            say(f"others used {disturbed:.2f} cores meanwhile: once more")
    assert best is not None
    return best[1]


def _wait_for_quiet(plan: Plan) -> None:
    until = time.monotonic() + plan.quiet_wait
    while time.monotonic() < until:
        before = busy_s()
        time.sleep(2)
        if (busy_s() - before) / 2 <= plan.quiet:
            return


def edge_memory(options: argparse.Namespace, plan: Plan, folder: Path) -> Measured:
    """The edge stack in its containers, where there is a Docker with the images."""
    if shutil.which("docker") is None:
        raise NotHere("this machine has no Docker")
    for image in ("headwater", "headwater-kafka"):
        asked = ["docker", "image", "inspect", f"{image}:{options.version}"]
        if subprocess.run(asked, capture_output=True, timeout=60, check=False).returncode:
            raise NotHere(f"there is no Docker with an image {image}:{options.version}; `make images` makes it")
    arguments = ("--minutes", plan.minutes, "--version", options.version)
    return tool("edge_memory", lambda plan, run: arguments, subject=EDGE_MEMORY, once=True)(options, plan, folder)


def _job_arguments(plan: Plan, run: int) -> Sequence[object]:
    # Memory takes millions of readings, and does not swing: once.
    watched = plan.job_memory_records if run == 0 else 0
    return "--records", plan.job_records, "--memory-of", plan.job_memory_of, "--memory-records", watched


def _loaded(module: str, subject: str) -> Run:
    """A tool that takes its load from the yardstick's generator."""

    def part(options: argparse.Namespace, plan: Plan, folder: Path) -> Measured:
        arguments = ("--yardstick", options.yardstick, "--seconds", plan.seconds)
        return tool(module, lambda plan, run: arguments, subject=subject)(options, plan, folder)

    return part


def processes(options: argparse.Namespace, plan: Plan, folder: Path) -> Measured:
    """A gateway of two processes by one of one."""
    if (why := quota.why_not()) is not None:
        raise NotHere(why)
    arguments = ("--loadgen", load_generator(options.yardstick), "--seconds", plan.seconds, "--runs", 1)
    return tool("processes", lambda plan, run: arguments, subject=PROCESSES)(options, plan, folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One row of `PARTS`."""

    run: Run
    needs_yardstick: bool = False
    #: How long it takes in a quick run, in seconds; None: it is no part of that.
    quick_s: float | None = None


#: By name, in the order in which they are measured.
PARTS: Mapping[str, Part] = {
    "servers": Part(run=servers, needs_yardstick=True, quick_s=65),
    "replication": Part(run=replication, needs_yardstick=True, quick_s=80),
    "floor": Part(run=_loaded("floor", FLOOR), needs_yardstick=True, quick_s=20),
    "wan-cut": Part(run=tool("wan_cut", subject=CATCHING_UP)),
    "scale": Part(run=tool("scale", lambda plan, run: ("--seconds", plan.seconds), subject=SCALE)),
    "processes": Part(run=processes, needs_yardstick=True),
    "memory": Part(run=tool("memory", lambda plan, run: ("--minutes", plan.minutes), subject=MEMORY, once=True)),
    "dtls": Part(run=tool("dtls", lambda plan, run: ("--devices", plan.clients), subject=DTLS)),
    "coaps": Part(run=tool("coaps", lambda plan, run: ("--runs", 1, "--seconds", plan.seconds))),
    "firmware": Part(run=tool("firmware", subject=FIRMWARE)),
    "sinks": Part(run=tool("sinks", lambda plan, run: ("--records", plan.sink_records, "--only", plan.sinks))),
    "analytics": Part(run=tool("analytics", _job_arguments)),
    "growth": Part(run=tool("growth", subject=GROWTH)),
    "end-to-end": Part(run=_loaded("end_to_end", END_TO_END), needs_yardstick=True),
    "edge-memory": Part(run=edge_memory),
}


def _headwater() -> str:
    return str(Path(sys.executable).with_name("headwater"))


def _quiet(plan: Plan) -> tuple[object, ...]:
    return "--quiet", plan.quiet, "--quiet-wait", plan.quiet_wait


def _numbers(figures: Mapping[str, Any]) -> Iterable[tuple[str, float]]:
    return [(name, float(value)) for name, value in figures.items() if isinstance(value, (int, float))]


def _drive(script: Path, *arguments: object) -> float:
    return _run([sys.executable, str(script), *map(str, arguments)], script.parent)


def _run(command: Sequence[str], cwd: Path, found: Path | None = None) -> float:
    """Run to its end; returns the cores that others used meanwhile. What it prints goes to ``found``.

    It has a session of its own, so that only we interrupt it, and wait while it cleans up. Our processes run as in the
    image (`headwater.lean`).

    Raises:
        CannotMeasure: it failed; one that has printed its figures has not, whatever it thinks of them.
    """
    with Others() as others, contextlib.ExitStack() as stack:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            stdout=sys.stderr if found is None else stack.enter_context(found.open("wb")),
            start_new_session=True,
            env={**os.environ, **others.environment, "PYTHONDONTWRITEBYTECODE": "1", LEAN: "1"},
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
    if code and not (found is not None and found.stat().st_size):
        name = Path(command[1]).name if command[1] != "-m" else command[2]
        raise CannotMeasure(f"{name} ended with code {code}; what it said is above")
    return others.cores
