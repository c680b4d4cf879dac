"""Measures Headwater beside its yardsticks, in one run, and says of each target whether it is reached.

Owns the command: what is measured is `parts`', the verdicts are `targets`', what is said of them is `report`'s and
`pictures`'. Nothing is installed and nothing stays behind but the yardstick's own build outputs below ``BENCH_WORK``
and the figures in ``--out``.

    python -m tests.bench.run --yardstick DIR [--quick] [--parts servers,replication,memory,…] [--write]

Exit code 0: everything measured reaches its target; 1: something does not; 2: something could not be measured.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from tests.bench.machine import machine, work
from tests.bench.parts import FULL, PARTS, QUICK, REPOSITORY, CannotMeasure, Measured, NotHere, Plan
from tests.bench.pictures import draw
from tests.bench.report import DOCUMENT, PICTURE_FOLDER, as_json, joined, report, write
from tests.bench.targets import judge
from tests.bench.watch import say

#: What of the plan can be told by an option of the same name.
_OPTIONS = (
    *("steps", "runs", "seconds", "clients", "records", "minutes", "sinks"),
    *("quiet", "retries", "quiet_wait"),
)


#: What a part that is interrupted may take to remove what it started, in seconds.
_CLEAN_UP_S = 12.0


def planned(options: argparse.Namespace) -> Plan:
    """The plan of ``--quick`` or the full one, with what is told otherwise."""
    told = {name: getattr(options, name) for name in _OPTIONS}
    return replace(QUICK if options.quick else FULL, **{name: one for name, one in told.items() if one is not None})


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run the parts one after the other; returns what `report` takes, also written to ``--out`` after each part."""
    plan = planned(options)
    began = time.monotonic()
    measured: Measured = {}
    left_out: dict[str, str] = {}
    failed = False
    with tempfile.TemporaryDirectory(prefix="headwater-measured-", dir=work()) as name:
        for part in options.parts or [one for one in PARTS if not options.quick or PARTS[one].quick_s is not None]:
            # What was asked for by name is measured whatever it takes.
            left = None if plan.within is None or options.parts else plan.within - (time.monotonic() - began)
            say(f"measuring {part}, after {time.monotonic() - began:.0f} s")
            try:
                _needed(options, part)
                if left is not None and left < (PARTS[part].quick_s or 0.0) and measured:
                    raise CannotMeasure(f"no time was left of the {plan.within:g} s of a {plan.name} run")
                with _at_most(left):
                    measured.update(PARTS[part].run(options, plan, Path(name)))
            except CannotMeasure as exc:
                left_out[part] = str(exc)
                failed = failed or not isinstance(exc, NotHere) or bool(options.parts)
                say(f"{part} is not measured: {exc}")
            saved = {
                "plans": [plan.name],
                "machine": machine(),
                "measured": measured,
                "left_out": left_out,
                "failed": failed,
            }
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(saved, indent=1))
    say(f"measured in {time.monotonic() - began:.0f} s; the figures of each run are in {options.out}")
    return saved


