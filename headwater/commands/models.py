"""``headwater models``: the objects that are known, by id and version; and bringing in those of OMA's XML files.

`headwater.commands.models_redecode` decodes afresh what came before its model was known.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.commands.base import command, complain
from headwater.commands.models_redecode import Redecoding, redecode_stores
from headwater.commands.models_shown import facts_of, ordered, resource_facts, step_facts, tell, writes
from headwater.exits import Exit, Stop
from headwater.known_models import ModelsOption, folder, known
from headwater.options import Output, OutputOption

if TYPE_CHECKING:
    from schemas.lwm2m.model_folder import Model, ModelFolder, Step
    from schemas.lwm2m.objects import Definitions


def register(app: typer.Typer) -> None:
    """Add the group to ``app``."""
    models = typer.Typer(help="Models: what objects and resources are, by version.", no_args_is_help=True)
    for name, function in (("list", list_), ("show", show), ("import", import_)):
        command(models, name, group="models")(function)
    app.add_typer(models, name="models", rich_help_panel="Devices")


def _object_ids(incomplete: str) -> list[str]:
    from schemas.lwm2m.objects import DefinitionError

    try:
        ids = sorted({one.id for one in known()})
    except DefinitionError:
        return []
    return [str(an_id) for an_id in ids if str(an_id).startswith(incomplete)]


def list_(definitions: ModelsOption = None, output: OutputOption = Output.TABLE) -> None:
    """List the objects that are known, every version of each, and from which file.

    The version marked * is that of a device whose registration gives none (</3303/0>): 1.0, or where that is not known
    the newest 1.x. A file that cannot be used is told, and the exit code is then 1.

    \b
    Examples:
    headwater models list
    headwater models list --output json | jq '.[] | select(.file != "built in") | .id'
    """
    from headwater.output import console, print_json, table

    opened, every = _opened(folder(definitions))
    rows = [facts_of(one, opened, every) for one in ordered(every)]
    if output is Output.JSON:
        print_json(rows)
    else:
        cells = [
            (
                str(row["id"]),
                f"{row['version']}{' *' if row['default'] else ''}",
                row["name"],
                str(row["resources"]),
                row["file"],
            )
            for row in rows
        ]
        console().print(table(("id", "version", "name", "resources", "file"), cells))
    for problem in opened.problems:
        complain(problem)
    if opened.problems:
        raise typer.Exit(Exit.REFUSED)


def show(
    object_id: Annotated[
        int,
        typer.Argument(metavar="ID", min=0, max=65535, help="The object's id.", autocompletion=_object_ids),
    ],
    version: Annotated[
        str | None,
        typer.Option("--version", metavar="V", help="As a device announces it (ver=); else as one that gives none."),
    ] = None,
    definitions: ModelsOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show an object with its resources, as it is for a device of a version.

    A version that is not known is shown as the newest known one of its major version, since that is how its values are
    decoded; one of an unknown major version is not known at all, and its values are kept as they come.

    \b
    Examples:
    headwater models show 3303
    headwater models show 3303 --version 1.1 --output json | jq '.resources[].name'
    """
    from headwater.output import console, print_json, table
    from schemas.lwm2m.objects import version_key

    if version is not None and version_key(version) is None:
        raise Stop(Exit.USAGE, f"--version {version!r:.60} is no object version, such as 1.0")
    opened, every = _opened(folder(definitions))
    announced = {} if version is None else {object_id: version}
    found = every.with_versions(announced).object(object_id)
    if found is None:
        there = ", ".join(one.version for one in ordered(every) if one.id == object_id)
        what = f"object {object_id}" + (f" version {version or '1.0'}" if there else "")
        raise Stop(
            Exit.USAGE,
            f"{what} is not known"
            + (f"; known: {there} (--version)" if there else "; `headwater models import FILE` brings it in"),
        )
    if output is Output.JSON:
        resources = [resource_facts(found.resources[i]) for i in sorted(found.resources)]
        print_json(facts_of(found, opened, every) | {"resources": resources})
        return
    facts = facts_of(found, opened, every)
    rows = [(name, str(facts[name])) for name in ("id", "version", "name", "instances", "mandatory", "file")]
    console().print(table(("", ""), rows))
    cells = [
        (
            str(row["id"]),
            row["name"],
            row["operations"] or "-",
            row["instances"],
            "mandatory" if row["mandatory"] else "optional",
            row["type"] or "-",
            row["unit"] or "",
        )
        for row in (resource_facts(found.resources[i]) for i in sorted(found.resources))
    ]
    console().print(table(("id", "name", "operations", "instances", "", "type", "unit"), cells))


