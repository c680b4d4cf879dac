"""Who may do what in a store: what the modules that make users have in common.

Owns the types and errors of `connectors.influxdb_users` and `connectors.orientdb_users`. Opens nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from security.secrets import Secret

#: Nothing that any of the stores' languages would read as more than a name.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")
#: What all of them hash as it is: bcrypt reads no more than 72 bytes.
_LONGEST = 72
#: Below it InfluxDB 2 refuses; what we make ourselves has 64.
_SHORTEST = 8


class StoreError(Exception):
    """Root of what can go wrong: StoreUnreachable, StoreRefused, InvalidStoreUser."""


class StoreUnreachable(StoreError):
    """No answer: it is not up yet, or is somewhere else."""


class StoreRefused(StoreError):
    """It answers, and says no; the text is what it says."""


class InvalidStoreUser(StoreError):
    """A name or a password that not every store takes."""


class Access(Enum):
    """What a user may do with the one database or bucket."""

    READ = "read"
    WRITE = "write"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreUser:
    """A user that shall be there, with this password and this right and no other.

    Raises:
        InvalidStoreUser: the name is none, or the password is shorter than 8 or longer than 72 bytes.
    """

    name: str
    password: Secret
    access: Access

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidStoreUser(
                f"{self.name!r} is no name of a user: letters, digits, - and _, a letter first, 63 at most"
            )
        if not _SHORTEST <= len(self.password.reveal().encode()) <= _LONGEST:
            raise InvalidStoreUser(f"the password of {self.name} has to have {_SHORTEST} to {_LONGEST} bytes")
