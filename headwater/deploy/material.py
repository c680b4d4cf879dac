"""What a fleet has on the machine that deploys it: its certificates and the passwords of its stores.

Owns the folder of the passwords, one owner-only file each, made of the system's randomness where one is missing, never
shown; and the fingerprints by which secrets are named. The certificates are `security.authority`'s, which is asked.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from headwater.deploy.stackfile import digest
from security import durable
from security.authority import Authority
from security.errors import AuthorityMissing
from security.fleet import default_names
from security.identities import Identity
from security.secrets import read_secret
from security.tls_folder import CA, CERTIFICATE, KEY, KEYSTORE


def _random() -> bytes:
    """256 bits, as hexadecimal digits."""
    return secrets.token_hex(32).encode()


def _no_keys() -> bytes:
    """A file of API keys that lets nobody in; `headwater apikeys create` adds some."""
    return b'{"version": 1, "keys": []}\n'


#: The secrets of the cloud beside its certificates; each is a file of this name, and made so if it is not there. What
#: is named without a consumer opens all of that store, and only the store itself and ``stores_setup`` have it.
PASSWORDS: Mapping[str, Callable[[], bytes]] = {
    "influxdb_password": _random,
    "influxdb_token": _random,
    "influxdb_sink_password": _random,
    "influxdb_grafana_password": _random,
    "orientdb_password": _random,
    "orientdb_sink_password": _random,
    "grafana_password": _random,
    "api_keys": _no_keys,
}
#: What is used if there is such a file, and not made: where Alertmanager posts alerts to.
WEBHOOK = "alert_webhook_url"


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """An identity in its current generation. ``fingerprint`` is None while there is no certificate yet."""

    identity: Identity
    folder: Path
    fingerprint: str | None

    @property
    def generation(self) -> str:
        """What stands behind ``role:name``: nothing, or ``:2``."""
        return "" if self.identity.generation == 1 else f":{self.identity.generation}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """Everything secret, by where it is. ``identities`` by ``role:name`` without a generation; ``passwords`` by name,
    None where there is none yet; ``revoked`` are the identities that shall never have a right again; ``files`` are the
    fingerprints of those with which gateways meet their devices, by path."""

    identities: Mapping[str, Held]
    passwords: Mapping[str, str | None]
    revoked: tuple[Identity, ...] = field(default=())
    files: Mapping[Path, str] = field(default_factory=dict)

    def fingerprint(self, identity: Identity) -> str | None:
        """That of the current generation of this role and name."""
        return self.identities[base(identity)].fingerprint


def base(identity: Identity) -> str:
    """``role:name`` without a generation."""
    return identity.at(1).principal


def look(identities: Iterable[Identity], pki: Path, passwords: Path, files: Iterable[Path] = ()) -> Material:
    """What is there; changes nothing. ``files`` are those with which gateways meet their devices.

    Raises:
        SecurityError: what is there cannot be used.
        OSError: one of ``files`` cannot be read.
    """
    authority = Authority(pki)
    try:
        record = authority.record()
    except AuthorityMissing:
        record = None
    held = {}
    for identity in identities:
        current = identity if record is None else record.current(identity)
        folder = pki / "issued" / current.folder
        there = record is not None and all((folder / name).is_file() for name in (CA, CERTIFICATE, KEY, KEYSTORE))
        held[base(identity)] = Held(identity=current, folder=folder, fingerprint=fingerprint(folder) if there else None)
    return Material(
        identities=held,
        passwords={name: _password(passwords / name) for name in PASSWORDS}
        | {name: _password(passwords / name) for name in (WEBHOOK,) if (passwords / name).exists()},
        revoked=() if record is None else tuple(one.identity for one in record.revoked),
        files={file: digest(file.read_bytes()) for file in files},
    )


def fingerprint(folder: Path) -> str:
    """What names the secrets of an identity: it changes with its key, its certificate, and those whom it trusts."""
    return digest(*((folder / name).read_bytes() for name in (CA, CERTIFICATE, KEY)))


def make_certificate(identity: Identity, pki: Path) -> None:
    """Issue a certificate, and make the authority before if there is none.

    Raises:
        SecurityError: it refuses.
    """
    authority = Authority(pki)
    authority.create()
    authority.ensure(identity, names=default_names(identity))


def make_password(file: Path) -> None:
    """Make a password, unless the file is there."""
    durable.make_folder(file.parent)
    if not file.exists():
        durable.write_file(file, PASSWORDS[file.name]())


def _password(file: Path) -> str | None:
    if not file.exists():
        return None
    read_secret(file)  # says what is wrong with it, if anything
    return digest(file.read_bytes())
