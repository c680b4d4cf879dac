"""The settings file: where it is looked for, what may be in it, and how it becomes a command's defaults.

A flag beats the environment, the environment beats the file. Owns the file; flags and environment are typer's. The
file is TOML: keys of ``[common]`` (or at its very top) hold for every command that has an option of that name, a table
named as the command holds for that command only, ``[kafka.start]`` for ``headwater kafka start``. A key that no command
knows is an error, since a setting that is silently ignored is worse than none.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

#: The options that hold for every command which has them: ``HEADWATER_<NAME>``, and ``[common]`` in the file.
GENERAL = frozenset(
    {
        "gateway",
        "kafka",
        "kafka_tls",
        "edge",
        "edge_tls",
        "cloud",
        "cloud_tls",
        "timeout",
        "output",
        "log_level",
        "coap",
        "state",
        "metrics",
        "metrics_host",
        "metrics_keys",
        "observe",
        "server",
    }
)

#: Never in a file: where the file is.
NOT_IN_FILE = frozenset({"config", "help"})


class SettingsError(ValueError):
    """The settings file cannot be read, or holds what no command knows."""


class Form(Enum):
    """What an option takes on the command line."""

    FLAG = "true or false"
    TEXT = "a text or a number"
    LIST = "a list of texts"


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsFile:
    """A settings file as parsed: general settings, and those by command (``"kafka start"``)."""

    path: Path
    common: Mapping[str, Any] = field(default_factory=dict)
    commands: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def defaults(self, command: str, options: frozenset[str]) -> dict[str, Any]:
        """The settings of one command: those general ones that it has, then its own."""
        general = {name: value for name, value in self.common.items() if name in options}
        return general | dict(self.commands.get(command, {}))


def places(cwd: Path, environment: Mapping[str, str]) -> list[Path]:
    """Where a settings file is looked for, the first that exists is taken."""
    home = environment.get("XDG_CONFIG_HOME") or str(Path(environment.get("HOME", "~")).expanduser() / ".config")
    return [cwd / "headwater.toml", Path(home) / "headwater" / "config.toml"]


def find(given: Path | None, cwd: Path, environment: Mapping[str, str]) -> Path | None:
    """The settings file to take: the one given, else the first of `places`, else None.

    Raises:
        SettingsError: the one given does not exist.
    """
    if given is not None:
        if not given.is_file():
            raise SettingsError(f"there is no settings file {given}")
        return given
    return next((place for place in places(cwd, environment) if place.is_file()), None)


def load(path: Path, commands: Mapping[str, frozenset[str]], tables: Mapping[str, frozenset[str]]) -> SettingsFile:
    """Read a settings file. ``commands`` holds the option names of every command (``"kafka start"``), ``tables`` those
    names under which a command takes a whole table (``"gateway": {"endpoints"}``).

    Raises:
        SettingsError: no TOML, or an unknown key; it names the file, the key and what there is instead.
    """
    try:
        with path.open("rb") as file:
            document = tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise SettingsError(f"settings file {path} cannot be read: {exc}") from exc
    known_general = frozenset().union(*commands.values()) & GENERAL
    groups = {name.rpartition(" ")[0] for name in commands} - {""}
    common: dict[str, Any] = {}
    by_command: dict[str, dict[str, Any]] = {}
    for key, value in document.items():
        if not isinstance(value, dict):
            common |= _checked(path, "", {key: value}, known_general)
        elif key == "common":
            common |= _checked(path, "common", value, known_general)
        elif key in groups:
            for inner, content in value.items():
                command = f"{key} {inner}"
                if command not in commands or not isinstance(content, dict):
                    raise SettingsError(_unknown(path, f"{key}.{inner}", [c.replace(" ", ".") for c in commands]))
                by_command[command] = _checked(path, f"{key}.{inner}", content, commands[command])
        elif key in commands:
            by_command[key] = _checked(path, key, value, commands[key] | tables.get(key, frozenset()))
        else:
            raise SettingsError(_unknown(path, key, ["common", *(c.replace(" ", ".") for c in commands)]))
    return SettingsFile(path=path, common=common, commands=by_command)


def _checked(path: Path, table: str, content: Mapping[str, Any], known: frozenset[str]) -> dict[str, Any]:
    checked = {}
    for key, value in content.items():
        name = key.replace("-", "_")
        if name not in known:
            raise SettingsError(_unknown(path, f"{table}.{key}" if table else key, sorted(known)))
        checked[name] = value
    return checked


def _unknown(path: Path, key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key.rpartition(".")[2], known, n=1) or difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(sorted(known))}"
    return f"settings file {path}: {key!r} is not a setting; {hint}"


def as_typed(path: Path, key: str, value: object, form: Form) -> object:
    """A setting as it would be typed, so that it meets the same checks: numbers as text, one text for a list of one.

    Raises:
        SettingsError: TOML has another kind of value there than the option takes.
    """
    match form, value:
        case (Form.FLAG, bool()) | (Form.TEXT, str()):
            return value
        case Form.TEXT, int() | float() if not isinstance(value, bool):
            return str(value)
        case Form.LIST, list():
            return [as_typed(path, key, one, Form.TEXT) for one in value]
        case Form.LIST, str():
            return [value]
    raise SettingsError(f"settings file {path}: {key!r} is {form.value}, not {value!r}")
