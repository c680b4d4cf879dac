"""Identities: who speaks to a Kafka, as its certificate says it and as Kafka's ACLs name it.

Owns the text form: ``role:name``, and ``role:name:2`` and on for what was issued after a revocation. That text alone
is the subject of the certificate (``CN=<principal>``) and, by the broker's ``ssl.principal.mapping.rules``, the name
behind ``User:`` in its ACLs. Kafka reads no revocation list of ours, so a revoked identity keeps its name for ever and
the one after it has another: what was stolen never gets a right again.

Never makes a certificate and knows no rights: those are ``security.authority`` and the table of ACLs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from schemas.avro.topics import InvalidGatewayId, validate_gateway_id

#: RFC 5280, appendix A.1, ub-common-name: no more signs fit into the subject of a certificate.
MAX_PRINCIPAL = 64
#: The name of the one broker identity that is no gateway's.
CLOUD = "cloud"
#: The name of a sink or a job that serves all gateways (``--gateway '*'``): ``*`` is a wildcard to Kafka and to shells.
ALL_GATEWAYS = "_all"

_GENERATION = re.compile(r"[2-9]|[1-9][0-9]{1,5}")


class InvalidIdentity(ValueError):
    """The text is no identity, or names one that cannot be."""


class Role(Enum):
    """What kind of process or person it is; the rights hang on it."""

    BROKER = "broker"
    ADMIN = "admin"
    GATEWAY = "gateway"
    REPLICATOR = "replicator"
    SINK = "sink"
    ANALYTICS = "analytics"
    CAMPAIGNS = "campaigns"
    USER = "user"
    MONITOR = "monitor"


#: The roles whose name is the id of a gateway.
OF_GATEWAY = frozenset({Role.BROKER, Role.GATEWAY, Role.REPLICATOR, Role.SINK, Role.ANALYTICS, Role.CAMPAIGNS})
#: The roles that may serve all gateways in one, by the name ``_all``.
_OF_ALL = frozenset({Role.SINK, Role.ANALYTICS})


@dataclass(frozen=True, slots=True)
class Identity:
    """One identity, in one of its generations.

    >>> Identity(Role.GATEWAY, "rock64").principal
    'gateway:rock64'
    >>> Identity.parse("sink:*").principal
    'sink:_all'

    Raises:
        InvalidIdentity: the name cannot be one of this role, or the whole is too long for a certificate.
    """

    role: Role
    name: str
    generation: int = 1

    def __post_init__(self) -> None:
        try:
            validate_gateway_id(self.name)
        except InvalidGatewayId as exc:
            if self.role in OF_GATEWAY:
                raise InvalidIdentity(f"{self.role.value}: {exc}") from exc
            raise InvalidIdentity(
                f"{self.role.value}: the name {self.name[:120]!r}: letters, digits, '-', '_' and single dots inside "
                f"are expected, such as {self.role.value}:anna"
            ) from exc
        if self.name == ALL_GATEWAYS and self.role in OF_GATEWAY - _OF_ALL:
            raise InvalidIdentity(
                f"{self.role.value}:{self.name}: {ALL_GATEWAYS} stands for all gateways, and is none; only "
                f"{' and '.join(sorted(role.value for role in _OF_ALL))} may have it"
            )
        if self.name == CLOUD and self.role in OF_GATEWAY - {Role.BROKER}:
            raise InvalidIdentity(
                f"{self.role.value}:{self.name}: no gateway may be called {CLOUD}, since broker:{CLOUD} is the cloud's "
                "own broker"
            )
        if not 1 <= self.generation <= 999_999:
            raise InvalidIdentity(f"{self.role.value}:{self.name}: the generation {self.generation} is not 1 to 999999")
        if len(self.principal) > MAX_PRINCIPAL:
            raise InvalidIdentity(
                f"{self.principal!r} has {len(self.principal)} signs, and the subject of a certificate holds "
                f"{MAX_PRINCIPAL}: a shorter name is needed"
            )

    @classmethod
    def parse(cls, text: str) -> Identity:
        """The identity that ``role:name`` or ``role:name:generation`` says; ``*`` for the name is all gateways.

        Raises:
            InvalidIdentity: says what is wrong and how it should look.
        """
        role_text, *rest = text.split(":")
        try:
            role = Role(role_text)
        except ValueError as exc:
            raise InvalidIdentity(
                f"{text[:120]!r} is no identity: ROLE:NAME is expected, such as gateway:rock64; the roles are "
                f"{', '.join(role.value for role in Role)}"
            ) from exc
        if not 1 <= len(rest) <= 2:
            raise InvalidIdentity(f"{text[:120]!r} is no identity: ROLE:NAME is expected, such as {role.value}:rock64")
        name = ALL_GATEWAYS if rest[0] == "*" and role in _OF_ALL else rest[0]
        if len(rest) == 1:
            return cls(role, name)
        # One way to write each: `:1` and `:02` would be second names of the same, or of nobody, in an ACL.
        if _GENERATION.fullmatch(rest[1]) is None:
            raise InvalidIdentity(f"{text[:120]!r}: behind the name a generation of 2 or more may stand, and none else")
        return cls(role, name, int(rest[1]))

    @property
    def principal(self) -> str:
        """The certificate's common name, and what stands behind ``User:`` in Kafka's ACLs."""
        first = f"{self.role.value}:{self.name}"
        return first if self.generation == 1 else f"{first}:{self.generation}"

    @property
    def kafka_principal(self) -> str:
        """As Kafka's ACLs and ``super.users`` have it: ``User:gateway:rock64``."""
        return f"User:{self.principal}"

    @property
    def folder(self) -> str:
        """The name of its folder: a colon is no sign for file names everywhere, nor in a Docker mount."""
        return self.principal.replace(":", "+")

    def at(self, generation: int) -> Identity:
        """The same role and name in another generation."""
        return Identity(self.role, self.name, generation)

    @property
    def following(self) -> Identity:
        """The generation after this one, for what is issued once this one is revoked."""
        return self.at(self.generation + 1)

    @property
    def is_of_all_gateways(self) -> bool:
        """True for a sink or job that serves every gateway."""
        return self.role in _OF_ALL and self.name == ALL_GATEWAYS

    def __str__(self) -> str:
        return self.principal
