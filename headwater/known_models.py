"""Which models the command knows: the built-in definitions, and those of the folder that `headwater models` fills.

Owns where that folder is: ``--definitions``, else ``HEADWATER_DEFINITIONS``, else ``.headwater/models``.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from schemas.lwm2m.objects import Definitions

FOLDER = Path(".headwater/models")

ModelsOption = Annotated[
    Path | None,
    typer.Option(
        "--definitions",
        metavar="DIR",
        help=f"The folder of models, OMA LwM2M XML files; {FOLDER} when left out. (HEADWATER_DEFINITIONS)",
    ),
]


def folder(given: Path | None = None) -> Path:
    """The folder that is meant; it need not be there."""
    return given or Path(os.environ.get("HEADWATER_DEFINITIONS") or FOLDER)


def known(given: Path | None = None) -> Definitions:
    """The built-in definitions and those of the folder.

    Raises:
        DefinitionError: the folder is there and cannot be read.
    """
    from schemas.lwm2m.objects import Definitions

    place = folder(given).absolute()
    try:
        changed = place.stat().st_mtime_ns
    except FileNotFoundError:
        return Definitions.builtin()
    return _read(place, changed)


@lru_cache(maxsize=1)
def _read(place: Path, _: int) -> Definitions:
    from schemas.lwm2m.objects import Definitions

    return Definitions.builtin().load_folder(place)
