"""The folder of an authority: what lies where in it, and how it is changed so that no moment finds it half done.

    record.json           what was issued and revoked (`security.record`)
    ca/N/{cert,key}.pem   authority number N; its key leaves this folder never
    ca/ca.pem, ca/crl.pem whom to trust, and what is revoked: both follow from the record and the keys
    issued/ROLE+NAME/     the folder of an identity (`security.tls_folder`)
    revoked/ROLE+NAME/    where those go that were revoked

The record is written first; everything else follows from it and is brought in line with it (`Change.settle`) whenever
somebody holds the lock. So a process that is killed at any moment leaves what the next one completes.
"""

from __future__ import annotations

import errno
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from security import certificates, durable, tls_folder
from security.certificates import PrivateKey
from security.errors import AuthorityBroken, AuthorityExpired, AuthorityMissing, ClockWrong, FolderError, Refused
from security.record import FILE, Record, Signer, from_text, to_text

#: Ten years: long enough that a fleet outlives it only by a rotation that somebody chose.
AUTHORITY_DAYS = 3650
#: How long a second process waits for the first.
WAIT_S = 10.0
#: No clock that is right says less: boards without a battery begin in 1970 or 2000.
EARLIEST = datetime(2024, 1, 1, tzinfo=UTC)
#: By so much the clock may have gone back since the last change, as when another machine works on a copy.
BACKWARDS = timedelta(days=1)
#: A revocation list that promises its successor sooner than this is made anew.
LIST_RENEWED = timedelta(days=180)

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The machine's clock, to the second, as certificates have it."""
    return datetime.now(UTC).replace(microsecond=0)


