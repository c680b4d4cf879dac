"""The store of credentials in a Redis (or its fork Valkey): gateways and commands on many machines share it.

Owns what is stored there and in which step. Four keys, in one slot: a hash of what the store is and how many changes
it has had, one of the credentials by id, one of what was put once, and a stream of the changes. A change is one MULTI
that counts only if nobody else changed anything since it was looked at, so it is there whole or not at all. Whoever
follows the store (`position`, `changed_since`) has a copy in memory, out of which lookups are answered without a word
to Redis; the copy is good for `KNOWN_FOR_S` after Redis was last heard, and never on a disk. Keys are in the clear in
Redis, so one that asks for no password is refused where others reach it. redis-py is imported when a store is opened.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from security.credentials.copied import Copied, credential_of, text_of
from security.credentials.kinds import Credential, CredentialId, Kind, Oscore, Psk
from security.credentials.redis_server import address_of, connect, in_words
from security.credentials.rows import digest_of
from security.credentials.store import Changes, Done, Outcome, Position, Put
from security.errors import CredentialStoreError, InvalidCredential, StoreBusy, StoreForeign, StoreMissing

_T = TypeVar("_T")

#: The form of what this code writes.
FORM: Final = 1
#: Seconds for which Redis may take for a step, and for a connection.
WAIT_S: Final = 3.0
#: Seconds for which the copy is good after Redis was last heard: keys that are removed meanwhile are taken so long.
KNOWN_FOR_S = 60.0
#: So many changes are remembered. Who has missed more holds all of his sessions to the store.
MOST_CHANGES = 100_000
#: How often a change is tried anew that others came before.
_ATTEMPTS: Final = 100


class RedisCredentials:
    """A `security.credentials.store.CredentialStore` in a Redis."""

    def __init__(self, url: str, *, make: bool = False) -> None:
        """Open the store; with ``make`` it is made where there is none.

        Raises:
            InvalidCredential: the URL is none of ours.
            StoreMissing: there is none.
            StoreExposed: whoever reaches Redis may read it; says what to do.
            StoreForeign: it is damaged, not ours, or of a later version.
            CredentialStoreError: Redis cannot be reached, or refuses.
        """
        self._address = address_of(url)
        head = f"{{{self._address.prefix}}}"
        self._about, self._rows, self._log, self._taken = (
            f"{head}:{one}" for one in ("about", "rows", "changes", "taken-up")
        )
        #: One conversation at once, and one look into the copy; who holds the first may take the second.
        self._talking = threading.RLock()
        self._looking = threading.Lock()
        self._copy: Copied | None = None
        self._heard = 0.0
        self._client = connect(self._address, WAIT_S)
        try:
            if make:
                self._make()
            with self._conversation() as client:
                self._salt = self._mark(client.hgetall(self._about)).salt
        except BaseException:
            self.close()
            raise

    def _make(self) -> None:
        content = {"form": FORM, "epoch": secrets.token_hex(16), "salt": secrets.token_hex(32), "number": 0, "mark": ""}

        def make(pipe: Any) -> None:
            if pipe.exists(self._about):
                return
            if pipe.exists(self._rows, self._log):
                raise StoreForeign(f"{self._address} has credentials and has lost its mark: put a backup back")
            pipe.multi()
            pipe.hset(self._about, mapping=content)

        self._transaction(make)

    def __repr__(self) -> str:
        return f"RedisCredentials({self._address})"

    @property
    def salt(self) -> bytes:
        return self._salt

    # Lookups

    def psk(self, identity: bytes) -> Psk | None:
        try:
            found = self.find(CredentialId(Kind.PSK, identity.decode("utf-8")))
        except UnicodeDecodeError:
            return None
        return found if isinstance(found, Psk) else None

    def oscore(self, recipient_id: bytes, id_context: bytes | None = None) -> Oscore | None:
        with self._known() as copy:
            found = copy.oscore(recipient_id)
        exact = next((one for one in found if one.id_context == id_context), None)
        return found[0] if exact is None and id_context is None and len(found) == 1 else exact

    def of_endpoint(self, endpoint: str) -> tuple[Credential, ...]:
        with self._known() as copy:
            return copy.of_endpoint(endpoint)

    def anchors(self) -> tuple[bytes, ...]:
        with self._known() as copy:
            return copy.anchors()

    def find(self, identity: CredentialId) -> Credential | None:
        if self._copy is None:
            # Who asks for one need not fetch all.
            with self._conversation() as client:
                self._mark(client.hgetall(self._about))
                return self._read(client, [identity]).get(identity)
        with self._known() as copy:
            return copy.find(identity)

    def has(self, kind: Kind) -> bool:
        with self._known() as copy:
            return any(one.kind is kind for one in copy.rows)

    def __iter__(self) -> Iterator[Credential]:
        with self._known() as copy:
            return iter(copy.all())

    @contextmanager
    def _known(self) -> Iterator[Copied]:
        """The copy, fetched at the first lookup.

        Raises:
            CredentialStoreError: it cannot be fetched, or Redis was not heard for too long.
        """
        if self._copy is None:
            with self._conversation():
                self._fetch()
        if time.monotonic() - self._heard > KNOWN_FOR_S:
            raise CredentialStoreError(f"{self._address} has not been heard for {KNOWN_FOR_S:.0f} s")
        with self._looking, self._told():
            assert self._copy is not None
            yield self._copy

    # Changes

    def put(self, credentials: Sequence[Credential], how: Put) -> tuple[Outcome, ...]:
        given = list(credentials)

        def put(pipe: Any) -> tuple[Outcome, ...]:
            about = self._mark(pipe.hgetall(self._about))
            before = self._read(pipe, [one.id for one in given])
            notes: list[tuple[CredentialId, bool]] = []
            taken = self._taken_up(pipe, given) if how is Put.ONCE else None
            marks: dict[str, str] = {}
            outcomes = tuple(
                _put(before, one, how, notes)
                if taken is None
                else _put_once(before, one, digest_of(one, self._salt).hex(), notes, taken, marks)
                for one in given
            )
            conflict = any(one.done is Done.CONFLICT for one in outcomes)
            if how is Put.TRIAL or (conflict and how not in (Put.FITTING, Put.ONCE)):
                return outcomes
            pipe.multi()
            if marks:
                pipe.hset(self._taken, mapping=marks)
            if notes:
                pipe.hset(self._rows, mapping={str(one): text_of(before[one]) for one, _ in notes})
                self._note(pipe, about, notes)
            return outcomes

        return self._change(put)

    def _taken_up(self, pipe: Any, given: Sequence[Credential]) -> dict[str, str]:
        """What was put once (`Put.ONCE`), by id: of which contents, as a hash with the store's salt."""
        ids = [str(one.id) for one in given]
        texts = pipe.hmget(self._taken, ids) if ids else []
        return {one: text for one, text in zip(ids, texts, strict=True) if text is not None}

    def remove(self, identities: Sequence[CredentialId]) -> tuple[Credential, ...]:
        wanted = list(dict.fromkeys(identities))

        def remove(pipe: Any) -> tuple[Credential, ...]:
            about = self._mark(pipe.hgetall(self._about))
            before = self._read(pipe, wanted)
            if before:
                pipe.multi()
                pipe.hdel(self._rows, *map(str, before))
                self._note(pipe, about, [(one, True) for one in before])
            return tuple(before.values())

        return self._change(remove)

    def _change(self, work: Callable[[Any], _T]) -> _T:
        """Do it, and know of it."""
        done = self._transaction(work)
        if self._copy is not None:
            self.changed_since(self._copy.position)
        return done

    def _transaction(self, work: Callable[[Any], _T]) -> _T:
        """``work`` reads, and after ``multi()`` says what is done; all that again where others changed something."""
        from redis.exceptions import WatchError

        with self._conversation() as client:
            for _ in range(_ATTEMPTS):
                with client.pipeline() as pipe, suppress(WatchError):
                    pipe.watch(self._about, self._taken)
                    done = work(pipe)
                    pipe.execute()
                    return done
        raise StoreBusy(f"others are writing to {self._address}; try again when they are done")

    def _note(self, pipe: Any, about: _Mark, notes: Sequence[tuple[CredentialId, bool]]) -> None:
        mark = secrets.token_hex(8)
        for number, (one, ended) in enumerate(notes, about.number + 1):
            content = {"kind": one.kind.value, "name": one.name, "ended": int(ended), "mark": mark}
            pipe.xadd(self._log, content, id=f"{number}-0")
        pipe.xtrim(self._log, MOST_CHANGES, approximate=False)
        pipe.hset(self._about, mapping={"number": about.number + len(notes), "mark": mark})

    def _read(self, client: Any, ids: Sequence[CredentialId]) -> dict[CredentialId, Credential]:
        """Those of ``ids`` that are there, in order."""
        texts = client.hmget(self._rows, list(map(str, ids))) if ids else []
        return {one: credential_of(one, text) for one, text in zip(ids, texts, strict=True) if text is not None}

    def position(self) -> Position:
        with self._conversation():
            self._follow()
            assert self._copy is not None
            return self._copy.position

    def changed_since(self, position: Position) -> Changes:
        try:
            with self._conversation() as client:
                self._follow()
                return self._since(client, position)[1]
        except (StoreMissing, StoreForeign):
            raise
        except CredentialStoreError:
            if self._copy is None or time.monotonic() - self._heard > KNOWN_FOR_S:
                raise
            # It may be back before what is known is too old.
            return Changes(position=position)

    def _follow(self) -> None:
        """Bring the copy up to what Redis has."""
        if (copy := self._copy) is None:
            self._fetch()
            return
        about, changes = self._since(self._client, copy.position)
        if changes.everything:
            self._fetch()
            return
        ids = list(changes.added | changes.ended)
        texts = self._client.hmget(self._rows, list(map(str, ids))) if ids else []
        with self._looking:
            for one, text in zip(ids, texts, strict=True):
                copy.let(one, text)
            copy.position = about.position
        self._heard = time.monotonic()

    def _fetch(self) -> None:
        pipe = self._client.pipeline()
        pipe.hgetall(self._about)
        pipe.hgetall(self._rows)
        about, rows = pipe.execute()
        copy = Copied(self._mark(about).position)
        for name, text in rows.items():
            kind, _, rest = name.partition(" ")
            copy.let(CredentialId(Kind(kind), rest), text)
        with self._looking:
            self._copy = copy
        self._heard = time.monotonic()

    def _since(self, client: Any, position: Position) -> tuple[_Mark, Changes]:
        pipe = client.pipeline()
        pipe.hgetall(self._about)
        pipe.xrange(self._log, min=f"{position.number}-0")
        found, entries = pipe.execute()
        about = self._mark(found)
        if about.position == position:
            return about, Changes(position=position)
        # The change at which somebody stood tells whether this is the same store, also after a backup was put back or
        # a replica took over; where it is not there any more, it has been forgotten.
        if position.number:
            epoch = f"{about.epoch}-{entries[0][1]['mark']}" if entries else ""
            is_known = bool(entries) and (entries[0][0], epoch) == (f"{position.number}-0", position.epoch)
            entries = entries[1:]
        else:
            is_known = position.epoch == f"{about.epoch}-" and bool(entries) and entries[0][0] == "1-0"
        if not is_known:
            return about, Changes(position=about.position, everything=True)
        ids = [(CredentialId(Kind(one["kind"]), one["name"]), one["ended"] == "1") for _, one in entries]
        added = frozenset(one for one, is_end in ids if not is_end)
        return about, Changes(
            position=about.position, added=added, ended=frozenset(one for one, is_end in ids if is_end)
        )

    def _mark(self, about: Mapping[str, str]) -> _Mark:
        if not about:
            raise StoreMissing(
                f"there is no store of credentials in {self._address}; the first headwater credentials add, or import, "
                "makes one"
            )
        if int(about["form"]) > FORM:
            raise StoreForeign(
                f"{self._address} was written by a later version of headwater (its form is {about['form']}, this one "
                f"knows {FORM}): update headwater here"
            )
        return _Mark(
            epoch=about["epoch"], salt=bytes.fromhex(about["salt"]), number=int(about["number"]), mark=about["mark"]
        )

    def close(self) -> None:
        from redis.exceptions import RedisError

        with suppress(RedisError, OSError):
            self._client.close()

    @contextmanager
    def _conversation(self) -> Iterator[Any]:
        from redis.exceptions import RedisError

        with self._talking, self._told():
            try:
                yield self._client
            except (RedisError, OSError) as exc:
                # What is left of an answer is nobody's: the next attempt has a new connection.
                self.close()
                # `from None`: what was sent may stand in the error.
                raise in_words(self._address, exc) from None

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (InvalidCredential, ValueError, KeyError):
            raise StoreForeign(f"what is in {self._address} is damaged, or not ours") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mark:
    epoch: str
    salt: bytes
    number: int
    mark: str

    @property
    def position(self) -> Position:
        return Position(f"{self.epoch}-{self.mark}", self.number)


def _put(
    before: dict[CredentialId, Credential], credential: Credential, how: Put, notes: list[tuple[CredentialId, bool]]
) -> Outcome:
    held = before.get(credential.id)
    if held is not None:
        if replace(credential, created=held.created) == held:
            return Outcome(done=Done.UNCHANGED, holder=held.endpoint)
        if held.endpoint != credential.endpoint or how is Put.NEW:
            return Outcome(done=Done.CONFLICT, holder=held.endpoint)
    before[credential.id] = credential
    notes.append((credential.id, held is not None))
    return Outcome(done=Done.ADDED) if held is None else Outcome(done=Done.CHANGED, holder=held.endpoint)


def _put_once(
    before: dict[CredentialId, Credential],
    credential: Credential,
    contents: str,
    notes: list[tuple[CredentialId, bool]],
    taken: dict[str, str],
    marks: dict[str, str],
) -> Outcome:
    own = str(credential.id)
    if taken.get(own) == contents:
        return Outcome(done=Done.KNOWN)
    outcome = _put(before, credential, Put.FITTING, notes)
    if outcome.done is not Done.CONFLICT:
        taken[own] = marks[own] = contents
    return outcome
