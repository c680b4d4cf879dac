"""What an authority has issued and revoked: the file ``record.json``, which holds no secret.

Owns the form of the file and the rules that hang on it alone: which generation of an identity counts, and which serial
numbers a revocation list names. Pure: text in, text out. The file is written by `security.authority`; others (the
deployment, the ACLs) read it to know who is revoked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from security.certificates import Withdrawn
from security.errors import AuthorityBroken
from security.identities import Identity, InvalidIdentity

#: The name of the file in the authority's folder.
FILE = "record.json"
#: Of the form that this code writes.
VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """One authority: its number, the SHA-256 of its certificate (hex), and when it was made and runs out."""

    number: int
    fingerprint: str
    made_at: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """One certificate. It is recorded before it is written, so there may be none of it, but never one unrecorded."""

    identity: Identity
    serial: int
    signer: int
    issued_at: datetime
    not_after: datetime
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoked:
    """An identity that shall never have a right again."""

    identity: Identity
    at: datetime
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """All of it. ``signers`` are those that are trusted, the oldest first; ``signing`` is the number of the one that
    signs."""

    signers: tuple[Signer, ...]
    signing: int
    issued: tuple[Issued, ...] = ()
    revoked: tuple[Revoked, ...] = ()

    @property
    def signer(self) -> Signer:
        """The authority that signs."""
        return next(one for one in self.signers if one.number == self.signing)

    def current(self, identity: Identity) -> Identity:
        """The generation of this role and name that may be issued now: the one after the last that was revoked."""
        gone = [
            one.identity.generation
            for one in self.revoked
            if (one.identity.role, one.identity.name) == (identity.role, identity.name)
        ]
        return identity.at(max(gone, default=0) + 1)

    def is_revoked(self, identity: Identity) -> bool:
        """True once it was revoked."""
        return any(one.identity == identity for one in self.revoked)

    def find(self, serial: int) -> Issued | None:
        """The certificate of this serial number."""
        return next((one for one in self.issued if one.serial == serial), None)

    def withdrawn(self, signer: int, now: datetime) -> list[Withdrawn]:
        """What the revocation list of a signer names: every certificate of a revoked identity that has not run out."""
        when = {one.identity: one.at for one in self.revoked}
        return [
            Withdrawn(serial=one.serial, at=when[one.identity])
            for one in self.issued
            if one.signer == signer and one.identity in when and one.not_after > now
        ]

    @property
    def last_change(self) -> datetime:
        """The latest moment that is written down; no clock that is right says less."""
        return max(
            [one.made_at for one in self.signers]
            + [one.issued_at for one in self.issued]
            + [one.at for one in self.revoked]
        )

    def with_issued(self, issued: Issued) -> Record:
        return replace(self, issued=(*self.issued, issued))

    def with_revoked(self, revoked: Revoked) -> Record:
        return replace(self, revoked=(*self.revoked, revoked))


def to_text(record: Record) -> str:
    """The record as JSON; serial numbers are hex, times ISO 8601 in UTC."""
    content = {
        "version": VERSION,
        "signing": record.signing,
        "signers": [
            {
                "number": one.number,
                "fingerprint": one.fingerprint,
                "made_at": _moment_text(one.made_at),
                "not_after": _moment_text(one.not_after),
            }
            for one in record.signers
        ],
        "issued": [
            {
                "identity": one.identity.principal,
                "serial": f"{one.serial:x}",
                "signer": one.signer,
                "issued_at": _moment_text(one.issued_at),
                "not_after": _moment_text(one.not_after),
                "names": list(one.names),
            }
            for one in record.issued
        ],
        "revoked": [
            {"identity": one.identity.principal, "at": _moment_text(one.at), "reason": one.reason}
            for one in record.revoked
        ],
    }
    return json.dumps(content, indent=1) + "\n"


def from_text(text: str, file: object) -> Record:
    """The record that `to_text` wrote; ``file`` is for the message.

    Raises:
        AuthorityBroken: it is damaged, of a later version, or not ours.
    """
    try:
        content = json.loads(text)
        if not isinstance(content, Mapping) or not isinstance(content["version"], int):
            raise TypeError("it is no record of an authority")
        if content["version"] > VERSION:
            raise AuthorityBroken(
                f"{file} was written by a later version of headwater (its form is {content['version']}, this one knows "
                f"{VERSION})"
            )
        record = Record(
            signers=tuple(
                Signer(
                    number=int(one["number"]),
                    fingerprint=str(one["fingerprint"]),
                    made_at=_moment(one["made_at"]),
                    not_after=_moment(one["not_after"]),
                )
                for one in content["signers"]
            ),
            signing=int(content["signing"]),
            issued=tuple(
                Issued(
                    identity=Identity.parse(one["identity"]),
                    serial=int(one["serial"], 16),
                    signer=int(one["signer"]),
                    issued_at=_moment(one["issued_at"]),
                    not_after=_moment(one["not_after"]),
                    names=tuple(map(str, one["names"])),
                )
                for one in content["issued"]
            ),
            revoked=tuple(
                Revoked(identity=Identity.parse(one["identity"]), at=_moment(one["at"]), reason=str(one["reason"]))
                for one in content["revoked"]
            ),
        )
    except (ValueError, TypeError, KeyError, AttributeError, InvalidIdentity) as exc:
        raise AuthorityBroken(
            f"{file} is damaged or not ours ({type(exc).__name__}: {exc}); put it back from a backup: it says which "
            "identities are revoked, so it is not made anew"
        ) from exc
    if record.signing not in {one.number for one in record.signers}:
        raise AuthorityBroken(f"{file} is damaged: there is no authority {record.signing} in it")
    return record


def _moment_text(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _moment(text: Any) -> datetime:
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError(f"{text!r} names no time zone")
    return found.astimezone(UTC)
