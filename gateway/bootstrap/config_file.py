"""The configuration that is served, and the file that it comes from, which may be changed while it is.

Owns when the file is read again, and that a wrong one changes nothing. What it says is `gateway.bootstrap.config`'s,
which is loaded only to read it.
"""

from __future__ import annotations

from pathlib import Path

import structlog

from gateway.bootstrap.profile import Config

_log = structlog.get_logger("headwater.bootstrap")

#: Device, inode, time of change in nanoseconds and size of a file; None: there is none.
_Mark = tuple[int, int, int, int] | None


class ConfigFile:
    """A configuration as it was read last. ``now`` is another one after `look` has returned True."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            ConfigError: the file cannot be read, or is wrong.
        """
        from gateway.bootstrap.config import load

        self._path = path.absolute()
        self._mark = _mark(self._path)
        self.now: Config = load(path)
        #: True while the file is wrong, and what was read before it is served.
        self.wrong = False

    def look(self) -> bool:
        """Read the file if it is another than before; True if what it says is. Waits for the disk, never raises."""
        mark = _mark(self._path)
        if mark == self._mark:
            return False
        from gateway.bootstrap.config import load
        from gateway.bootstrap.yaml_tree import ConfigError

        # First: what is changed while it is read has another mark.
        self._mark = mark
        try:
            found = load(self._path)
        except ConfigError as exc:
            self.wrong = True
            _log.warning("the new configuration is wrong, and the one before is served on", reason=str(exc))
            return False
        self.wrong = False
        if found == self.now:
            return False
        self.now = found
        _log.info("a new configuration is served", file=str(self._path))
        return True


def _mark(path: Path) -> _Mark:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
