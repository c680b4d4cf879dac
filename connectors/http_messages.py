"""HTTP/1.1 messages as bytes and values: what a request may be, and what an answer looks like. No I/O, no clock.

Follows RFC 9112 strictly where clients and proxies disagree about where a request ends, since that is how one request
is smuggled behind another: a line that is folded, a blank before a colon, two lengths, a bare CR or a NUL is refused,
never mended. No transfer coding is taken (411 asks for a length), and a connection carries one request, so nothing can
stand behind it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qsl, unquote_to_bytes

#: The request line and all fields: a client of ours needs some hundred bytes.
MAX_HEAD_BYTES = 16 * 1024
MAX_FIELDS = 64
MAX_QUERY_FIELDS = 32

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rf"({_TOKEN}) ([\x21-\x7e]+) HTTP/(\d)\.(\d)")
#: Blanks around the value are taken off after it: a pattern that did it could be made to go back and forth for long.
_FIELD = re.compile(rf"({_TOKEN}):([\t\x20-\x7e\x80-\xff]*)")
_ABSOLUTE = re.compile(r"https?://[^/?#]*", re.IGNORECASE)
#: A % that begins no octet.
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
#: Fields that say where a message ends or whom it is for: twice is once too often.
_ONCE = frozenset({"host", "content-length", "content-type", "authorization", "transfer-encoding"})

TEXT = "text/plain; charset=utf-8"


class Refused(Exception):
    """The request is not to be worked on; ``status`` and the words are the answer."""

    def __init__(self, status: HTTPStatus, message: str, fields: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.fields = fields or {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request. ``path`` is what stands between its slashes, decoded: ``/subjects/a%2Fb`` is ``("subjects", "a/b")``.

    ``fields`` have their names in lower case; ``query`` holds the first of what is given twice. ``peer`` is the
    client's address.
    """

    method: str
    path: tuple[str, ...]
    query: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict, repr=False)
    #: Bytes of the body, which the fields announce.
    length: int = 0
    body: bytes = field(default=b"", repr=False)
    peer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer. It has a length always; HEAD gets the fields alone."""

    status: HTTPStatus = HTTPStatus.OK
    content_type: str = TEXT
    body: bytes = b""
    fields: Mapping[str, str] = field(default_factory=dict)


def text(status: HTTPStatus, words: str, fields: Mapping[str, str] | None = None) -> Answer:
    """An answer in words, for people."""
    return Answer(status=status, body=f"{words}\n".encode("utf-8", "replace"), fields=fields or {})


def wrong_method(*allowed: str) -> Refused:
    """405 with the methods that there are (RFC 9110, section 15.5.6)."""
    there = ", ".join(allowed)
    return Refused(HTTPStatus.METHOD_NOT_ALLOWED, f"there are: {there}", {"Allow": there})


def parse_head(head: bytes, peer: str = "") -> Request:
    """The request whose line and fields are ``head``, up to and with the empty line; its body is not there yet.

    Raises:
        Refused: it is no HTTP/1 request, or one whose end is in doubt.
    """
    # Latin-1 keeps every byte as one sign (RFC 9110, section 5.5); the patterns say which are allowed.
    line, *rest = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    found = _REQUEST_LINE.fullmatch(line)
    if found is None:
        raise Refused(HTTPStatus.BAD_REQUEST, "that is no request line of HTTP/1.1")
    method, target, major, minor = found.groups()
    if major != "1":
        raise Refused(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "HTTP/1.1 is spoken here")
    fields = _fields(rest)
    if minor != "0" and "host" not in fields:
        raise Refused(HTTPStatus.BAD_REQUEST, "a request of HTTP/1.1 names its host (RFC 9112, section 3.2)")
    path, _, query = _origin(method, target).partition("?")
    return Request(
        method=method,
        path=tuple(_decoded(segment) for segment in path[1:].split("/")),
        query=_query(query),
        fields=fields,
        length=_length(fields),
        peer=peer,
    )


def render(answer: Answer, *, head_only: bool) -> bytes:
    """The bytes of an answer, after which the connection ends."""
    fields = {
        "Server": "headwater",
        "Content-Type": answer.content_type,
        "Content-Length": str(len(answer.body)),
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
        "Connection": "close",
        **answer.fields,
    }
    lines = [f"HTTP/1.1 {answer.status.value} {answer.status.phrase}", *(f"{k}: {v}" for k, v in fields.items())]
    head = "".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1", "replace")
    return head if head_only else head + answer.body


def _fields(lines: list[str]) -> dict[str, str]:
    if len(lines) > MAX_FIELDS:
        raise Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"no more than {MAX_FIELDS} fields are read")
    fields: dict[str, str] = {}
    for line in lines:
        found = _FIELD.fullmatch(line)
        if found is None:
            raise Refused(HTTPStatus.BAD_REQUEST, "a field of the request is not of the form 'name: value'")
        name, value = found[1].lower(), found[2].strip(" \t")
        if name in fields and name in _ONCE:
            raise Refused(HTTPStatus.BAD_REQUEST, f"{name} is given twice")
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return fields


def _origin(method: str, target: str) -> str:
    """The target as ``/path?query``; in absolute form it is the same without its host (RFC 9112, section 3.2.2)."""
    if target.startswith("/"):
        return target
    absolute = _ABSOLUTE.match(target)
    if absolute is not None:
        rest = target[absolute.end() :]
        return rest if rest.startswith("/") else f"/{rest}"
    if method == "OPTIONS" and target == "*":
        return "/*"
    raise Refused(HTTPStatus.BAD_REQUEST, "the target of a request is /path")


def _decoded(segment: str) -> str:
    if _BROKEN_ESCAPE.search(segment):
        raise Refused(HTTPStatus.BAD_REQUEST, "a % in the path begins no octet")
    try:
        return unquote_to_bytes(segment).decode("utf-8")
    except UnicodeDecodeError as exc:
        raise Refused(HTTPStatus.BAD_REQUEST, "the path is no UTF-8") from exc


def _query(query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS, errors="strict")
    except ValueError as exc:
        raise Refused(HTTPStatus.BAD_REQUEST, "the query is no UTF-8, or has too many fields") from exc
    return dict(reversed(pairs))


def _length(fields: Mapping[str, str]) -> int:
    if "transfer-encoding" in fields:
        # Whatever it is, with a length beside it or not: who reads it in another way has another idea of the end.
        raise Refused(HTTPStatus.LENGTH_REQUIRED, "a body is sent with its length; no transfer coding is read")
    length = fields.get("content-length", "0")
    # int() would take signs, blanks, underscores and other scripts' digits.
    if not (length.isascii() and length.isdigit()) or len(length) > 18:
        raise Refused(HTTPStatus.BAD_REQUEST, "the length of the body is no number")
    return int(length)
