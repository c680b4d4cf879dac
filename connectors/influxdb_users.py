"""Users of InfluxDB who may write one bucket, or read it, and nothing else.

Owns how they are made in InfluxDB 2 and 1.8, which of the two it is, and that they have no right beyond that one, also
if they had before. Makes no bucket or database, and touches no user that it is not asked for.

InfluxDB 2 chooses its API tokens itself and tells them once, so that they could not be known before it runs. What it
lets be chosen is the password of an authorization for clients of 1.x ("v1 auth"), which counts at ``/write`` and
``/query``. Its way is the one of ``influx v1 auth create``: ``/private/legacy/authorizations``.
"""

from __future__ import annotations

import http.client
import json
import ssl
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from connectors.store_users import Access, InvalidStoreUser, StoreRefused, StoreUnreachable, StoreUser
from security.secrets import Secret

_LEGACY = "/private/legacy/authorizations"
#: An answer is no longer than that, in bytes.
_LONGEST = 4 << 20

#: Of InfluxDB 1.8; GRANT puts one in the place of the other.
_PRIVILEGES = {Access.READ: "READ", Access.WRITE: "WRITE"}


@dataclass(frozen=True, slots=True, kw_only=True)
class InfluxAdmin:
    """How the administrator reaches InfluxDB: ``url`` such as http://influxdb:8086; the token of 2.x, or of 1.8
    ``user:password``; ``timeout`` of each answer in seconds."""

    url: str
    token: Secret
    timeout: float = 10.0
    tls: ssl.SSLContext | None = None

    def ask(
        self, method: str, path: str, body: object = None, form: Mapping[str, str] | None = None, **query: str
    ) -> tuple[int, bytes]:
        """Status and content. ``body`` goes as JSON, ``form`` as a form.

        Raises:
            StoreUnreachable: no answer.
        """
        parts = urlsplit(self.url)
        host, port = parts.hostname or "", parts.port
        link = (
            http.client.HTTPSConnection(host, port, timeout=self.timeout, context=self.tls)
            if parts.scheme == "https"
            else http.client.HTTPConnection(host, port, timeout=self.timeout)
        )
        token = self.token.reveal()
        kind, word = ("Basic", b64encode(token.encode()).decode()) if ":" in token else ("Token", token)
        headers = {"Authorization": f"{kind} {word}", "Content-Type": "application/json"}
        sent = None if body is None else json.dumps(body)
        if form is not None:
            # Not in the address, which servers log.
            headers["Content-Type"], sent = "application/x-www-form-urlencoded", urlencode(form)
        target = parts.path.rstrip("/") + path + (f"?{urlencode(query)}" if query else "")
        try:
            link.request(method, target, sent, headers)
            answer = link.getresponse()
            return answer.status, answer.read(_LONGEST)
        except (OSError, http.client.HTTPException, ValueError) as exc:
            # A token that is no header's value would be told by the error.
            words = type(exc).__name__ if isinstance(exc, ValueError) else str(exc) or type(exc).__name__
            raise StoreUnreachable(f"InfluxDB at {self.url}: {words}") from None
        finally:
            link.close()

    def json(
        self, method: str, path: str, body: object = None, form: Mapping[str, str] | None = None, **query: str
    ) -> Any:
        """The answer to a request that must succeed; None if there is nothing in it.

        Raises:
            StoreUnreachable, StoreRefused: see there.
        """
        status, content = self.ask(method, path, body, form, **query)
        if not 200 <= status < 300:
            raise self.refused(status, content)
        try:
            return json.loads(content) if content.strip() else None
        except ValueError:
            raise StoreRefused(f"InfluxDB at {self.url}: what it answers to {method} {path} is no JSON") from None

    def refused(self, status: int, content: bytes) -> StoreRefused:
        """What an answer that is an error says."""
        words = content.decode("utf-8", "replace")
        try:
            told = json.loads(words)
            words = str(told.get("message") or told.get("error") or words) if isinstance(told, dict) else words
        except ValueError:
            pass
        return StoreRefused(f"InfluxDB at {self.url}: {status} {' '.join(words.split())[:300]}")


def ensure_users(admin: InfluxAdmin, *, org: str, bucket: str, users: Sequence[StoreUser]) -> list[str]:
    """Let ``users`` be there with these passwords and rights; a line a user of what came of it.

    ``bucket`` is that of InfluxDB 2 in ``org``, or a database (and retention policy) of 1.8, and must exist.

    Raises:
        StoreUnreachable, StoreRefused: see there; what was done until then stays, and doing all again does no harm.
        InvalidStoreUser: it is the administrator.
    """
    # Only version 2 knows it.
    status, content = admin.ask("GET", "/api/v2/setup")
    try:
        if status == 404:
            return list(_ensure_in_1(admin, bucket.partition("/")[0], users))
        if status != 200:
            raise admin.refused(status, content)
        return list(_ensure_in_2(admin, org, bucket, users))
    except (LookupError, TypeError, ValueError, AttributeError) as exc:
        raise StoreRefused(f"InfluxDB at {admin.url}: it answers as none does: is it InfluxDB?") from exc


