"""Which identities a fleet has: those of the cloud, those of each edge, and by which names its brokers are reached.

Owns the two lists and the default names, which are those of the stacks (``kafka-cloud``, ``kafka-<gateway>``). An
edge's broker has none of the cloud's names, so that what is stolen at an edge cannot play the cloud.
"""

from __future__ import annotations

from security.certificates import check_name
from security.errors import Refused
from security.identities import CLOUD, Identity, Role

#: The name of those who look after all of it.
FLEET = "fleet"
_OWN_MACHINE = ("localhost", "127.0.0.1", "::1")


def of_cloud() -> tuple[Identity, ...]:
    """The cloud's broker, who sets up topics and rights everywhere, and who only looks."""
    return (Identity(Role.BROKER, CLOUD), Identity(Role.ADMIN, FLEET), Identity(Role.MONITOR, FLEET))


def of_edge(gateway: str) -> tuple[Identity, ...]:
    """A gateway's own broker, the gateway, and its replicator.

    Raises:
        InvalidIdentity: the id cannot be one.
    """
    return tuple(Identity(role, gateway) for role in (Role.GATEWAY, Role.BROKER, Role.REPLICATOR))


def default_names(identity: Identity) -> tuple[str, ...]:
    """The names by which a broker is reached on its own machine and in its stack; none for who is no broker."""
    if identity.role is not Role.BROKER:
        return ()
    names = [f"kafka-{identity.name}", "kafka"] if identity.name == CLOUD else [f"kafka-{identity.name}"]
    return (*filter(_can_be, names), *_OWN_MACHINE)


def _can_be(name: str) -> bool:
    # A gateway's id may end in a hyphen, or be longer than a label may; no network has such a name either.
    try:
        check_name(name)
    except Refused:
        return False
    return True