def import_(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE…", help="OMA LwM2M XML files, or folders of them; - is stdin."),
    ],
    replace: Annotated[
        bool, typer.Option("--replace", help="Let a definition give way that is there for the same id and version.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would become of each.")] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Import what can be imported; otherwise all is, or nothing.")
    ] = False,
    definitions: ModelsOption = None,
    redecode: Annotated[
        bool,
        typer.Option(
            "--redecode", help="Then correct what the stores have of these objects from before they were known."
        ),
    ] = False,
    *,
    redecoding: Redecoding,
    output: OutputOption = Output.TABLE,
) -> None:
    """Bring in models of objects: OMA's own files, or those of a vendor. Twice is as once.

    Versions of an object stand side by side; a device gets the one that it announces. A gateway that uses the folder
    (its --definitions, the same unless said otherwise) takes them up within seconds, without a restart. A definition
    that differs from what is known for the same id and version is refused, unless --replace. Exit code: 2 if nothing
    was imported because of what cannot be, 1 if --skip-bad left some out.

    With --redecode, values that came as the object was not known, and so are in the log and the stores as they came,
    are read by the model and put right in the stores: in all of ./sinks.toml that can correct (sqlite, influxdb,
    elasticsearch), or those of --sinks, --sink or --file. The log is not changed. It may be run again at any time.

    \b
    Examples:
    headwater models import 33000.xml
    headwater models import vendor-models/ --dry-run
    curl -s https://example.com/33000.xml | headwater models import -
    headwater models import 33000.xml --redecode --gateway rock64 --kafka cloud:9092 --sinks sinks.toml --since -7d
    """
    from headwater.output import print_json
    from schemas.lwm2m.model_folder import ModelFolder, Outcome, alone, carry_out, plan
    from schemas.lwm2m.objects import Definitions

    place = folder(definitions)
    models, problems = _read(files)
    if redecode and not dry_run:
        redecoding.check()
    opened = ModelFolder(place)

    def planned() -> tuple[list[Step], list[str]]:
        steps = plan(opened, Definitions.builtin(), models, replace=replace)
        return steps, [*problems, *(step.why for step in steps if step.outcome is Outcome.REFUSED)]

    steps, refused = planned()
    if not dry_run and (skip_bad or not refused) and writes(steps):
        with alone(place):
            # Planned anew: another import may have been first.
            steps, refused = planned()
            if skip_bad or not refused:
                carry_out(steps, place)
    stored = not dry_run and (skip_bad or not refused)
    if output is Output.TABLE:
        tell(steps, refused, place, stored=stored, dry_run=dry_run)
    corrected: list[dict[str, Any]] = []
    complete = True
    if stored and redecode:
        objects = {step.model.definition.id for step in steps if step.outcome is not Outcome.REFUSED}
        corrected, complete = redecode_stores(redecoding, place, objects, output)
    if output is Output.JSON:
        print_json(
            {
                "folder": str(place),
                "stored": stored,
                "models": [step_facts(step) for step in steps],
                "refused": refused,
                "redecoded": corrected,
            }
        )
    if refused:
        raise typer.Exit(Exit.REFUSED if skip_bad else Exit.USAGE)
    if not complete:
        raise typer.Exit(Exit.REFUSED)


def _read(files: Sequence[Path]) -> tuple[list[Model], list[str]]:
    """The models of the files, and what is wrong with those that have none.

    Raises:
        DefinitionError: a folder cannot be read.
    """
    from headwater.commands.credentials_shown import from_stdin
    from schemas.lwm2m.model_folder import models_in
    from schemas.lwm2m.objects import DefinitionError
    from schemas.lwm2m.xml_files import MAX_BYTES
    from schemas.lwm2m.xml_files import files as files_in

    models: list[Model] = []
    problems: list[str] = []
    for given in files:
        inside = files_in(given) if given.is_dir() else [given]
        if not inside:
            problems.append(f"{given}: there is no *.xml in this folder")
        for file in inside:
            source = "stdin" if str(file) == "-" else str(file)
            try:
                if source == "stdin":
                    data = from_stdin(MAX_BYTES)
                else:
                    with file.open("rb") as opened:
                        data = opened.read(MAX_BYTES + 1)
                models += models_in(data, source)
            except DefinitionError as exc:
                problems.append(str(exc))
            except OSError as exc:
                problems.append(f"{source}: {exc.strerror}")
    return models, problems


def _opened(place: Path) -> tuple[ModelFolder, Definitions]:
    from schemas.lwm2m.model_folder import ModelFolder
    from schemas.lwm2m.objects import Definitions

    opened = ModelFolder(place)
    opened.refresh()
    return opened, opened.beside(Definitions.builtin())
