"""How much the processes log, as the option and the set-up of the logs name it."""

from __future__ import annotations

import logging
from enum import Enum


class LogLevel(Enum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    @property
    def number(self) -> int:
        """The level as the standard library's logging counts."""
        return logging.getLevelNamesMapping()[self.name]