class AuthorityFolder:
    """An authority at a place, there or not yet."""

    def __init__(self, path: Path, *, clock: Clock = utc_now, wait_s: float = WAIT_S) -> None:
        # Resolved, since a folder is renamed into its place, and a link to it would be replaced.
        self.path = path.resolve()
        self._clock = clock
        self._wait_s = wait_s

    @property
    def record_file(self) -> Path:
        return self.path / FILE

    @property
    def bundle_file(self) -> Path:
        """The certificates of the authorities that are trusted."""
        return self.path / "ca" / "ca.pem"

    @property
    def list_file(self) -> Path:
        """The revocation lists of the authorities that are trusted."""
        return self.path / "ca" / "crl.pem"

    @property
    def issued(self) -> Path:
        return self.path / "issued"

    @property
    def revoked(self) -> Path:
        return self.path / "revoked"

    def signer_folder(self, number: int) -> Path:
        return self.path / "ca" / str(number)

    def exists(self) -> bool:
        """True if there is an authority.

        Raises:
            AuthorityBroken: there is something else, or an authority without its record.
        """
        if self.record_file.exists():
            return True
        try:
            found = next(self.path.iterdir(), None)
        except FileNotFoundError:
            return False
        except NotADirectoryError as exc:
            raise AuthorityBroken(f"{self.path} is no folder") from exc
        if found is not None:
            raise AuthorityBroken(
                f"{self.path} holds files ({found.name}) but no {FILE}: if it is an authority, put {FILE} back from a "
                "backup, since it says who is revoked; if it is not, choose another folder (--dir)"
            )
        return False

    def record(self) -> Record:
        """What was issued and revoked.

        Raises:
            AuthorityMissing, AuthorityBroken: there is no authority, or its record is damaged.
        """
        if not self.exists():
            raise AuthorityMissing(
                f"there is no authority in {self.path}: headwater certs create cloud makes it (with the identities of "
                "the cloud), headwater certs create ca makes it alone; --dir says where it is"
            )
        try:
            text = self.record_file.read_text("utf-8")
        except OSError as exc:
            raise AuthorityBroken(f"{self.record_file}: {exc.strerror}") from exc
        except UnicodeDecodeError as exc:
            raise AuthorityBroken(f"{self.record_file} is damaged: it is no text") from exc
        return from_text(text, self.record_file)

    def make(self, days: int) -> bool:
        """Make the authority, all of it at once; False if there is one already.

        Raises:
            AuthorityBroken: the folder holds something else.
            ClockWrong: see `check_clock`.
        """
        if self.exists():
            self.record()  # which says if it is damaged
            return False
        now = self._now()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with durable.locked(self.path.parent, wait_s=self._wait_s):
            if self.exists():
                return False
            for left in self.path.parent.glob(f".{self.path.name}-*{durable.PART}"):
                shutil.rmtree(left, ignore_errors=True)
            part = self.path.with_name(f".{self.path.name}-{secrets.token_hex(4)}{durable.PART}")
            staged = AuthorityFolder(part, clock=self._clock)
            try:
                staged._fill(now, days)
                durable.move(part, self.path)
            except OSError as exc:
                shutil.rmtree(part, ignore_errors=True)
                if exc.errno in (errno.EBUSY, errno.EXDEV):
                    raise Refused(f"{self.path} is a mount point: give a folder below it (--dir)") from exc
                raise
        return True

    def _fill(self, now: datetime, days: int) -> None:
        for folder in (self.path, self.path / "ca", self.issued, self.revoked):
            durable.make_folder(folder)
        durable.write_file(self.path / ".gitignore", b"*\n")
        signer = self.make_signer(1, now, days)
        durable.write_file(self.record_file, to_text(Record(signers=(signer,), signing=1)).encode())
        with self.changing():
            pass

    def make_signer(self, number: int, now: datetime, days: int) -> Signer:
        """Another authority beside those that are there; it counts once the record names it."""
        key = certificates.new_key()
        certificate = certificates.make_authority(
            key=key, number=number, serial=x509.random_serial_number(), now=now, days=days
        )
        durable.make_folder_of(
            self.signer_folder(number),
            {tls_folder.CERTIFICATE: certificates.pem(certificate), tls_folder.KEY: certificates.key_pem(key)},
        )
        return Signer(
            number=number,
            fingerprint=fingerprint(certificate),
            made_at=now,
            not_after=certificate.not_valid_after_utc,
        )

    def signer_certificate(self, signer: Signer) -> x509.Certificate:
        """Its certificate.

        Raises:
            AuthorityBroken: it is not the one that the record names, or cannot be read.
        """
        file = self.signer_folder(signer.number) / tls_folder.CERTIFICATE
        try:
            certificate = tls_folder.read_certificates(file)[0]
        except FolderError as exc:
            raise AuthorityBroken(f"the certificate of the authority cannot be read: {exc}") from exc
        if fingerprint(certificate) != signer.fingerprint:
            raise AuthorityBroken(
                f"{file} is not the certificate that {self.record_file} names; put both back from one backup"
            )
        return certificate

    def _now(self) -> datetime:
        now = self._clock()
        if now < EARLIEST:
            raise ClockWrong(
                f"this machine's clock says {now:%Y-%m-%d %H:%M} UTC, which cannot be: set it, then try again"
            )
        return now

    @contextmanager
    def changing(self) -> Iterator[Change]:
        """Hold the lock, find everything in line with the record, and leave it so.

        Raises:
            AuthorityMissing, AuthorityBroken, AuthorityBusy, ClockWrong: nothing was changed.
        """
        now = self._now()
        self.record()  # says what is missing before anything is locked
        with durable.locked(self.path, wait_s=self._wait_s):
            record = self.record()
            if now < record.last_change - BACKWARDS:
                raise ClockWrong(
                    f"this machine's clock says {now:%Y-%m-%d %H:%M} UTC, and the last change of the authority was at "
                    f"{record.last_change:%Y-%m-%d %H:%M} UTC: one of the two is wrong; set the clock, then try again"
                )
            for folder in (self.path, self.path / "ca", self.issued, self.revoked):
                durable.make_folder(folder)
                durable.sweep(folder)
            change = Change(folder=self, record=record, now=now)
            change.settle()
            yield change
            change.settle()


