"""Credentials: the limits that each keeps, the names that it may register, and that no key is ever shown."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from security.credentials.key_bytes import KeyBytes
from security.credentials.kinds import (
    X509,
    Aead,
    CertificateUsage,
    Credential,
    Hkdf,
    Oscore,
    Psk,
    Rpk,
    fingerprint,
    may_register,
)
from security.credentials.making import new_oscore, new_psk, new_rpk, new_x509
from security.credentials.rows import from_text, to_text
from security.errors import InvalidCredential

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
KEY = bytes(range(16))


def psk(**changes: Any) -> Psk:
    given: dict[str, Any] = {"endpoint": "sensor-1", "created": NOW, "identity": b"sensor-1", "key": KeyBytes(KEY)}
    return Psk(**(given | changes))


def oscore(**changes: Any) -> Oscore:
    given: dict[str, Any] = {"endpoint": "sensor-1", "created": NOW, "master_secret": KeyBytes(KEY), "sender_id": b"\1"}
    return Oscore(**(given | {"recipient_id": b"\2"} | changes))


def der(length: int) -> bytes:
    """A SEQUENCE of so many bytes in all."""
    return b"\x30\x82" + (length - 4).to_bytes(2) + bytes(length - 4)


@pytest.mark.parametrize("length", [16, 32, 64])
def test_a_key_has_16_to_64_bytes(length: int) -> None:
    assert len(psk(key=KeyBytes(bytes(length))).key) == length
    assert len(oscore(master_secret=KeyBytes(bytes(length))).master_secret) == length


@pytest.mark.parametrize("length", [0, 15, 65])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    for make in (lambda: psk(key=KeyBytes(bytes(length))), lambda: oscore(master_secret=KeyBytes(bytes(length)))):
        with pytest.raises(InvalidCredential, match=f"16 to 64 bytes; this one has {length}"):
            make()


@pytest.mark.parametrize("identity", [b"x", b"x" * 128, "gerät".encode(), "\N{GRINNING FACE}".encode() * 32])
def test_an_identity_is_utf_8_of_1_to_128_bytes(identity: bytes) -> None:
    assert psk(identity=identity).id.name.encode() == identity


@pytest.mark.parametrize(
    ("identity", "words"),
    [(b"", "1 to 128"), (b"x" * 129, "1 to 128"), (b"\xff", "UTF-8"), (b"a\0", "control"), (b"\n", "control")],
)
def test_another_identity_is_refused(identity: bytes, words: str) -> None:
    with pytest.raises(InvalidCredential, match=words):
        psk(identity=identity)


@pytest.mark.parametrize("endpoint", ["", " ", "x" * 256, "a\nb", "\ud800"])
def test_an_endpoint_is_a_name_that_the_gateway_takes(endpoint: str) -> None:
    with pytest.raises(InvalidCredential, match="endpoint"):
        psk(endpoint=endpoint)


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(InvalidCredential, match="zone"):
        psk(created=datetime(2026, 3, 1))


@pytest.mark.parametrize(
    ("sender", "recipient"),
    # RFC 8613 appendix C.1.2 and C.2.2: the server's ids; then the longest that fit into a nonce of 13 bytes.
    [(b"\x01", b""), (b"", b"\x01"), (b"\x01", b"\x00"), (b"1234567", b"7654321"), (b"\0", b"\0\0")],
)
def test_ids_as_rfc_8613_has_them_are_taken(sender: bytes, recipient: bytes) -> None:
    made = oscore(sender_id=sender, recipient_id=recipient)
    assert made.id.name == (recipient.hex() or "-")


@pytest.mark.parametrize("aead", list(Aead))
def test_an_id_is_no_longer_than_the_nonce_has_room_for(aead: Aead) -> None:
    longest = aead.value[1] - 6
    assert oscore(aead=aead, recipient_id=b"r" * longest).aead is aead
    with pytest.raises(InvalidCredential, match=f"{longest} bytes at most"):
        oscore(aead=aead, recipient_id=b"r" * (longest + 1))
    with pytest.raises(InvalidCredential, match=f"{longest} bytes at most"):
        oscore(aead=aead, sender_id=b"s" * (longest + 1))


@pytest.mark.parametrize("same", [b"", b"\1"])
def test_sender_and_recipient_id_differ(same: bytes) -> None:
    with pytest.raises(InvalidCredential, match="must differ"):
        oscore(sender_id=same, recipient_id=same)


def test_salt_and_context_are_bounded() -> None:
    with pytest.raises(InvalidCredential, match="master salt"):
        oscore(master_salt=KeyBytes(bytes(65)))
    for wrong in (b"", bytes(65)):
        with pytest.raises(InvalidCredential, match="ID Context"):
            oscore(id_context=wrong)


@pytest.mark.parametrize("wrong", [b"", b"\x30", b"0" * 9, b"\x31\x00", der(100)[:-1], der(100) + b"\0", der(16385)])
def test_what_is_no_der_is_refused(wrong: bytes) -> None:
    with pytest.raises(InvalidCredential, match="public key"):
        Rpk(endpoint="e", created=NOW, public_key=wrong)
    with pytest.raises(InvalidCredential, match="certificate"):
        X509(endpoint="e", created=NOW, certificate=wrong)


ALL: list[Callable[[], Credential]] = [
    psk,
    oscore,
    lambda: oscore(id_context=b"ctx", master_salt=KeyBytes(b"salt"), aead=Aead.AES_GCM_128, hkdf=Hkdf.SHA_512),
    lambda: Rpk(endpoint="a-*", created=NOW, public_key=der(200)),
    lambda: X509(endpoint="e", created=NOW, certificate=der(300)),
    lambda: X509(
        endpoint="a-*", created=NOW, certificate=der(300), usage=CertificateUsage.CA_CONSTRAINT, subject="host.example"
    ),
]


@pytest.mark.parametrize("make", ALL)
def test_a_credential_comes_back_as_it_was_stored(make: Callable[[], Credential]) -> None:
    credential = make()
    assert from_text(credential.id.kind.value, credential.endpoint, NOW, to_text(credential)) == credential


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"identity": 5, "key": "' + KEY.hex() + '"}'])
def test_a_damaged_row_is_told_without_its_key(text: str) -> None:
    with pytest.raises(InvalidCredential, match="not in our form") as told:
        from_text("psk", "e", NOW, text)
    assert KEY.hex() not in str(told.value)
    assert told.value.__cause__ is None
    assert told.value.__suppress_context__


@pytest.mark.parametrize("make", ALL)
def test_no_key_is_shown_or_pickled(make: Callable[[], Credential]) -> None:
    credential = make()
    shown = f"{credential} {credential!r} {[credential]}"
    if isinstance(credential, (Psk, Oscore)):
        assert "******" in shown
        for form in (repr(KEY)[2:-1], KEY.hex(), str(list(KEY)), "salt'"):
            assert form not in shown
        for copied in (pickle.dumps, copy.deepcopy):
            with pytest.raises(TypeError, match="not pickled"):
                copied(credential)
    assert KEY.hex() not in fingerprint(credential, b"salt")


def test_keys_are_equal_by_what_they_hold() -> None:
    assert KeyBytes(KEY) == KeyBytes(KEY[:8] + KEY[8:])
    assert len({KeyBytes(KEY), KeyBytes(KEY), KeyBytes(b"")}) == 2
    assert KeyBytes(KEY) != KEY


def test_a_fingerprint_of_a_key_cannot_be_tried_out_without_the_salt() -> None:
    one, other = fingerprint(psk(), b"one store"), fingerprint(psk(), b"another store")
    assert one != other
    assert one == fingerprint(psk(identity=b"another", endpoint="another"), b"one store")
    assert one != fingerprint(psk(key=KeyBytes(KEY + b"x")), b"one store")


@pytest.mark.parametrize(
    ("pattern", "fits", "fits_not"),
    [
        ("sensor-1", ["sensor-1"], ["sensor-10", "Sensor-1", "xsensor-1", ""]),
        ("sensor-*", ["sensor-", "sensor-1"], ["sensor", "SENSOR-1"]),
        ("s-?", ["s-1"], ["s-10"]),
        ("s-[12]", ["s-1", "s-[12]"], ["s-3"]),
        ("urn:imei:*", ["urn:imei:490154203237518"], ["urn:esn:1"]),
    ],
)
def test_who_may_register(pattern: str, fits: list[str], fits_not: list[str]) -> None:
    one = psk(endpoint=pattern)
    assert all(may_register(one, name) for name in fits)
    assert not any(may_register(one, name) for name in fits_not)


def test_an_anchor_is_of_many_devices_and_a_certificate_of_one() -> None:
    own = X509(endpoint="a", created=NOW, certificate=der(300))
    assert own.id == replace(own, endpoint="b").id
    anchor = replace(own, usage=CertificateUsage.TRUST_ANCHOR_ASSERTION)
    assert anchor.id != replace(anchor, endpoint="b").id
    assert anchor.expected_subject("a") == "a"
    assert replace(anchor, subject="cn").expected_subject("a") == "cn"


def test_what_is_made_differs_each_time_and_fits_to_what_is_stored() -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    def random(length: int) -> bytes:
        return next(drawn)[:length]

    drawn = iter([KEY, b"abcdefgh", b"abcdefgh"])
    made = new_psk("e", b"e", now=NOW, random=random)
    assert isinstance(made.credential, Psk)
    assert made.secret.reveal() == KEY.hex() == made.credential.key.reveal().hex()
    # The second id that comes is the first again, so a third one is drawn.
    drawn = iter([KEY, b"r", b"r", b"s"])
    context = new_oscore("e", now=NOW, random=random, aead=Aead.AES_CCM_64_64_128).credential
    assert isinstance(context, Oscore)
    assert (context.recipient_id, context.sender_id) == (b"r", b"s")

    public = new_rpk("e", now=NOW)
    key = serialization.load_pem_private_key(public.secret.reveal().encode(), None)
    assert isinstance(public.credential, Rpk)
    der_form = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert der_form == public.credential.public_key
    for name in ("sensor-1", "urn:imei:490154203237518", "x" * 100):
        own = new_x509(name, now=NOW, days=10)
        assert isinstance(own.credential, X509)
        pem = x509.load_pem_x509_certificate(own.secret.reveal().encode())
        assert pem.public_bytes(serialization.Encoding.DER) == own.credential.certificate
        assert name in repr(pem.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
        assert "PRIVATE" not in f"{own!r}"
    for wrong in ("a-*", "gerät"):
        with pytest.raises(InvalidCredential, match=r"certificate"):
            new_x509(wrong, now=NOW, days=10)
