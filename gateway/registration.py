"""The registration interface's parameters (OMA LwM2M Core 1.1, section 6.2; 1.0 section 5.3). Pure.

Turns the Uri-Query options and the link-format payload of Register and Update into values, and refuses what the
specification refuses. It keeps no state.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from gateway.coap.message import Code
from schemas.avro.records import Binding, Link
from schemas.lwm2m.errors import CodecError
from schemas.lwm2m.link import parse_links
from schemas.lwm2m.path import Path, PathError

#: Section 6.2.1: "If Lifetime is not included, its value is 86400 seconds".
DEFAULT_LIFETIME = 86400
_LONGEST_LIFETIME = 2**31 - 1
#: The versions that this server speaks; others get 4.12 (section 6.2.1, table of response codes).
VERSIONS = ("1.0", "1.1", "1.2")
_LONGEST_NAME = 255
_MSISDN = re.compile(r"\+?[0-9]{1,15}", re.ASCII)
_BINDINGS = {
    (True, False, False): Binding.U,
    (True, False, True): Binding.UQ,
    (False, True, False): Binding.S,
    (False, True, True): Binding.SQ,
    (True, True, False): Binding.US,
    (True, True, True): Binding.UQS,
}


class Refused(Exception):
    """A registration request that gets an error; ``code`` is the CoAP code, the text the diagnostic payload."""

    def __init__(self, code: Code, words: str) -> None:
        super().__init__(words)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """What the link-format payload of Register or Update says; shared by all devices that say the same."""

    text: str
    links: tuple[Link, ...]
    #: The alternate path (section 6.4.1), "/" if there is none.
    root: str = "/"
    #: Content formats by the root link's ``ct``, with or without ``rt``; None if it says nothing.
    content_formats: frozenset[int] | None = None
    #: Objects and object instances, root cut off.
    paths: tuple[Path, ...] = ()
    object_versions: Mapping[int, str] = field(default_factory=dict)
    #: Bytes of memory that all this takes, at most.
    cost: int = 0
    #: True if others may well say the same, so that what is made of it is worth remembering.
    common: bool = False


class Parameters(NamedTuple):
    """The query parameters of Register and Update; None where one is absent. ``lifetime`` is in seconds, 0 without end
    (OMA object 1, resource 1)."""

    ep: str | None = None
    lifetime: int | None = None
    version: str | None = None
    binding: Binding | None = None
    sms: str | None = None
    attributes: Mapping[str, str] = MappingProxyType({})


def parse_parameters(queries: Sequence[str]) -> Parameters:
    """The parameters of Register or Update; what the specification does not name is kept in ``attributes``.

    Raises:
        Refused: a parameter is malformed, comes twice, or the version is not spoken here.
    """
    names = [query[3:] for query in queries if query.startswith("ep=") or query == "ep"]
    if len(names) > 1:
        raise Refused(Code.BAD_REQUEST, "ep is given twice")
    ep = names[0] if names else None
    if ep is not None and not (0 < len(ep) <= _LONGEST_NAME and ep.isprintable()):
        raise Refused(Code.BAD_REQUEST, "ep is no endpoint name")
    # Devices of one make differ in their names alone.
    others = tuple(query for query in queries if query[:3] != "ep=" and query != "ep")
    alike = sum(map(len, others)) <= _LONGEST_ALIKE
    return (_remembered_parameters(others) if alike else _parameters(others))._replace(ep=ep)


#: Characters of parameters that are remembered, for other devices that give the same.
_LONGEST_ALIKE = 128


@lru_cache(maxsize=1024)
def _remembered_parameters(queries: tuple[str, ...]) -> Parameters:
    return _parameters(queries)


def _parameters(queries: tuple[str, ...]) -> Parameters:
    given: dict[str, str] = {}
    for query in queries:
        name, _, value = query.partition("=")
        if name in given:
            raise Refused(Code.BAD_REQUEST, f"{name} is given twice")
        given[name] = value
    version = given.pop("lwm2m", None)
    if version is not None and version not in VERSIONS:
        raise Refused(Code.PRECONDITION_FAILED, f"LwM2M {', '.join(VERSIONS)} are spoken here")
    return Parameters(
        lifetime=_lifetime(given.pop("lt", None)),
        version=version,
        binding=_binding(given.pop("b", None), given.pop("Q", None)),
        sms=_number(given.pop("sms", None)),
        attributes=given,
    )


def _lifetime(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 10 or int(text) > _LONGEST_LIFETIME:
        raise Refused(Code.BAD_REQUEST, f"lt is no number of seconds from 0 (no end) to {_LONGEST_LIFETIME}")
    return int(text)


def _number(text: str | None) -> str | None:
    """The MSISDN at which the device takes SMS (E.164, with or without +)."""
    if text is not None and _MSISDN.fullmatch(text) is None:
        raise Refused(Code.BAD_REQUEST, "sms is no telephone number")
    return text


def _binding(text: str | None, queue: str | None) -> Binding | None:
    """1.0 says ``b=UQ``; 1.1 says ``b=U&Q``. Bindings without a letter of their own in the record count as U.

    A letter may come twice: Zephyr's client of 1.0 in queue mode says ``b=UQQ``.
    """
    if text is None and queue is None:
        return None
    letters = "U" if text is None else text
    if not letters or not set(letters) <= set("UMHTSNQ"):
        raise Refused(Code.BAD_REQUEST, "b is no binding mode")
    if queue:
        raise Refused(Code.BAD_REQUEST, "Q takes no value")
    sms = "S" in letters
    return _BINDINGS[("U" in letters or not sms, sms, "Q" in letters or queue is not None)]


def is_queued(binding: Binding) -> bool:
    """True in queue mode: the device listens only for a while after it has sent something (section 6.5)."""
    return "Q" in binding.value


def has_other_objects(said: Announcement, before: Announcement) -> bool:
    """True if other objects or instances are announced than before, or others of their versions."""
    return (said.paths, said.object_versions) != (before.paths, before.object_versions)


def parse_announcement(payload: bytes) -> Announcement:
    """The objects and instances of a device from its CoRE links (RFC 6690).

    Raises:
        Refused: the payload is no link format.
    """
    return _remembered(payload) if _is_common(payload) else _parse_announcement(payload)


def _is_common(payload: bytes) -> bool:
    # Devices of one make say the same; a long text is rather one of a kind, and would only fill the memory.
    return len(payload) <= _LONGEST_REMEMBERED and payload.count(b",") < _MOST_REMEMBERED


_LONGEST_REMEMBERED = 1024
_MOST_REMEMBERED = 64


@lru_cache(maxsize=1024)
def _remembered(payload: bytes) -> Announcement:
    return _parse_announcement(payload)


def _parse_announcement(payload: bytes) -> Announcement:
    try:
        text = payload.decode()
        parsed = parse_links(text)
    except (UnicodeDecodeError, CodecError) as exc:
        raise Refused(Code.BAD_REQUEST, f"links: {exc}") from exc
    links = tuple(
        Link(url=link.url, at={name: value or "" for name, value in link.attributes.items()}) for link in parsed
    )
    root = next((link.url for link in links if "oma.lwm2m" in link.at.get("rt", "").split()), "/")
    # Some devices name their formats there and leave out the ``rt``: without an alternate path they may.
    formats = next((_formats(link.at["ct"]) for link in links if link.url == root and "ct" in link.at), None)
    prefix = root.rstrip("/")
    paths: list[Path] = []
    versions: dict[int, str] = {}
    for link in links:
        if link.url == root or not link.url.startswith(prefix + "/"):
            continue
        try:
            path = Path.parse(link.url[len(prefix) :])
        except PathError:
            continue  # a link of another kind, which RFC 6690 allows beside ours
        if 1 <= path.depth <= 2 and path.object_id is not None:
            paths.append(path)
            if "ver" in link.at:
                versions[path.object_id] = link.at["ver"].strip('"')
    return Announcement(
        text=text,
        links=links,
        root=root,
        content_formats=formats,
        paths=tuple(paths),
        object_versions=versions,
        cost=_OBJECT
        + _LINK * len(links)
        + _PATH * len(paths)
        + _ATTRIBUTE * sum(len(link.at) for link in links)
        + _NUMBER * len(formats or ())
        + _BYTE * len(payload),
        common=_is_common(payload),
    )


#: Bytes of memory, as measured: of an announcement, of each link, of the path of an object or instance, of each
#: attribute of a link or a device, of each content format, and of each byte of text.
_OBJECT = 512
_LINK = 160
_PATH = 256
_ATTRIBUTE = 140
_NUMBER = 128
_BYTE = 8


def attributes_cost(attributes: Mapping[str, str]) -> int:
    """Bytes of memory that a device's own query parameters take, at most."""
    if not attributes:
        return 0
    return _OBJECT + sum(_ATTRIBUTE + 4 * (len(name) + len(value)) for name, value in attributes.items())


def _formats(text: str | None) -> frozenset[int] | None:
    if text is None:
        return None
    return frozenset(
        int(number) for number in text.split() if number.isascii() and number.isdigit() and len(number) <= 5
    )
