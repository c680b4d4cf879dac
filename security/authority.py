"""An own certificate authority for one fleet: issue, renew, revoke, and rotate the authority itself.

Owns the rules: who gets what, when a renewal is due, and that nothing is overwritten silently. Every operation may be
repeated: what is done already is told as kept. How it gets to the disk is `security.authority_folder`'s.

**Revocation.** Kafka reads no revocation list that we could give it, so a revoked identity is never issued again: the
next of the same role and name has another principal (``gateway:rock64:2``), and the rights go to that one alone. The
revocation list (``ca/crl.pem``) is written for everybody else who wants it.

**Rotation of the authority** has three steps, since everybody must trust the new one before anybody shows a certificate
of it: BEGIN (both are trusted, the old one signs), SIGN (the new one signs, everything is renewed), FINISH (the old one
is trusted no more, and its key is gone). Between two steps the files go out to everybody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path

from cryptography import x509

from security import certificates, durable, tls_folder
from security.authority_folder import AUTHORITY_DAYS, WAIT_S, AuthorityFolder, Change, Clock, utc_now
from security.certificates import PrivateKey
from security.errors import AuthorityBroken, AuthorityExpired, FolderError, Refused, SecretError
from security.identities import Identity, Role
from security.record import Issued, Record, Revoked

#: A little more than a year, so that a yearly round has slack.
LEAF_DAYS = 397
#: A certificate is renewed once no more than this is left.
RENEWED_WITHIN = timedelta(days=30)
#: Renew however much is left.
NOW = timedelta.max


class Done(Enum):
    """What an operation came to."""

    CREATED = "created"
    KEPT = "kept"
    RENEWED = "renewed"
    REVOKED = "revoked"


class Keys(Enum):
    """Which key a renewed certificate is for."""

    SAME = "same"
    NEW = "new"


class Step(Enum):
    """The steps of a rotation of the authority."""

    BEGIN = "begin"
    SIGN = "sign"
    FINISH = "finish"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one identity. ``folder`` holds its files; ``names`` are those a broker is reached by."""

    done: Done
    identity: Identity
    folder: Path
    not_after: datetime
    names: tuple[str, ...]


