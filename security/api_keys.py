"""API keys for HTTP: who may ask what, as a file of names, scopes and hashes.

Owns the form of a key and of the file. Never holds a key beyond the call that made or asked it, and never logs: the key
itself is known only to whoever was shown it once. Knows no HTTP.

A key is ``hw_`` and 256 random bits. SHA-256 alone is the right hash for that: a salt and a slow function (scrypt,
Argon2) make guessing *passwords* dear, and nobody guesses one of 2**256; a slow one would only let strangers burn our
processor with wrong keys. So the file is no secret that opens anything, but whoever can write it can let himself in.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any

from security.errors import ApiKeyError

PREFIX = "hw_"
_VERSION = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
#: More than any installation has, and little to read at once.
MAX_FILE_BYTES = 1 << 20


class Scope(Enum):
    """What a key opens."""

    SCHEMAS_READ = "schemas:read"
    METRICS_READ = "metrics:read"
    DEVICES_READ = "devices:read"
    COMMANDS_WRITE = "commands:write"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """One row of the file. Times are in UTC, with whole seconds; ``digest`` is the SHA-256 of the key, in hex."""

    name: str
    digest: str
    scopes: frozenset[Scope]
    created: datetime
    expires: datetime | None = None
    revoked: datetime | None = None

    def __post_init__(self) -> None:
        if _NAME.fullmatch(self.name) is None:
            raise ApiKeyError(
                f"{self.name!r:.80} is no name of a key: 1 to 64 of letters, digits and . _ @ -, such as grafana"
            )
        if not self.scopes:
            raise ApiKeyError(f"the key {self.name} opens nothing: give it a scope")

    def is_valid(self, now: datetime) -> bool:
        """Neither revoked nor expired."""
        return self.revoked is None and (self.expires is None or now < self.expires)


def new_key(name: str, scopes: frozenset[Scope], *, now: datetime, expires: datetime | None) -> tuple[str, ApiKey]:
    """A fresh key, to be shown once, and its row.

    Raises:
        ApiKeyError: the name is none, there is no scope, or it has expired already.
    """
    if expires is not None and expires <= now:
        raise ApiKeyError(f"the key {name} would have expired already, on {expires.isoformat()}")
    text = PREFIX + secrets.token_urlsafe(32)
    until = None if expires is None else _seconds(expires)
    return text, ApiKey(name=name, digest=_digest(text), scopes=scopes, created=_seconds(now), expires=until)


def find(keys: Sequence[ApiKey], text: str) -> ApiKey | None:
    """Whose key this is. Looks at every row in the same way, so that the time taken tells nothing of any of them."""
    asked = _digest(text)
    found = None
    for key in keys:
        if hmac.compare_digest(key.digest, asked):
            found = key
    return found


class KeyFile:
    """The file, as a server reads it: asked from any thread, read again when it has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._seen: tuple[int, ...] | None = None
        self._keys: tuple[ApiKey, ...] = ()

    def keys(self) -> tuple[ApiKey, ...]:
        """The rows as of now. A file that has become unreadable opens nothing: a revocation must not be lost in it.

        Raises:
            ApiKeyError: there is no file, it is not in our form, or others may write it.
        """
        with self._lock:
            try:
                now = self._path.stat()
            except OSError as exc:
                raise ApiKeyError(f"the file of API keys {self._path}: {exc.strerror}") from exc
            # A replaced file has another inode, one written in place another time or size.
            state = (now.st_dev, now.st_ino, now.st_mtime_ns, now.st_ctime_ns, now.st_size)
            if state != self._seen:
                self._seen = None
                self._keys = read_keys(self._path)
                self._seen = state
            return self._keys

    def find(self, text: str) -> ApiKey | None:
        """The row of a key, valid or not, or None.

        Raises:
            ApiKeyError: as `keys`.
        """
        return find(self.keys(), text)


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """The rows of a file.

    It may be readable to others (Swarm mounts a secret so), since it holds hashes only; but not writable.

    Raises:
        ApiKeyError: there is none, it is not in our form, or others may write it.
    """
    try:
        # Without waiting: to open a pipe would take until somebody writes into it.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise ApiKeyError(f"the file of API keys {path} is no file")
            if mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise ApiKeyError(f"others may write the file of API keys {path}, and so let themselves in: chmod 600")
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as exc:
        raise ApiKeyError(f"the file of API keys {path}: {exc.strerror}") from exc
    if len(data) > MAX_FILE_BYTES:
        raise ApiKeyError(f"the file of API keys {path} is larger than {MAX_FILE_BYTES} bytes")
    try:
        keys = _rows(json.loads(data))
    except (ValueError, RecursionError, ApiKeyError) as exc:
        raise ApiKeyError(f"the file of API keys {path} is not in our form: {exc}") from exc
    return keys


