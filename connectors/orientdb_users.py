"""A user of OrientDB who may keep the asset graph in one database, and nothing else.

Owns the role: which rights it has (`rights`), and that it has no others, also if it had before; and that the database
with its classes is there, which that user may not make. Speaks OrientDB's HTTP API as a user of the server (``root``).
Touches no user and no role that it is not asked for.

OrientDB checks classes and, apart from them, the clusters in which their records lie, of which a class has several.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntFlag

from connectors.sinks.orientdb_client import OrientRefused, OrientUnreachable
from connectors.sinks.orientdb_database import GraphDatabase
from connectors.sinks.orientdb_graph import EDGES, VERTICES
from connectors.sinks.orientdb_http import HttpClient
from connectors.store_users import Access, InvalidStoreUser, StoreRefused, StoreUnreachable, StoreUser
from security.secrets import Secret

#: Roles that OrientDB makes itself; a user's role has the user's name. It does not tell capitals from small letters.
_OWN_ROLES = frozenset({"admin", "reader", "writer"})
_NO_DATABASE = "OStorageDoesNotExistException"


class Right(IntFlag):
    """A permission, by its bit in the rules of a role."""

    CREATE = 1
    READ = 2
    UPDATE = 4
    DELETE = 8
    EXECUTE = 16


#: An endpoint is never deleted, nor is its place at a gateway; objects that no endpoint has any more are.
_KEEPS = Right.CREATE | Right.READ | Right.UPDATE
_CLASSES: Mapping[str, Right] = {
    **dict.fromkeys((*VERTICES, *EDGES), _KEEPS),
    **dict.fromkeys(("Objects", "hasObject"), _KEEPS | Right.DELETE),
}
#: Beside its classes: to open the database, and to see which classes there are.
_ALWAYS: Mapping[str, Right] = {
    "database": Right.READ,
    "database.schema": Right.READ,
    "database.cluster.internal": Right.READ,
    "database.command": Right.READ,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OrientAdmin:
    """How the administrator reaches OrientDB over HTTP; ``timeout`` of each answer in seconds."""

    host: str
    port: int = 2480
    user: str = "root"
    password: Secret
    timeout: float = 30.0
    tls: ssl.SSLContext | None = None

    def client(self, database: str) -> HttpClient:
        """A connection to a database, which is not opened yet."""
        return HttpClient(
            host=self.host,
            port=self.port,
            database=database,
            user=self.user,
            password=self.password.reveal(),
            timeout=self.timeout,
            tls=self.tls,
        )


def rights(access: Access, clusters: Mapping[str, Sequence[str]]) -> dict[str, Right]:
    """What a role may do, by resource as OrientDB writes it; ``clusters`` are those of each class of the graph."""
    found = dict(_ALWAYS)
    for name, right in _CLASSES.items():
        right = right if access is Access.WRITE else Right.READ
        found[f"database.class.{name.lower()}"] = right
        for cluster in clusters[name]:
            found[f"database.cluster.{cluster.lower()}"] = right
    return found


def ensure_users(admin: OrientAdmin, *, database: str, users: Sequence[StoreUser]) -> list[str]:
    """Let the database, its classes and ``users`` be there, with these passwords and rights; a line a user.

    Raises:
        StoreUnreachable, StoreRefused: see there; what was done until then stays, and doing all again does no harm.
        InvalidStoreUser: a role of OrientDB's own has that name.
    """
    for user in users:
        if user.name.lower() in _OWN_ROLES:
            raise InvalidStoreUser(f"{user.name} is a role that OrientDB makes itself: take another name")
    where = f"OrientDB {admin.host}:{admin.port}/{database}"
    client = admin.client(database)
    try:
        try:
            client.open()
        except OrientRefused as exc:
            if _NO_DATABASE not in exc.names:
                raise
            client.create()
        GraphDatabase(client).prepare()
        return list(_ensure(client, database, users))
    except OrientUnreachable as exc:
        raise StoreUnreachable(f"{where}: {exc}") from exc
    except OrientRefused as exc:
        raise StoreRefused(f"{where}: {exc}") from exc
    except (LookupError, TypeError, ValueError, AttributeError) as exc:
        raise StoreRefused(f"{where}: it answers as none does: is it OrientDB's HTTP port?") from exc
    finally:
        client.close()


def _ensure(client: HttpClient, database: str, users: Sequence[StoreUser]) -> Iterator[str]:
    clusters = _clusters(client)
    for user in users:
        # One role a user: what it may do is that user's alone.
        role = user.name
        found = client.query(f"SELECT FROM ORole WHERE name = {_text(role)}")
        if not found:
            client.query(f"INSERT INTO ORole SET name = {_text(role)}, mode = 0, rules = {{}}")
        elif found[0].get("inheritedRole") is not None:
            client.query(f"UPDATE ORole SET inheritedRole = null WHERE name = {_text(role)}")
        has = {str(name): Right(int(bits)) for name, bits in (found[0].get("rules") or {}).items()} if found else {}
        for statement in _changes(role, has, rights(user.access, clusters)):
            client.query(statement)
        client.query(
            f"UPDATE OUser SET name = {_text(user.name)}, password = {_text(user.password.reveal())},"
            f" status = 'ACTIVE', roles = (SELECT FROM ORole WHERE name = {_text(role)}) UPSERT"
            f" WHERE name = {_text(user.name)}"
        )
        yield f"{user.name}: may {user.access.value} the graph in {database}; it {'stays' if found else 'is made'}"


def _changes(role: str, has: Mapping[str, Right], wanted: Mapping[str, Right]) -> Iterator[str]:
    """The statements between what a role may and what it shall; rights come before others go."""
    none = Right(0)
    for verb, more, fewer, word in (("GRANT", wanted, has, "TO"), ("REVOKE", has, wanted, "FROM")):
        for resource, all_of_it in more.items():
            for right in Right:
                if right & all_of_it & ~fewer.get(resource, none):
                    yield f"{verb} {right.name} ON {resource} {word} `{role}`"


def _clusters(client: HttpClient) -> dict[str, list[str]]:
    """The names of the clusters of each class of the graph."""
    rows = client.query("SELECT id, name FROM (SELECT EXPAND(clusters) FROM metadata:storage)")
    names = {int(str(row["id"])): str(row["name"]) for row in rows}
    classes = client.query("SELECT name, clusterIds FROM (SELECT EXPAND(classes) FROM metadata:schema)")
    return {
        str(row["name"]): [names[int(str(one))] for one in row["clusterIds"]]
        for row in classes
        if row["name"] in _CLASSES
    }


def _text(text: str) -> str:
    """As a literal of OrientDB's SQL. As JSON, which escapes quotes and backslashes as it does."""
    return json.dumps(text, ensure_ascii=False)
