"""What a device with a certificate has shown, and which endpoint names that allows (LwM2M Transport 1.1, section 5).

Owns the rule of the certificate usages (LwM2M object 0, resource 15) and of the names in a certificate, and how a proof
is written: as the identity of a peer, it stands where that of a pre-shared key stands, also in the state file. Pure but
for the store that it asks; knows no DTLS, and loads no certificate code.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from security.credentials.kinds import X509, CertificateUsage, CredentialId, Kind
from security.credentials.store import CredentialStore

#: No PSK identity has a control character (`security.credentials.kinds.Psk`), so none looks like a proof.
_MARK: Final = "\x1f"
_KIND: Final = "x509"
#: In front of the name of an OSCORE credential, as the identity of a peer (`gateway.coap.peers.OscorePeer`).
OSCORE_MARK: Final = f"{_MARK}oscore{_MARK}"
#: Those whose certificates have to come from an authority that the gateway was told.
_CONSTRAINTS: Final = (CertificateUsage.CA_CONSTRAINT, CertificateUsage.SERVICE_CERTIFICATE_CONSTRAINT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """A certificate whose private key a peer has, and by whom it is vouched for.

    ``certificate`` and ``signers`` are the SHA-256 of DER in hex, the signers from the nearest on, each signature and
    date looked at; ``is_vetted``: one of them is an authority that the gateway was told. ``names`` are the CN and the
    SANs.
    """

    certificate: str
    signers: tuple[str, ...]
    is_vetted: bool
    names: tuple[str, ...]

    @property
    def text(self) -> str:
        """All of it as one line, which no PSK identity is equal to."""
        head = ("", _KIND, self.certificate, ",".join(self.signers), str(int(self.is_vetted)))
        return _MARK.join((*head, *self.names))


def proof_of(identity: str) -> Proof | None:
    """The proof that is written so; None for the identity of a pre-shared key."""
    if not identity.startswith(f"{_MARK}{_KIND}{_MARK}"):
        return None
    _, _, certificate, signers, is_vetted, *names = identity.split(_MARK)
    return Proof(
        certificate=certificate,
        signers=tuple(signers.split(",")) if signers else (),
        is_vetted=is_vetted == "1",
        names=tuple(names),
    )


def shown(identity: str) -> str:
    """An identity for people to read."""
    if identity.startswith(OSCORE_MARK):
        return f"OSCORE id {identity.removeprefix(OSCORE_MARK)}"
    proof = proof_of(identity)
    return repr(identity) if proof is None else f"certificate {proof.certificate[:16]} of {', '.join(proof.names)!r}"


def vouches(credential: X509, proof: Proof, endpoint: str) -> bool:
    """Whether ``credential``, which is for ``endpoint``, is what ``proof`` shows, and its name that of the certificate.

    RFC 6698 section 2.1.1: usages 0 and 2 name a signer, 1 and 3 the certificate itself; 0 and 1 ask for a known
    authority besides.
    """
    digest = hashlib.sha256(credential.certificate).hexdigest()
    is_shown = digest in proof.signers if credential.usage.is_anchor else digest == proof.certificate
    return (
        is_shown
        and (proof.is_vetted or credential.usage not in _CONSTRAINTS)
        and credential.expected_subject(endpoint) in proof.names
    )


def endpoints(proof: Proof, store: CredentialStore) -> frozenset[str]:
    """The endpoint names, or patterns of them, that somebody with this proof may register; empty: nobody knows it.

    Raises:
        CredentialStoreError: the store cannot be read.
    """
    found = {
        name
        for name in proof.names
        for one in store.of_endpoint(name)
        if isinstance(one, X509) and one.subject is None and vouches(one, proof, name)
    }
    # Where another subject than the endpoint's name is expected, the id has that one.
    ids = [CredentialId(Kind.X509, proof.certificate)]
    ids += [CredentialId(Kind.X509, f"{signer}/{name}") for signer in proof.signers for name in proof.names]
    for one in map(store.find, ids):
        if isinstance(one, X509) and one.subject is not None and vouches(one, proof, one.endpoint):
            found.add(one.endpoint)
    return frozenset(found)
