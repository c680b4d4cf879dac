"""The folder of models: reading it again, and bringing models in, also by an importer that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from schemas.lwm2m.model_folder import ModelFolder, Outcome, Step, alone, carry_out, models_in, plan
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.xml_files import read

ROOT = Path(__file__).parents[3]
OWN = ROOT / "tests" / "data" / "oma"
VALVE = (OWN / "valve.xml").read_text("latin-1")
BUILTIN = Definitions.builtin()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models"


def bring(folder: Path, *texts: str, replace: bool = False) -> list[Step]:
    models = [one for number, text in enumerate(texts) for one in models_in(text.encode("latin-1"), f"file {number}")]
    with alone(folder):
        steps = plan(ModelFolder(folder), BUILTIN, models, replace=replace)
        carry_out(steps, folder)
    return steps


def outcomes(steps: list[Step]) -> list[Outcome]:
    return [step.outcome for step in steps]


def of_version(version: str, kind: str = "Float") -> str:
    return VALVE.replace("<Name>Valve", f"<ObjectVersion>{version}</ObjectVersion><Name>Valve").replace("Float", kind)


def test_versions_stand_side_by_side_and_twice_is_as_once(folder: Path) -> None:
    assert outcomes(bring(folder, VALVE, of_version("1.1"), of_version("2.0"))) == [Outcome.ADDED] * 3
    assert sorted(file.name for file in folder.glob("*.xml")) == [f"32770-{v}.xml" for v in ("1.0", "1.1", "2.0")]
    assert (folder / "32770-1.0.xml").read_bytes() == VALVE.encode("latin-1")
    before = {file: file.stat() for file in folder.glob("*.xml")}
    assert outcomes(bring(folder, VALVE, of_version("1.1"), of_version("2.0"))) == [Outcome.UNCHANGED] * 3
    assert {file: file.stat() for file in folder.glob("*.xml")} == before


def test_another_definition_of_the_same_version_gives_way_only_if_told_so(folder: Path) -> None:
    bring(folder, VALVE)
    (step,) = bring(folder, VALVE.replace("Float", "String"))
    assert step.outcome is Outcome.REFUSED
    assert "32770-1.0.xml" in step.why and "--replace" in step.why
    assert read(folder / "32770-1.0.xml") == read(OWN / "valve.xml")
    assert outcomes(bring(folder, VALVE.replace("Float", "String"), replace=True)) == [Outcome.REPLACED]
    assert read(folder / "32770-1.0.xml") != read(OWN / "valve.xml")


def test_a_file_that_was_put_there_by_hand_counts_and_is_the_one_that_is_replaced(folder: Path) -> None:
    folder.mkdir()
    (folder / "our valve.xml").write_text(VALVE, "latin-1")
    assert outcomes(bring(folder, VALVE)) == [Outcome.UNCHANGED]
    assert outcomes(bring(folder, VALVE.replace("Float", "String"), replace=True)) == [Outcome.REPLACED]
    assert [file.name for file in folder.glob("*.xml")] == ["our valve.xml"]


def test_a_file_with_several_objects_is_not_replaced_for_one_of_them(folder: Path) -> None:
    folder.mkdir()
    second = VALVE[VALVE.index("<Object") :].replace("32770", "32771")
    (folder / "several.xml").write_text(VALVE.replace("</LWM2M>", second), "latin-1")
    (step,) = bring(folder, VALVE.replace("Float", "String"), replace=True)
    assert step.outcome is Outcome.REFUSED
    assert "several.xml" in step.why


def test_the_place_of_a_model_may_be_taken_by_another(folder: Path) -> None:
    folder.mkdir()
    (folder / "32770-1.0.xml").write_text(VALVE.replace("32770", "32771"), "latin-1")
    (step,) = bring(folder, VALVE)
    assert step.outcome is Outcome.REFUSED
    assert "rename" in step.why
    # What is no model at all gives way.
    (folder / "32770-1.0.xml").write_text("<LWM2M>")
    assert outcomes(bring(folder, VALVE)) == [Outcome.ADDED]


def test_a_builtin_object_is_known_already(folder: Path) -> None:
    temperature = VALVE.replace("32770", "3303")
    (step,) = bring(folder, temperature)
    assert step.outcome is Outcome.REFUSED
    assert "built-in" in step.why
    assert outcomes(bring(folder, temperature, replace=True)) == [Outcome.REPLACED]
    opened = ModelFolder(folder)
    opened.refresh()
    found = opened.beside(BUILTIN).object(3303, "1.0")
    assert found is not None and found.name == "Valve"


def test_two_files_that_contradict_each_other_are_refused(folder: Path) -> None:
    steps = bring(folder, VALVE, VALVE, VALVE.replace("Float", "String"))
    assert outcomes(steps) == [Outcome.ADDED, Outcome.UNCHANGED, Outcome.REFUSED]
    assert "file 0" in steps[2].why


def test_only_what_has_changed_is_read_again(folder: Path) -> None:
    opened = ModelFolder(folder)
    assert not opened.refresh()
    bring(folder, VALVE, of_version("2.0"))
    assert opened.refresh()
    assert not opened.refresh()
    kept = {one.version: one for one in opened.definitions}
    (folder / "32770-2.0.xml").write_text("broken")
    assert opened.refresh()
    (one,) = opened.definitions
    assert one is kept["1.0"]
    (problem,) = opened.problems
    assert "32770-2.0.xml, line 1" in problem
    (folder / "32770-2.0.xml").unlink()
    assert opened.refresh()
    assert opened.problems == ()


#: Imports a version after the other, for ever, and says each time that one is in.
ENDLESS = """
import sys
from itertools import count
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.schemas.lwm2m.test_model_folder import bring, of_version
for number in count(1):
    padding = "<!--" + "x" * 1_000_000 + "-->"
    bring(Path({folder!r}), of_version("1.0", "Float" if number % 2 else "String") + padding, replace=True)
    print(number, flush=True)
"""


def test_an_importer_that_is_killed_leaves_the_folder_whole(folder: Path) -> None:
    program = ENDLESS.format(root=str(ROOT), folder=str(folder))
    for turn in range(5):
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as importer:
            assert importer.stdout is not None
            for _ in range(turn + 1):
                importer.stdout.readline()
            os.kill(importer.pid, signal.SIGKILL)
        opened = ModelFolder(folder)
        opened.refresh()
        assert opened.problems == ()
        assert [(one.id, one.version) for one in opened.definitions] == [(32770, "1.0")]
    bring(folder, of_version("3.0"))
    assert sorted(file.name for file in folder.iterdir()) == [".lock", "32770-1.0.xml", "32770-3.0.xml"]
