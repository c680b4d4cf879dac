"""A folder of OMA LwM2M XML files as the registry of models: reading it again cheaply, and bringing models into it.

One file an object and version, so that versions stand side by side; files that people put there by hand count as well.
Each file is written beside its place and moved there, so that whoever reads, and whatever kills the writer, meets whole
files only. What such a file may hold is `schemas.lwm2m.xml_files`.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path as FilePath

from schemas.lwm2m import xml_files
from schemas.lwm2m.objects import DefinitionError, Definitions, ObjectDefinition

#: What a file that is being written is called; no reader takes it for a model.
_UNFINISHED = ".new"
_LOCK = ".lock"

#: Of a file: inode, time of its last change (ns) and size.
_Signature = tuple[int, int, int]


class ModelFolder:
    """The models of a folder, read file by file, and again only where a file has changed.

    A folder that is not there holds none.
    """

    def __init__(self, folder: FilePath) -> None:
        self.folder = folder
        #: One sentence for every file that is left out, and for every object that two files define differently.
        self.problems: tuple[str, ...] = ()
        self.definitions: tuple[ObjectDefinition, ...] = ()
        self._read: dict[FilePath, tuple[_Signature, list[ObjectDefinition] | str]] = {}

    def refresh(self) -> bool:
        """Take up what has changed since the last call; True if something has.

        Raises:
            DefinitionError: the folder is there and cannot be read.
        """
        found = _signatures(self.folder)
        if {file: signature for file, (signature, _) in self._read.items()} == found:
            return False
        read = {}
        for file, signature in found.items():
            known = self._read.get(file)
            read[file] = known if known is not None and known[0] == signature else (signature, _content(file))
        self._read = read
        good = [(file, content) for file, (_, content) in read.items() if not isinstance(content, str)]
        definitions, doubled = xml_files.together(good)
        self.definitions = tuple(definitions)
        self.problems = (*(content for _, content in read.values() if isinstance(content, str)), *doubled)
        return True

    def files(self) -> dict[tuple[int, str], FilePath]:
        """Where each object (id, version) is defined."""
        return {
            (one.id, one.version): file
            for file, (_, content) in self._read.items()
            if not isinstance(content, str)
            for one in content
        }

    def beside(self, others: Definitions) -> Definitions:
        """``others`` and those of the folder, which win over the same id and version."""
        return Definitions([*others, *self.definitions], problems=(*others.problems, *self.problems))


def _signatures(folder: FilePath) -> dict[FilePath, _Signature]:
    if not folder.exists():
        return {}
    found = {}
    for file in xml_files.files(folder):
        try:
            stat = file.stat()
        except FileNotFoundError:
            continue  # removed since it was listed
        found[file] = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
    return found


def _content(file: FilePath) -> list[ObjectDefinition] | str:
    try:
        return xml_files.read(file)
    except DefinitionError as exc:
        return str(exc)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """An object that is to be brought in: ``data`` is the XML of a file with it alone, ``source`` where it is from."""

    definition: ObjectDefinition
    data: bytes
    source: str


class Outcome(Enum):
    """What becomes of a model that is brought in."""

    ADDED = "added"
    #: The same is there, or built in.
    UNCHANGED = "unchanged"
    REPLACED = "replaced"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One model and what becomes of it: in which file it is (None: built in, or refused), or why it is refused."""

    model: Model
    outcome: Outcome
    file: FilePath | None = None
    why: str = ""


def models_in(data: bytes, source: str) -> list[Model]:
    """The models of a file's content.

    Raises:
        DefinitionError: as `xml_files.parse`.
    """
    return [
        Model(definition=definition, data=alone, source=source)
        for definition, alone in xml_files.parse_each(data, source)
    ]


def plan(folder: ModelFolder, builtin: Definitions, models: Iterable[Model], *, replace: bool) -> list[Step]:
    """What bringing in ``models`` comes to, in their order; with ``replace`` other definitions give way."""
    folder.refresh()
    files = folder.files()
    known = {(one.id, one.version): (one, "the built-in one") for one in builtin}
    known |= {(one.id, one.version): (one, str(files[one.id, one.version])) for one in folder.definitions}
    objects_of = list(files.values())
    given: dict[tuple[int, str], Model] = {}
    steps = []
    for model in models:
        definition = model.definition
        key = definition.id, definition.version
        what = f"object {definition.id} version {definition.version}"
        there, file = known.get(key), files.get(key)
        if (first := given.setdefault(key, model)).definition != definition:
            why = f"{what} is defined differently in {first.source}, which is brought in too: leave one of them out"
            steps.append(Step(model=model, outcome=Outcome.REFUSED, why=why))
        elif first is not model or (there is not None and there[0] == definition):
            steps.append(Step(model=model, outcome=Outcome.UNCHANGED, file=file))
        elif file is None and folder.folder / _name(definition) in files.values():
            why = f"{folder.folder / _name(definition)} is where {what} belongs, but defines another: rename that file"
            steps.append(Step(model=model, outcome=Outcome.REFUSED, why=why))
        elif there is None:
            steps.append(Step(model=model, outcome=Outcome.ADDED, file=folder.folder / _name(definition)))
        elif not replace:
            why = f"{what} is known already and defined differently ({there[1]}); --replace takes this one"
            steps.append(Step(model=model, outcome=Outcome.REFUSED, why=why))
        elif file is not None and objects_of.count(file) > 1:
            why = f"{what} is in {file} together with other objects; import that file again in parts, then remove it"
            steps.append(Step(model=model, outcome=Outcome.REFUSED, why=why))
        else:
            place = file or folder.folder / _name(definition)
            steps.append(Step(model=model, outcome=Outcome.REPLACED, file=place))
    return steps


def carry_out(steps: Iterable[Step], folder: FilePath) -> None:
    """Write what is added and replaced: each file is the old one or the new one, whole, at every moment.

    Raises:
        OSError: the folder cannot be written; what was written before stays.
    """
    written = [step for step in steps if step.outcome in (Outcome.ADDED, Outcome.REPLACED)]
    if not written:
        return
    for step in written:
        assert step.file is not None
        unfinished = step.file.with_name(f".{step.file.name}{_UNFINISHED}")
        with unfinished.open("wb") as opened:
            opened.write(step.model.data)
            opened.flush()
            os.fsync(opened.fileno())
        unfinished.replace(step.file)
    _sync(folder)


@contextmanager
def alone(folder: FilePath) -> Iterator[None]:
    """Keep other importers out of ``folder``, which is made if it is not there; what a killed one left is removed.

    Raises:
        OSError: the folder cannot be made or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in folder.glob(f".*{_UNFINISHED}"):
            left.unlink(missing_ok=True)
        yield


def _name(definition: ObjectDefinition) -> str:
    return f"{definition.id}-{definition.version}.xml"


def _sync(folder: FilePath) -> None:
    # The names are durable only when the folder is.
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
