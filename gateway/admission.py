"""Who may register as which endpoint (OMA LwM2M Core 1.1, section 6.2.1; Transport 1.1, section 5.1).

Owns the rule: an endpoint that has credentials registers over a session that was made with one of them; a registration
that was made over a session is changed over such a session alone. A key is for one endpoint name, or a pattern of them.
"""

from __future__ import annotations

from gateway.access import Access
from gateway.coap.message import Code
from gateway.coap.peers import Address, SecurePeer
from gateway.registration import Refused
from security.credentials.kinds import Psk, is_pattern, may_register


class Admission:
    """The rule of one gateway; ``access`` is None where it has no credentials and takes all in the clear."""

    def __init__(self, access: Access | None) -> None:
        self._access = access

    def endpoint(self, peer: Address, ep: str | None) -> str:
        """The name with which ``peer`` registers, if it says ``ep``. It may say none where its key has just one.

        Raises:
            Refused: it may not.
            CredentialStoreError: the credentials cannot be read.
        """
        if not isinstance(peer, SecurePeer):
            if ep is None:
                raise Refused(Code.BAD_REQUEST, "ep is missing")
            if self._access is not None and self._access.is_secured(ep):
                raise Refused(Code.FORBIDDEN, "this endpoint has credentials: it registers over DTLS (coaps)")
            return ep
        credential = self._credential(peer)
        if ep is None:
            if is_pattern(credential.endpoint):
                raise Refused(Code.BAD_REQUEST, "ep is missing, and this key is for several endpoints")
            return credential.endpoint
        if not may_register(credential, ep):
            raise Refused(Code.FORBIDDEN, "the key of this session is not for this endpoint")
        return ep

    def may_change(self, peer: Address, ep: str, owner: Address) -> None:
        """See that ``peer`` may change the registration of ``ep``, which was made by ``owner``.

        Raises:
            Refused: it may not; the same as for a registration that is not there.
            CredentialStoreError: the credentials cannot be read.
        """
        if peer == owner:
            return
        if isinstance(peer, SecurePeer):
            if not may_register(self._credential(peer), ep):
                raise Refused(Code.NOT_FOUND, "no such registration")
        elif isinstance(owner, SecurePeer):
            raise Refused(Code.NOT_FOUND, "no such registration")

    def _credential(self, peer: SecurePeer) -> Psk:
        credential = None if self._access is None else self._access.psk(peer.identity)
        if credential is None:
            raise Refused(Code.FORBIDDEN, "the key of this session is no longer good")
        return credential