@contextmanager
def _at_most(seconds: float | None) -> Iterator[None]:
    """Let CannotMeasure be raised inside when so much time is nearly over; None: never."""

    def over(*_: object) -> None:
        raise CannotMeasure("its time was over: the machine is too busy, or too slow, for a quick run")

    if seconds is None:
        yield
        return
    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, max(1.0, seconds - _CLEAN_UP_S))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tests.bench.run", description="Headwater beside its yardsticks: make bench, or make bench-quick."
    )
    add = parser.add_argument
    add("--yardstick", type=Path, metavar="DIR", help="the folder of the load generator and the peers")
    add("--quick", action="store_true", help="one short run of the main figures: what it says is rough")
    add("--parts", type=_parts, metavar="A,B", help=f"of {', '.join(PARTS)} (all; with --quick, those of a quick run)")
    place, pictures = (one.relative_to(REPOSITORY) for one in (DOCUMENT, PICTURE_FOLDER))
    add("--write", action="store_true", help=f"write the figures into {place}, and the plots into {pictures}")
    add("--pictures", type=Path, metavar="DIR", help="write the plots there, as SVG")
    add("--output", choices=("text", "json"), default="text", help="what is printed")
    add("--out", type=Path, metavar="FILE", help="keep every run there (build/bench-TIME.json)")
    add("--from", dest="saved", type=Path, nargs="+", metavar="FILE", help="measure nothing, take the figures of --out")
    add("--steps", type=_steps, metavar="A,B", help=f"of {', '.join(FULL.steps)}")
    add("--runs", type=int, help="how often everything is measured, in turn")
    add("--seconds", type=float, help="of each notification step")
    add("--clients", type=int, help="of the registration step")
    add("--records", type=int, help="to replicate")
    add("--minutes", type=float, help="of the memory run")
    add("--sinks", metavar="A,B", help="the sinks that are measured")
    add("--version", default="dev", help="the tag of the images that the part edge-memory runs")
    add("--quiet", type=float, metavar="CORES", help="what others may use before and during a step")
    add("--quiet-wait", type=float, metavar="S", help="most seconds to wait for that")
    add("--retries", type=int, help="repeats of a step that others disturbed")
    chosen = parser.parse_args(arguments)
    # One of its own each time: a short run must not take the place of one that took hours.
    chosen.out = chosen.out or REPOSITORY / "build" / f"bench-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.json"
    return chosen


def _parts(text: str) -> list[str]:
    return _chosen(text, tuple(PARTS))


def _steps(text: str) -> tuple[str, ...]:
    return tuple(_chosen(text, FULL.steps))


def _chosen(text: str, known: Sequence[str]) -> list[str]:
    chosen = text.split(",")
    if unknown := [one for one in chosen if one not in known]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
    return chosen


def _needed(options: argparse.Namespace, part: str) -> None:
    if not PARTS[part].needs_yardstick:
        return
    if options.yardstick is None:
        raise CannotMeasure("it needs the yardstick; name its folder with --yardstick DIR")
    for name in ("run.py", "mm2_bench.py", "servers.json"):
        if not (options.yardstick / name).is_file():
            raise CannotMeasure(f"no yardstick in {options.yardstick} (no {name}); name it with --yardstick DIR")
    if missing := [tool for tool in ("cargo", "mvn", "java", "ss") if shutil.which(tool) is None]:
        raise CannotMeasure(f"the yardstick needs {', '.join(missing)}, which this machine does not have")


def _ended(signum: int, _: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt(signum)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    signal.signal(signal.SIGTERM, _ended)
    # A shell that starts us in the background lets SIGINT be ignored, and our children would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if options.saved:
            saved = joined([_kept(file) for file in options.saved])
        else:
            options.yardstick = options.yardstick and options.yardstick.resolve()
            saved = measure(options)
        drawn = draw(saved["measured"])
        print(json.dumps(as_json(saved), indent=1) if options.output == "json" else report(saved))
        if options.pictures is not None:
            options.pictures.mkdir(parents=True, exist_ok=True)
            for name, text in drawn.items():
                (options.pictures / f"{name}.svg").write_text(text)
        if options.write:
            write(saved, drawn)
    except CannotMeasure as exc:
        print(f"make bench: {exc}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    verdicts = judge(saved["measured"])
    if saved.get("failed") or not saved["measured"]:
        return 2
    return 0 if all(one.reached for one in verdicts) else 1


def _kept(file: Path) -> dict[str, Any]:
    try:
        saved: dict[str, Any] = json.loads(file.read_text())
        if not saved.keys() >= {"plans", "machine", "measured"}:
            raise ValueError("it lacks what a run keeps")
    except (OSError, ValueError) as exc:
        raise CannotMeasure(f"{file} is no file of --out: {exc}") from exc
    return saved


if __name__ == "__main__":
    sys.exit(main())
