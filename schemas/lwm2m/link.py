"""CoRE Link Format, content format 40 (RFC 6690): what devices register, answer to Discover, and hold in Corelnk.

``</3>;ver=1.1,</3303/0/5700>;pmin=10;title="a, b"`` is two links. The parser goes once over the text, so hostile input
costs what its length is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from schemas.lwm2m import fit, tree
from schemas.lwm2m.errors import MalformedPayload, NotInThisFormat
from schemas.lwm2m.nodes import Node, Resource, ResourceType
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path

#: More than any device has; a payload of that many links is refused.
MAX_LINKS = 10_000


@dataclass(frozen=True, slots=True)
class Link:
    """A target and its attributes, in the order of the text; an attribute without ``=`` has the value None."""

    url: str
    attributes: Mapping[str, str | None] = field(default_factory=dict)


_TARGET = re.compile(r"[ \t]*<([^<>\x00-\x20\x7f]*)>[ \t]*")
# A parmname of RFC 5987, then nothing, a quoted string or a ptoken. Each part can match in one way only.
_ATTRIBUTE = re.compile(
    r"""[ \t]*([A-Za-z0-9!#$&+\-.^_`|~]+\*?)
        (?:[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s",;<>\x00-\x20\x7f]*)))?[ \t]*""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_PLAIN = re.compile(r"[A-Za-z0-9!#$%&'()*+\-./:=?@\[\]^_`{|}~]+\Z")
_NAME = re.compile(r"[A-Za-z0-9!#$&+\-.^_`|~]+\*?\Z")


def parse_links(text: str) -> tuple[Link, ...]:
    """Parse link-format text; the empty text is no links.

    Of an attribute that comes twice in a link the first counts (RFC 6690, section 2.2 and 3, for rel, rt, if, sz).

    Raises:
        MalformedPayload: it is no link format.
    """
    if not text.strip():
        return ()
    links: list[Link] = []
    position = 0
    while True:
        target = _TARGET.match(text, position)
        if target is None:
            raise _malformed(text, position, "a target like </3/0>")
        if len(links) == MAX_LINKS:
            raise MalformedPayload(f"more than {MAX_LINKS} links")
        position = target.end()
        attributes: dict[str, str | None] = {}
        while position < len(text) and text[position] == ";":
            attribute = _ATTRIBUTE.match(text, position + 1)
            if attribute is None:
                raise _malformed(text, position + 1, "an attribute like ver=1.1")
            name, quoted, plain = attribute.groups()
            attributes.setdefault(name, plain if quoted is None else _ESCAPE.sub(r"\1", quoted))
            position = attribute.end()
        links.append(Link(target[1], attributes))
        if position == len(text):
            return tuple(links)
        if text[position] != ",":
            raise _malformed(text, position, "a comma or a semicolon")
        position += 1


def format_links(links: Iterable[Link]) -> str:
    """The text of links; values are quoted where they must be.

    Raises:
        NotInThisFormat: a target or the name of an attribute has a character that the format cannot carry.
    """
    return ",".join(_format(link) for link in links)


def decode(payload: bytes, path: Path, definitions: Definitions) -> Resource:
    """The links of a Corelnk (or STRING, or unknown) resource at ``path``, as a STRING that is checked to be links.

    What a device answers to Discover is no node: use `parse_links`.

    Raises:
        CodecError: no link format, or a path that holds no such value.
    """
    definition = tree.single(path, definitions, "the link format")
    if definition is not None and definition.type not in (None, ResourceType.STRING):
        raise NotInThisFormat(f"{path} is of type {definition.type.value}, which the link format cannot carry")
    try:
        text = payload.decode()
    except UnicodeDecodeError as exc:
        raise MalformedPayload("the links are no valid UTF-8") from exc
    parse_links(text)
    return Resource(path=path, type=ResourceType.STRING, value=text)


def encode(node: Node, definitions: Definitions) -> bytes:
    """The text of a STRING Resource that holds links.

    Raises:
        CodecError: the node is no single STRING, or its text is no link format.
    """
    if isinstance(node, Resource):
        kind, value, _ = fit.outgoing(node, definitions)
        if kind is ResourceType.STRING and isinstance(value, str):
            try:
                parse_links(value)
            except MalformedPayload as exc:
                raise NotInThisFormat(f"{node.path}: the text holds no links: {exc}") from exc
            return value.encode()
    raise NotInThisFormat(f"{node.path}: the link format carries links (a single STRING) only")


def _format(link: Link) -> str:
    target = f"<{link.url}>"
    if not _TARGET.fullmatch(target):
        raise NotInThisFormat(f"{link.url!r} cannot be the target of a link")
    parts = [target]
    for name, value in link.attributes.items():
        if not _NAME.match(name):
            raise NotInThisFormat(f"{name!r} cannot be the name of a link attribute")
        if value is None:
            parts.append(name)
        elif _PLAIN.match(value):
            parts.append(f"{name}={value}")
        else:
            escaped = value.replace("\\", "\\\\").replace('"', '\\"')
            parts.append(f'{name}="{escaped}"')
    return ";".join(parts)


def _malformed(text: str, position: int, expected: str) -> MalformedPayload:
    found = repr(text[position : position + 20]) if position < len(text) else "the end"
    return MalformedPayload(f"no link format: {found} at character {position} is not {expected}")
