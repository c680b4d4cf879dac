"""The Redis of a store of credentials: what its URL says, a connection to it, and what its errors mean to people.

Owns who may be spoken with. The URL is
``redis[s]://[USER[:PASSWORD]@]HOST[:PORT][/DATABASE][?prefix=…&password_file=…&ca_file=…&cert_file=…&key_file=…]``;
with ``rediss`` the server's certificate and name are checked. No message has a password, or anything that was sent.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import structlog

from security.errors import CredentialStoreError, InvalidCredential, SecurityError, StoreExposed, StoreForeign
from security.secrets import Secret, read_secret

_LOG = structlog.get_logger("headwater.security")

_OPTIONS: Final = ("prefix", "password_file", "ca_file", "cert_file", "key_file")
_PREFIX: Final = re.compile(r"[A-Za-z0-9_.:-]{1,100}")
_USUAL_PREFIX: Final = "headwater:credentials"

#: By what the error says, and by the class that redis-py makes of it.
_WORDS: Final[Mapping[str, str]] = {
    "Authentication required": "asks for a password: give one with password_file=FILE in its URL",
    "AuthenticationError": "refuses the user or the password: check them",
    "NoPermissionError": "does not let this user do that: see docs/credentials.md for the rights that are needed",
    "read only replica": "is a replica: name the primary",
    "ReadOnlyError": "is a replica: name the primary",
    "OutOfMemoryError": "is full: raise maxmemory, or make room",
    "MISCONF": "cannot save its data and takes nothing: see its log and its disk",
    "BusyLoadingError": "is still reading its data from the disk",
    "MovedError": "is a Redis Cluster; name a Redis that is none",
    "DB index": "has no such database",
    "TimeoutError": "does not answer in time",
    "ConnectionError": "cannot be reached",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a Redis is, and how to get in."""

    host: str
    port: int
    database: int
    user: str | None
    password: Secret | None
    tls: bool
    prefix: str = _USUAL_PREFIX
    password_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"the Redis at {host}:{self.port}"


def address_of(url: str) -> Address:
    """What a URL says.

    Raises:
        InvalidCredential: it is wrong; says what. Nothing of it is told, since it may have a password.
        StoreExposed: nothing is asked of who comes from another machine.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or 6379
        given = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise InvalidCredential("the URL of a Redis is redis://HOST:PORT/DATABASE, and this is none") from None
    database = parts.path.strip("/") or "0"
    options = dict(given)
    unknown = next((name for name in options if name not in _OPTIONS), None)
    if unknown is not None or len(options) != len(given) or not all(options.values()):
        raise InvalidCredential(
            f"behind the ? of the URL of a Redis each of these may stand once: {', '.join(_OPTIONS)}"
        )
    if not parts.hostname or not database.isdecimal() or parts.fragment:
        raise InvalidCredential("the URL of a Redis is redis://HOST:PORT/DATABASE, DATABASE a number")
    prefix = options.pop("prefix", _USUAL_PREFIX)
    if _PREFIX.fullmatch(prefix) is None:
        raise InvalidCredential("the prefix of a Redis has 1 to 100 letters, digits and . _ : -")
    files = {name: Path(text) for name, text in options.items()}
    tls = parts.scheme.lower() == "rediss"
    if parts.password and "password_file" in files:
        raise InvalidCredential("a password stands in the URL of a Redis or in password_file, not in both")
    if ("cert_file" in files) != ("key_file" in files) or (not tls and files.keys() - {"password_file"}):
        raise InvalidCredential("cert_file and key_file go together, and like ca_file with rediss://")
    address = Address(
        host=parts.hostname,
        port=port,
        database=int(database),
        user=unquote(parts.username) if parts.username else None,
        password=Secret(unquote(parts.password)) if parts.password else None,
        tls=tls,
        prefix=prefix,
        **files,
    )
    if not _is_here(address.host):
        if not (address.password or address.password_file or address.cert_file):
            raise StoreExposed(
                f"whoever reaches {address} may read the keys in it: set a password there (requirepass, or a user), "
                "and password_file=FILE in its URL; or rediss:// with cert_file and key_file"
            )
        if not tls:
            _LOG.warning("keys of devices go over the network in the clear", to=str(address), do="rediss://")
    return address


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def connect(address: Address, wait_s: float) -> Any:
    """A client, not yet connected, that waits no longer than that for each step. Untyped, as its answers are what each
    command makes of them.

    Raises:
        CredentialStoreError: redis-py is not installed, or the password cannot be read from its file.
    """
    try:
        from redis import Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError:
        raise CredentialStoreError(
            "credentials in a Redis need its client library: pip install 'headwater[redis]'"
        ) from None
    try:
        password = read_secret(address.password_file) if address.password_file is not None else address.password
    except SecurityError as exc:
        raise CredentialStoreError(f"the password for {address}: {exc}") from None
    for file in (address.ca_file, address.cert_file, address.key_file):
        if file is not None and not file.is_file():
            raise CredentialStoreError(f"there is no file {file}, which is to be used with {address}")
    settings: dict[str, Any] = {
        "host": address.host,
        "port": address.port,
        "db": address.database,
        "username": address.user,
        "password": None if password is None else password.reveal(),
        "socket_timeout": wait_s,
        "socket_connect_timeout": wait_s,
        "decode_responses": True,
        "protocol": 2,
    }
    if address.tls:
        settings |= {
            "ssl": True,
            "ssl_ca_certs": address.ca_file and str(address.ca_file),
            "ssl_certfile": address.cert_file and str(address.cert_file),
            "ssl_keyfile": address.key_file and str(address.key_file),
            "ssl_check_hostname": True,
        }
    return Redis(**settings, retry=Retry(NoBackoff(), 0))


def in_words(address: Address, error: Exception) -> CredentialStoreError:
    """What to tell of an error of redis-py."""
    text = str(error)
    if "WRONGTYPE" in text:
        return StoreForeign(f"{address} has something else under {address.prefix}: give another prefix=… in its URL")
    names = [one.__name__ for one in type(error).__mro__]
    advice = next((words for sign, words in _WORDS.items() if sign in text or sign in names), None)
    if isinstance(error, OSError) and advice is None:
        return CredentialStoreError(f"{address} cannot be reached: {error.strerror or type(error).__name__}")
    # Of the rest its first word (ERR, NOSCRIPT): behind it may stand what was sent.
    return CredentialStoreError(f"{address} {advice or 'cannot be used, it says ' + (text.split() or names)[0]}")
