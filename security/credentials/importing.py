"""Many credentials out of one file, CSV (RFC 4180) or JSON (RFC 8259), into a store.

Owns how the file is read, line by line, and what is said of each line. Reading is pure: bytes to rows. No message
tells a key.
"""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any, Final

from security.credentials.fields import ALL, credential_of
from security.credentials.kinds import Credential, CredentialId
from security.credentials.store import CredentialStore, Done, Outcome, Put
from security.errors import Exposed, InvalidCredential, SecretError
from security.secrets import exposure

#: 100,000 devices are a quarter of it.
MOST_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A row that is not taken: the line on which it begins, from 1, and why and what to do."""

    line: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What a file says: its credentials with the lines on which they begin, and the rows that are none."""

    rows: tuple[tuple[int, Credential], ...]
    refused: tuple[Refused, ...]


class Bad(Enum):
    """What is done about rows that cannot be taken."""

    REFUSE_ALL = "refuse all"
    SKIP = "skip"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What became of a file: the lines of each outcome, and whether anything was stored. ``known`` were taken up before
    and are left as they are."""

    added: tuple[int, ...]
    unchanged: tuple[int, ...]
    changed: tuple[int, ...]
    refused: tuple[Refused, ...]
    stored: bool
    known: tuple[int, ...] = ()


def read(data: bytes, now: datetime) -> Read:
    """The credentials in a file, each created ``now``. One that begins with ``[`` is JSON, any other CSV.

    Raises:
        InvalidCredential: the file as a whole cannot be read; the message says where.
    """
    if len(data) > MOST_BYTES:
        raise InvalidCredential(f"it has {len(data)} bytes, and {MOST_BYTES} are the most")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise InvalidCredential(f"line {line}: it is no UTF-8 text") from None
    rows: list[tuple[int, Credential]] = []
    refused: list[Refused] = []
    seen: dict[CredentialId, tuple[str, Credential]] = {}
    is_json = text.lstrip()[:1] in ("[", "{")
    for number, (line, fields) in enumerate((_json if is_json else _csv)(text), 1):
        place = f"object {number}" if is_json else f"line {line}"
        try:
            if isinstance(fields, str):
                raise InvalidCredential(fields)
            credential = credential_of(fields, now)
            first, same = seen.setdefault(credential.id, (place, credential))
            if same != credential:
                raise InvalidCredential(f"{first} says something else of {_quoted(credential.id)}")
            rows.append((line, credential))
        except InvalidCredential as exc:
            refused.append(Refused(line=line, why=_at(place, fields, exc) if is_json else str(exc)))
    return Read(rows=tuple(rows), refused=tuple(refused))


def read_file(file: Path, now: datetime) -> Read:
    """As `read`, of a file that is its owner's, and without a row that is none.

    Raises:
        Exposed: others may read or change the file.
        SecretError: it cannot be read.
        InvalidCredential: it cannot be read as such, or a row of it is no credential; the message names file and line.
    """
    try:
        problem = exposure(file)
        if problem is not None:
            raise Exposed(problem)
        with file.open("rb") as opened:
            data = opened.read(MOST_BYTES + 1)
    except OSError as exc:
        raise SecretError(f"{file}: {exc.strerror}") from None
    try:
        found = read(data, now)
    except InvalidCredential as exc:
        raise InvalidCredential(f"{file}: {exc}") from None
    if found.refused:
        first, more = found.refused[0], len(found.refused) - 1
        raise InvalidCredential(f"{file}, line {first.line}: {first.why}" + (f" (and {more} more lines)" * bool(more)))
    return found


def take_up(store: CredentialStore, found: Read) -> Report:
    """Store what is new in a file that is given again at every start: what was taken up once, and says the same still,
    is left as people have made it since. So what they removed does not come back, and a row that leaves the file leaves
    nothing of the store. A row whose identity another endpoint has is refused, and tried again the next time.

    Raises:
        CredentialStoreError: it cannot be written; nothing is stored.
    """
    return _report(found, store.put([one for _, one in found.rows], Put.ONCE), stored=True)


def _at(place: str, fields: dict[str, str] | str, exc: InvalidCredential) -> str:
    """With the number of the object: a whole file may stand on one line."""
    endpoint = "" if isinstance(fields, str) else fields.get("endpoint", "")
    return f"{place}{f' ({endpoint!r:.80})' if endpoint else ''}: {exc}"


def bring_in(store: CredentialStore | None, found: Read, *, bad: Bad, trial: bool) -> Report:
    """Store what was read, in one step. With `Bad.REFUSE_ALL` nothing is, if one row cannot be; with ``trial`` nothing
    is at all. None is a store that is not there yet, for a trial.

    Raises:
        CredentialStoreError: it cannot be written; nothing is stored.
    """
    may = not trial and (bad is Bad.SKIP or not found.refused)
    how = Put.TRIAL if not may else Put.FITTING if bad is Bad.SKIP else Put.ALL
    credentials = [one for _, one in found.rows]
    outcomes = [Outcome(done=Done.ADDED)] * len(credentials) if store is None else store.put(credentials, how)
    conflict = any(one.done is Done.CONFLICT for one in outcomes)
    return _report(found, outcomes, stored=how is Put.FITTING or (how is Put.ALL and not conflict))


def _report(found: Read, outcomes: Sequence[Outcome], *, stored: bool) -> Report:
    lines: dict[Done, list[int]] = {one: [] for one in Done}
    refused = list(found.refused)
    for (line, credential), outcome in zip(found.rows, outcomes, strict=True):
        lines[outcome.done].append(line)
        if outcome.done is Done.CONFLICT:
            refused.append(Refused(line=line, why=conflict_words(credential, outcome.holder)))
    return Report(
        added=tuple(lines[Done.ADDED]),
        unchanged=tuple(lines[Done.UNCHANGED]),
        changed=tuple(lines[Done.CHANGED]),
        refused=tuple(sorted(refused, key=lambda one: one.line)),
        stored=stored,
        known=tuple(lines[Done.KNOWN]),
    )


def conflict_words(credential: Credential, holder: str | None) -> str:
    """That another endpoint has this identity, and what to do."""
    name = credential.id.name
    return (
        f"{_quoted(credential.id)} is {holder}'s, and cannot be {credential.endpoint}'s too: give that one another, or "
        f"first: headwater credentials remove {shlex.quote(holder or '')} --identity {shlex.quote(name)}"
    )


def _quoted(identity: CredentialId) -> str:
    return f"the {identity.kind.value} identity {identity.name!r:.120}"


def _csv(text: str) -> Iterator[tuple[int, dict[str, str] | str]]:
    head = text.split("\n", 1)[0]
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=";" if ";" in head else ",")
    columns: Sequence[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as exc:
            raise InvalidCredential(f"line {line}: it is no CSV ({exc})") from None
        if cells is None:
            break
        if not any(cell.strip() for cell in cells):
            continue
        if columns is None:
            columns = _columns(line, [cell.strip().lower() for cell in cells])
        elif len(cells) != len(columns):
            yield line, f"it has {len(cells)} fields, and the first line {len(columns)}"
        else:
            yield line, dict(zip(columns, cells, strict=True))
    if columns is None:
        raise InvalidCredential("it is empty: a CSV file begins with a line such as endpoint,kind,identity,key")


def _columns(line: int, names: list[str]) -> list[str]:
    wrong = [name for name in names if name not in ALL]
    if wrong or len(set(names)) < len(names) or "endpoint" not in names or "kind" not in names:
        # Without a first line, what stands there is a credential: it is not told.
        raise InvalidCredential(
            f"line {line}: the first line names the columns, each once: endpoint, kind, and of "
            f"{', '.join(ALL[2:])} those that are needed"
        )
    return names


def _json(text: str) -> Iterator[tuple[int, dict[str, str] | str]]:
    decoder = json.JSONDecoder(object_pairs_hook=_object)
    place, line = _after_space(text, 0), 1

    def wrong(what: str) -> InvalidCredential:
        return InvalidCredential(f"line {text.count(chr(10), 0, place) + 1}: {what}")

    if text[place] != "[":
        raise wrong("a list of objects is expected: [{…}, {…}]")
    counted, place = 0, _after_space(text, place + 1)
    first = True
    while text[place : place + 1] != "]":
        if not first:
            if text[place : place + 1] != ",":
                raise wrong("a comma or the end of the list is expected")
            place = _after_space(text, place + 1)
        first = False
        line, counted = line + text.count("\n", counted, place), place
        try:
            found, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as exc:
            place = exc.pos if isinstance(exc, json.JSONDecodeError) else place
            raise wrong("it is no JSON") from None
        place = _after_space(text, place)
        yield line, _texts(found)
    if _after_space(text, place + 1) < len(text):
        raise wrong("there is something behind the list")


class _Pairs(list[tuple[str, Any]]):
    """An object as it stands there, so that a name that is there twice is seen."""


def _object(pairs: list[tuple[str, Any]]) -> _Pairs:
    return _Pairs(pairs)


def _texts(found: Any) -> dict[str, str] | str:
    """The fields of an object, or what is wrong with it."""
    if not isinstance(found, _Pairs):
        return 'it is no object: {"endpoint": "…", "kind": "psk", …} is expected'
    fields: dict[str, str] = {}
    for name, value in found:
        if name in fields:
            return f"the field {name!r:.40} is there twice"
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            return f"the field {name!r:.40} is no text"
        try:
            fields[name] = str(value)
        except ValueError:
            return f"the field {name!r:.40} is no text"
    return fields


def _after_space(text: str, place: int) -> int:
    while place < len(text) and text[place] in " \t\r\n":
        place += 1
    return place