# ---- InfluxDB 2


def _ensure_in_2(admin: InfluxAdmin, org: str, bucket: str, users: Iterable[StoreUser]) -> Iterator[str]:
    found = admin.json("GET", "/api/v2/buckets", org=org, name=bucket)["buckets"]
    if not found:
        raise StoreRefused(f"InfluxDB at {admin.url}: there is no bucket {bucket!r} in the organization {org!r}")
    (one,) = found
    for user in users:
        resource = {"type": "buckets", "id": one["id"], "orgID": one["orgID"]}
        permissions = [{"action": user.access.value, "resource": resource}]
        there = _authorization(admin, user.name)
        done = "stays" if there is not None else "is made"
        if there is not None and (not _is_exactly(there, permissions) or there.get("orgID") != one["orgID"]):
            # What an authorization may do never changes; another one takes its place.
            admin.json("DELETE", f"{_LEGACY}/{quote(there['id'], safe='')}")
            there, done = None, "is made anew"
        if there is None:
            wanted = {
                "token": user.name,
                "orgID": one["orgID"],
                "status": "active",
                "description": f"headwater: {user.access.value} {bucket}",
                "permissions": permissions,
            }
            there = admin.json("POST", _LEGACY, wanted)
        admin.json("POST", f"{_LEGACY}/{quote(there['id'], safe='')}/password", {"password": user.password.reveal()})
        yield f"{user.name}: may {user.access.value} the bucket {bucket}; it {done}"


def _authorization(admin: InfluxAdmin, name: str) -> Any:
    """The one of that name, or None."""
    status, content = admin.ask("GET", _LEGACY, token=name)
    if status == 404:
        return None
    if status != 200:
        raise admin.refused(status, content)
    told = json.loads(content)
    # All of them, if it should not know the filter.
    return next((one for one in told.get("authorizations", ()) if one.get("token") == name), None)


def _is_exactly(there: Mapping[str, Any], permissions: Sequence[Mapping[str, Any]]) -> bool:
    """It tells names beside the ids, which are left out of the comparison."""
    had = [
        {"action": one["action"], "resource": {key: one["resource"].get(key) for key in ("type", "id", "orgID")}}
        for one in there["permissions"]
    ]
    return had == list(permissions) and there.get("status") == "active"


# ---- InfluxDB 1.8


def _ensure_in_1(admin: InfluxAdmin, database: str, users: Iterable[StoreUser]) -> Iterator[str]:
    if [database] not in _rows(admin, "SHOW DATABASES"):
        raise StoreRefused(f"InfluxDB at {admin.url}: there is no database {database!r}")
    known = {str(name): bool(is_admin) for name, is_admin in _rows(admin, "SHOW USERS")}
    own = admin.token.reveal().partition(":")[0]
    if own in (user.name for user in users):
        raise InvalidStoreUser(f"{own} is the administrator itself, who would lose all rights")
    for user in users:
        name, password = _identifier(user.name), _text(user.password.reveal())
        if user.name in known:
            _rows(admin, f"SET PASSWORD FOR {name} = {password}")
            if known[user.name]:
                _rows(admin, f"REVOKE ALL PRIVILEGES FROM {name}")
        else:
            _rows(admin, f"CREATE USER {name} WITH PASSWORD {password}")
        for other, privilege in _rows(admin, f"SHOW GRANTS FOR {name}"):
            if other != database and privilege != "NO PRIVILEGES":
                _rows(admin, f"REVOKE ALL ON {_identifier(other)} FROM {name}")
        _rows(admin, f"GRANT {_PRIVILEGES[user.access]} ON {_identifier(database)} TO {name}")
        done = "stays" if user.name in known else "is made"
        yield f"{user.name}: may {user.access.value} the database {database}; it {done}"


def _rows(admin: InfluxAdmin, influxql: str) -> list[list[Any]]:
    told = admin.json("POST", "/query", form={"q": influxql})
    (result,) = told["results"]
    if "error" in result:
        raise StoreRefused(f"InfluxDB at {admin.url}: {result['error']}")
    return [row for series in result.get("series", ()) for row in series.get("values", ())]


def _identifier(name: str) -> str:
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _text(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"
