"""The definitions that the parts of a gateway share, and how a model that is imported while it runs is taken up.

Owns the pace at which the folder of models is looked at. All parts hold one `LiveDefinitions`, which goes over to what
the folder holds; what they asked it for before (`Definitions.with_versions`) stays as it was.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from schemas.lwm2m.model_folder import ModelFolder
from schemas.lwm2m.objects import DefinitionError, Definitions

_log = structlog.get_logger("headwater.models")

#: Seconds between two looks at the folder.
LOOK_EVERY = 2.0


class LiveDefinitions(Definitions):
    """Definitions that are replaced as a whole; between two replacements they are as unchangeable as any."""

    __slots__ = ()

    def take_up(self, others: Definitions) -> None:
        """Be ``others`` from now on."""
        for name in Definitions.__slots__:
            setattr(self, name, getattr(others, name))


class Models:
    """The built-in definitions, and those of a folder as it is now."""

    def __init__(self, folder: Path | None) -> None:
        """Read the folder, which need not be there yet.

        Raises:
            DefinitionError: it is there and cannot be read.
        """
        self.definitions = LiveDefinitions(Definitions.builtin())
        self._folder = None if folder is None else ModelFolder(folder)
        self._told: frozenset[str] = frozenset()
        if self._folder is not None:
            self._folder.refresh()
            self._take_up(self._folder)

    async def look(self) -> bool:
        """Take up what has changed in the folder; True if something has."""
        if self._folder is None:
            return False
        try:
            # In a thread: a folder may be large, or on a disk that is slow to answer.
            changed = await asyncio.to_thread(self._folder.refresh)
        except DefinitionError as exc:
            self._complain({str(exc)})
            return False
        if changed:
            self._take_up(self._folder)
            _log.info("the models have changed", folder=str(self._folder.folder), objects=len(self._folder.definitions))
        return changed

    def _take_up(self, folder: ModelFolder) -> None:
        self.definitions.take_up(folder.beside(Definitions.builtin()))
        self._complain(set(folder.problems))

    def _complain(self, problems: set[str]) -> None:
        for problem in sorted(problems - self._told):
            _log.warning("a model is left out", reason=problem)
        self._told = frozenset(problems)
