"""The configuration of a bootstrap server, a YAML file, as `gateway.bootstrap.profile` values.

Owns the names of its keys, their limits (OMA LwM2M Core 1.1, appendix E.1 to E.3) and what goes together. Reads the
file and the certificates that it names, and opens no store.
"""

from __future__ import annotations

from pathlib import Path as FilePath
from urllib.parse import urlsplit

from gateway.bootstrap.profile import AccessControl, Account, Config, Mode, Profile, Right
from gateway.bootstrap.yaml_tree import MOST_BYTES, ConfigError, Value, read
from schemas.lwm2m.path import Path, PathError
from security.credentials.encodings import certificate_of
from security.credentials.kinds import is_pattern
from security.credentials.opening import StorePlace, StoreUrl, place_of
from security.errors import InvalidCredential

#: Objects of which a device is asked what it has (section 6.1.7.3: Bootstrap-Read is for objects 1 and 2).
_READABLE = (1, 2)
_LONGEST = 2**31 - 1
_SHORT_ID = (1, 65534)
_TOP = {
    "endpoints": "profiles by the names of endpoints",
    "patterns": "profiles by glob patterns; the first that fits is taken",
    "default": "the profile of all others",
}
_PROFILE = {
    "servers": "a list of servers, each with uri, short_id and security",
    "acl": "a list of who may do what (object 2)",
    "delete": "a list of paths that are deleted first; [/0, /1] when left out",
    "read": "a list of paths of objects 1 and 2 that are read into the trace first",
    "discover": "true or false: whether the device is asked what it has; true when left out",
}
_SERVER = {
    "uri": "where the device reaches the server, such as coaps://gateway.example:5684",
    "short_id": "its short server id, 1 to 65534",
    "security": "psk, x509, oscore or none",
    "store": "the credentials that this server reads: a file, or redis://…",
    "server_certificate": "with x509: the server's certificate, a PEM file",
    "lifetime": "of registrations, in seconds; 0: without end",
    "binding": "U, UQ, …",
    "store_notifications": "true or false: whether values are kept while the server is away",
    "min_period": "default minimum period, in seconds",
    "max_period": "default maximum period, in seconds",
    "disable_timeout": "in seconds",
    "hold_off": "seconds before the device first registers",
}
_ACL = {
    "object": "an object id",
    "instance": "an object instance id; 65535 is the right to create",
    "owner": "the short server id of the owner",
    "rights": "by short server id (0: all others) a list of read, write, execute, delete, create",
}
_TIMES = ("min_period", "max_period", "disable_timeout", "hold_off")


def load(path: FilePath) -> Config:
    """Read and check the file; what it names is relative to its folder.

    Raises:
        ConfigError: it cannot be read, or is wrong; says where.
    """
    try:
        data = path.read_bytes()
        text = data.decode("utf-8")
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path} is no UTF-8 text") from exc
    if len(data) > MOST_BYTES:
        raise ConfigError(f"{path} has more than {MOST_BYTES >> 10} KiB")
    return parse(text, str(path), path.parent.absolute())


def parse(text: str, file: str, folder: FilePath) -> Config:
    """The configuration of a text; ``file`` is its name in errors, ``folder`` what its paths are relative to.

    Raises:
        ConfigError: it is wrong; says where.
    """
    top = read(text, file)
    found = top.mapping(_TOP)
    if not found:
        raise top.wrong("nothing is configured; there is at least `default:` with its servers")
    endpoints = {}
    for name, value in (found["endpoints"].mapping() if "endpoints" in found else {}).items():
        if is_pattern(name):
            raise value.wrong(f"{name!r:.60} is a pattern, and stands under `patterns:`")
        endpoints[name] = _profile(value, f"endpoints: {name}", folder)
    patterns = []
    for glob, value in (found["patterns"].mapping() if "patterns" in found else {}).items():
        if not is_pattern(glob):
            raise value.wrong(f"{glob!r:.60} is the name of one endpoint, and stands under `endpoints:`")
        patterns.append((glob, _profile(value, f"patterns: {glob}", folder)))
    default = _profile(found["default"], "default", folder) if "default" in found else None
    return Config(endpoints=endpoints, patterns=tuple(patterns), default=default)


def _profile(value: Value, name: str, folder: FilePath) -> Profile:
    found = value.mapping(_PROFILE, needed=("servers",))
    accounts: list[Account] = []
    for one in found["servers"].items():
        account = _account(one, folder)
        if any(account.short_id == other.short_id for other in accounts):
            raise one.wrong(f"the short_id {account.short_id} is that of another server above")
        accounts.append(account)
    if not accounts:
        raise found["servers"].wrong("a device needs a server at least")
    known = {account.short_id for account in accounts}
    acls = tuple(_acl(one, known) for one in found["acl"].items()) if "acl" in found else ()
    delete = _paths(found["delete"], (0, 1, 2)) if "delete" in found else (Path(0), Path(1))
    reads = _paths(found["read"], (1, 2)) if "read" in found else ()
    for path in reads:
        if path.object_id not in _READABLE:
            raise found["read"].wrong(f"{path}: a bootstrap server may read objects 1 and 2 alone")
    discover = found["discover"].boolean() if "discover" in found else True
    return Profile(name=name, accounts=tuple(accounts), acls=acls, delete=delete, read=reads, discover=discover)


