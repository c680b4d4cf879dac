"""Which credentials a bootstrap server has made, for whom, and whether the device has taken them. Holds no key.

By it a run that begins again gives the key of the one before, and what a device had earlier is removed once it has the
new one, and not sooner. Credentials that others put into a store are not in it, and stay.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from gateway.bootstrap.store_file import BootstrapFile
from security.credentials.kinds import CredentialId, Kind


@dataclass(frozen=True, slots=True)
class Given:
    """A credential of a store, by the store's file name."""

    store: str
    id: CredentialId


class Ledger:
    """The credentials that were made, in a file. All of it waits for the disk."""

    def __init__(self, file: BootstrapFile, now_ms: Callable[[], int]) -> None:
        self._file = file
        self._now_ms = now_ms

    def untaken(self, ep: str, store: str, short_id: int, kind: Kind) -> list[CredentialId]:
        """What was made for a device and a server of it, and was not told to be taken; the newest first.

        Raises:
            BootstrapFileError: the file cannot be read.
        """
        with self._file.transaction() as db:
            rows = db.execute(
                "SELECT name FROM keys WHERE ep = ? AND store = ? AND short_id = ? AND kind = ? AND taken = 0 "
                "ORDER BY made_ms DESC",
                (ep, store, short_id, kind.value),
            ).fetchall()
        return [CredentialId(kind, row[0]) for row in rows]

    def made(self, ep: str, given: Given, short_id: int) -> None:
        """A credential is about to be put into its store.

        Raises:
            BootstrapFileError: the file cannot be written.
        """
        with self._file.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?, ?, ?, 0)",
                (given.store, given.id.kind.value, given.id.name, ep, short_id, self._now_ms()),
            )

    def taken(self, ep: str, now: Collection[Given]) -> list[Given]:
        """The device has ``now`` and nothing else of ours; what it had before, which may go from the stores.

        Raises:
            BootstrapFileError: the file cannot be written.
        """
        with self._file.transaction() as db:
            for one in now:
                db.execute(
                    "UPDATE keys SET taken = 1 WHERE store = ? AND kind = ? AND name = ?",
                    (one.store, one.id.kind.value, one.id.name),
                )
            rows = db.execute("SELECT store, kind, name FROM keys WHERE ep = ?", (ep,)).fetchall()
        return [one for row in rows if (one := Given(row[0], CredentialId(Kind(row[1]), row[2]))) not in now]

    def forget(self, gone: Collection[Given]) -> None:
        """These are in no store any more.

        Raises:
            BootstrapFileError: the file cannot be written.
        """
        with self._file.transaction() as db:
            for one in gone:
                db.execute(
                    "DELETE FROM keys WHERE store = ? AND kind = ? AND name = ?",
                    (one.store, one.id.kind.value, one.id.name),
                )
