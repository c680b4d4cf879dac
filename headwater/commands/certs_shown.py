"""What ``headwater certs show`` shows: the certificates of an authority, of a folder or file, or of a live server.

Owns how a certificate becomes a row. Reads no key, and asks a server for nothing but its certificate.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any

from cryptography import x509

from headwater.exits import Exit, Stop
from headwater.output import console, table
from security import tls_folder
from security.authority_folder import AuthorityFolder, fingerprint
from security.certificates import common_name, names_of
from security.errors import FolderError
from security.identities import Identity, InvalidIdentity
from security.record import Issued

_CONNECT_S = 10.0


class State(Enum):
    """What there is to say of a certificate."""

    OK = "ok"
    SOON = "soon"
    EXPIRED = "expired"
    NOT_YET = "not yet"
    REVOKED = "revoked"
    MISSING = "missing"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One certificate, or one that should be there. Times are UTC; ``left`` may be negative."""

    subject: str
    state: State
    not_before: datetime | None
    not_after: datetime
    left: timedelta
    names: tuple[str, ...]
    serial: int
    issuer: str
    fingerprint: str
    place: str
    why: str = ""

    def plain(self) -> dict[str, Any]:
        """As ``--output json`` gives it; times are epoch milliseconds."""
        return {
            "subject": self.subject,
            "identity": _identity(self.subject),
            "state": self.state.value,
            "notBefore": None if self.not_before is None else _ms(self.not_before),
            "notAfter": _ms(self.not_after),
            "daysLeft": self.left.days,
            "names": list(self.names),
            "serial": f"{self.serial:x}",
            "issuer": self.issuer,
            "sha256": self.fingerprint,
            "place": self.place,
        }

    def words(self) -> str:
        """What is wrong with it."""
        match self.state:
            case State.EXPIRED:
                return f"{self.subject} ran out on {self.not_after:%Y-%m-%d}"
            case State.NOT_YET:
                return f"{self.subject} does not hold yet; is this machine's clock right?"
            case State.MISSING:
                return f"{self.subject} was issued, and {self.place} is not there"
            case State.BROKEN:
                return f"{self.subject}: {self.why}"
            case _:
                return f"{self.subject} runs out in {self.left.days} days"


def of_authority(directory: Path, now: datetime, warn: timedelta) -> list[Row]:
    """The authority itself, those who have a folder, those who lost it, and those who were revoked."""
    folder = AuthorityFolder(directory)
    record = folder.record()
    rows = [_row(folder.signer_certificate(one), folder.signer_folder(one.number), now, warn) for one in record.signers]
    for identity in sorted({one.identity for one in record.issued}, key=str):
        last = [one for one in record.issued if one.identity == identity][-1]
        revoked = record.is_revoked(identity)
        place = (folder.revoked if revoked else folder.issued) / identity.folder
        try:
            certificate = tls_folder.read_certificates(place / tls_folder.CERTIFICATE)[0]
        except FolderError as exc:
            rows.append(_without(last, place, now, exc, revoked=revoked))
        else:
            rows.append(_row(certificate, place, now, warn, State.REVOKED if revoked else None))
    return rows


def _without(last: Issued, place: Path, now: datetime, error: FolderError, *, revoked: bool) -> Row:
    """What the record says of a certificate that cannot be read."""
    state = State.REVOKED if revoked else State.BROKEN if place.exists() else State.MISSING
    return Row(
        subject=last.identity.principal,
        state=state,
        not_before=None,
        not_after=last.not_after,
        left=last.not_after - now,
        names=last.names,
        serial=last.serial,
        issuer="",
        fingerprint="",
        place=str(place),
        why=str(error),
    )


def of_path(path: Path, now: datetime, warn: timedelta) -> list[Row]:
    """The certificates in a file, or in the two files of an identity's folder.

    Raises:
        FolderError: there are none, or they cannot be read.
    """
    if not path.is_dir():
        files = [path]
    else:
        files = [path / name for name in (tls_folder.CERTIFICATE, tls_folder.CA) if (path / name).exists()]
        if not files:
            raise FolderError(f"{path}: there is neither {tls_folder.CERTIFICATE} nor {tls_folder.CA} in it")
    return [_row(one, file, now, warn) for file in files for one in tls_folder.read_certificates(file)]


def of_server(connect: str, shown: Path | None, now: datetime, warn: timedelta) -> list[Row]:
    """What the server there presents, believed or not: it is looked at, nothing is sent to it but the certificate in
    the folder ``shown``, for servers that ask for one before they show theirs.

    Raises:
        Stop: nobody answers, or not in TLS.
        SecurityError: ``shown`` holds no identity.
    """
    host, _, port = connect.rpartition(":")
    host = host.strip("[]")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if shown is not None:
        own = tls_folder.read_folder(shown)
        context.load_cert_chain(own.certificate_file, own.key_file)
    try:
        with (
            socket.create_connection((host, int(port)), timeout=_CONNECT_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as spoken,
        ):
            presented = spoken.getpeercert(binary_form=True)
    except ssl.SSLError as exc:
        if "alert" in str(exc).lower():
            raise Stop(
                Exit.UNREACHABLE,
                f"{connect} speaks TLS and hangs up ({exc.reason or exc}); --tls DIR shows it a certificate of yours",
            ) from exc
        raise Stop(Exit.UNREACHABLE, f"{connect} answers, but not in TLS ({exc.reason or exc})") from exc
    except (OSError, UnicodeError) as exc:
        raise Stop(Exit.UNREACHABLE, f"nobody answers at {connect}: {exc}") from exc
    if presented is None:
        raise Stop(Exit.UNREACHABLE, f"{connect} presents no certificate")
    return [_row(x509.load_der_x509_certificate(presented), connect, now, warn)]


def print_table(rows: Sequence[Row]) -> None:
    """For people."""
    cells = [
        (
            row.subject,
            row.state.value,
            f"{row.not_after:%Y-%m-%d %H:%M}",
            str(row.left.days),
            " ".join(row.names),
            row.place,
        )
        for row in rows
    ]
    console().print(table(("identity", "state", "until (UTC)", "days left", "reached as", "in"), cells))


def _row(
    certificate: x509.Certificate, place: object, now: datetime, warn: timedelta, state: State | None = None
) -> Row:
    left = certificate.not_valid_after_utc - now
    if state is None:
        if left < timedelta():
            state = State.EXPIRED
        elif now < certificate.not_valid_before_utc:
            state = State.NOT_YET
        else:
            state = State.SOON if left < warn else State.OK
    return Row(
        subject=common_name(certificate),
        state=state,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        left=left,
        names=names_of(certificate),
        serial=certificate.serial_number,
        issuer=certificate.issuer.rfc4514_string(),
        fingerprint=fingerprint(certificate),
        place=str(place),
    )


def _identity(subject: str) -> str | None:
    try:
        return Identity.parse(subject).principal
    except InvalidIdentity:
        return None


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
