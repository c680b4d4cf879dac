"""A stack file as far as the deployment has to know it: which variables it takes, and what it comes to with them.

Owns Compose's variables as Docker's own ``stack deploy`` has them (``$NAME``, ``${NAME}``, ``${NAME:-default}``,
``${NAME-default}``, ``${NAME:?words}``, ``${NAME?words}``, ``$$``; none inside another). Docker reads the same file
again and is what counts; this says beforehand what it will make of it, so that a plan can be shown.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: The label of a service that does its work once and ends.
RUNS = "io.headwater.runs"
ONCE = "once"
#: The labels by which a service tells whose it is, and of which contents.
FLEET, REVISION = "io.headwater.fleet", "io.headwater.revision"
#: How many signs of a SHA-256 stand in a name.
DIGEST = 12

_VARIABLE = re.compile(
    r"\$(?:(?P<escaped>\$)|(?P<plain>[A-Za-z_][A-Za-z0-9_]*)"
    r"|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?:(?P<how>:?[-?])(?P<more>[^}]*))?\})"
)


class StackFileError(ValueError):
    """The file is no stack file, a variable that it needs is missing, or a file that it names is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service of a stack. ``replicas`` is None for one that runs on every node."""

    name: str
    image: str
    replicas: int | None
    once: bool
    secrets: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """What a stack file comes to. ``secrets`` and ``networks`` are the external ones, by their names in the Swarm."""

    services: Mapping[str, Service]
    secrets: frozenset[str] = frozenset()
    networks: frozenset[str] = frozenset()
    configs: Mapping[str, Path] = field(default_factory=dict)


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """``text`` with its variables.

    Raises:
        StackFileError: one that is needed is missing; the words of the file say what for.
    """

    def value(found: re.Match[str]) -> str:
        if found["escaped"]:
            return "$"
        name = found["plain"] or found["name"]
        given, how, more = variables.get(name), found["how"] or "", found["more"] or ""
        is_there = given is not None and (given != "" or ":" not in how)
        if is_there and given is not None:
            return given
        if how.endswith("?"):
            raise StackFileError(f"the variable {name} is missing: {more}")
        return more

    return _VARIABLE.sub(value, text)


def read(path: Path) -> Mapping[str, Any]:
    """The file as YAML has it, with its variables still in it.

    Raises:
        StackFileError: it is not there, or no stack file.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it is no UTF-8 text"
        raise StackFileError(f"the stack file {path} cannot be read: {why}") from exc
    except yaml.YAMLError as exc:
        raise StackFileError(f"{path} is no YAML: {' '.join(str(exc).split())}") from exc
    if not isinstance(content, dict) or not isinstance(content.get("services"), dict):
        raise StackFileError(f"{path} is no stack file: it has no services")
    return content


def merge(*contents: Mapping[str, Any]) -> Mapping[str, Any]:
    """One stack file out of several, as Docker does it: mappings together, lists one after the other."""
    merged: dict[str, Any] = {}
    for content in contents:
        for key, value in content.items():
            there = merged.get(key)
            if isinstance(there, Mapping) and isinstance(value, Mapping):
                merged[key] = merge(there, value)
            elif isinstance(there, list) and isinstance(value, list):
                merged[key] = [*there, *value]
            else:
                merged[key] = value
    return merged


def resolve(content: Mapping[str, Any], variables: Mapping[str, str], folder: Path) -> Stack:
    """What the file comes to with ``variables``; paths are relative to ``folder``, where the file lies.

    Raises:
        StackFileError: a variable is missing.
    """
    made = _deep(content, variables)
    secrets = {key: _external(key, one) for key, one in (made.get("secrets") or {}).items()}
    configs = {
        str((one or {}).get("name", key)): folder / str(one["file"])
        for key, one in (made.get("configs") or {}).items()
        if isinstance(one, dict) and "file" in one
    }
    services = {}
    for name, one in made["services"].items():
        deploy = one.get("deploy") or {}
        sources = [use if isinstance(use, str) else use["source"] for use in one.get("secrets") or ()]
        services[name] = Service(
            name=name,
            image=str(one["image"]),
            replicas=None if deploy.get("mode") == "global" else int(deploy.get("replicas", 1)),
            once=(deploy.get("labels") or {}).get(RUNS) == ONCE,
            secrets=frozenset(secrets[source] for source in sources),
        )
    return Stack(
        services=services,
        secrets=frozenset(secrets.values()),
        networks=frozenset(_external(key, one) for key, one in (made.get("networks") or {}).items()),
        configs=configs,
    )


def variables_of(content: object) -> set[str]:
    """The names of all variables that a stack file takes."""
    if isinstance(content, str):
        return {found["plain"] or found["name"] for found in _VARIABLE.finditer(content) if not found["escaped"]}
    if isinstance(content, Mapping):
        return set().union(*(variables_of(part) for part in (*content.keys(), *content.values())))
    if isinstance(content, list):
        return set().union(*map(variables_of, content))
    return set()


def settings(path: Path) -> dict[str, str]:
    """A file of settings, ``NAME=value`` a line, as a shell would read it.

    Raises:
        StackFileError: it is not there, or a line is none.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as exc:
        there = ", ".join(sorted(one.stem for one in path.parent.glob("*.env")))
        raise StackFileError(f"there is no profile {path.stem!r} ({path}); there are: {there or 'none'}") from exc
    found = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not re.fullmatch(r"[A-Z][A-Z0-9_]*", name) or not re.fullmatch(r"[A-Za-z0-9_.:/@,+-]*", value):
            raise StackFileError(f"{path}, line {number}: NAME=value is expected, without blanks and quotes")
        found[name] = value
    return found


def digest(*parts: bytes) -> str:
    """The first digits of the SHA-256 of all parts, one after the other."""
    return hashlib.sha256(b"".join(parts)).hexdigest()[:DIGEST]


def _deep(part: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(part, str):
        return interpolate(part, variables)
    if isinstance(part, Mapping):
        return {key: _deep(value, variables) for key, value in part.items()}
    if isinstance(part, list):
        return [_deep(one, variables) for one in part]
    return part


def _external(key: str, one: Mapping[str, Any] | None) -> str:
    return str((one or {}).get("name", key))
