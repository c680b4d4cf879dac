"""Who may register as which endpoint (OMA LwM2M Core 1.1, section 6.2.1; Transport 1.1, section 5.1).

Owns the rule: an endpoint that has credentials registers over a session that was made with one of them, or with OSCORE;
a registration that was made so is changed so alone. A key is for one endpoint name, or a pattern of them;
a certificate for the names that it has, as far as the credentials say so.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from gateway.access import Access, Changed
from gateway.certificate_proof import proof_of
from gateway.coap.message import Code
from gateway.coap.peers import Address, OscorePeer, SecurePeer
from gateway.registration import Refused
from gateway.registry import Device
from security.credentials.kinds import is_pattern
from security.errors import CredentialStoreError


def unwelcome(devices: Iterable[Device], access: Access, changed: Changed) -> list[Device]:
    """Those whose registrations have to end since the credentials changed: made with a key that is there no more, or in
    the clear under a name that has a key now. While the credentials cannot be read, none."""
    try:
        names = [name for identity in changed.added for name in access.endpoints(identity)] + list(changed.certified)
        exact = {name for name in names if not is_pattern(name)}
        patterns = [name for name in names if is_pattern(name)]
        return [
            device
            for device in devices
            if (
                # It goes with its gateway, and before that when its name gets credentials.
                not _may_stand_behind(device.behind, device.ep, access)
                if device.behind is not None
                else _is_without_its_key(device, access, changed)
                or _is_in_the_clear_with_a_key(device, access, changed, exact, patterns)
            )
        ]
    except CredentialStoreError:
        return []


def _is_without_its_key(device: Device, access: Access, changed: Changed) -> bool:
    peer = device.address
    if not isinstance(peer, SecurePeer):
        return False
    if isinstance(peer, OscorePeer) and peer.identity in changed.ended:
        # Its observations were made under keys that are no more: it has to register anew, with others or not at all.
        return True
    is_concerned = changed.certificates if proof_of(peer.identity) is not None else peer.identity in changed.ended
    return (changed.everything or is_concerned) and not access.may_register(peer.identity, device.ep)


def _is_in_the_clear_with_a_key(
    device: Device, access: Access, changed: Changed, exact: set[str], patterns: list[str]
) -> bool:
    if isinstance(device.address, SecurePeer):
        return False
    if changed.everything:
        return access.is_secured(device.ep)
    return device.ep in exact or any(fnmatchcase(device.ep, one) for one in patterns)


def _may_stand_behind(gateway: str, ep: str, access: Access) -> bool:
    """True if the endpoint ``gateway`` may tell of ``ep`` as behind it: no credential is for that name, but for those
    whose pattern is for the gateway's own name as well."""
    return all(is_pattern(one) and fnmatchcase(gateway, one) for one in access.covering(ep))


class Admission:
    """The rule of one gateway; ``access`` is None where it has no credentials and takes all in the clear."""

    def __init__(self, access: Access | None) -> None:
        self._access = access

    def endpoint(self, peer: Address, ep: str | None, holder: Address | None = None) -> str:
        """The name with which ``peer`` registers, if it says ``ep``. It may say none where its key has just one.
        ``holder`` is who has the name now, if somebody has.

        Raises:
            Refused: it may not.
            CredentialStoreError: the credentials cannot be read.
        """
        if not isinstance(peer, SecurePeer):
            if ep is None:
                raise Refused(Code.BAD_REQUEST, "ep is missing")
            if isinstance(holder, SecurePeer) or (self._access is not None and self._access.is_secured(ep)):
                raise Refused(
                    Code.FORBIDDEN, "this endpoint has credentials: it registers over DTLS (coaps) or with OSCORE"
                )
            return ep
        if self._access is not None and ep is not None and self._access.may_register(peer.identity, ep):
            return ep
        what = "key" if proof_of(peer.identity) is None else "certificate"
        endpoints = frozenset() if self._access is None else self._access.endpoints(peer.identity)
        if not endpoints:
            raise Refused(Code.FORBIDDEN, f"the {what} of this session is no longer good")
        if ep is not None:
            raise Refused(Code.FORBIDDEN, f"the {what} of this session is not for this endpoint")
        if len(endpoints) > 1 or any(map(is_pattern, endpoints)):
            raise Refused(Code.BAD_REQUEST, f"ep is missing, and this {what} is for several endpoints")
        return next(iter(endpoints))

    def behind(self, gateway: str, ep: str) -> None:
        """See that the endpoint ``gateway`` may tell of ``ep`` as a device behind it.

        Raises:
            Refused: there are credentials for that name, so it registers itself.
            CredentialStoreError: the credentials cannot be read.
        """
        if self._access is not None and not _may_stand_behind(gateway, ep, self._access):
            raise Refused(Code.FORBIDDEN, "this endpoint has credentials: it registers itself, over DTLS (coaps)")

    def may_change(self, peer: Address, ep: str, owner: Address) -> None:
        """See that ``peer`` may change the registration of ``ep``, which was made by ``owner``.

        Raises:
            Refused: it may not; the same as for a registration that is not there.
            CredentialStoreError: the credentials cannot be read.
        """
        if peer == owner:
            return
        if isinstance(peer, SecurePeer):
            if self._access is None or not self._access.may_register(peer.identity, ep):
                raise Refused(Code.NOT_FOUND, "no such registration")
        elif isinstance(owner, SecurePeer):
            raise Refused(Code.NOT_FOUND, "no such registration")