class Authority:
    """The authority in a folder. ``clock`` gives the time in UTC, to the second."""

    def __init__(self, path: Path, *, clock: Clock = utc_now, wait_s: float = WAIT_S) -> None:
        self.folder = AuthorityFolder(path, clock=clock, wait_s=wait_s)

    def create(self, *, days: int = AUTHORITY_DAYS) -> Done:
        """Make the authority; KEPT if there is one.

        Raises:
            AuthorityError: something else is there, or the clock is wrong.
        """
        return Done.CREATED if self.folder.make(days) else Done.KEPT

    def record(self) -> Record:
        """What was issued and revoked."""
        return self.folder.record()

    def ensure(self, identity: Identity, *, names: Sequence[str] = (), days: int = LEAF_DAYS) -> Outcome:
        """Issue a certificate to the identity's current generation, unless it has one.

        ``names``: host names and addresses under which a broker is reached.

        Raises:
            Refused: it has one without some of these names, or one that ran out; a client can have no names; or this
                generation was revoked.
            AuthorityError, SecurityError: as the messages say.
        """
        wanted = _names(identity, names)
        with self.folder.changing() as change:
            current = _current(change.record, identity)
            folder = self.folder.issued / current.folder
            if not folder.exists():
                return self._issue(change, current, certificates.new_key(), wanted, days, Done.CREATED)
            held = _held(folder, current, change.record)
            if change.now > held.not_after:
                raise Refused(f"the certificate of {current} ran out on {held.not_after:%Y-%m-%d}: " + _renew(current))
            missing = [name for name in wanted if name not in held.names]
            if missing:
                sans = " ".join(f"--san {name}" for name in missing)
                raise Refused(
                    f"{current} has a certificate already, without {', '.join(missing)}: {_renew(current)} {sans}"
                )
            return _outcome(Done.KEPT, held)

    def renew(
        self,
        identity: Identity,
        *,
        within: timedelta = RENEWED_WITHIN,
        keys: Keys = Keys.SAME,
        names: Sequence[str] = (),
        days: int = LEAF_DAYS,
    ) -> Outcome:
        """Another certificate for the same identity; the one before holds until it runs out, so nothing stands still.

        KEPT if more than ``within`` is left and it has all the ``names``, which are added to those it has.

        Raises:
            Refused: it has none to renew, or was revoked.
        """
        added = _names(identity, names)
        with self.folder.changing() as change:
            current = _current(change.record, identity)
            folder = self.folder.issued / current.folder
            if not folder.exists():
                raise Refused(f"{current} has no certificate in {self.folder.path}: {_create(current)} makes it")
            held = _held(folder, current, change.record)
            new = [name for name in added if name not in held.names]
            if not new and held.not_after - change.now > within:
                return _outcome(Done.KEPT, held)
            key = certificates.new_key() if keys is Keys.NEW else tls_folder.load_key(held.key_file)
            return self._issue(change, current, key, (*held.names, *new), days, Done.RENEWED)

    def revoke(self, identity: Identity, *, reason: str = "") -> Outcome:
        """Give up an identity's current generation for good; `ensure` makes the next one.

        An identity of an earlier generation is KEPT revoked.

        Raises:
            Refused: none such was ever issued.
        """
        with self.folder.changing() as change:
            record = change.record
            explicit = identity if identity.generation > 1 or record.is_revoked(identity) else None
            target = explicit or record.current(identity)
            issued = [one for one in record.issued if one.identity == target]
            if not issued:
                raise Refused(f"{target} was never issued by the authority in {self.folder.path}")
            done = Done.KEPT
            if not record.is_revoked(target):
                done = Done.REVOKED
                change.save(record.with_revoked(Revoked(identity=target, at=change.now, reason=reason)))
                change.settle()
            return Outcome(
                done=done,
                identity=target,
                folder=self.folder.revoked / target.folder,
                not_after=max(one.not_after for one in issued),
                names=issued[-1].names,
            )

    def identities(self) -> list[Identity]:
        """Those that have a folder now, by name."""
        record = self.record()
        found = {one.identity for one in record.issued if not record.is_revoked(one.identity)}
        return sorted((one for one in found if (self.folder.issued / one.folder).exists()), key=str)

    def rotate(
        self, step: Step, *, days: int = AUTHORITY_DAYS, leaf_days: int = LEAF_DAYS
    ) -> tuple[Done, list[Outcome]]:
        """One step of a rotation of the authority; done already: KEPT. SIGN tells what became of each identity.

        Raises:
            Refused: the step before is missing, or FINISH would shut somebody out.
        """
        match step:
            case Step.BEGIN:
                return self._begin(days), []
            case Step.SIGN:
                return self._sign(leaf_days)
            case Step.FINISH:
                return self._finish(), []

    def _begin(self, days: int) -> Done:
        with self.folder.changing() as change:
            record = change.record
            if len(record.signers) > 1:
                return Done.KEPT
            number = record.signers[-1].number + 1
            signer = self.folder.make_signer(number, change.now, days)
            change.save(replace(record, signers=(*record.signers, signer)))
        return Done.CREATED

    def _sign(self, days: int) -> tuple[Done, list[Outcome]]:
        with self.folder.changing() as change:
            record = change.record
            newest = record.signers[-1]
            if len(record.signers) == 1:
                raise Refused("no rotation is under way: headwater certs rotate-ca begin begins one")
            done = Done.KEPT if record.signing == newest.number else Done.CREATED
            change.save(replace(record, signing=newest.number))
            authority = self.folder.signer_certificate(newest)
            outcomes = []
            for folder in sorted(self.folder.issued.iterdir()):
                if not durable.is_folder_of(folder):
                    continue
                held = _held(folder, None, record)
                if certificates.signed_by(held.certificate, authority):
                    outcomes.append(_outcome(Done.KEPT, held))
                else:
                    done = Done.CREATED
                    key = tls_folder.load_key(held.key_file)
                    outcomes.append(self._issue(change, held.identity, key, held.names, days, Done.RENEWED))
            return done, outcomes

    def _finish(self) -> Done:
        with self.folder.changing() as change:
            record = change.record
            if len(record.signers) == 1:
                return Done.KEPT
            newest = record.signers[-1]
            if record.signing != newest.number:
                raise Refused("the old authority still signs: headwater certs rotate-ca sign comes before finish")
            authority = self.folder.signer_certificate(newest)
            old = [
                folder.name
                for folder in sorted(self.folder.issued.iterdir())
                if durable.is_folder_of(folder)
                and not certificates.signed_by(_held(folder, None, record).certificate, authority)
            ]
            if old:
                raise Refused(
                    f"{', '.join(old)}: still of the old authority, and would be shut out: headwater certs rotate-ca "
                    "sign renews them"
                )
            change.save(replace(record, signers=(newest,)))
        return Done.CREATED

    def _issue(
        self, change: Change, identity: Identity, key: PrivateKey, names: Sequence[str], days: int, done: Done
    ) -> Outcome:
        authority, authority_key = change.signer()
        left = (authority.not_valid_after_utc - change.now).days
        if days > left:
            raise AuthorityExpired(
                f"a certificate of {days} days would outlive the authority, which runs out on "
                f"{authority.not_valid_after_utc:%Y-%m-%d}: --days {left} at most, or headwater certs rotate-ca begin"
            )
        certificate = certificates.make_leaf(
            identity=identity,
            key=key,
            names=names,
            authority=authority,
            authority_key=authority_key,
            serial=x509.random_serial_number(),
            now=change.now,
            days=days,
        )
        change.save(
            change.record.with_issued(
                Issued(
                    identity=identity,
                    serial=certificate.serial_number,
                    signer=change.record.signing,
                    issued_at=change.now,
                    not_after=certificate.not_valid_after_utc,
                    names=tuple(names),
                )
            )
        )
        folder = self.folder.issued / identity.folder
        files = {
            tls_folder.CA: change.bundle(),
            tls_folder.CERTIFICATE: certificates.pem(certificate),
            tls_folder.KEY: certificates.key_pem(key),
            tls_folder.KEYSTORE: certificates.key_pem(key) + certificates.pem(certificate),
        }
        if folder.exists():
            durable.change_folder_of(folder, files)
        else:
            durable.make_folder_of(folder, files)
        return _outcome(done, tls_folder.read_folder(folder))


