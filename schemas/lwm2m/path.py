"""LwM2M paths: ``/object/instance/resource/resource-instance`` (OMA LwM2M Core 1.1, section 6.4 and 7.3).

Owns parsing, printing and comparing of paths and of operator's patterns such as ``/3303/*/5700``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

#: Ids are 16 bit; 65535 is reserved (OMA LwM2M Core 1.1, section 6.2: MAX_ID must not be used as an instance id).
MAX_ID = 65535


class PathError(ValueError):
    """The text is no LwM2M path or pattern."""


@dataclass(frozen=True, slots=True)
class Path:
    """One to four ids; a level that is ``None`` is absent, and so are all below it. ``Path()`` is the root ``/``.

    >>> str(Path.parse("3303/0/5700"))
    '/3303/0/5700'
    """

    object_id: int | None = None
    instance_id: int | None = None
    resource_id: int | None = None
    resource_instance_id: int | None = None
    #: The ids that are present, outermost first.
    ids: tuple[int, ...] = field(init=False, repr=False, compare=False)
    _text: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        every = (self.object_id, self.instance_id, self.resource_id, self.resource_instance_id)
        ids = tuple(i for i in every if i is not None)
        object.__setattr__(self, "ids", ids)
        object.__setattr__(self, "_text", "/" + "/".join(map(str, ids)))

    @staticmethod
    def parse(text: str) -> Path:
        """Parse ``/3``, ``3/0``, ``/3/0/1``, ``/3/0/6/1`` or ``/``.

        Raises:
            PathError: a segment is no decimal number, is out of range, or there are more than four.
        """
        return _parse(text)

    @property
    def depth(self) -> int:
        """0 root, 1 object, 2 object instance, 3 resource, 4 resource instance."""
        return len(self.ids)

    @property
    def parent(self) -> Path:
        """The path one level up; the root's parent is the root."""
        return Path(*self.ids[:-1])

    def child(self, an_id: int) -> Path:
        """The path one level down.

        Raises:
            PathError: this is already a resource instance.
        """
        if self.depth == 4:
            raise PathError(f"{self} has nothing below it")
        return Path(*(*self.ids, an_id))

    def contains(self, other: Path) -> bool:
        """True if ``other`` is this path or lies below it."""
        mine = self.ids
        return other.ids[: len(mine)] == mine

    def __str__(self) -> str:
        return self._text


@lru_cache(maxsize=4096)
def _parse(text: str) -> Path:
    segments = text.strip("/").split("/") if text.strip("/") else []
    if len(segments) > 4:
        raise PathError(f"{text!r}: a path has at most four ids: /object/instance/resource/resource-instance")
    return Path(*(_number(segment, text) for segment in segments))


def _number(segment: str, text: str) -> int:
    if not (segment.isascii() and segment.isdigit()) or len(segment) > 5 or int(segment) > MAX_ID:
        raise PathError(f"{text!r}: {segment!r} is no id between 0 and {MAX_ID}; a path looks like /3303/0/5700")
    return int(segment)


@dataclass(frozen=True, slots=True)
class PathPattern:
    """A path in which ``*`` stands for any id at that level: ``/3303/*/5700``.

    A pattern has one to three levels: operators observe objects, instances and resources.
    """

    levels: tuple[int | None, ...]

    @staticmethod
    def parse(text: str) -> PathPattern:
        """Raises PathError when the text is no pattern; the object id must be a number."""
        segments = text.strip("/").split("/")
        if not 1 <= len(segments) <= 3 or segments[0] == "*":
            raise PathError(
                f"{text!r}: a pattern is /object, /object/instance or /object/instance/resource, with * for any"
            )
        return PathPattern(tuple(None if segment == "*" else _number(segment, text) for segment in segments))

    def targets(self, instances: tuple[Path, ...]) -> list[Path]:
        """The paths to address on a device that announced ``instances`` (objects and instances, from its links).

        ``/3303/*/5700`` on a device with /3303/0 and /3303/1 is [/3303/0/5700, /3303/1/5700]. A trailing ``*`` needs no
        expansion: ``/3303/*`` addresses each instance, and ``/3303/0/*`` the instance itself.
        """
        object_id, *rest = self.levels
        here = [path for path in instances if path.object_id == object_id]
        if not here:
            return []
        if not rest:
            return [Path(object_id)]
        known = sorted({path.instance_id for path in here if path.instance_id is not None})
        chosen = [i for i in known if rest[0] in (None, i)]
        if len(rest) == 1 or rest[1] is None:
            return [Path(object_id, i) for i in chosen]
        return [Path(object_id, i, rest[1]) for i in chosen]

    def __str__(self) -> str:
        return "/" + "/".join("*" if level is None else str(level) for level in self.levels)
