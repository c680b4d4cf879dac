"""A model that is imported while the gateway runs is taken up, by what is decoded next and by the short path."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.models import LiveDefinitions, Models
from schemas.lwm2m.nodes import ResourceType
from schemas.lwm2m.objects import DefinitionError, Definitions
from schemas.lwm2m.path import Path as Lwm2mPath

OWN = Path(__file__).parents[1] / "data" / "oma"
VALVE = (OWN / "valve.xml").read_text("latin-1")
POSITION = Lwm2mPath(32770, 0, 0)


def look(models: Models) -> bool:
    return asyncio.run(models.look())


def _type(definitions: Definitions) -> ResourceType | None:
    found = definitions.with_versions({}).resource(POSITION)
    return None if found is None else found.type


def test_what_appears_changes_and_goes_is_taken_up(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    models = Models(folder)
    shared = models.definitions
    assert not look(models)
    folder.mkdir()
    assert not look(models)
    (folder / "valve.xml").write_text(VALVE, "latin-1")
    assert look(models)
    assert not look(models)
    assert models.definitions is shared
    assert _type(shared) is ResourceType.FLOAT
    (folder / "valve.xml").write_text(VALVE.replace("Float", "String"), "latin-1")
    assert look(models)
    assert _type(shared) is ResourceType.STRING
    (folder / "valve.xml").unlink()
    assert look(models)
    assert _type(shared) is None
    assert shared.object(3303) == Definitions.builtin().object(3303)


def test_a_broken_file_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "valve.xml").write_text(VALVE, "latin-1")
    models = Models(tmp_path)
    (tmp_path / "broken.xml").write_text("<LWM2M>")
    assert look(models)
    assert _type(models.definitions) is ResourceType.FLOAT
    assert len(models.definitions.problems) == 1


def test_a_folder_that_is_none_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DefinitionError, match="file"):
        Models(tmp_path / "file")


def test_without_a_folder_there_are_the_builtin_ones() -> None:
    models = Models(None)
    assert not look(models)
    assert models.definitions.object(3303) == Definitions.builtin().object(3303)


def test_what_was_asked_before_stays_as_it_was() -> None:
    shared = LiveDefinitions(Definitions.builtin())
    before = shared.with_versions({})
    shared.take_up(Definitions().load_folder(OWN))
    assert before.object(3303) is not None
    assert shared.object(3303) is None
    assert _type(shared) is ResourceType.FLOAT
