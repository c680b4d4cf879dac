"""Why no connection comes about: librdkafka says that no broker answers, and TLS has many reasons for that.

Owns the second look, taken only where Kafka did not answer: the identity's folder is read again, and one handshake is
made in the open. It moves no record, and a cluster that is plainly away has no trouble of this kind.
"""

from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from security.certificate_dates import read_dates
from security.errors import SecretError, SecurityError
from security.secrets import read_bounded
from security.tls_files import CERTIFICATE

if TYPE_CHECKING:
    from security.tls_folder import TlsFolder

_CONNECT_S = 2.0
#: TLS 1.3 lets a client think that all is well: a server that refuses its certificate says so only afterwards.
_REFUSAL_S = 1.0


def trouble(bootstrap: str, tls: Path | None) -> str | None:
    """What is wrong between the identity in ``tls`` (None: no TLS) and the first address that takes a connection.

    None: nothing of TLS, as far as can be seen.
    """
    now = datetime.now(UTC)
    if tls is not None and not _holds(tls, now):
        try:
            _read(tls, now)
        except SecurityError as exc:
            return str(exc)
    for address in bootstrap.split(","):
        host, _, port = address.strip().rpartition(":")
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S) as plain:
                return (
                    _plain(address, plain) if tls is None else _with(_read(tls, now), address, host.strip("[]"), plain)
                )
        except SecurityError as exc:
            return str(exc)
        except (OSError, ValueError):
            continue
    return None


def _read(tls: Path, now: datetime) -> TlsFolder:
    """The folder, with all that may be wrong in it.

    Raises:
        SecurityError: something is.
    """
    # A library of ten megabytes, which a small machine is spared for as long as the other side is only away.
    from security.tls_folder import read_folder

    folder = read_folder(tls)
    folder.check_dates(now)
    return folder


def _holds(tls: Path, now: datetime) -> bool:
    """Whether the certificate is there and holds now, as far as it says so itself."""
    try:
        return all(one.not_before <= now <= one.not_after for one in read_dates(read_bounded(tls / CERTIFICATE))[:1])
    except (SecretError, ValueError):
        return False


def _plain(address: str, plain: socket.socket) -> str | None:
    """Whether TLS is spoken where we do not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    # Nothing is sent but the greeting, and nothing that comes is believed.
    context.verify_mode = ssl.CERT_NONE
    words = f"{address} speaks TLS: an identity is needed (--kafka-tls DIR)"
    try:
        with context.wrap_socket(plain):
            return words
    except ssl.SSLError as exc:
        return words if "alert" in str(exc).lower() else None


def _with(folder: TlsFolder, address: str, host: str, plain: socket.socket) -> str | None:
    from security.tls_folder import Side

    try:
        context = folder.context(Side.CLIENT)
    except (ssl.SSLError, OSError) as exc:
        return f"the files in {folder.path} cannot be used: {exc}"
    try:
        with context.wrap_socket(plain, server_hostname=host) as spoken:
            spoken.settimeout(_REFUSAL_S)
            spoken.recv(1)
    except ssl.SSLCertVerificationError as exc:
        return (
            f"{address} has a certificate that is not to be trusted ({exc.verify_message}); is it the right address, "
            f"and is its authority in {folder.ca_file}?"
        )
    except TimeoutError:
        return None
    except ssl.SSLError as exc:
        if "alert" in str(exc).lower():
            return (
                f"{address} refuses the certificate of {folder.identity} ({_alert(exc)}); was it issued by the "
                f"authority that this Kafka trusts, and has it not run out there?"
            )
        return f"{address} does not speak TLS: leave --kafka-tls out there, or take its TLS port"
    except ConnectionError:
        # Something that speaks another language hangs up.
        return f"{address} does not speak TLS: leave --kafka-tls out there, or take its TLS port"
    return None


def _alert(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).lower().replace("_", " ")
