"""Stores of credentials: the contract that each keeps, whatever it is made of.

A row in `PLACES` has a store of another kind tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from headwater.servers.redis import Brand
from security.credentials import redis, sqlite
from security.credentials.kinds import CertificateUsage, Credential, CredentialId, Kind, Psk
from security.credentials.opening import StorePlace, open_store
from security.credentials.store import CredentialStore, Done, Put
from security.errors import StoreMissing
from tests.credential_places import place_in_redis
from tests.credential_samples import ALL, ANCHOR, KEY, NOW, OTHER, OWN, RPK, der, oscore, psk
from tests.redis_server import PASSWORD


def _file(folder: Path) -> StorePlace:
    return folder / "folder" / "credentials.db"


#: A place where no store is yet, by what it is made of.
PLACES: Mapping[str, Callable[[Path], StorePlace]] = {
    "sqlite": _file,
    "redis": lambda _: place_in_redis(Brand.REDIS),
    "valkey": lambda _: place_in_redis(Brand.VALKEY),
}


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> StorePlace:
    return PLACES[request.param](tmp_path)


@pytest.fixture
def store(place: StorePlace) -> Iterator[CredentialStore]:
    opened = open_store(place, make=True)
    yield opened
    opened.close()


@pytest.fixture
def another(store: CredentialStore, place: StorePlace) -> Iterator[CredentialStore]:
    """The same one, as another process has it."""
    opened = open_store(place)
    yield opened
    opened.close()


def test_what_was_put_is_found_by_what_a_device_shows(store: CredentialStore) -> None:
    assert [one.done for one in store.put(ALL, Put.NEW)] == [Done.ADDED] * len(ALL)
    assert store.psk(b"p-1") == ALL[0]
    assert store.psk(b"batch") == ALL[1]
    assert store.find(RPK.id) == RPK
    assert store.oscore(b"\1") == ALL[2]
    assert store.oscore(b"") == ALL[3]
    assert store.find(OWN.id) == OWN
    assert sorted(store, key=repr) == sorted(ALL, key=repr)


@pytest.mark.parametrize("identity", [b"", b"p-2", b"P-1", b"p-1\0", b"\xff\xfe", b"x" * 10_000, b"rpk-1"])
def test_what_is_not_there_is_none(store: CredentialStore, identity: bytes) -> None:
    store.put(ALL, Put.NEW)
    assert store.psk(identity) is None
    assert store.oscore(identity or b"\7") is None
    assert store.find(CredentialId(Kind.RPK, "p-1")) is None


@pytest.mark.parametrize("kind", Kind)
def test_whether_there_is_any_of_a_kind(store: CredentialStore, kind: Kind) -> None:
    store.put([one for one in ALL if one.id.kind is not kind], Put.NEW)
    assert not store.has(kind)
    store.put(list(ALL), Put.NEW)
    assert store.has(kind)


def test_by_endpoint_its_own_come_before_those_of_patterns(store: CredentialStore) -> None:
    exact, wide = psk("p-1", "z"), psk("*", "a")
    store.put([wide, *ALL, exact], Put.NEW)
    assert store.of_endpoint("p-1") == (ALL[0], exact, wide, ALL[1])
    assert store.of_endpoint("p-2") == (wide, ALL[1])
    assert store.of_endpoint("P-1") == (wide,)
    # A pattern is found by its own text as well, as people remove it.
    assert ALL[1] in store.of_endpoint("p-*")


def test_a_message_without_a_context_finds_the_only_one_or_the_one_without(store: CredentialStore) -> None:
    first, second, bare = oscore("a", b"\1", b"one"), oscore("b", b"\1", b"two"), oscore("c", b"\1")
    store.put([first], Put.NEW)
    assert store.oscore(b"\1") == first
    assert store.oscore(b"\1", b"two") is None
    store.put([second], Put.NEW)
    assert store.oscore(b"\1") is None
    assert store.oscore(b"\1", b"two") == second
    store.put([bare], Put.NEW)
    assert store.oscore(b"\1") == bare


def test_twice_is_as_once_and_keeps_the_time(store: CredentialStore) -> None:
    store.put(ALL, Put.NEW)
    before = store.position()
    later = [replace(one, created=NOW + timedelta(days=1)) for one in ALL]
    for how in Put:
        assert {one.done for one in store.put(later, how)} == {Done.UNCHANGED}
    assert store.psk(b"p-1") == ALL[0]
    assert store.position() == before


def test_another_key_is_a_change_or_with_new_a_conflict(store: CredentialStore) -> None:
    store.put([psk("a")], Put.NEW)
    (refused,) = store.put([psk("a", key=OTHER)], Put.NEW)
    assert (refused.done, refused.holder) == (Done.CONFLICT, "a")
    assert store.psk(b"a") == psk("a")
    (changed,) = store.put([psk("a", key=OTHER)], Put.ALL)
    assert (changed.done, changed.holder) == (Done.CHANGED, "a")
    assert store.psk(b"a") == psk("a", key=OTHER)


@pytest.mark.parametrize("how", list(Put))
def test_an_identity_of_another_endpoint_is_a_conflict(store: CredentialStore, how: Put) -> None:
    store.put([psk("a", "id"), RPK, OWN, oscore("o", b"\1")], Put.NEW)
    wrong: list[Credential] = [
        psk("b", "id"),
        replace(RPK, endpoint="b"),
        replace(OWN, endpoint="b"),
        oscore("b", b"\1"),
    ]
    outcomes = store.put([psk("new"), *wrong], how)
    assert [one.done for one in outcomes] == [Done.ADDED] + [Done.CONFLICT] * 4
    assert [one.holder for one in outcomes] == [None, "a", "rpk-1", "x509-1", "o"]
    # All or nothing, or what fits.
    assert (store.psk(b"new") is not None) is (how in (Put.FITTING, Put.ONCE))
    assert store.psk(b"id") == psk("a", "id")


def test_one_anchor_may_vouch_for_many(store: CredentialStore) -> None:
    outcomes = store.put([ANCHOR, replace(ANCHOR, endpoint="y*")], Put.NEW)
    assert [one.done for one in outcomes] == [Done.ADDED, Done.ADDED]


def test_trusted_signers_are_there_once_each(store: CredentialStore) -> None:
    store.put([OWN, ANCHOR, replace(ANCHOR, endpoint="y*")], Put.NEW)
    constraint = replace(ANCHOR, certificate=der(4), usage=CertificateUsage.CA_CONSTRAINT)
    store.put([constraint], Put.NEW)
    assert store.anchors() == (ANCHOR.certificate,)


def test_a_trial_changes_nothing(store: CredentialStore) -> None:
    before = store.position()
    assert [one.done for one in store.put(ALL, Put.TRIAL)] == [Done.ADDED] * len(ALL)
    assert list(store) == []
    assert store.changed_since(before).position == before


def test_what_was_put_once_and_removed_does_not_come_back(store: CredentialStore) -> None:
    assert {one.done for one in store.put(ALL, Put.ONCE)} == {Done.ADDED}
    store.remove([one.id for one in ALL])
    before = store.position()
    later = [replace(one, created=NOW + timedelta(days=1)) for one in ALL]
    assert {one.done for one in store.put(later, Put.ONCE)} == {Done.KNOWN}
    assert list(store) == []
    assert store.position() == before


def test_what_was_put_once_and_changed_stays_as_it_was_changed(store: CredentialStore) -> None:
    store.put([psk("a")], Put.ONCE)
    store.put([psk("a", key=OTHER)], Put.ALL)
    assert [one.done for one in store.put([psk("a")], Put.ONCE)] == [Done.KNOWN]
    assert store.psk(b"a") == psk("a", key=OTHER)


def test_what_says_something_else_is_put_once_more_and_back_again(store: CredentialStore) -> None:
    store.put([psk("a")], Put.ONCE)
    for key in (OTHER, KEY):
        assert [one.done for one in store.put([psk("a", key=key)], Put.ONCE)] == [Done.CHANGED]
        assert store.psk(b"a") == psk("a", key=key)


def test_what_was_put_otherwise_before_is_put_once_without_a_change(store: CredentialStore) -> None:
    store.put(ALL, Put.NEW)
    assert {one.done for one in store.put(ALL, Put.ONCE)} == {Done.UNCHANGED}
    store.remove([one.id for one in ALL])
    assert {one.done for one in store.put(ALL, Put.ONCE)} == {Done.KNOWN}


def test_a_conflict_is_not_remembered_as_put(store: CredentialStore) -> None:
    store.put([psk("b", "id")], Put.NEW)
    assert [one.done for one in store.put([psk("a", "id")], Put.ONCE)] == [Done.CONFLICT]
    store.remove([psk("b", "id").id])
    assert [one.done for one in store.put([psk("a", "id")], Put.ONCE)] == [Done.ADDED]


def test_what_is_removed_is_gone(store: CredentialStore) -> None:
    store.put(ALL, Put.NEW)
    assert store.remove([ALL[0].id, CredentialId(Kind.PSK, "nobody"), ALL[2].id]) == (ALL[0], ALL[2])
    assert store.remove([ALL[0].id]) == ()
    assert store.psk(b"p-1") is None
    assert store.oscore(b"\1") is None


def test_another_learns_what_was_added_and_what_ended(store: CredentialStore, another: CredentialStore) -> None:
    store.put([psk("kept"), psk("changed"), psk("removed"), psk("back"), psk("moved", "m")], Put.NEW)
    start = another.position()
    assert another.changed_since(start).ended == frozenset()
    store.put([psk("new"), psk("changed", key=OTHER), psk("kept")], Put.ALL)
    store.remove([psk("removed").id, psk("back").id, psk("moved", "m").id])
    store.put([psk("back"), psk("moved-on", "m")], Put.NEW)
    found = another.changed_since(start)
    assert not found.everything
    assert {one.name for one in found.ended} == {"changed", "removed", "back", "m"}
    assert {one.name for one in found.added} == {"new", "back", "m"}
    assert another.psk(b"removed") is None
    assert another.psk(b"new") == psk("new")
    again = another.changed_since(found.position)
    assert (again.position, again.added, again.ended) == (found.position, frozenset(), frozenset())


def test_the_salt_stays(store: CredentialStore, another: CredentialStore) -> None:
    assert len(store.salt) >= 16
    assert store.salt == another.salt


def test_none_is_made_where_none_was_asked_for(place: StorePlace) -> None:
    for _ in range(2):
        with pytest.raises(StoreMissing, match="headwater credentials add"):
            open_store(place)


def test_one_that_is_there_is_kept_when_it_is_to_be_made(store: CredentialStore, place: StorePlace) -> None:
    store.put(ALL, Put.NEW)
    again = open_store(place, make=True)
    assert sorted(again, key=repr) == sorted(ALL, key=repr)
    assert again.position() == store.position()
    again.close()


def test_who_follows_it_finds_what_others_changed(store: CredentialStore, another: CredentialStore) -> None:
    position = another.position()
    context = oscore("o", b"\1", b"ctx")
    steps: list[tuple[list[Credential], list[Credential]]] = [
        ([psk("a"), psk("wide-*", "w"), context, ANCHOR, RPK], []),
        ([psk("a", key=OTHER), psk("b")], [psk("wide-*", "w"), ANCHOR]),
        ([psk("wide-*", "w")], [context, psk("b"), RPK]),
    ]
    for given, gone in steps:
        store.put(given, Put.ALL)
        store.remove([one.id for one in gone])
        found = another.changed_since(position)
        assert not found.everything
        assert found.added | found.ended == {one.id for one in (*given, *gone)}
        position = found.position
        assert list(another) == list(store)
        for name in ("a", "b", "o", "wide-7", "x-1", "rpk-1"):
            assert another.of_endpoint(name) == store.of_endpoint(name)
        assert another.oscore(b"\1", b"ctx") == store.oscore(b"\1", b"ctx")
        assert another.anchors() == store.anchors()
    assert [one.endpoint for one in another] == ["a", "wide-*"]


def test_who_missed_more_than_is_remembered_is_told_to_look_at_everything(
    store: CredentialStore, another: CredentialStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (sqlite, redis):
        monkeypatch.setattr(module, "MOST_CHANGES", 3)
    store.put([psk("first")], Put.NEW)
    start = another.position()
    store.put([psk("a"), psk("b")], Put.NEW)
    middle = another.changed_since(start)
    assert not middle.everything
    store.put([psk("c"), psk("d")], Put.NEW)
    assert not another.changed_since(middle.position).everything
    assert another.changed_since(start).everything
    store.put([psk(f"more-{number}") for number in range(10)], Put.NEW)
    assert another.changed_since(middle.position).everything
    assert another.psk(b"more-9") == psk("more-9")


def test_several_who_write_at_once_lose_nothing(place: StorePlace, store: CredentialStore) -> None:
    start = store.position()

    def write(name: str) -> None:
        mine = open_store(place)
        for number in range(20):
            mine.put([psk(f"{name}-{number}")], Put.NEW)
        mine.remove([psk(f"{name}-{number}").id for number in range(0, 20, 2)])
        mine.close()

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(write, "abc"))
    found = store.changed_since(start)
    assert (len(found.added), len(found.ended), found.everything) == (60, 30, False)
    assert {one.endpoint for one in store} == {f"{name}-{number}" for name in "abc" for number in range(1, 20, 2)}


def test_many_are_stored_and_found(store: CredentialStore, another: CredentialStore) -> None:
    start = another.position()
    store.put([psk(f"device-{number}") for number in range(20_000)], Put.NEW)
    assert len(another.changed_since(start).added) == 20_000
    assert another.psk(b"device-19999") == psk("device-19999")
    assert len(another.of_endpoint("device-7")) == 1


def test_it_is_asked_from_any_thread(store: CredentialStore) -> None:
    store.put(ALL, Put.NEW)
    store.position()
    look: Callable[[int], Psk | None] = lambda _: store.psk(b"p-1")  # noqa: E731
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(look, range(200))) == {ALL[0]}


def test_nothing_that_is_shown_of_it_has_a_key_or_a_password(store: CredentialStore, place: StorePlace) -> None:
    store.put(ALL, Put.NEW)
    store.position()
    shown = f"{store!r} {store} {place!r} {place} {vars(store)}"
    assert ALL[0].id.name not in repr(store)
    assert PASSWORD not in shown
    assert psk("x").key.reveal().hex() not in shown
