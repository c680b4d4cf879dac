"""Fresh keys of devices, put into the stores of their servers before a device is given them.

The order, which a crash may cut anywhere:

1. The ledger notes the identity of the new key.
2. The store has the key, durably: from now on the server takes it, and the old one too.
3. The device is given it (`gateway.bootstrap.runs`).
4. The device says that it is done: the ledger marks the new key as taken.
5. What it had before goes from the stores, and then from the ledger.

A run that is cut before 4 leaves both keys good, and the next one gives the same new one again. Of X.509 the private
part is nowhere here, so the next run makes another and the one that nobody took goes at 5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from threading import Lock

from gateway.bootstrap.ledger import Given, Ledger
from gateway.bootstrap.profile import Account, Mode
from security.credentials.key_bytes import KeyBytes
from security.credentials.kinds import MOST_IDENTITY, X509, Credential, Kind, Oscore, Psk
from security.credentials.making import Made, Random, new_oscore, new_psk, new_x509
from security.credentials.opening import open_store, place_of
from security.credentials.store import Done, Put
from security.errors import CredentialStoreError, StoreMissing

#: Days for which a certificate of a device is good.
_DAYS = 3650
_KINDS = {Mode.PSK: Kind.PSK, Mode.OSCORE: Kind.OSCORE, Mode.X509: Kind.X509}


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What a device needs for one of its servers. ``private_key``: PKCS #8 in DER, with X.509."""

    account: Account
    credential: Credential | None = None
    private_key: KeyBytes | None = None

    @property
    def secrets(self) -> tuple[bytes, ...]:
        """What must not be told to anybody else."""
        match self.credential:
            case Psk(key=key):
                return (key.reveal(),)
            case Oscore(master_secret=key):
                return (key.reveal(),)
        return () if self.private_key is None else (self.private_key.reveal(),)


class Issuer:
    """Makes keys and removes them. All of it waits for disks, and may be called from any thread."""

    def __init__(self, ledger: Ledger, now: Callable[[], datetime], random: Random) -> None:
        self._ledger = ledger
        self._now = now
        self._random = random
        # A run that was replaced goes on in its thread: what it makes, the next one is to find whole.
        self._lock = Lock()

    def prepare(self, ep: str, accounts: Sequence[Account]) -> tuple[Material, ...]:
        """Steps 1 and 2, for each server of a device, in order.

        Raises:
            CredentialError: a store cannot be written, or no credential can be made for such a name.
            BootstrapFileError: the ledger cannot be written.
        """
        with self._lock:
            return tuple(self._material(ep, account) for account in accounts)

    def _material(self, ep: str, account: Account) -> Material:
        if account.store is None:
            return Material(account=account)
        store = open_store(account.store, make=True)
        try:
            kind = _KINDS[account.mode]
            if kind is not Kind.X509:
                for identity in self._ledger.untaken(ep, str(account.store), account.short_id, kind):
                    found = store.find(identity)
                    if found is not None and found.endpoint == ep:
                        return Material(account=account, credential=found)
            for _ in range(8):
                made = self._make(ep, account.mode)
                self._ledger.made(ep, Given(str(account.store), made.credential.id), account.short_id)
                [outcome] = store.put([made.credential], Put.NEW)
                if outcome.done is Done.ADDED:
                    return Material(account=account, credential=made.credential, private_key=_private(made))
        finally:
            store.close()
        raise CredentialStoreError(f"{account.store}: no identity could be found that is not taken")

    def _make(self, ep: str, mode: Mode) -> Made:
        now = self._now()
        if mode is Mode.X509:
            return new_x509(ep, now=now, days=_DAYS)
        if mode is Mode.OSCORE:
            return new_oscore(ep, now=now, random=self._random)
        # Another identity each time: both keys are good while the device changes from one to the other.
        mark = self._random(6).hex()
        named = f"{ep}.{mark}".encode()
        return new_psk(ep, named if len(named) <= MOST_IDENTITY else mark.encode(), now=now, random=self._random)

    def finished(self, ep: str, materials: Sequence[Material]) -> int:
        """Steps 4 and 5; how many credentials that the device had before were removed.

        Raises:
            CredentialStoreError: a store cannot be written. The new keys are good, and old ones may be too.
            BootstrapFileError: the ledger cannot be written; likewise.
        """
        given = {Given(str(one.account.store), one.credential.id) for one in materials if one.credential is not None}
        removed = 0
        with self._lock:
            old = self._ledger.taken(ep, given)
            for name in {one.store for one in old}:
                mine = [one for one in old if one.store == name]
                removed += self._remove(name, mine)
                self._ledger.forget(mine)
        return removed

    def _remove(self, name: str, old: Sequence[Given]) -> int:
        try:
            store = open_store(place_of(name))
        except StoreMissing:
            return 0
        try:
            return len(store.remove([one.id for one in old]))
        finally:
            store.close()


def _private(made: Made) -> KeyBytes | None:
    if not isinstance(made.credential, X509):
        return None
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(made.secret.reveal().encode("ascii"), None)
    return KeyBytes(
        key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
