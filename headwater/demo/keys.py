"""The keys of a demo's devices: made at its start, known to its gateway and its sensors, and in its folder only."""

from __future__ import annotations

import csv
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from security.credentials.making import new_psk
from security.credentials.opening import open_store
from security.credentials.store import Put


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Where they are: the store that the gateway asks, and the list of which each device takes its own."""

    store: Path
    list: Path


def make_keys(directory: Path, endpoints: Sequence[str]) -> Keys:
    """A fresh pre-shared key for each of ``endpoints``, in files that are their owner's alone.

    Raises:
        CredentialStoreError, OSError: they cannot be written.
    """
    keys = Keys(store=directory / "credentials.db", list=directory / "sensors.csv")
    made = [new_psk(one, one.encode(), now=datetime.now(UTC), random=secrets.token_bytes) for one in endpoints]
    store = open_store(keys.store, make=True)
    try:
        store.put([one.credential for one in made], Put.NEW)
    finally:
        store.close()
    descriptor = os.open(keys.list, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as written:
        rows = csv.writer(written)
        rows.writerow(("endpoint", "kind", "identity", "key"))
        rows.writerows((one.credential.endpoint, "psk", "", one.secret.reveal()) for one in made)
    return keys
