"""How a part is run: real processes that print figures, fail, print nonsense, or are disturbed by others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from argparse import Namespace
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.bench import parts, run
from tests.bench.machine import MARK, Others, machine
from tests.bench.parts import QUICK, CannotMeasure, Part, tool

_BUSY = "import time\nend = time.process_time() + {seconds}\nwhile time.process_time() < end: pass\n"
PLAN = replace(QUICK, runs=2, retries=0, quiet_wait=0)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the module ``tests.bench.said``, in a package of its own."""
    folder = tmp_path / "tests" / "bench"
    folder.mkdir(parents=True)
    monkeypatch.setattr(parts, "REPOSITORY", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return folder / "said.py"


def _measured(tmp_path: Path, *, once: bool = False) -> parts.Measured:
    measure = tool("said", lambda plan, number: (plan.seconds, number), subject="it", once=once)
    return measure(Namespace(), PLAN, tmp_path)


def test_a_tool_is_started_for_each_run_and_what_it_prints_are_its_figures(module: Path, tmp_path: Path) -> None:
    module.write_text("import sys, json\nprint(json.dumps({'a': float(sys.argv[2]), 'of': 'no number'}))\n")
    found = _measured(tmp_path)
    assert [one["a"] for one in found["it"]] == [0.0, 1.0]
    assert all(set(one) == {"a", "other_cores"} for one in found["it"])
    assert len(_measured(tmp_path, once=True)["it"]) == 1
    module.write_text("import json\nprint(json.dumps({'ours': [{'a': 1}], 'theirs': [{'a': 2}]}))\n")
    assert [[one["a"] for one in runs] for runs in _measured(tmp_path).values()] == [[1.0, 1.0], [2.0, 2.0]]


def test_a_tool_that_finds_its_figures_bad_has_measured_and_one_without_figures_has_not(
    module: Path, tmp_path: Path
) -> None:
    module.write_text("import sys\nprint('{\"a\": 1}')\nsys.exit(1)\n")
    assert len(_measured(tmp_path)["it"]) == 2
    module.write_text("raise SystemExit(1)\n")
    with pytest.raises(CannotMeasure, match="ended with code 1"):
        _measured(tmp_path)
    module.write_text("print('nonsense')\n")
    with pytest.raises(CannotMeasure, match="printed no figures"):
        _measured(tmp_path)


def test_a_quick_run_ends_in_its_time_and_keeps_what_it_has(
    module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module.write_text("print('{\"a\": 1}')\n")
    (module.parent / "slow.py").write_text("import time\ntime.sleep(600)\n")
    table = {
        "said": Part(run=tool("said", subject="it"), quick_s=0.0),
        "slow": Part(run=tool("slow", subject="slow"), quick_s=0.0),
        "late": Part(run=tool("said", subject="late"), quick_s=1000.0),
        "full": Part(run=tool("said", subject="full")),
    }
    monkeypatch.setattr(run, "PARTS", table)
    monkeypatch.setattr(run, "QUICK", replace(PLAN, within=15.0))
    out = tmp_path / "out.json"
    began = time.monotonic()
    assert run.main(["--quick", "--quiet-wait", "0", "--out", str(out)]) == 2
    assert time.monotonic() - began < 300
    saved = json.loads(out.read_text())
    assert list(saved["measured"]) == ["it"]
    assert set(saved["left_out"]) == {"slow", "late"}
    assert "time was over" in saved["left_out"]["slow"]


def test_the_least_disturbed_run_counts_and_quiet_ends_the_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    disturbed = [0.9, 0.5, 0.7, 0.1]

    def measure() -> parts.Measured:
        return {"it": [{"other_cores": disturbed.pop(0)}]}

    plan = replace(PLAN, retries=2, quiet=0.2)
    assert parts._least_disturbed(plan, measure) == {"it": [{"other_cores": 0.5}]}
    assert parts._least_disturbed(plan, measure) == {"it": [{"other_cores": 0.1}]}
    assert disturbed == []


def test_a_repeat_that_fails_takes_nothing_from_what_was_measured() -> None:
    answers: list[parts.Measured | CannotMeasure] = [{"it": [{"other_cores": 0.9}]}, CannotMeasure("no")]

    def measure() -> parts.Measured:
        answer = answers.pop(0)
        if isinstance(answer, CannotMeasure):
            raise answer
        return answer

    assert parts._least_disturbed(replace(PLAN, retries=1), measure) == {"it": [{"other_cores": 0.9}]}


def test_what_is_measured_is_ours_with_its_children_and_what_lives_on_without_them() -> None:
    child = [sys.executable, "-c", _BUSY.format(seconds=1.0)]
    # The parent ends at once, and has started another that does not.
    parent = f"import subprocess, sys\n{_BUSY.format(seconds=1.0)}subprocess.Popen({child!r}, start_new_session=True)\n"
    with Others() as others:
        environment = {**os.environ, **others.environment}
        subprocess.run([sys.executable, "-c", parent], env=environment, check=True)
        while _running(others.environment[MARK]):
            time.sleep(0.05)
    # What is used in the last second before an orphan ends is not seen.
    assert others.ours_s > 1.0


def _running(mark: str) -> bool:
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and mark.encode() in (folder / "environ").read_bytes():
                return True
        except OSError:
            continue
    return False


def test_others_are_counted() -> None:
    with Others() as others:
        subprocess.run([sys.executable, "-c", _BUSY.format(seconds=2.0)], check=True)
    seconds = others.cores * others.looked_s
    assert seconds > 1.5


def test_the_machine_is_described_by_kinds_and_versions() -> None:
    told = machine()
    assert {"date", "machine", "Headwater", "Python", "Kafka", "Java"} <= set(told)
    assert f"{len(os.sched_getaffinity(0))} cores" in told["machine"]
    assert "governor" in told["machine"]


def test_every_tool_of_the_table_is_there() -> None:
    folder = Path(parts.__file__).parent
    for name in parts.PARTS:
        module = name.replace("-", "_")
        assert name in ("servers", "replication") or find_spec(f"tests.bench.{module}"), folder / f"{module}.py"
