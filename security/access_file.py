"""The file in which an installation says who is there and which people may see and command what.

Owns its form (TOML) and whether it makes sense. Pure: text in, facts out. All keys may be left out::

    gateways = ["rock64", "pi3"]                   # of the cloud; an edge has its own alone
    identities = ["sink:_all", "replicator:pi3:2"] # beside the usual ones, or in another generation
    revoked = ["user:bob"]                         # shall never have a right again

    [users.anna]
    see = ["*"]                                    # all that devices of these gateways say
    command = ["rock64"]                           # and who may send them requests
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from schemas.avro.topics import InvalidGatewayId, validate_gateway_id
from security.acls import UserRights
from security.identities import ALL_GATEWAYS, Identity, InvalidIdentity, Role


class AccessFileError(ValueError):
    """The file does not say what it should; the text says where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What was said, in the file or otherwise."""

    gateways: tuple[str, ...] = ()
    identities: frozenset[Identity] = frozenset()
    revoked: frozenset[Identity] = frozenset()
    users: Mapping[str, UserRights] = field(default_factory=dict)


def parse_access(text: str) -> Access:
    """The facts of a file.

    Raises:
        AccessFileError: no TOML, an unknown key, or a value that is none.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise AccessFileError(f"it is no TOML: {exc}") from exc
    _known(document, {"gateways", "identities", "revoked", "users"}, "")
    users = document.get("users", {})
    if not isinstance(users, dict):
        raise AccessFileError('"users" holds a table for each: [users.anna]')
    return Access(
        gateways=tuple(dict.fromkeys(_gateway(one, "gateways") for one in _texts(document, "gateways", ""))),
        identities=frozenset(_identity(one) for one in _texts(document, "identities", "")),
        revoked=frozenset(_identity(one) for one in _texts(document, "revoked", "")),
        users={name: _user(name, table) for name, table in users.items()},
    )


def user_rights(see: Collection[str], command: Collection[str]) -> UserRights:
    """Rights for the gateways named, ``*`` for all.

    Raises:
        AccessFileError: one is no gateway's id.
    """
    return UserRights(see=_served(see, "see"), command=_served(command, "command"))


def in_force(usual: Collection[Identity], access: Access) -> tuple[frozenset[Identity], frozenset[Identity]]:
    """Those who get their rights, and those who are denied everything.

    An identity that is named in a later generation stands in the place of the usual one, and all before it are denied:
    only a revocation makes a generation.
    """
    named = {(one.role, one.name): one for one in sorted(access.identities, key=lambda one: one.generation)}
    denied = set(access.revoked)
    for one in named.values():
        denied |= {one.at(generation) for generation in range(1, one.generation)}
    everyone = {one for one in usual if (one.role, one.name) not in named} | set(named.values())
    return frozenset(everyone - denied), frozenset(denied)


def _user(name: str, table: object) -> UserRights:
    try:
        Identity(Role.USER, name)
    except InvalidIdentity as exc:
        raise AccessFileError(f"[users.{name}]: {exc}") from exc
    if not isinstance(table, dict):
        raise AccessFileError(f"[users.{name}] is a table with see and command")
    _known(table, {"see", "command"}, f"[users.{name}] ")
    try:
        return user_rights(_texts(table, "see", name), _texts(table, "command", name))
    except AccessFileError as exc:
        raise AccessFileError(f"[users.{name}] {exc}") from exc


def _served(names: Collection[str], key: str) -> frozenset[str]:
    return frozenset(ALL_GATEWAYS if name == "*" else _gateway(name, key) for name in names)


def _gateway(name: str, key: str) -> str:
    try:
        return validate_gateway_id(name)
    except InvalidGatewayId as exc:
        raise AccessFileError(f"{key}: {exc}") from exc


def _identity(text: str) -> Identity:
    try:
        return Identity.parse(text)
    except InvalidIdentity as exc:
        raise AccessFileError(str(exc)) from exc


def _texts(table: Mapping[str, Any], key: str, whose: str) -> list[str]:
    found = table.get(key, [])
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise AccessFileError(f'{f"[users.{whose}] " if whose else ""}{key} is a list of texts: {key} = ["…"]')
    return found


def _known(table: Mapping[str, Any], keys: Collection[str], where: str) -> None:
    unknown = sorted(set(table) - set(keys))
    if unknown:
        raise AccessFileError(f"{where}{unknown[0]!r} is no key here; there are: {', '.join(sorted(keys))}")