def _paths(value: Value, depths: tuple[int, ...]) -> tuple[Path, ...]:
    found = []
    for one in value.items():
        try:
            path = Path.parse(one.text())
        except PathError as exc:
            raise one.wrong(str(exc)) from None
        if path.depth not in depths:
            raise one.wrong(f"{path} is not of this kind: an object such as /1, or an instance such as /1/0")
        found.append(path)
    return tuple(found)


def _account(value: Value, folder: FilePath) -> Account:
    found = value.mapping(_SERVER, needed=("uri", "short_id", "security"))
    try:
        mode = Mode(found["security"].text())
    except ValueError:
        raise found["security"].wrong("there is psk, x509, oscore and none") from None
    times = {name: found[name].number(0, _LONGEST) if name in found else None for name in _TIMES}
    if mode is Mode.NONE:
        if "store" in found:
            raise found["store"].wrong("without security there is no key to be stored")
    elif "store" not in found:
        raise value.wrong("store is missing: the file of credentials that this server reads, for the device's key")
    if "server_certificate" in found and mode is not Mode.X509:
        raise found["server_certificate"].wrong("it goes with `security: x509`")
    return Account(
        uri=_uri(found["uri"], mode),
        short_id=found["short_id"].number(*_SHORT_ID),
        mode=mode,
        store=_store(found["store"], folder) if "store" in found else None,
        server_certificate=_certificate(found["server_certificate"], folder) if "server_certificate" in found else b"",
        lifetime=found["lifetime"].number(0, _LONGEST) if "lifetime" in found else 86400,
        binding=_binding(found["binding"]) if "binding" in found else "U",
        store_notifications=found["store_notifications"].boolean() if "store_notifications" in found else True,
        min_period=times["min_period"],
        max_period=times["max_period"],
        disable_timeout=times["disable_timeout"],
        hold_off=times["hold_off"],
    )


def _store(value: Value, folder: FilePath) -> StorePlace:
    try:
        place = place_of(value.text())
    except InvalidCredential as exc:
        raise value.wrong(str(exc)) from None
    if not isinstance(place, StoreUrl):
        return folder / place
    if place.has_password:
        # It would go into the trace, from which old keys are removed.
        raise value.wrong(
            "a password does not stand in this file: put it into another one, and ?password_file=FILE here"
        )
    return place


def _uri(value: Value, mode: Mode) -> str:
    words = value.text()
    wanted = "coaps" if mode in (Mode.PSK, Mode.X509) else "coap"
    try:
        parts = urlsplit(words)
        good = parts.scheme == wanted and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or len(words) > 255 or parts.username or parts.path not in ("", "/") or parts.query:
        raise value.wrong(f"with `security: {mode.value}` it is {wanted}://HOST or {wanted}://HOST:PORT")
    return words


def _binding(value: Value) -> str:
    words = value.text()
    if not set(words) <= set("UMHTSNQ") or len(set(words)) != len(words):
        raise value.wrong(f"{words!r:.20} is no binding, such as U or UQ")
    return words


def _certificate(value: Value, folder: FilePath) -> bytes:
    path = folder / value.text()
    try:
        return certificate_of(path.read_bytes())
    except OSError as exc:
        raise value.wrong(f"{path} cannot be read: {exc.strerror}") from None
    except InvalidCredential as exc:
        raise value.wrong(f"{path}: {exc}") from None


def _acl(value: Value, servers: set[int]) -> AccessControl:
    found = value.mapping(_ACL, needed=("object", "instance", "owner"))
    rights = {}
    for words, one in (found["rights"].mapping() if "rights" in found else {}).items():
        if not (words.isascii() and words.isdigit()) or int(words) not in servers | {0}:
            raise one.wrong(f"{words!r:.20} is the short_id of no server here, nor 0")
        rights[int(words)] = _rights(one)
    owner = found["owner"].number(*_SHORT_ID)
    if owner not in servers:
        raise found["owner"].wrong(f"{owner} is the short_id of no server here")
    return AccessControl(
        object_id=found["object"].number(1, 65534),
        instance_id=found["instance"].number(0, 65535),
        owner=owner,
        rights=rights,
    )


def _rights(value: Value) -> Right:
    given = Right(0)
    names = {str(right.name).lower(): right for right in Right}
    for one in value.items():
        found = names.get(one.text().lower())
        if found is None:
            raise one.wrong(f"there is {', '.join(names)}")
        given |= found
    return given
