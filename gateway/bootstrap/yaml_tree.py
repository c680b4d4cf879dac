"""YAML as values that know where they stand, so that what is wrong can be told with line and column.

Owns reading and the words for what does not fit. Knows nothing of what the file is about. Tags, and values by
reference, are not taken: all that counts stands where it is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

#: Bytes of a file; a longer one is a mistake.
MOST_BYTES = 1 << 20
_SCALARS = {"tag:yaml.org,2002:str", "tag:yaml.org,2002:int", "tag:yaml.org,2002:bool", "tag:yaml.org,2002:null"}


class ConfigError(ValueError):
    """The configuration is wrong; the text has the file, the line and the column, and what to write instead."""


@dataclass(frozen=True, slots=True)
class Value:
    """One node, and the name of its file."""

    node: Any
    file: str

    def wrong(self, words: str) -> ConfigError:
        """The error of this place."""
        mark = self.node.start_mark
        return ConfigError(f"{self.file}, line {mark.line + 1}, column {mark.column + 1}: {words}")

    @property
    def is_mapping(self) -> bool:
        """True where `mapping` takes it."""
        return isinstance(self.node, yaml.MappingNode)

    def mapping(self, known: Mapping[str, str] | None = None, *, needed: tuple[str, ...] = ()) -> dict[str, Value]:
        """The values by their keys. ``known`` has each key that may be there, with what it is.

        Raises:
            ConfigError: it is none, a key is there twice, unknown, or missing.
        """
        if not isinstance(self.node, yaml.MappingNode):
            raise self.wrong("`key: value` lines are expected")
        found: dict[str, Value] = {}
        for key, value in self.node.value:
            place = Value(key, self.file)
            name = place.text()
            if name in found:
                raise place.wrong(f"{name!r} stands there twice")
            if known is not None and name not in known:
                raise place.wrong(f"{name!r:.60} is not known here; there are: {', '.join(known)}")
            found[name] = Value(value, self.file)
        for name in needed:
            if name not in found:
                raise self.wrong(f"{name} is missing: {(known or {}).get(name, 'it is needed')}")
        return found

    def items(self) -> Iterator[Value]:
        """The values of a list.

        Raises:
            ConfigError: it is none.
        """
        if not isinstance(self.node, yaml.SequenceNode):
            raise self.wrong("a list is expected, such as [one, other]")
        return (Value(one, self.file) for one in self.node.value)

    def text(self) -> str:
        """A text, or what is written as a number.

        Raises:
            ConfigError: it is none, or empty.
        """
        if not isinstance(self.node, yaml.ScalarNode) or self.node.tag not in _SCALARS:
            raise self.wrong("a text is expected")
        if not self.node.value.strip():
            raise self.wrong("a text is expected, and there is none")
        return str(self.node.value)

    def number(self, least: int, most: int) -> int:
        """A whole number from ``least`` to ``most``.

        Raises:
            ConfigError: it is none.
        """
        # A fraction, say, is no text for YAML.
        words = self.node.value if isinstance(self.node, yaml.ScalarNode) else self.text()
        if words.isascii() and words.isdigit() and len(words) < 20 and least <= int(words) <= most:
            return int(words)
        raise self.wrong(f"{words!r:.60} is no whole number from {least} to {most}")

    def boolean(self) -> bool:
        """true or false.

        Raises:
            ConfigError: it is neither.
        """
        words = self.text().lower()
        if words not in ("true", "false"):
            raise self.wrong(f"{words!r:.60} is neither true nor false")
        return words == "true"


def read(text: str, file: str, needed: str = "`default:` with its servers") -> Value:
    """The document; ``needed`` is what it has at least, for the words about an empty one.

    Raises:
        ConfigError: it is no YAML, empty, or has values by reference.
    """
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise Value(event, file).wrong(f"write it out: *{event.anchor} is not taken here")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        place = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        raise ConfigError(f"{file}{place}: this is no YAML: {exc.problem or exc.context}") from None
    except (yaml.YAMLError, RecursionError) as exc:
        raise ConfigError(f"{file} is no YAML: {' '.join(str(exc).split())[:200]}") from None
    if node is None:
        raise ConfigError(f"{file} is empty; it has at least {needed}")
    return Value(node, file)
