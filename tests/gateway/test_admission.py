"""Who may register as which endpoint, and what a store of credentials that fails does to it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.access import Access, Changed
from gateway.admission import Admission, unwelcome
from gateway.coap.message import Code
from gateway.coap.peers import SecurePeer, UdpAddress, host_port, udp_address
from gateway.registration import Refused, parse_announcement
from gateway.registry import Device, KafkaPlace
from schemas.avro.records import Binding
from security.credentials.key_bytes import KeyBytes
from security.credentials.kinds import CredentialId, Kind, Psk
from security.credentials.sqlite import SqliteCredentials
from security.credentials.store import Put
from security.errors import CredentialStoreError

HERE: UdpAddress = ("192.0.2.7", 5000)
KEY = b"sixteen byte key"


def _psk(endpoint: str, identity: str, key: bytes = KEY) -> Psk:
    return Psk(endpoint=endpoint, created=datetime.now(UTC), identity=identity.encode(), key=KeyBytes(key))


def _device(ep: str, address: UdpAddress | SecurePeer) -> Device:
    return Device(
        ep=ep,
        reg_id=ep,
        address=address,
        lifetime=60,
        version="1.1",
        binding=Binding.U,
        queue=False,
        sms=None,
        announcement=parse_announcement(b"</3/0>"),
        attributes={},
        reg_date=0,
        last_up=0,
        place=KafkaPlace(key=b"", observations=0, registrations=0, replies=0),
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteCredentials]:
    made = SqliteCredentials(tmp_path / "credentials.db", make=True)
    made.put([_psk("press-1", "own"), _psk("lathe-*", "shared")], Put.NEW)
    yield made
    made.close()


@pytest.fixture
def admission(store: SqliteCredentials) -> Admission:
    return Admission(Access(store))


def _refused(admission: Admission, peer: UdpAddress | SecurePeer, ep: str | None) -> Code:
    with pytest.raises(Refused) as caught:
        admission.endpoint(peer, ep)
    return caught.value.code


def test_key_is_for_its_name_or_for_what_fits_its_pattern(admission: Admission) -> None:
    own, shared = SecurePeer("own", HERE), SecurePeer("shared", HERE)
    assert admission.endpoint(own, "press-1") == "press-1"
    assert admission.endpoint(own, None) == "press-1"
    assert admission.endpoint(shared, "lathe-7") == "lathe-7"
    assert _refused(admission, own, "press-2") is Code.FORBIDDEN
    assert _refused(admission, own, "lathe-7") is Code.FORBIDDEN
    assert _refused(admission, shared, "press-1") is Code.FORBIDDEN
    assert _refused(admission, shared, None) is Code.BAD_REQUEST
    # The pattern itself is a name that fits it, and nobody's.
    assert _refused(admission, SecurePeer("removed", HERE), "press-1") is Code.FORBIDDEN


def test_a_registration_with_a_key_is_one_look_at_the_store(tmp_path: Path) -> None:
    looks: list[bytes] = []

    class Watched(SqliteCredentials):
        def psk(self, identity: bytes) -> Psk | None:
            looks.append(identity)
            return super().psk(identity)

    store = Watched(tmp_path / "credentials.db", make=True)
    store.put([_psk("press-1", "own"), _psk("lathe-*", "shared")], Put.NEW)
    admission = Admission(Access(store))
    admission.endpoint(SecurePeer("own", HERE), "press-1")
    admission.endpoint(SecurePeer("shared", HERE), "lathe-7")
    assert looks == [b"own", b"shared"]
    # As it is at that moment.
    store.remove([CredentialId(Kind.PSK, "own")])
    assert _refused(admission, SecurePeer("own", HERE), "press-1") is Code.FORBIDDEN
    store.close()


def test_name_that_has_a_key_does_not_register_in_the_clear(admission: Admission) -> None:
    assert _refused(admission, HERE, "press-1") is Code.FORBIDDEN
    assert _refused(admission, HERE, "lathe-9") is Code.FORBIDDEN
    assert _refused(admission, HERE, None) is Code.BAD_REQUEST
    assert admission.endpoint(HERE, "open-1") == "open-1"
    assert Admission(None).endpoint(HERE, "press-1") == "press-1"


def test_name_that_somebody_has_over_dtls_is_not_taken_in_the_clear_also_when_its_key_is_gone(
    admission: Admission, store: SqliteCredentials
) -> None:
    store.remove([CredentialId(Kind.PSK, "own")])
    for one in (admission, Admission(None)):
        with pytest.raises(Refused) as caught:
            one.endpoint(HERE, "press-1", SecurePeer("own", HERE))
        assert caught.value.code is Code.FORBIDDEN
        assert one.endpoint(HERE, "press-1", HERE) == "press-1"


def test_registration_is_unwelcome_when_its_key_is_gone_or_its_name_has_one_now(store: SqliteCredentials) -> None:
    access = Access(store)
    keyed, pattern = _device("press-1", SecurePeer("own", HERE)), _device("lathe-7", SecurePeer("shared", HERE))
    plain, other = _device("press-5", HERE), _device("mill-1", HERE)
    everybody = [keyed, pattern, plain, other]
    assert unwelcome(everybody, access, Changed(everything=True)) == []
    # Changed, but still for that name.
    assert unwelcome(everybody, access, Changed(ended=frozenset({"own", "shared"}))) == []
    store.put([_psk("press-5", "five"), _psk("mill-*", "mills")], Put.NEW)
    assert unwelcome(everybody, access, access.changed()) == [plain, other]
    store.remove([CredentialId(Kind.PSK, "own"), CredentialId(Kind.PSK, "shared")])
    assert unwelcome(everybody, access, access.changed()) == [keyed, pattern]
    assert unwelcome(everybody, access, Changed(everything=True)) == everybody


def test_registration_is_changed_by_who_may_make_it(admission: Admission) -> None:
    owner, again = SecurePeer("own", HERE), SecurePeer("own", HERE)
    stranger, shared = ("192.0.2.8", 5000), SecurePeer("shared", HERE)
    admission.may_change(owner, "press-1", owner)
    admission.may_change(again, "press-1", owner)
    # From the clear to DTLS, but not back.
    admission.may_change(owner, "press-1", HERE)
    admission.may_change(stranger, "open-1", HERE)
    for other in (stranger, HERE, shared):
        with pytest.raises(Refused) as caught:
            admission.may_change(other, "press-1", owner)
        assert caught.value.code is Code.NOT_FOUND


def test_changes_are_told_once_and_name_what_is_no_longer_good(store: SqliteCredentials) -> None:
    access = Access(store)
    assert access.changed() == Changed()
    store.put([_psk("press-1", "own", KEY[::-1]), _psk("press-5", "new")], Put.ALL)
    store.remove([CredentialId(Kind.PSK, "shared")])
    assert access.changed() == Changed(ended=frozenset({"own", "shared"}), added=frozenset({"new"}))
    assert access.changed() == Changed()
    assert (access.key(b"own"), access.key(b"new"), access.key(b"shared")) == (KEY[::-1], KEY, None)
    assert (access.only_endpoint("own"), access.only_endpoint("shared")) == ("press-1", None)
    assert access.key(b"\xff\xfe") is None


def test_store_that_fails_lets_nobody_new_in_and_ends_nobody(store: SqliteCredentials, tmp_path: Path) -> None:
    access = Access(store)
    (tmp_path / "credentials.db").chmod(0o644)  # open to others: it is not believed any more
    assert access.changed() == Changed()
    assert (access.key(b"own"), access.only_endpoint("own")) == (None, None)
    with pytest.raises(CredentialStoreError):
        access.is_secured("press-1")
    assert access.failures == 4
    (tmp_path / "credentials.db").chmod(0o600)
    assert access.changed() == Changed()
    assert access.key(b"own") == KEY
    (tmp_path / "credentials.db").rename(tmp_path / "away.db")
    assert access.changed() == Changed()
    assert access.key(b"own") is None


def test_damaged_store_lets_nobody_in(store: SqliteCredentials, tmp_path: Path) -> None:
    access = Access(store)
    (tmp_path / "credentials.db").write_bytes(b"\0" * 8192)
    assert access.key(b"own") is None
    assert access.only_endpoint("own") is None
    assert access.failures == 2
    with pytest.raises(CredentialStoreError):
        Admission(access).endpoint(HERE, "press-1")


def test_peer_is_itself_alone_and_says_who_and_where_it_is() -> None:
    peer = SecurePeer("own", udp_address("2001:db8::1", 7))
    assert peer != SecurePeer("own", udp_address("2001:db8::1", 7))
    assert host_port(peer) == host_port(("2001:db8::1", 7, 0, 0)) == ("2001:db8::1", 7)
    assert repr(peer) == "'own' at 2001:db8::1 port 7"


def test_a_gateway_tells_of_names_without_credentials_or_with_those_of_its_own_pattern(admission: Admission) -> None:
    for gateway in ("press-1", "lathe-7", "elsewhere"):
        Admission(None).behind(gateway, "press-1")
        admission.behind(gateway, f"{gateway}/lamp")
    # Of a key for many, the gateway's name is one as well.
    admission.behind("lathe-7", "lathe-7/lamp")
    for gateway, name in (("press-1", "press-1"), ("press-1", "lathe-7/lamp"), ("elsewhere", "lathe-7")):
        with pytest.raises(Refused):
            admission.behind(gateway, name)


def test_devices_behind_a_gateway_end_when_their_names_get_credentials(store: SqliteCredentials) -> None:
    access = Access(store)
    gateway, lamp = _device("press-1", SecurePeer("own", HERE)), _device("press-1/lamp", SecurePeer("own", HERE))
    lamp.behind, lamp.gateway = gateway.ep, gateway
    # Its gateway's key is not for its name, and need not be.
    assert unwelcome([gateway, lamp], access, Changed(everything=True)) == []
    store.put([_psk("*", "fleet")], Put.NEW)
    assert unwelcome([gateway, lamp], access, access.changed()) == []
    store.put([_psk("press-1/*", "lamps")], Put.NEW)
    assert unwelcome([gateway, lamp], access, access.changed()) == [lamp]
    assert store.remove([CredentialId(Kind.PSK, "lamps")])
    store.put([_psk("press-1/lamp", "lamp")], Put.NEW)
    assert unwelcome([gateway, lamp], access, access.changed()) == [lamp]
    assert store.remove([CredentialId(Kind.PSK, "lamp"), CredentialId(Kind.PSK, "own")])
    # It goes with its gateway, as `gateway.behind` sees to.
    assert unwelcome([gateway, lamp], access, access.changed()) == [gateway]