def _current(record: Record, identity: Identity) -> Identity:
    current = record.current(identity)
    if identity.generation not in (1, current.generation):
        what = "was revoked" if record.is_revoked(identity) else "does not come next"
        raise Refused(f"{identity} {what}; it is {current} now")
    return current


def _held(folder: Path, identity: Identity | None, record: Record) -> tls_folder.TlsFolder:
    """What is in the folder of an identity (None: of anybody), checked against the record."""
    again = "headwater certs create makes another" if identity is None else f"{_create(identity)} makes another"
    try:
        if not durable.is_folder_of(folder):
            raise FolderError(f"{folder} was not made by this authority")
        held = tls_folder.read_folder(folder)
    except (FolderError, SecretError) as exc:
        raise AuthorityBroken(f"{exc}. Move {folder} away, and {again}") from exc
    issued = record.find(held.certificate.serial_number)
    owner = identity or held.identity
    if issued is None or issued.identity != owner or held.identity != owner or folder.name != owner.folder:
        raise AuthorityBroken(
            f"{folder} holds a certificate of {held.identity} that this authority has no record of for {folder.name}. "
            f"Move it away, and {again}"
        )
    return held


def _names(identity: Identity, names: Sequence[str]) -> tuple[str, ...]:
    if names and identity.role is not Role.BROKER:
        raise Refused(f"{identity} is no broker: nobody connects to it, so it has no host names (--san)")
    return tuple(dict.fromkeys(certificates.check_name(name) for name in names))


def _outcome(done: Done, held: tls_folder.TlsFolder) -> Outcome:
    return Outcome(done=done, identity=held.identity, folder=held.path, not_after=held.not_after, names=held.names)


def _create(identity: Identity) -> str:
    match identity.role:
        case Role.BROKER if identity.name == "cloud":
            return "headwater certs create cloud"
        case Role.BROKER:
            return f"headwater certs create edge {identity.name}"
        case _:
            return f"headwater certs create client {identity.role.value}:{identity.name}"


def _renew(identity: Identity) -> str:
    return f"headwater certs renew {identity.role.value}:{identity.name}"
