"""Which store of credentials is meant by what was given, and the opening of it.

Owns the table of the kinds of store: a path is a file in SQLite, ``redis://…`` and ``rediss://…`` (over TLS) a Redis. A
kind more is a file with it, and a row here. What a kind needs is loaded when one of it is opened.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from security.credentials.store import CredentialStore
from security.errors import InvalidCredential

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """Where a store is that is no file. ``text`` may hold a password, so neither str nor repr shows that."""

    text: str = field(repr=False)

    @property
    def has_password(self) -> bool:
        """Whether the URL itself has one."""
        return str(self) != self.text

    def __str__(self) -> str:
        # Of several `@` the last one ends user and password, as `urllib.parse` has it.
        head, _, rest = self.text.partition("://")
        place, sign, query = rest.partition("?")
        login, at, host = place.rpartition("@")
        user, colon, _ = login.partition(":")
        return f"{head}://{user}{':******' if colon else ''}{at}{host}{sign}{query}"


StorePlace = Path | StoreUrl


def place_of(text: str) -> StorePlace:
    """The file or URL that is written so.

    Raises:
        InvalidCredential: it looks like a URL, and there is no such kind of store.
    """
    found = _SCHEME.match(text)
    if found is None:
        return Path(text)
    if found[1].lower() not in _REMOTE:
        known = ", ".join(f"{one}://" for one in _REMOTE)
        raise InvalidCredential(
            f"there is no store of credentials {found[1]}://; it is a file, or a URL that begins with one of: {known}"
        )
    return StoreUrl(text)


def open_store(place: StorePlace, *, make: bool = False) -> CredentialStore:
    """The store there; with ``make`` an empty one is made where there is none.

    Raises:
        StoreMissing: there is none.
        StoreExposed: others may read or change it; says what to do.
        StoreForeign: it is damaged, not ours, or of a later version.
        CredentialStoreError: it cannot be read, or reached.
    """
    if isinstance(place, StoreUrl):
        return _REMOTE[place.text.partition(":")[0].lower()](place, make)
    from security.credentials.sqlite import SqliteCredentials

    return SqliteCredentials(place, make=make)


def _redis(place: StoreUrl, make: bool) -> CredentialStore:
    from security.credentials.redis import RedisCredentials

    return RedisCredentials(place.text, make=make)


_REMOTE: Final[Mapping[str, Callable[[StoreUrl, bool], CredentialStore]]] = {"redis": _redis, "rediss": _redis}