def add(path: Path, key: ApiKey) -> None:
    """Add a row to the file, which is made if it is not there, for its owner alone.

    Raises:
        ApiKeyError: a key of that name is valid, or the file cannot be read or written.
    """
    with _changing(path) as rows:
        before = next((row for row in rows if row.name == key.name), None)
        if before is not None:
            if before.is_valid(key.created):
                raise ApiKeyError(f"there is a key {key.name} already; revoke it, or choose another name")
            rows.remove(before)
        rows.append(key)


def revoke(path: Path, name: str, now: datetime) -> ApiKey:
    """Mark a key as revoked, from now on; revoking it again changes nothing. The row as it is then.

    Raises:
        ApiKeyError: there is no key of that name, or the file cannot be read or written.
    """
    # Not made by the look for what is not in it.
    read_keys(path)
    with _changing(path) as rows:
        for index, row in enumerate(rows):
            if row.name == name:
                rows[index] = row if row.revoked is not None else replace(row, revoked=_seconds(now))
                return rows[index]
        known = ", ".join(row.name for row in rows) or "none"
        raise ApiKeyError(f"there is no key {name!r:.80} in {path}; there are: {known}")


@contextmanager
def _changing(path: Path) -> Iterator[list[ApiKey]]:
    """The rows to change in place: one writer at a time, and a reader sees the old file or the new one in full."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            rows = list(read_keys(path)) if path.exists() else []
            before = list(rows)
            yield rows
            if rows != before:
                _write(path, rows, folder)
        finally:
            os.close(folder)
    except OSError as exc:
        raise ApiKeyError(f"the file of API keys {path} cannot be changed: {exc.strerror}") from exc


def _write(path: Path, rows: Sequence[ApiKey], folder: int) -> None:
    text = json.dumps({"version": _VERSION, "keys": [_as_json(row) for row in rows]}, indent=2) + "\n"
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    # Not what the umask leaves: the owner alone, from the first byte on.
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    os.fsync(folder)


def _digest(text: str) -> str:
    # What a client sends may hold any code point.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _rows(document: Any) -> tuple[ApiKey, ...]:
    if not isinstance(document, dict) or document.get("version") != _VERSION:
        raise ValueError(f'an object with "version": {_VERSION} is expected')
    rows = document.get("keys")
    if not isinstance(rows, list):
        raise ValueError('"keys" is a list of objects')
    keys = tuple(_row(row) for row in rows)
    if len({key.name for key in keys}) < len(keys):
        raise ValueError("two keys have the same name")
    return keys


def _row(row: Any) -> ApiKey:
    if not isinstance(row, dict):
        raise ValueError('"keys" is a list of objects')
    name, digest, scopes = row.get("name"), row.get("sha256"), row.get("scopes")
    if not isinstance(name, str):
        raise ValueError("a key has a name")
    if not isinstance(digest, str) or _DIGEST.fullmatch(digest) is None:
        raise ValueError(f'"sha256" of {name} is 64 hexadecimal digits')
    if not isinstance(scopes, list) or not all(isinstance(scope, str) for scope in scopes):
        raise ValueError(f'"scopes" of {name} is a list of texts')
    created = _time(name, "created", row.get("created"))
    if created is None:
        raise ValueError(f'{name} has no time "created"')
    return ApiKey(
        name=name,
        digest=digest,
        scopes=frozenset(map(Scope, scopes)),
        created=created,
        expires=_time(name, "expires", row.get("expires")),
        revoked=_time(name, "revoked", row.get("revoked")),
    )


def _time(name: str, field: str, text: Any) -> datetime | None:
    if text is None:
        return None
    found = datetime.fromisoformat(text) if isinstance(text, str) else None
    if found is None or found.tzinfo is None:
        raise ValueError(f'"{field}" of {name} is a time with its zone, such as 2026-03-01T12:00:00+00:00, or null')
    return found.astimezone(UTC)


def _as_json(key: ApiKey) -> dict[str, Any]:
    return {
        "name": key.name,
        "sha256": key.digest,
        "scopes": sorted(scope.value for scope in key.scopes),
        "created": key.created.isoformat(),
        "expires": None if key.expires is None else key.expires.isoformat(),
        "revoked": None if key.revoked is None else key.revoked.isoformat(),
    }


def _seconds(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(microsecond=0)
