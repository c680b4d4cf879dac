"""The file of credentials that a gateway is given at its start."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import structlog

from security.credentials.importing import read_file, take_up
from security.credentials.opening import StorePlace, open_store

_log = structlog.get_logger("headwater.gateway")


def take_up_file(credentials: StorePlace, file: Path, *, make: bool) -> None:
    """Take what is in ``file`` up into the store of ``credentials`` (made where there is none, with ``make``).

    Raises:
        CredentialStoreError: the store cannot be read or written.
        Exposed, SecretError, InvalidCredential: the file cannot be used, as `read_file`.
    """
    store = open_store(credentials, make=make)
    try:
        report = take_up(store, read_file(file, datetime.now(UTC)))
    finally:
        store.close()
    for one in report.refused:
        _log.warning("a credential of the file is left out", file=str(file), line=one.line, reason=one.why)
    if report.added or report.changed:
        _log.info("credentials taken up", file=str(file), added=len(report.added), changed=len(report.changed))
