"""How the commands of ``headwater models`` show objects and what became of an import, to people and to programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from headwater.commands.base import complain

if TYPE_CHECKING:
    from schemas.lwm2m.model_folder import ModelFolder, Step
    from schemas.lwm2m.objects import Definitions, ObjectDefinition, ResourceDefinition

#: What a built-in object has for its file.
BUILT_IN = "built in"


def writes(steps: Sequence[Step]) -> bool:
    """True if something is to be written."""
    from schemas.lwm2m.model_folder import Outcome

    return any(step.outcome in (Outcome.ADDED, Outcome.REPLACED) for step in steps)


def ordered(every: Definitions) -> list[ObjectDefinition]:
    """By id, and by version."""
    from schemas.lwm2m.objects import version_key

    return sorted(every, key=lambda one: (one.id, version_key(one.version) or (0, 0)))


def facts_of(one: ObjectDefinition, opened: ModelFolder, every: Definitions) -> dict[str, Any]:
    """An object without its resources; ``default`` if it is that of devices which give no version."""
    file = opened.files().get((one.id, one.version))
    default = every.with_versions({}).object(one.id)
    return {
        "id": one.id,
        "version": one.version,
        "name": one.name,
        "instances": "multiple" if one.multiple else "single",
        "mandatory": one.mandatory,
        "resources": len(one.resources),
        "default": default is not None and default.version == one.version,
        "file": BUILT_IN if file is None else str(file),
    }


def resource_facts(one: ResourceDefinition) -> dict[str, Any]:
    """A resource; ``type`` is None for one that is executed."""
    return {
        "id": one.id,
        "name": one.name,
        "operations": "".join(letter for letter in "RWE" if letter in {each.value for each in one.operations}),
        "instances": "multiple" if one.multiple else "single",
        "mandatory": one.mandatory,
        "type": None if one.type is None else one.type.value,
        "unsigned": one.unsigned,
        "unit": one.unit,
    }


def step_facts(step: Step) -> dict[str, Any]:
    """What became of a model that was to be imported."""
    one = step.model.definition
    return {
        "id": one.id,
        "version": one.version,
        "name": one.name,
        "source": step.model.source,
        "outcome": step.outcome.value,
        "file": None if step.file is None else str(step.file),
        "why": step.why or None,
    }


def tell(steps: Sequence[Step], refused: Sequence[str], place: Path, *, stored: bool, dry_run: bool) -> None:
    """An import, for people."""
    from headwater.terminal import printable
    from schemas.lwm2m.model_folder import Outcome

    for why in refused:
        complain(why)
    for step in steps:
        if step.outcome is not Outcome.REFUSED:
            one = step.model.definition
            typer.echo(printable(f"{step.outcome.value}: object {one.id} version {one.version} ({one.name})"))
    if dry_run:
        typer.echo("nothing was imported: --dry-run")
    elif not stored:
        typer.echo("nothing was imported, because of what is refused: mend it, or --skip-bad leaves it out")
    elif writes(steps):
        typer.echo(printable(f"in {place}; a gateway that uses this folder takes them up within seconds"))