@dataclass(slots=True, kw_only=True)
class Change:
    """A change under way, by the holder of the lock."""

    folder: AuthorityFolder
    record: Record
    now: datetime

    def save(self, record: Record) -> None:
        """Make it the record, durably; what follows from it is brought in line by `settle`."""
        durable.write_file(self.folder.record_file, to_text(record).encode())
        self.record = record

    def signer(self) -> tuple[x509.Certificate, PrivateKey]:
        """The authority that signs.

        Raises:
            AuthorityBroken: certificate and key do not belong together.
            AuthorityExpired: it has run out.
            SecretError, Exposed: the key cannot be read, or lies open.
        """
        certificate = self.folder.signer_certificate(self.record.signer)
        if self.now > certificate.not_valid_after_utc:
            raise AuthorityExpired(
                f"the authority itself ran out on {certificate.not_valid_after_utc:%Y-%m-%d} (this machine's clock "
                f"says {self.now:%Y-%m-%d}): nothing that it signs is taken any more. Make another in a new folder "
                "(--dir), and give everybody its certificates"
            )
        return certificate, self._key(self.record.signer, certificate)

    def _key(self, signer: Signer, certificate: x509.Certificate) -> PrivateKey:
        file = self.folder.signer_folder(signer.number) / tls_folder.KEY
        key = tls_folder.load_key(file)
        if not certificates.belongs(key, certificate):
            raise AuthorityBroken(f"{file} is not the key of the authority's certificate; put it back from a backup")
        return key

    def bundle(self) -> bytes:
        """The certificates of all that are trusted, the newest first."""
        trusted = [self.folder.signer_certificate(signer) for signer in self.record.signers]
        return b"".join(certificates.pem(one) for one in reversed(trusted))

    def settle(self) -> None:
        """Bring the folder in line with the record: twice is the same as once."""
        self._move_revoked()
        self._write_bundle()
        self._write_list()
        known = {str(signer.number) for signer in self.record.signers}
        for child in (self.folder.path / "ca").iterdir():
            # An authority that the record does not name: never used, or no longer trusted by anybody.
            if child.is_dir() and child.name.isdigit() and child.name not in known:
                shutil.rmtree(child)

    def _move_revoked(self) -> None:
        for one in self.record.revoked:
            source = self.folder.issued / one.identity.folder
            if source.exists():
                target = self.folder.revoked / one.identity.folder
                if target.exists():
                    raise AuthorityBroken(f"{one.identity} was revoked, and {source} is there again: move it away")
                durable.move(source, target)

    def _write_bundle(self) -> None:
        bundle = self.bundle()
        if _content(self.folder.bundle_file) != bundle:
            durable.write_file(self.folder.bundle_file, bundle)
        for folder in self.folder.issued.iterdir():
            if durable.is_folder_of(folder) and _content(folder / tls_folder.CA) != bundle:
                # Somebody may have taken the key away from here, once it was where it is used.
                found = {name: _content(folder / name) for name in tls_folder.FILES if name != tls_folder.CA}
                files = {name: content for name, content in found.items() if content is not None}
                durable.change_folder_of(folder, files | {tls_folder.CA: bundle})

    def _write_list(self) -> None:
        signers = [(one, self.folder.signer_certificate(one)) for one in reversed(self.record.signers)]
        wanted = [
            (certificate, {row.serial for row in self.record.withdrawn(one.number, self.now)})
            for one, certificate in signers
        ]
        if self._list_holds(wanted):
            return
        made = [
            certificates.make_list(
                authority=certificate,
                authority_key=self._key(one, certificate),
                withdrawn=self.record.withdrawn(one.number, self.now),
                # Grows with time, as the clock was checked to do.
                number=int(self.now.timestamp()),
                now=self.now,
            )
            for one, certificate in signers
        ]
        durable.write_file(
            self.folder.list_file, b"".join(one.public_bytes(serialization.Encoding.PEM) for one in made)
        )

    def _list_holds(self, wanted: Sequence[tuple[x509.Certificate, set[int]]]) -> bool:
        content = _content(self.folder.list_file)
        if content is None:
            return False
        end = b"-----END X509 CRL-----"
        try:
            lists = [x509.load_pem_x509_crl(part + end) for part in content.split(end)[:-1]]
        except ValueError:
            return False
        return len(lists) == len(wanted) and all(
            one.issuer == certificate.subject
            and {row.serial_number for row in one} >= serials
            and one.next_update_utc is not None
            and one.next_update_utc > self.now + LIST_RENEWED
            for one, (certificate, serials) in zip(lists, wanted, strict=True)
        )


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the whole, in hex."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def _content(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None
