"""Which endpoint names a proof allows, by each usage of a certificate, and how a proof is written."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access import Access, Changed
from gateway.admission import Admission, unwelcome
from gateway.certificate_proof import Proof, endpoints, proof_of, shown, vouches
from gateway.coap.peers import SecurePeer
from gateway.registration import Refused
from security.credentials.key_bytes import KeyBytes
from security.credentials.kinds import X509, CertificateUsage, CredentialId, Kind, Psk
from security.credentials.sqlite import SqliteCredentials
from security.credentials.store import Put
from tests.gateway.test_admission import HERE, _device

OWN, SIGNER, OTHER = b"\x30\x01\x01", b"\x30\x01\x02", b"\x30\x01\x03"
CA, SERVICE, ANCHOR, ISSUED = CertificateUsage


def _digest(der: bytes) -> str:
    return sha256(der).hexdigest()


def _proof(*names: str, signers: tuple[bytes, ...] = (SIGNER,), is_vetted: bool = False) -> Proof:
    return Proof(
        certificate=_digest(OWN), signers=tuple(map(_digest, signers)), is_vetted=is_vetted, names=names or ("press-1",)
    )


def _credential(
    certificate: bytes, usage: CertificateUsage, endpoint: str = "press-1", subject: str | None = None
) -> X509:
    return X509(endpoint=endpoint, created=datetime.now(UTC), certificate=certificate, usage=usage, subject=subject)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteCredentials]:
    made = SqliteCredentials(tmp_path / "credentials.db", make=True)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("certificate", "usage", "is_vetted", "good"),
    [
        (OWN, ISSUED, False, True),
        (SIGNER, ISSUED, False, False),
        (SIGNER, ANCHOR, False, True),
        (OWN, ANCHOR, False, False),
        (OTHER, ANCHOR, True, False),
        (OWN, SERVICE, False, False),
        (OWN, SERVICE, True, True),
        (SIGNER, CA, False, False),
        (SIGNER, CA, True, True),
        (OTHER, CA, True, False),
    ],
)
def test_usage_says_what_has_to_be_shown(
    certificate: bytes, usage: CertificateUsage, is_vetted: bool, good: bool
) -> None:
    credential = _credential(certificate, usage)
    assert vouches(credential, _proof(is_vetted=is_vetted), "press-1") is good
    assert not vouches(credential, _proof("press-2", is_vetted=is_vetted), "press-1")


def test_names_are_those_of_the_certificate_as_far_as_credentials_go(store: SqliteCredentials) -> None:
    store.put(
        [
            _credential(SIGNER, ANCHOR, "press-*"),
            _credential(SIGNER, ANCHOR, "lathe-1", subject="CN of lathe 1"),
            _credential(OWN, ISSUED, "mill-1", subject="press-9"),
            _credential(OTHER, ANCHOR, "*"),
        ],
        Put.NEW,
    )
    assert endpoints(_proof("press-1", "saw-1"), store) == {"press-1"}
    assert endpoints(_proof("CN of lathe 1"), store) == {"lathe-1"}
    assert endpoints(_proof("press-9"), store) == {"press-9", "mill-1"}
    assert endpoints(_proof("lathe-1"), store) == frozenset()
    assert endpoints(_proof("press-1", signers=()), store) == frozenset()
    assert endpoints(_proof("PRESS-1"), store) == frozenset()


_NAMES = st.lists(st.text(min_size=1, max_size=20).filter(str.isprintable), max_size=5, unique=True)


@given(names=_NAMES, signers=st.lists(st.sampled_from((SIGNER, OTHER)), unique=True), is_vetted=st.booleans())
def test_proof_is_read_as_it_was_written(names: list[str], signers: list[bytes], is_vetted: bool) -> None:
    proof = Proof(
        certificate=_digest(OWN), signers=tuple(map(_digest, signers)), is_vetted=is_vetted, names=tuple(names)
    )
    assert proof_of(proof.text) == proof
    assert "\x1f" not in shown(proof.text)


@given(st.text(min_size=1, max_size=40))
def test_identity_of_a_key_is_no_proof(text: str) -> None:
    try:
        psk = Psk(endpoint="a", created=datetime.now(UTC), identity=text.encode("utf-8"), key=KeyBytes(bytes(16)))
    except ValueError:
        return  # surrogates
    except Exception:  # noqa: BLE001  InvalidCredential: a control character, or too long
        return
    assert proof_of(psk.id.name) is None


def test_admission_by_a_certificate(store: SqliteCredentials) -> None:
    store.put([_credential(SIGNER, ANCHOR, "press-*")], Put.NEW)
    admission = Admission(Access(store, has_certificates=True))
    one, two = SecurePeer(_proof().text, HERE), SecurePeer(_proof("press-1", "press-2").text, HERE)
    assert admission.endpoint(one, "press-1") == admission.endpoint(one, None) == "press-1"
    assert admission.endpoint(two, "press-2") == "press-2"
    for peer, ep in ((one, "press-2"), (two, None), (two, "press-3"), (HERE, "press-1")):
        with pytest.raises(Refused):
            admission.endpoint(peer, ep)
    admission.may_change(two, "press-1", one)
    with pytest.raises(Refused):
        admission.may_change(SecurePeer(_proof("press-2").text, HERE), "press-1", one)
    # A gateway without a certificate of its own knows none of them.
    without = Admission(Access(store))
    assert without.endpoint(HERE, "press-1") == "press-1"
    with pytest.raises(Refused):
        without.endpoint(one, "press-1")


def test_change_of_a_certificate_ends_what_it_has_to(store: SqliteCredentials) -> None:
    anchor = _credential(SIGNER, ANCHOR, "press-*")
    store.put([anchor], Put.NEW)
    access = Access(store, has_certificates=True)
    device, plain = _device("press-1", SecurePeer(_proof().text, HERE)), _device("saw-1", HERE)
    assert unwelcome([device, plain], access, Changed(everything=True)) == []
    store.put([_credential(OTHER, ISSUED, "saw-1")], Put.NEW)
    changed = access.changed()
    assert changed == Changed(certificates=True, certified=frozenset({"saw-1"}))
    assert unwelcome([device, plain], access, changed) == [plain]
    store.remove([CredentialId(Kind.X509, anchor.id.name)])
    assert access.is_revoked(_proof().text)
    assert unwelcome([device], access, access.changed()) == [device]


def test_only_trust_anchors_are_trusted(store: SqliteCredentials) -> None:
    store.put(
        [
            _credential(SIGNER, ANCHOR, "a"),
            _credential(SIGNER, ANCHOR, "b"),
            _credential(OTHER, CA, "c"),
            _credential(OWN, ISSUED, "d"),
        ],
        Put.NEW,
    )
    assert Access(store).anchors() == (SIGNER,)
