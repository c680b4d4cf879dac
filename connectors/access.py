"""Kafka's access control lists: what stands on a cluster, what should, and making the one the other.

Owns the difference between the table (`security.acls`) and a broker, and the order in which it is made good. It touches
only the bindings of principals that are identities of ours; a stranger's are shown and left.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from connectors.broker_admin import StoredBinding, change_bindings, stored_bindings
from connectors.kafka import Cluster
from security.acls import Binding, Decision
from security.identities import Identity, InvalidIdentity

_PRINCIPAL = "User:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What `apply` would do. ``missing`` and ``superfluous`` are of our identities, ``strangers`` is left as it is."""

    missing: tuple[Binding, ...]
    superfluous: tuple[StoredBinding, ...]
    kept: int
    strangers: tuple[StoredBinding, ...]

    @property
    def changes(self) -> int:
        return len(self.missing) + len(self.superfluous)


def is_ours(principal: str) -> bool:
    """Whether the principal (``User:gateway:rock64``) is an identity of ours, in whatever generation."""
    try:
        Identity.parse(principal.removeprefix(_PRINCIPAL))
    except InvalidIdentity:
        return False
    return principal.startswith(_PRINCIPAL)


def identity_of(principal: str) -> Identity | None:
    """The identity behind a principal of ours; None for a stranger's."""
    return Identity.parse(principal.removeprefix(_PRINCIPAL)) if is_ours(principal) else None


def plan(cluster: Cluster, wanted: Collection[Binding], *, timeout: float = 15.0) -> Plan:
    """Compare what stands on ``cluster`` with what is ``wanted``.

    Raises:
        Unreachable: no broker answered. NotAllowed: we may not look. NoAccessControl: the broker has none.
    """
    stored = stored_bindings(cluster, timeout=timeout)
    ours = [one for one in stored if is_ours(one.principal)]
    known = {binding for one in ours if (binding := one.as_binding()) is not None}
    wanted_set = frozenset(wanted)
    return Plan(
        missing=tuple(sorted(wanted_set - known, key=order)),
        superfluous=tuple(one for one in ours if one.as_binding() not in wanted_set),
        kept=len(wanted_set & known),
        strangers=tuple(one for one in stored if not is_ours(one.principal)),
    )


def apply(cluster: Cluster, changes: Plan, *, timeout: float = 15.0) -> None:
    """Make good what `plan` found. What is refused is refused first, and what is needed is there before anything goes.

    So nobody who keeps a right is without it in between. Applied twice, it changes nothing more.

    Raises:
        Unreachable, NotAllowed, NoAccessControl: as `plan`; what was done until then stands, and a new plan shows it.
    """
    denied = [one for one in changes.missing if one.decision is Decision.DENY]
    allowed = [one for one in changes.missing if one.decision is Decision.ALLOW]
    for adding in (denied, allowed):
        change_bindings(cluster, add=adding, timeout=timeout)
    change_bindings(cluster, remove=changes.superfluous, timeout=timeout)


def order(binding: Binding) -> tuple[str, str, str, str, str]:
    """By whom, then what."""
    grant = binding.grant
    return (binding.principal, grant.resource.value, grant.name, grant.pattern.value, grant.operation.value)
