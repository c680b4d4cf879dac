"""The files with which a gateway meets its devices: its certificate and its bootstrap server's, and credentials that it
is given beforehand.

Owns which files of a fleet's file they are, what their secrets and variables are called, and whether a gateway would
take them, which is looked at before anything is done: one that does not start is no good place to hear of it. Tells no
more of what is in them than a hash.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from headwater.deploy.fleet import X509, FleetError, Gateway
from security.errors import SecurityError

#: The most that a secret of Swarm may hold.
MOST_BYTES: Final = 500 * 1024
#: The stack files that are added to a gateway's, by the secret that they mount.
STACKS: Final[Mapping[str, str]] = {
    "coaps_cert": "gateway/certificate",
    "coaps_ca": "gateway/authorities",
    "credentials": "gateway/credentials",
    "bootstrap_cert": "gateway/bootstrap-certificate",
    "bootstrap_ca": "gateway/bootstrap-authorities",
}


def device_files(gateway: Gateway) -> dict[str, Path]:
    """The files, by what stands between the gateway's id and the hash in the name of their secret."""
    found: dict[str, Path | None] = {}
    if gateway.x509 is not None:
        found |= {"coaps_cert": gateway.x509.cert, "coaps_key": gateway.x509.key, "coaps_ca": gateway.x509.ca}
    found["credentials"] = gateway.credentials
    if gateway.bootstrap is not None and (own := gateway.bootstrap.x509) is not None:
        found |= {"bootstrap_cert": own.cert, "bootstrap_key": own.key, "bootstrap_ca": own.ca}
    return {word: file for word, file in found.items() if file is not None}


def check(name: str, gateway: Gateway) -> None:
    """See whether the gateway ``name`` could start with them.

    Raises:
        FleetError: it could not; the text names the field, and says nothing of a key.
    """
    if gateway.x509 is not None:
        _check_certificate(f"gateways.{name}.x509", gateway.x509)
    if gateway.bootstrap is not None and gateway.bootstrap.x509 is not None:
        _check_certificate(f"gateways.{name}.bootstrap.x509", gateway.bootstrap.x509)
    if gateway.credentials is not None:
        _check_credentials(f"gateways.{name}.credentials", gateway.credentials)
    for word, file in device_files(gateway).items():
        if (size := file.stat().st_size) > MOST_BYTES:
            raise FleetError(
                f"gateways.{name}: {file} has {size} bytes, and a secret of Swarm holds {MOST_BYTES}"
                + (": headwater credentials import in the gateway's container takes more" * (word == "credentials"))
            )


def _check_certificate(field: str, own: X509) -> None:
    from gateway.dtls_certificates.context import ServerCertificate

    try:
        ServerCertificate(own.cert, own.key, own.ca)
    except SecurityError as exc:
        raise FleetError(f"{field}: {exc}") from exc


def _check_credentials(field: str, file: Path) -> None:
    from security.credentials.importing import read_file

    try:
        read_file(file, datetime.now(UTC))
    except SecurityError as exc:
        raise FleetError(f"{field}: {exc}") from exc
